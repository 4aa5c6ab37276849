"""Beam search, and the sequence-to-sequence model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGConfigError, AESGTrainer, AESGTrainingError
from aesg.context import RetrievedContext
from aesg.models import AESGSeq2Seq
from aesg.models._beams import Generated, beam_search
from aesg.outcomes import UNKNOWN
from tests.memory_build import born, digest, opened

VOCAB = 12
EOS = 2
#: Parameters that need not matter: of the virtual concept, and of what spreading finds far away.
UNTOUCHED = ("memory.abstraction_projection.weight", "memory.reach_logit")

# Beam search over a toy whose next token depends on the last two


class Toy:
    """Log-probabilities of three tokens; remembers what each row has so far."""

    def __init__(self, seed: int, batch: int, beams: int) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.table = torch.randn(batch, 4, 4, 3, generator=dice).mul(2).log_softmax(-1)
        self.batch = torch.arange(batch).repeat_interleave(beams)
        self.held = torch.full((batch * beams, 2), 3)  # 3: nothing yet

    def next(self) -> Tensor:
        return self.table[self.batch, self.held[:, 0], self.held[:, 1]]

    def __call__(self, rows: Tensor, tokens: Tensor) -> Tensor:
        assert torch.equal(self.batch[rows], self.batch)
        self.held = torch.stack([self.held[rows, 1], tokens], 1)
        return self.next()

    def score(self, row: int, tokens: tuple[int, ...]) -> float:
        padded = (3, 3, *tokens)
        steps = range(len(tokens))
        return float(sum(self.table[row, padded[t], padded[t + 1], padded[t + 2]] for t in steps))


def sequences(length: int, eos: int | None) -> Iterator[tuple[int, ...]]:
    """Yield all that a search may return: up to ``eos``, or of full length."""
    for tokens in itertools.product(range(3), repeat=length):
        end = tokens.index(eos) + 1 if eos in tokens else length
        if all(token == eos for token in tokens[end:]):
            yield tokens[:end]


def searched(toy: Toy, length: int, beams: int, eos: int | None, penalty: float) -> Generated:
    return beam_search(toy.next(), toy, length, beams=beams, eos=eos, length_penalty=penalty)


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_wide_enough_finds_the_best_of_all_sequences(
    eos: int | None, penalty: float, seed: int
) -> None:
    length, toy = 4, Toy(seed, batch=2, beams=81)
    best = searched(toy, length, 81, eos, penalty)
    for row in range(2):
        scores = {
            tokens: toy.score(row, tokens) / len(tokens) ** penalty
            for tokens in sequences(length, eos)
        }
        expected = max(scores, key=lambda tokens: scores[tokens])
        found = best.tokens[row].tolist()
        assert tuple(found[: len(expected)]) == expected
        assert all(token == eos for token in found[len(expected) :])
        assert float(best.scores[row]) == pytest.approx(scores[expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy_and_more_beams_find_no_worse_on_the_whole(seed: int) -> None:
    toy = Toy(seed, batch=3, beams=1)
    greedy = searched(Toy(seed, 3, 1), 5, 1, None, 0.0)
    for row in range(3):
        tokens: tuple[int, ...] = ()
        for _ in range(5):
            context = ((3, 3, *tokens)[-2], (3, 3, *tokens)[-1])
            tokens = (*tokens, int(toy.table[row, context[0], context[1]].argmax()))
        assert tuple(greedy.tokens[row].tolist()) == tokens
    wide = searched(Toy(seed, 3, 81), 5, 81, None, 0.0)
    assert (wide.scores >= greedy.scores - 1e-6).all()


def test_a_search_stops_where_all_sequences_have_ended() -> None:
    class Ending(Toy):
        def next(self) -> Tensor:
            out = torch.full((len(self.held), 3), -20.0)
            out[:, EOS] = 0
            return out

    found = searched(Ending(0, 2, 2), 50, 2, EOS, 1.0)
    assert found.tokens.shape[1] < 10
    assert (found.tokens == EOS).all()


# The model


def s2s(directory: str | Path = "memory", **options: Any) -> AESGSeq2Seq:
    """Return a tiny model; the same weights each time."""
    torch.manual_seed(0)
    memory = opened(directory, novelty_birth_threshold=2)
    given = {"hidden_size": 16, "num_layers": 2, "top_k": 4, "memory_dropout": 0.0, **options}
    return AESGSeq2Seq(VOCAB, memory, **given)


def pairs(batch: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return sources of five tokens and outputs of four, the same each time."""
    dice = torch.Generator().manual_seed(seed)
    src = torch.randint(0, VOCAB, (batch, 5), generator=dice)
    return src, src.flip(1)[:, :4]


