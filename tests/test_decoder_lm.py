"""The decoder language model and its memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from aesg import (
    AESGConfig,
    AESGConfigError,
    AESGDecoderLM,
    AESGMemory,
    AESGMemoryError,
    AESGTrainer,
    AESGTrainingError,
)
from aesg.context import RetrievedContext
from aesg.memory_stats import NoveltyRates
from aesg.outcomes import UNKNOWN
from tests.memory_build import digest, opened

VOCAB = 50


def lm(directory: str | Path = "memory", **fields: Any) -> AESGDecoderLM:
    """Return a tiny model; the same weights each time."""
    torch.manual_seed(0)
    memory = opened(directory, novelty_birth_threshold=2)
    options = {"hidden_size": 32, "nhead": 4, "top_k": 4, "memory_dropout": 0.0}
    return AESGDecoderLM(VOCAB, memory, **{**options, **fields})


def text(batch: int = 4, time: int = 9, seed: int = 0) -> Tensor:
    """Return tokens with repetitions, the same each time."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB // 3, (batch, time), generator=dice)


def filled(directory: str | Path = "memory", **fields: Any) -> AESGDecoderLM:
    """Return a model in eval mode whose memory holds born and provisional concepts and edges.

    Layers that start at zero are set, so that everything retrieved shows in the output.
    """
    model = lm(directory, **fields).eval()
    model.memory.set_mode("ONLINE")
    for seed in (1, 2, 1, 2, 3):
        with torch.no_grad():
            model(text(seed=seed))
        model.memory.update_topology()
    model.memory.save()
    assert model.memory.storage.node_count > 10
    assert model.memory.storage.edge_count > 5
    assert model.memory.provisional_count > 10
    nn.init.normal_(model.memory_attention.inject.weight, std=0.1)
    nn.init.normal_(model.mixture.gate.weight, std=0.1)
    nn.init.normal_(model.memory.abstraction_projection.weight, std=0.1)
    return model


@pytest.fixture
def model() -> Iterator[AESGDecoderLM]:
    made = filled()
    yield made
    made.memory.close()


# Sizes and mistakes


@pytest.mark.parametrize(
    ("size", "hidden_size", "layers", "vector_dim", "nhead"),
    [
        ("small", 128, 1, 64, 4),
        ("medium", 256, 2, 128, 8),
        ("large", 512, 4, 256, 16),
    ],
)
def test_the_documented_sizes(
    size: str, hidden_size: int, layers: int, vector_dim: int, nhead: int
) -> None:
    model: AESGDecoderLM = getattr(AESGDecoderLM, size)(vocab_size=20)
    assert model.embedding.embedding_dim == hidden_size
    assert len(model.blocks) == layers
    assert model.blocks[0].nhead == nhead
    assert model.memory.vector_dim == vector_dim
    logits = model(torch.randint(0, 20, (2, 5)))
    assert logits.shape == (2, 5, 20)
    assert_close(torch.softmax(logits[0, -1], 0), logits[0, -1].exp())  # as documented: both do
    assert model.queries(torch.randint(0, 20, (2, 5))).shape == (2, 5, vector_dim)
    model.memory.close()


def test_presets_take_fields_of_the_configuration() -> None:
    model = AESGDecoderLM.small(VOCAB, "elsewhere", vector_dim=8, novelty_birth_threshold=1)
    assert (model.memory.vector_dim, model.memory.config.novelty_birth_threshold) == (8, 1)
    assert model.memory.directory == Path("elsewhere").resolve()


@pytest.mark.parametrize("vocab_size", [0, -3, 5.0, True, None])
def test_a_vocabulary_that_is_none_is_an_error_and_writes_nothing(vocab_size: Any) -> None:
    message = "vocab_size must be >= 1"
    if type(vocab_size) is not int:
        message = f"vocab_size must be an integer >= 1, got {vocab_size!r}"
    for make in (AESGDecoderLM.small, AESGDecoderLM.large):
        with pytest.raises(AESGConfigError, match=f"^{message}$"):
            make(vocab_size)
    assert list(Path.cwd().iterdir()) == []


