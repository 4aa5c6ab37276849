"""The recurrent cells, and the recurrent language models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGConfigError, AESGMemory, AESGTrainer, AESGTrainingError
from aesg.context import RetrievedContext
from aesg.models import AESGGRUText, AESGLSTMText
from aesg.nn.recurrent import MemoryGRUCell, MemoryLSTMCell
from aesg.nn.values import embedded_values
from aesg.outcomes import UNKNOWN
from tests.memory_build import DIM, born, digest, opened

VOCAB = 50
#: Parameters that need not matter: of the virtual concept, and of what spreading finds far away.
UNTOUCHED = ("memory.abstraction_projection.weight", "memory.reach_logit")

Cell = MemoryGRUCell | MemoryLSTMCell
LM = AESGGRUText | AESGLSTMText
CELLS = [MemoryGRUCell, MemoryLSTMCell]
MODELS = [AESGGRUText, AESGLSTMText]
PLAIN: dict[Any, Any] = {MemoryGRUCell: nn.GRUCell, MemoryLSTMCell: nn.LSTMCell}


def cell_of(kind: Any, memory: AESGMemory, values: nn.Embedding | None = None) -> Cell:
    """Return a tiny cell whose reading shows; the same weights each time."""
    torch.manual_seed(0)
    made: Cell = kind(6, 5, memory, top_k=4, values=values)
    nn.init.normal_(made.inject.weight)
    return made.eval()


def known(*, integers: bool = False) -> AESGMemory:
    """Return a memory of 30 concepts, with vector values or, where asked, integers."""
    torch.manual_seed(1)
    memory = opened()
    keys = torch.randn(30, DIM)
    memory.remember(keys, torch.arange(30) % 7 if integers else torch.randn(30, DIM))
    return memory


def states(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


# Cells


@pytest.mark.parametrize("kind", CELLS)
def test_without_concepts_a_cell_is_the_plain_cell(kind: Any) -> None:
    cell, inputs = cell_of(kind, opened()), torch.randn(3, 6)
    plain = PLAIN[kind](6, 5)
    plain.load_state_dict(cell.cell.state_dict())
    state, context = cell(inputs)
    assert context.mask.shape == (3, 0)
    for ours, alone, theirs in zip(
        states(state), states(cell.alone(inputs)), states(plain(inputs)), strict=True
    ):
        assert_close(ours, theirs)
        assert_close(alone, theirs)
    again, _ = cell(inputs, state)
    for ours, theirs in zip(states(again), states(plain(inputs, plain(inputs))), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("kind", CELLS)
def test_a_new_cell_is_the_plain_cell_until_it_learns_to_read(kind: Any) -> None:
    cell, inputs = kind(6, 5, known()), torch.randn(3, 6)
    for ours, alone in zip(states(cell(inputs)[0]), states(cell.alone(inputs)), strict=True):
        assert torch.equal(ours, alone)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("integers", [False, True])
def test_what_is_read_is_concatenated_with_the_input(kind: Any, integers: bool) -> None:
    memory = known(integers=integers)
    values = nn.Embedding(7, 4) if integers else None
    cell, inputs = cell_of(kind, memory, values), torch.randn(3, 6)
    plain = PLAIN[kind](6 + (4 if integers else DIM), 5)
    weights = cell.cell.state_dict()
    weights["weight_ih"] = torch.cat([cell.cell.weight_ih, cell.inject.weight], 1).detach()
    plain.load_state_dict(weights)
    state, context = cell(inputs)
    again, second = cell(inputs, state)
    read = [
        context.aggregate() if values is None else embedded_values(context, values.weight)
        for context in (context, second)
    ]
    expected = plain(torch.cat([inputs, read[0]], 1))
    assert not torch.allclose(states(state)[0], states(cell.alone(inputs))[0], atol=1e-3)
    for ours, theirs in zip(states(state), states(expected), strict=True):
        assert_close(ours, theirs)
    for ours, theirs in zip(
        states(again), states(plain(torch.cat([inputs, read[1]], 1), expected)), strict=True
    ):
        assert_close(ours, theirs)


def test_values_are_embedded_where_the_table_has_them() -> None:
    memory = opened(memory_mode="ONLINE")
    memory.remember(torch.eye(DIM)[:3], [0, 1, 9])  # of a larger vocabulary
    context = memory.recall(torch.eye(DIM)[:3] + 0.3)
    table = torch.randn(2, 4)
    shares = torch.stack(
        [(context.weights * (context.value_ids == value)).sum(-1) for value in (0, 1)], -1
    )
    assert (context.value_ids == 9).any()
    assert_close(embedded_values(context, table), shares @ table)
    nothing = opened("empty").recall(torch.randn(2, 5, DIM))
    assert torch.equal(embedded_values(nothing, table), torch.zeros(2, 5, 4))


@pytest.mark.parametrize("kind", CELLS)
def test_the_query_depends_on_state_and_input(kind: Any) -> None:
    cell, inputs = cell_of(kind, known()), torch.randn(2, 6)
    _, first = cell(inputs)
    state, _ = cell(torch.randn(2, 6))
    for _, context in (cell(inputs, state), cell(torch.randn(2, 6))):
        assert not (context.concept_ids == first.concept_ids).all()


@pytest.mark.parametrize("kind", CELLS)
def test_unrolling_takes_the_steps_one_by_one(kind: Any) -> None:
    cell, inputs = cell_of(kind, known(integers=True), nn.Embedding(7, 4)), torch.randn(3, 6, 6)
    came = torch.randint(0, 7, (3, 6))
    unrolled = cell.unroll(inputs, came=came)
    state: Any = None
    last, contexts = torch.full((3,), UNKNOWN), list[RetrievedContext]()
    for t in range(6):
        after = (contexts[-1] if contexts else None, last)
        state, context = cell(inputs[:, t], state, after=after)
        assert_close(unrolled.hidden[:, t], states(state)[0])
        contexts.append(context)
        last = came[:, t]
    for ours, theirs in zip(states(unrolled.state), states(state), strict=True):
        assert_close(ours, theirs)
    assert unrolled.context is not None
    assert unrolled.queries is not None
    assert unrolled.queries.shape == (3, 6, DIM)
    stacked = RetrievedContext.stack(contexts)
    assert (unrolled.context.concept_ids == stacked.concept_ids).all()


@pytest.mark.parametrize("kind", CELLS)
def test_only_every_nth_step_asks(kind: Any) -> None:
    cell, inputs = cell_of(kind, known()), torch.randn(2, 7, 6)
    unrolled = cell.unroll(inputs, every=3)
    assert unrolled.context is not None
    assert unrolled.context.mask.shape[:2] == (2, 3)
    state: Any = None
    for t in range(7):
        state = cell(inputs[:, t], state)[0] if t in (0, 3, 6) else cell.alone(inputs[:, t], state)
        assert_close(unrolled.hidden[:, t], states(state)[0])
    silent = cell.unroll(inputs, ask=False)
    assert silent.context is None
    assert silent.queries is None


@pytest.mark.parametrize("kind", CELLS)
def test_the_mean_of_queries_follows_behind_the_last_step(kind: Any) -> None:
    cell: Any = cell_of(kind, known())
    inputs = torch.randn(2, 4, 6) + 1
    before = cell.unroll(inputs)
    assert not cell.query.mean.any()
    cell.train()
    assert_close(cell.unroll(inputs).hidden, before.hidden)
    states_before = [torch.zeros(2, 5), *before.hidden.unbind(1)[:-1]]
    asked = [
        cell.asking(step, state)
        for step, state in zip(inputs.unbind(1), states_before, strict=True)
    ]
    assert_close(cell.query.mean, cell.query.norm(torch.stack(asked)).mean((0, 1)))
    assert not torch.allclose(cell.unroll(inputs).hidden, before.hidden, atol=1e-4)


def test_a_cell_serves_a_module_of_ones_own() -> None:
    class Counter(nn.Module):
        """Reads numbers and says which class their sequence is of."""

        def __init__(self) -> None:
            super().__init__()
            self.memory = opened(novelty_birth_threshold=1)
            self.enter = nn.Linear(1, 4)
            self.cell = MemoryGRUCell(4, 8, self.memory)
            self.out = nn.Linear(8, 2)

        def forward(self, numbers: Tensor) -> Tensor:
            unrolled = self.cell.unroll(self.enter(numbers[..., None]))
            assert unrolled.context is not None
            self.memory.defer(unrolled.context)
            out: Tensor = self.out(unrolled.state)
            return out

    torch.manual_seed(0)
    model = Counter()
    data = [(sign * torch.rand(5), torch.tensor(int(sign > 0))) for sign in (-1, 1) * 12]
    losses = AESGTrainer(model, batch_size=8, learning_rate=0.02, progress=False).fit(data, 6)
    assert losses[-1] < 0.5 * losses[0]
    assert born(model.memory) > 0
    assert model.cell.inject.weight.any()


# Language models

TARGETS = [torch.zeros(4, dtype=torch.long), torch.zeros(4, 8), torch.zeros(4, 8, 1).long()]


@pytest.mark.parametrize("targets", TARGETS, ids=["of samples", "floats", "three dimensions"])
def test_targets_that_are_not_of_positions_are_refused(targets: Tensor) -> None:
    model = lm(AESGGRUText)
    model(text())
    with pytest.raises(AESGTrainingError, match=r"shape \(batch, time\), -100 .* got torch"):
        model.observe(targets)


def lm(kind: Any, directory: str | Path = "memory", **options: Any) -> LM:
    """Return a tiny model; the same weights each time."""
    torch.manual_seed(0)
    memory = opened(directory, novelty_birth_threshold=2)
    given = {"hidden_size": 24, "num_layers": 2, "top_k": 4, "memory_dropout": 0.0, **options}
    made: LM = kind(VOCAB, memory, **given)
    return made


def text(batch: int = 4, time: int = 8, seed: int = 0) -> Tensor:
    """Return tokens with repetitions, the same each time."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB // 3, (batch, time), generator=dice)