def filled(directory: str | Path = "memory", **options: Any) -> AESGSeq2Seq:
    """Return a model in eval mode whose memory holds concepts and edges, and shows."""
    model = s2s(directory, **options).eval()
    model.memory.set_mode("ONLINE")
    for seed in (1, 2, 1, 2, 3):
        with torch.no_grad():
            model(*pairs(seed=seed))
        model.memory.update_topology()
    model.memory.save()
    assert born(model.memory) > 10
    nn.init.normal_(model.cell.inject.weight, std=0.3)
    nn.init.normal_(model.mixture.gate.weight, std=0.3)
    nn.init.normal_(model.embedding.weight, std=0.3)  # so that the tokens chosen differ
    return model


@pytest.fixture
def model() -> Iterator[AESGSeq2Seq]:
    made = filled()
    yield made
    made.memory.close()


def test_the_documented_shapes() -> None:
    model = AESGSeq2Seq.small(vocab_size=30)
    src = torch.randint(0, 30, (2, 5))
    assert model(src).shape == (2, 5, 30)
    assert model(src, torch.randint(0, 30, (2, 3))).shape == (2, 3, 30)
    assert_close(model(src).exp().sum(-1), torch.ones(2, 5))
    model.memory.close()


@pytest.mark.parametrize("mode", ["INFERENCE", "ONLINE"])
def test_a_step_knows_the_targets_before_it_and_no_other(model: AESGSeq2Seq, mode: str) -> None:
    model.memory.set_mode(mode)
    src, targets = pairs(seed=2)
    before = model(src, targets)
    for t in range(4):
        changed = targets.clone()
        changed[:, t:] = (changed[:, t:] + 5) % VOCAB
        after = model(src, changed)
        assert_close(after[:, : t + 1], before[:, : t + 1], atol=1e-5, rtol=1e-5)
        assert t == 3 or not torch.allclose(after[:, t + 1 :], before[:, t + 1 :])


@pytest.mark.parametrize("options", [{}, {"num_layers": 1}, {"query_every": 2}])
def test_without_targets_each_step_takes_the_most_probable_token(options: dict[str, Any]) -> None:
    model = filled(**options)
    model.memory.set_mode("INFERENCE")
    for seed in (2, 9):
        src, _ = pairs(seed=seed)
        free = model(src)
        assert_close(model(src, free.argmax(-1)), free, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.generate(src, 5).tokens, free.argmax(-1))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", [{}, {"num_layers": 1}, {"query_every": 2}])
def test_a_score_is_the_log_probability_of_its_tokens(beams: int, options: dict[str, Any]) -> None:
    model = filled(**options)
    model.memory.set_mode("INFERENCE")
    src, _ = pairs(seed=2)
    tokens, scores = model.generate(src, 4, beams=beams, length_penalty=0.0)
    given = model(src, tokens).gather(-1, tokens[..., None])[..., 0]
    assert_close(scores, given.sum(-1), atol=1e-4, rtol=1e-4)
    ends = model.generate(src, 4, beams=beams, eos=int(tokens[0, 1]), length_penalty=1.0)
    for row, found in enumerate(ends.tokens.tolist()):
        stop = int(tokens[0, 1])
        length = found.index(stop) + 1 if stop in found else len(found)
        given = model(src, ends.tokens).gather(-1, ends.tokens[..., None])[row, :length, 0]
        assert_close(ends.scores[row], given.mean(), atol=1e-4, rtol=1e-4)