def test_sizes_out_of_range_are_errors() -> None:
    memory = opened()
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"hidden_size": 0}, "hidden_size must be >= 1"),
        ({"num_layers": 0}, "num_layers must be >= 1"),
        ({"nhead": 0}, "nhead must be >= 1"),
        ({"top_k": 0}, "top_k must be >= 1"),
        ({"hidden_size": 30, "nhead": 4}, "divisible by nhead: got 30 and 4"),
        ({"memory_dropout": 1.0}, r"memory_dropout: got 1.0, expected \[0, 1\)"),
        ({"memory_dropout": -0.1}, r"memory_dropout: got -0.1"),
    ]
    for options, message in mistakes:
        with pytest.raises(AESGConfigError, match=message):
            AESGDecoderLM(VOCAB, memory, **options)


def test_an_unknown_field_is_a_configuration_error() -> None:
    with pytest.raises(AESGConfigError, match=r"Unknown parameter.*vector_dimension"):
        AESGDecoderLM.small(VOCAB, vector_dimension=3)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"shape \(batch, time\).*got torch.int64 .*\(3,\)"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"got torch.int64 of shape \(1, 2, 3\)"),
        (torch.zeros(2, 3), r"expected integers.*got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(0, 3, dtype=torch.long), r"at least one.*\(0, 3\)"),
        (torch.tensor([[0, VOCAB]]), "expected 0 to 49, got 50"),
        (torch.tensor([[0, -1]]), "expected 0 to 49, got -1"),
    ],
)
def test_what_is_not_a_batch_of_tokens_is_an_error(tokens: Tensor, message: str) -> None:
    model = lm()
    for call in (model, model.queries):
        with pytest.raises(AESGTrainingError, match=message):
            call(tokens)


def test_tokens_of_any_integer_type_are_the_same_sample(
    model: AESGDecoderLM, contexts: list[RetrievedContext]
) -> None:
    tokens = text()
    out = model(tokens)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(model(tokens.to(dtype)), out)
    assert len({context.found.origins.tobytes() for context in contexts}) == 1


# Independence