def filled(kind: Any, directory: str | Path = "memory", **options: Any) -> LM:
    """Return a model in eval mode whose memory holds concepts and edges, and shows."""
    model = lm(kind, directory, **options).eval()
    model.memory.set_mode("ONLINE")
    for seed in (1, 2, 1, 2, 3):
        with torch.no_grad():
            model(text(seed=seed))
        model.memory.update_topology()
    model.memory.save()
    assert born(model.memory) > 10
    assert model.memory.storage.edge_count > 5
    nn.init.normal_(model.cell.inject.weight, std=0.1)
    nn.init.normal_(model.mixture.gate.weight, std=0.1)
    return model


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Iterator[LM]:
    made = filled(request.param)
    yield made
    made.memory.close()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("size", "hidden_size", "layers", "dim"), [("small", 128, 1, 64), ("medium", 256, 2, 128)]
)
def test_the_documented_sizes_and_shapes(
    kind: Any, size: str, hidden_size: int, layers: int, dim: int
) -> None:
    model: LM = getattr(kind, size)(vocab_size=20)
    assert model.embedding.embedding_dim == model.cell.cell.hidden_size == hidden_size
    assert model.num_layers == layers
    logits = model(torch.randint(0, 20, (2, 5)))
    assert logits.shape == (2, 5, 20)
    assert_close(logits.exp().sum(-1), torch.ones(2, 5))
    assert model.queries(torch.randint(0, 20, (2, 5))).shape == (2, 5, dim)
    model.memory.close()