def test_a_wide_beam_finds_the_most_probable_output_of_all(model: AESGSeq2Seq) -> None:
    model.memory.set_mode("INFERENCE")
    src, _ = pairs(batch=1, seed=2)
    every = torch.tensor(list(itertools.product(range(VOCAB), repeat=2)))
    with torch.no_grad():
        log_probs = model(src.expand(len(every), -1), every)
    scores = log_probs.gather(-1, every[..., None])[..., 0].sum(-1)
    tokens, best = model.generate(src, 2, beams=VOCAB, length_penalty=0.0)
    assert torch.equal(tokens[0], every[scores.argmax()])
    assert_close(best[0], scores.max(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["TRAIN", "ONLINE"])
def test_what_was_generated_is_not_learned(model: AESGSeq2Seq, mode: str) -> None:
    model.memory.set_mode(mode)
    held = (born(model.memory), model.memory.provisional_count)
    src, _ = pairs(seed=7)
    model.generate(src, 4, beams=2)
    model(src)
    model.memory.update_topology()
    assert (born(model.memory), model.memory.provisional_count) == held


def test_what_came_is_learned_where_it_is_known() -> None:
    model = s2s().eval()
    model.memory.set_mode("ONLINE")
    src, _ = pairs(batch=2)
    targets = torch.tensor([[3, 4, UNKNOWN], [5, UNKNOWN, UNKNOWN]])
    model(src, targets)
    model.observe(targets)
    model.memory.update_topology()
    assert model.memory._state.shortterm.entries["value_id"].tolist() == [3, 4, 5]
    with model.without_memory():  # a gap is no token at all
        gap = model(src, targets)[1, 2]
        assert not any(
            torch.allclose(model(src, torch.tensor([[3, 4, 5], [5, token, 0]]))[1, 2], gap)
            for token in range(VOCAB)
        )


def test_in_training_no_source_finds_its_own_concepts(contexts: list[RetrievedContext]) -> None:
    model = s2s()
    rows = [pair for seed in range(3) for pair in zip(*pairs(seed=seed), strict=True)]
    AESGTrainer(model, batch_size=4, progress=False).fit(rows, epochs=3)
    assert sum(int(context.mask.sum()) for context in contexts) > 0
    for context in contexts:
        scope = model.memory._state.scope
        own = context.found.origins[:, None]
        born_from = scope.origins(scope.find(context.found.ids))
        assert (own != 0).all()
        assert not ((born_from == own) & (context.found.ids != 0)).any()


def test_facts_told_once_are_given_back() -> None:
    model = s2s(hidden_size=32, num_layers=1)
    nn.init.constant_(model.mixture.gate.bias, 2.0)
    dice = torch.Generator().manual_seed(3)
    src, targets = (torch.randint(0, VOCAB, (8, n), generator=dice) for n in (6, 3))
    with torch.no_grad():
        model(src, targets)  # what queries have in common
        model.memory.reset_state()
        model.eval()
        model.memory.set_mode("ONLINE")
        before = (model(src, targets).argmax(-1) == targets).float().mean()
        model.memory.update_topology()
        model.memory.set_mode("INFERENCE")
        after = (model.generate(src, 3).tokens == targets).float().mean()
    assert before < 0.3
    assert after > 0.9


def test_the_trainer_gives_the_targets_and_predicts_without() -> None:
    model = s2s(num_layers=1, hidden_size=24)
    rows = [pair for seed in range(6) for pair in zip(*pairs(seed=seed), strict=True)]
    trainer = AESGTrainer(model, batch_size=8, learning_rate=0.01, progress=False)
    losses = trainer.fit(rows, epochs=6)
    assert losses[-1] < losses[0] - 0.3
    assert born(model.memory) + model.memory.provisional_count > 0
    before = digest(model.memory.directory)
    assert trainer.evaluate(rows)["loss"] < losses[0]
    assert trainer.predict(rows[0][0][None]).shape == (1, 5, VOCAB)
    assert digest(model.memory.directory) == before


def test_gradients_reach_every_parameter(model: AESGSeq2Seq) -> None:
    model.memory.set_mode("TRAIN")
    src, targets = pairs(seed=9)
    model(src, targets).gather(-1, targets[..., None]).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name in UNTOUCHED, name


def test_what_does_not_fit_is_an_error() -> None:
    model, (src, targets) = s2s(), pairs()
    calls: list[tuple[Any, str]] = [
        (lambda: model(src, targets[:2]), "expected 4 rows, got 2"),
        (lambda: model(src + VOCAB), "Token out of range"),
        (lambda: model(src, targets - 1 - VOCAB), "Token out of range"),
        (lambda: model(src, targets.float()), "expected integers"),
        (lambda: model.generate(src.float(), 3), "expected integers"),
    ]
    for call, message in calls:
        with pytest.raises(AESGTrainingError, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be >= 1"),
        ({"max_length": 2.0}, "max_length must be an integer >= 1, got 2.0"),
        ({"beams": 0}, "beams must be >= 1"),
        ({"eos": VOCAB}, "eos: expected an integer from 0 to 11, got 12"),
        ({"eos": -1}, "eos: expected an integer from 0 to 11, got -1"),
        ({"eos": 1.0}, "eos: expected an integer from 0 to 11, got 1.0"),
    ],
)
def test_arguments_of_generate_that_are_out_of_range_are_errors(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AESGConfigError, match=message):
        s2s().generate(pairs()[0], **{"max_length": 3, **options})