@pytest.mark.parametrize("mode", ["INFERENCE", "TRAIN", "FINETUNE", "ONLINE"])
def test_a_sample_reads_the_same_alone_and_in_a_batch(model: AESGDecoderLM, mode: str) -> None:
    model.memory.set_mode(mode)
    tokens = torch.cat([text(seed=2), text(seed=9)])  # some that the memory knows
    together = model(tokens)
    for row in range(len(tokens)):
        assert_close(model(tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
        model.memory.reset_state()


@pytest.mark.parametrize("mode", ["INFERENCE", "ONLINE"])
def test_a_position_is_unchanged_by_later_tokens(model: AESGDecoderLM, mode: str) -> None:
    model.memory.set_mode(mode)
    tokens = torch.cat([text(seed=2), text(seed=9)])
    before = model(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 7) % VOCAB
        assert_close(model(changed)[:, :t], before[:, :t], atol=1e-5, rtol=1e-5)
        assert_close(model(tokens[:, :t]), before[:, :t], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(changed)[:, t:], before[:, t:])


def test_the_memory_shows_in_the_output(model: AESGDecoderLM) -> None:
    model.memory.set_mode("INFERENCE")
    tokens = text(seed=2)
    with model.without_memory():
        alone = model(tokens)
    assert not torch.allclose(model(tokens), alone, atol=1e-3)
    assert_close(model(tokens).exp().sum(-1), torch.ones(tokens.shape))


@pytest.mark.parametrize("mode", ["INFERENCE", "ONLINE", "TRAIN"])
def test_an_empty_memory_changes_nothing_at_all(mode: str) -> None:
    model = lm().eval()
    nn.init.normal_(model.memory_attention.inject.weight)
    model.memory.set_mode(mode)
    with model.without_memory():
        alone = model(text())
    assert torch.equal(model(text()), alone)


def test_an_empty_memory_changes_no_gradient() -> None:
    gradients = []
    for enabled in (True, False):
        model = lm().eval()
        model.memory_enabled = enabled
        model(text()).square().mean().backward()
        gradients.append([each.grad for each in model.blocks.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


# Never oneself


def test_in_training_no_sample_finds_its_own_concepts(contexts: list[RetrievedContext]) -> None:
    model = lm()
    batches = [text(seed=seed) for seed in range(3)]
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    trainer.fit([(row[:-1], row[1:]) for batch in batches for row in batch], epochs=2)
    assert model.memory.storage.node_count + model.memory.provisional_count > 0
    assert sum(int(context.mask.sum()) for context in contexts) > 0
    for context in contexts:
        scope = model.memory._state.scope
        born_from = scope.origins(scope.find(context.found.ids))
        own = context.found.origins[:, None]
        assert (own != 0).all()
        assert not ((born_from == own) & (context.found.ids != 0)).any()


@pytest.mark.parametrize(("mode", "own"), [("TRAIN", False), ("FINETUNE", False), ("ONLINE", True)])
def test_only_a_reader_meets_its_own_sample_again(
    mode: str, own: bool, contexts: list[RetrievedContext]
) -> None:
    model = lm().eval()
    model.memory.set_mode(mode)
    for _ in range(2):
        model(text(batch=1))
        model.memory.update_topology()
    assert bool(contexts[-1].mask.any()) == own


def test_the_same_token_row_is_the_same_sample_in_any_batch(
    contexts: list[RetrievedContext],
) -> None:
    model, tokens = lm().eval(), text()
    model(tokens)
    model(tokens.flip(0))
    one, other = (context.found.origins.reshape(tokens.shape) for context in contexts)
    assert (one == other[::-1]).all()
    assert len(set(one[:, 0].tolist())) == len(tokens)


# What it learns


def surprise(model: AESGDecoderLM, tokens: Tensor) -> float:
    """Return the mean negative log-probability of each next token."""
    with torch.no_grad():
        out = model(tokens)
    return -float(out[:, :-1].gather(-1, tokens[:, 1:, None]).mean())


def test_a_text_read_online_is_more_probable_the_second_time() -> None:
    model, tokens = lm().eval(), torch.randint(0, VOCAB, (4, 30))
    model.memory.set_mode("ONLINE")
    first = surprise(model, tokens)
    model.memory.update_topology()
    assert surprise(model, tokens) < first - 0.5
    with model.without_memory():
        assert surprise(model, tokens) == pytest.approx(first, abs=1e-6)


def test_shuffled_values_make_a_text_no_more_probable() -> None:
    model, tokens = lm().eval(), torch.randint(0, VOCAB, (4, 30))
    model.memory.set_mode("ONLINE")
    first = surprise(model, tokens)
    model.observe(tokens.flatten()[torch.randperm(tokens.numel())].view_as(tokens))
    model.memory.update_topology()
    assert model.memory.provisional_count > 0
    assert surprise(model, tokens) > first - 0.2


def provisional(model: AESGDecoderLM) -> list[int]:
    """Return the values of the provisional concepts, in order of arrival."""
    held: list[int] = model.memory._state.shortterm.entries["value_id"].tolist()
    return held


def test_the_input_says_what_came_next_but_for_the_last_position() -> None:
    model, tokens = lm().eval(), torch.randperm(VOCAB)[:10].view(2, 5)
    model.memory.set_mode("ONLINE")
    model(tokens)
    model.memory.update_topology()
    assert provisional(model) == tokens[:, 1:].flatten().tolist()


def test_observed_outcomes_replace_those_of_the_input() -> None:
    model, tokens = lm().eval(), text(batch=2, time=4)
    model.memory.set_mode("ONLINE")
    model(tokens)
    model.observe(torch.tensor([[40, UNKNOWN, 41, 42], [UNKNOWN, UNKNOWN, 43, UNKNOWN]]))
    model.memory.update_topology()
    assert provisional(model) == [40, 41, 42, 43]


def test_outcomes_that_do_not_fit_are_an_error() -> None:
    model = lm().eval()
    for wrong in (torch.zeros(2, 3, dtype=torch.long), torch.full((2, 4), VOCAB)):
        model.memory.set_mode("ONLINE")
        model(text(batch=2, time=4))
        with pytest.raises(AESGMemoryError, match="Outcome"):
            model.observe(wrong)
            model.memory.update_topology()
        model.memory.reset_state()


def test_inference_ignores_what_it_is_told() -> None:
    model = lm().eval()
    model.memory.set_mode("INFERENCE")
    model(text())
    model.observe(text(seed=1)[:1])  # whose number fits no query
    model.memory.update_topology()
    assert model.memory.provisional_count == 0


def test_validation_by_hand_teaches_nothing_and_changes_no_step() -> None:
    held = []
    for validates in (False, True):
        model = lm(f"memory{validates}")
        model.memory.set_mode("TRAIN")
        for seed in (1, 2):
            if validates:
                model.eval()
                with torch.no_grad():
                    model(text(batch=3, seed=9))
                model.train()
            torch.manual_seed(seed)
            model(text(seed=seed))
            model.observe(text(seed=seed).roll(-1, 1))
            model.memory.update_topology()
        held.append(model.memory._state.shortterm.entries["value_id"].tolist())
    assert held[0] == held[1] != []


@pytest.mark.parametrize("targets", [torch.zeros(4, dtype=torch.long), torch.zeros(4, 9)])
def test_targets_that_are_not_of_positions_are_refused(targets: Tensor) -> None:
    with pytest.raises(AESGTrainingError, match=r"shape \(batch, time\), -100 .* got torch"):
        lm().outcomes(targets)


def test_without_memory_nothing_is_read_or_learned(contexts: list[RetrievedContext]) -> None:
    model = lm().eval()
    with model.without_memory():
        model(text())
        model.memory.update_topology()
    assert model.memory_enabled
    assert contexts == []
    assert model.memory.provisional_count == 0


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "ONLINE"])
def test_without_memory_the_memory_neither_ages_nor_forgets(mode: str) -> None:
    model = AESGDecoderLM.small(
        VOCAB, "./rest", consolidation_epoch_interval=1, memory_mode=mode, max_concepts=200
    )
    memory = model.memory
    facts = memory.remember(torch.randn(20, memory.vector_dim), torch.arange(20), list(range(20)))
    memory.save()
    clock, generation = str(memory._state.clock), memory.storage.generation
    trainer = AESGTrainer(model, progress=False)
    data = [(row[:-1], row[1:]) for row in text(batch=4)]
    with model.without_memory():
        trainer.fit(data, epochs=70)
        trainer.evaluate(data, mode="ONLINE")
        for _ in range(70):
            model(text())
            memory.update_topology()
    assert memory.payloads(facts) == list(range(20))
    assert str(memory._state.clock) == clock
    assert memory.storage.generation == generation
    assert memory.rates == NoveltyRates()
    memory.update_topology()
    assert str(memory._state.clock) != clock


def test_a_memory_at_rest_keeps_what_waits_and_wakes_after_an_error() -> None:
    memory = AESGMemory("./rest", AESGConfig(vector_dim=8, consolidation_epoch_interval=1))
    memory.defer(memory.recall(torch.randn(3, 8)))
    with pytest.raises(RuntimeError), memory.at_rest():
        with memory.at_rest():
            memory.update_topology()
        memory.update_topology()
        assert memory.provisional_count == 0
        awake = copy.deepcopy(memory)
        raise RuntimeError
    memory.update_topology()
    assert memory.provisional_count == 3
    awake.retrieve(torch.randn(8))
    tick = memory._state.clock.tick
    awake.update_topology()
    assert memory._state.clock.tick == tick + 1


def test_the_memory_is_left_out_of_a_share_of_training_batches(
    contexts: list[RetrievedContext],
) -> None:
    model = lm(memory_dropout=0.5)
    for _ in range(60):
        model(text(batch=1, time=2))
    assert 10 < len(contexts) < 50
    contexts.clear()
    model.eval()
    for _ in range(20):
        model(text(batch=1, time=2))
    model.train()
    model.freeze_trunk()
    for _ in range(20):
        model(text(batch=1, time=2))
    assert len(contexts) == 40


def test_a_vocabulary_smaller_than_that_of_the_memory_is_no_trouble() -> None:
    model = filled()
    small = AESGDecoderLM(VOCAB // 6, model.memory, hidden_size=32, nhead=4, memory_dropout=0.0)
    tokens = text(seed=2) % (VOCAB // 6)
    assert (model.memory.recall(small.queries(tokens)).value_ids >= VOCAB // 6).any()
    assert_close(small(tokens).exp().sum(-1), torch.ones(tokens.shape))


# Gradients and stages


def test_gradients_reach_all_through_which_the_memory_speaks(model: AESGDecoderLM) -> None:
    model.memory.set_mode("TRAIN")
    tokens = text(seed=9)
    model(tokens)[:, :-1].gather(-1, tokens[:, 1:, None]).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if "reach" not in name:  # which matters where activation went along edges
            assert parameter.grad.any(), name
    assert {id(each) for each in model.memory_parameters()} == {
        id(parameter)
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in ("memory", "memory_attention", "mixture")
    }


def test_a_frozen_trunk_stays_what_it_was_while_the_memory_trains() -> None:
    model = filled().train()
    tokens = text(seed=9)
    model.freeze_trunk()
    before = {name: each.clone() for name, each in model.named_parameters()}
    with model.without_memory():
        alone = model(tokens)
    assert not any(module.training for module in model.modules() if isinstance(module, nn.Dropout))
    trainer = AESGTrainer(model, learning_rate=0.01, progress=False)
    trainer.fit([(row[:-1], row[1:]) for row in tokens], epochs=2)
    with model.without_memory():
        assert torch.equal(model(tokens), alone)
    spoken = {id(each) for each in model.memory_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in spoken)
        if "reach" not in name:  # which matters where activation went along edges
            assert torch.equal(parameter, before[name]) == (id(parameter) not in spoken), name


def test_a_trunk_can_be_thawed() -> None:
    model = lm()
    model.freeze_trunk()
    model.freeze_trunk(False)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.dropout.training


# Copies and files


def test_copies_say_the_same(model: AESGDecoderLM, tmp_path: Path) -> None:
    model.memory.set_mode("INFERENCE")
    tokens = text(seed=2)
    out = model(tokens)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(model)):
        assert other is not model
        assert torch.equal(other(tokens), out)
        other.memory.close()


def test_weights_and_directory_make_the_same_model(model: AESGDecoderLM, tmp_path: Path) -> None:
    model.memory.set_mode("INFERENCE")
    tokens = text(seed=2)
    out = model(tokens)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    model.memory.close()
    other = lm().eval()
    other.memory.set_mode("INFERENCE")
    assert not torch.allclose(other(tokens), out)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(tokens), out)


# The trainer


def test_the_documented_training_runs_and_grows_the_memory() -> None:
    model = AESGDecoderLM.small(vocab_size=100)
    pairs = [(torch.randint(0, 100, (10,)), torch.randint(0, 100, (10,))) for _ in range(12)]
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    losses = trainer.fit(pairs, epochs=2)
    assert len(losses) == 2
    assert model.memory.provisional_count + model.memory.storage.node_count > 0
    assert trainer.evaluate(pairs)["loss"] < 20
    assert trainer.predict(torch.randint(0, 100, (2, 10))).shape == (2, 10, 100)


def test_a_learned_text_has_a_lower_loss() -> None:
    model = lm()
    pairs = [(row[:-1], row[1:]) for row in text(batch=8, time=12)]
    trainer = AESGTrainer(model, batch_size=4, learning_rate=0.01, progress=False)
    losses = trainer.fit(pairs, epochs=6)
    assert losses[-1] < losses[0] - 0.5


def test_evaluation_learns_only_online() -> None:
    model = filled()
    directory = model.memory.directory
    pairs = [(row[:-1], row[1:]) for row in text(batch=8, time=12, seed=5)]
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    before, weights = digest(directory), copy.deepcopy(model.state_dict())
    held = model.memory.provisional_count
    trainer.evaluate(pairs)
    trainer.predict(pairs[0][0][None])
    assert digest(directory) == before
    first = trainer.evaluate(pairs, mode="ONLINE")["loss"]
    assert digest(directory) != before
    assert model.memory.provisional_count + model.memory.storage.node_count > held
    assert trainer.evaluate(pairs)["loss"] < first
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_data_workers_feed_the_training() -> None:
    model, tokens = lm(), text(batch=8, time=8)
    data = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=4, num_workers=2)
    losses = AESGTrainer(model, progress=False).fit(data)
    assert len(losses) == 1
    assert model.memory.provisional_count > 0
    assert model.memory.storage.verify() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_reads_and_learns(dtype: torch.dtype) -> None:
    model = filled().to(dtype)
    with torch.no_grad():
        before = model(text())
    assert before.dtype == torch.promote_types(dtype, torch.float32)
    assert_close(before.exp().sum(-1), torch.ones(4, 9, dtype=before.dtype))
    model.memory.update_topology()
    assert model.memory.storage.verify() == []
    model.memory.close()


def test_a_model_under_autocast_reads_as_without(model: AESGDecoderLM) -> None:
    model.memory.set_mode("INFERENCE")
    with torch.no_grad():
        plain = model(text())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = model(text())
    assert_close(coarse.float(), plain, atol=0.3, rtol=0.1)