def test_parameters_out_of_range_are_errors() -> None:
    memory = opened()
    options: list[tuple[str, Any]] = [
        ("hidden_size", 0),
        ("num_layers", 0),
        ("top_k", 0),
        ("query_every", 0),
        ("query_every", "sample"),
        ("memory_dropout", 1.0),
    ]
    for option, value in options:
        with pytest.raises(AESGConfigError, match=option):
            AESGGRUText(VOCAB, memory, **{option: value})
    with pytest.raises(AESGTrainingError, match="expected 0 to 49, got 50"):
        AESGGRUText(VOCAB, memory)(torch.tensor([[50]]))


@pytest.mark.parametrize("mode", ["INFERENCE", "TRAIN", "ONLINE"])
def test_a_sample_reads_the_same_alone_and_in_a_batch(model: LM, mode: str) -> None:
    model.memory.set_mode(mode)
    tokens = torch.cat([text(seed=2), text(seed=9)])  # some that the memory knows
    together = model(tokens)
    for row in range(len(tokens)):
        assert_close(model(tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
        model.memory.reset_state()


@pytest.mark.parametrize("mode", ["INFERENCE", "ONLINE"])
def test_a_step_is_unchanged_by_later_tokens(model: LM, mode: str) -> None:
    model.memory.set_mode(mode)
    tokens = torch.cat([text(seed=2), text(seed=9)])
    before = model(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 7) % VOCAB
        after = model(changed)
        assert_close(after[:, :t], before[:, :t], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(after[:, t:], before[:, t:])


def test_the_memory_shows_in_the_output(model: LM) -> None:
    model.memory.set_mode("INFERENCE")
    with model.without_memory():
        alone = model(text(seed=2))
    assert not torch.allclose(model(text(seed=2)), alone, atol=1e-3)
    assert_close(model(text(seed=2)).exp().sum(-1), torch.ones(4, 8))


@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_memory_changes_neither_output_nor_gradient(kind: Any) -> None:
    outputs, gradients = [], []
    for enabled in (True, False):
        model = lm(kind).eval()
        nn.init.normal_(model.cell.inject.weight)
        model.memory_enabled = enabled
        outputs.append(model(text()))
        outputs[-1].square().mean().backward()
        gradients.append([each.grad for each in model.cell.cell.parameters()])
        model.memory.close()
    assert torch.equal(*outputs)
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("kind", MODELS)
def test_in_training_no_sample_finds_its_own_concepts(
    kind: Any, contexts: list[RetrievedContext]
) -> None:
    model = lm(kind)
    rows = [row for seed in range(3) for row in text(seed=seed)]
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    trainer.fit([(row[:-1], row[1:]) for row in rows], epochs=2)
    assert sum(int(context.mask.sum()) for context in contexts) > 0
    for context in contexts:
        scope = model.memory._state.scope
        born_from = scope.origins(scope.find(context.found.ids))
        own = context.found.origins[:, None]
        assert (own != 0).all()
        assert not ((born_from == own) & (context.found.ids != 0)).any()


def test_successors_are_followed_from_step_to_step(
    model: LM, contexts: list[RetrievedContext]
) -> None:
    model.memory.set_mode("INFERENCE")
    model(text(seed=2))
    assert not contexts[0].found.followed.any()
    assert sum(int(context.found.followed.sum()) for context in contexts) > 5


def provisional(model: LM) -> list[int]:
    """Return the values of the provisional concepts, in order of arrival."""
    held: list[int] = model.memory._state.shortterm.entries["value_id"].tolist()
    return held


@pytest.mark.parametrize("kind", MODELS)
def test_the_input_says_what_came_next_and_targets_tell_the_last(kind: Any) -> None:
    for told in (False, True):
        model = lm(kind, f"memory{told}").eval()
        model.memory.set_mode("ONLINE")
        tokens = torch.randperm(VOCAB)[:10].view(2, 5)
        model(tokens)
        targets = torch.cat([tokens[:, 1:], torch.tensor([[48], [49]])], 1)
        if told:
            model.observe(targets)
        model.memory.update_topology()
        expected = targets if told else targets[:, :-1]
        assert provisional(model) == expected.flatten().tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_every_nth_step_asks_learns_and_speaks(kind: Any, contexts: list[RetrievedContext]) -> None:
    model = filled(kind, query_every=3)
    model.memory.set_mode("INFERENCE")
    contexts.clear()
    tokens = text(seed=2)
    out = model(tokens)
    assert len(contexts) == 3
    assert model.queries(tokens).shape == (4, 3, DIM)
    assert_close(out.exp().sum(-1), torch.ones(4, 8))
    fresh = lm(kind, "fresh", query_every=3).eval()
    fresh.memory.set_mode("ONLINE")
    tokens = torch.randperm(VOCAB)[:14].view(2, 7)
    fresh(tokens)
    fresh.observe(tokens)  # any target of each position
    fresh.memory.update_topology()
    assert provisional(fresh) == tokens[:, ::3].flatten().tolist()


def surprise(model: LM, tokens: Tensor) -> float:
    """Return the mean negative log-probability of each next token."""
    with torch.no_grad():
        out = model(tokens)
    return -float(out[:, :-1].gather(-1, tokens[:, 1:, None]).mean())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_text_read_online_is_more_probable_the_second_time_unless_values_are_shuffled(
    kind: Any, shuffled: bool
) -> None:
    torch.manual_seed(5)
    model, tokens = lm(kind).eval(), torch.randint(0, VOCAB, (4, 30))
    model.memory.set_mode("ONLINE")
    first = surprise(model, tokens)
    if shuffled:
        model.observe(tokens.flatten()[torch.randperm(tokens.numel())].view_as(tokens))
    model.memory.update_topology()
    if shuffled:
        assert surprise(model, tokens) > first - 0.2
    else:
        assert surprise(model, tokens) < first - 0.3


def test_gradients_reach_all_through_which_the_memory_speaks(model: LM) -> None:
    model.memory.set_mode("TRAIN")
    tokens = text(seed=9)
    model(tokens)[:, :-1].gather(-1, tokens[:, 1:, None]).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name in UNTOUCHED, name
    assert {id(each) for each in model.memory_parameters()} == {
        id(parameter)
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in ("memory", "mixture")
        or name.startswith(("cell.query", "cell.inject"))
    }


@pytest.mark.parametrize("kind", MODELS)
def test_a_frozen_trunk_stays_what_it_was_while_the_memory_trains(kind: Any) -> None:
    model, tokens = filled(kind).train(), text(seed=9)
    model.freeze_trunk()
    with model.without_memory():
        alone = model(tokens)
    inject = model.cell.inject.weight.clone()
    trainer = AESGTrainer(model, learning_rate=0.01, progress=False)
    trainer.fit([(row[:-1], row[1:]) for row in tokens], epochs=2)
    with model.without_memory():
        assert torch.equal(model(tokens), alone)
    assert not torch.equal(model.cell.inject.weight, inject)


def test_copies_say_the_same(model: LM, tmp_path: Path) -> None:
    model.memory.set_mode("INFERENCE")
    out = model(text(seed=2))
    torch.save(model, tmp_path / "model.pt")
    for other in (torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(model)):
        assert torch.equal(other(text(seed=2)), out)
        assert other.cell.memory is other.memory
        other.memory.close()


def test_the_trainer_learns_grows_and_evaluates_without_writing() -> None:
    model = lm(AESGLSTMText)
    pairs = [(row[:-1], row[1:]) for row in text(batch=8, time=10)]
    trainer = AESGTrainer(model, batch_size=4, learning_rate=0.01, progress=False)
    losses = trainer.fit(pairs, epochs=6)
    assert losses[-1] < losses[0] - 0.3
    assert born(model.memory) + model.memory.provisional_count > 0
    before = digest(model.memory.directory)
    trainer.evaluate(pairs)
    assert trainer.predict(pairs[0][0][None]).shape == (1, 9, VOCAB)
    assert digest(model.memory.directory) == before


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_in_half_precision_reads_and_learns(kind: Any) -> None:
    model = filled(kind).to(torch.bfloat16)
    with torch.no_grad():
        out = model(text())
    assert out.dtype == torch.float32
    assert_close(out.exp().sum(-1), torch.ones(4, 8))
    model.memory.update_topology()
    assert model.memory.storage.verify() == []
    model.memory.close()
