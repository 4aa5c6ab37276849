"""Generation: sampling, the cache, and a memory that is read and never written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from aesg import AESGConfigError, AESGDecoderLM, AESGTrainingError
from aesg.context import RetrievedContext
from aesg.models._block import Block
from aesg.models._sampling import Sampling
from tests.memory_build import digest
from tests.test_decoder_lm import VOCAB, filled, text


@pytest.fixture
def model() -> Iterator[AESGDecoderLM]:
    made = filled(num_layers=2)
    made.memory.set_mode("INFERENCE")
    yield made
    made.memory.close()


def greedily(model: AESGDecoderLM, prompt: Tensor, count: int) -> Tensor:
    """Continue a prompt by as many full forward passes."""
    for _ in range(count):
        with torch.no_grad():
            token = model(prompt)[:, -1].argmax(-1, keepdim=True)
        prompt = torch.cat([prompt, token], 1)
    return prompt


# The cache


@pytest.mark.parametrize("query_every", [1, 2, 3])
@pytest.mark.parametrize("start", [1, 4, 6])
def test_cached_generation_says_what_full_forward_passes_say(query_every: int, start: int) -> None:
    model = filled(num_layers=2, query_every=query_every)
    model.memory.set_mode("INFERENCE")
    prompt = text(seed=2)[:, :start]
    assert torch.equal(model.generate(prompt, 9, temperature=0), greedily(model, prompt, 9))


def test_cached_distributions_are_those_of_full_forward_passes(
    model: AESGDecoderLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    draw = Sampling.__call__

    def watched(self: Sampling, logits: Tensor) -> Tensor:
        drawn.append(logits)
        return draw(self, logits)

    monkeypatch.setattr(Sampling, "__call__", watched)
    out = model.generate(text(seed=2)[:, :5], 4, generator=torch.Generator().manual_seed(0))
    assert_close(torch.stack(drawn, 1), model(out[:, :-1])[:, 4:], atol=1e-5, rtol=1e-5)


def test_without_its_memory_the_network_continues_alone(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)[:, :5]
    with model.without_memory():
        alone = model.generate(prompt, 8, temperature=0)
        assert torch.equal(alone, greedily(model, prompt, 8))
    assert not torch.equal(model.generate(prompt, 8, temperature=0), alone)


def test_every_position_is_computed_once(
    model: AESGDecoderLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    attend = Block.attend

    def watched(self: Block, hidden: Tensor, *arguments: Any) -> Tensor:
        computed.append(hidden.shape[1])
        return attend(self, hidden, *arguments)

    monkeypatch.setattr(Block, "attend", watched)
    model.generate(text()[:, :6], 10)
    assert sum(computed) == 2 * (6 + 10 - 1)


def test_successors_are_followed_from_token_to_token(
    model: AESGDecoderLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RetrievedContext] = []
    recall = type(model.memory).recall

    def watched(self: Any, *arguments: Any, **options: Any) -> RetrievedContext:
        seen.append(recall(self, *arguments, **options))
        return seen[-1]

    monkeypatch.setattr(type(model.memory), "recall", watched)
    generated = model.generate(text(seed=2)[:, :3], 12, temperature=0)
    steps = [context.found.followed for context in seen[1:]]
    assert any(each.any() for each in steps)
    model(generated[:, :-1])
    whole = seen[-1].found.followed.reshape(len(generated), -1)[:, 3:]
    assert torch.equal(torch.tensor([each.tolist() for each in steps]).T, torch.from_numpy(whole))


def test_a_sequence_continues_the_same_alone_and_in_a_batch(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)[:, :5]
    together = model.generate(prompt, 6, temperature=0)
    for row in range(len(prompt)):
        assert torch.equal(
            model.generate(prompt[row : row + 1], 6, temperature=0)[0], together[row]
        )


# Reading only


@pytest.mark.parametrize("mode", ["TRAIN", "ONLINE", "FINETUNE", "INFERENCE"])
def test_generation_writes_nothing_in_any_mode(model: AESGDecoderLM, mode: str) -> None:
    memory = model.memory
    memory.set_mode(mode)
    before, held = digest(memory.directory), memory.provisional_count
    asked = memory.rates.queries
    model.train()
    model.generate(text(seed=5), 8)
    with memory.at_rest():
        memory.update_topology()
    memory.set_mode("ONLINE")
    memory.update_topology()
    assert (memory.provisional_count, memory.rates.queries) == (held, asked)
    if mode == "INFERENCE":
        assert digest(memory.directory) == before


def test_generation_is_without_dropout_and_leaves_the_training_flag(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)[:, :5]
    calm = model.generate(prompt, 8, temperature=0)
    model.train()
    assert torch.equal(model.generate(prompt, 8, temperature=0), calm)
    assert model.training
    with pytest.raises(TypeError):
        model.generate(prompt, 3, generator=torch.zeros(3))  # type: ignore[arg-type]
    assert model.training


# Ends


def test_a_sequence_ends_at_eos_and_is_filled_with_it(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)
    free = model.generate(prompt, 12, temperature=0)[:, prompt.shape[1] :]
    eos = int(free[0, 3])
    ended = model.generate(prompt, 12, temperature=0, eos=eos)[:, prompt.shape[1] :]
    assert ended.shape[1] <= 12
    for row, wanted in zip(ended.tolist(), free.tolist(), strict=True):
        end = wanted.index(eos) + 1 if eos in wanted else 12
        assert row[:end] == wanted[:end]
        assert set(row[end:]) <= {eos}


def test_generation_stops_where_all_sequences_have_ended(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)[:1]
    free = model.generate(prompt, 12, temperature=0)[0, prompt.shape[1] :].tolist()
    stop = free.index(free[4]) + 1
    ended = model.generate(prompt, 12, temperature=0, eos=free[4])
    assert ended[0, prompt.shape[1] :].tolist() == free[:stop]


# Sampling


def chances(logits: list[float], **options: Any) -> list[float]:
    drawn: list[float] = Sampling(**options).chances(torch.tensor([logits]))[0].tolist()
    return drawn


LOGITS = torch.tensor([0.4, 0.1, 0.3, 0.2]).log().tolist()


def test_sampling_draws_from_the_distribution_itself_by_default() -> None:
    assert chances(LOGITS) == pytest.approx([0.4, 0.1, 0.3, 0.2])


def test_temperature_sharpens_and_flattens() -> None:
    assert chances(LOGITS, temperature=0.5) == pytest.approx(
        [each / 0.30 for each in (0.16, 0.01, 0.09, 0.04)]
    )
    assert chances(LOGITS, temperature=1e6) == pytest.approx([0.25] * 4, abs=1e-4)


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    assert chances(LOGITS, top_k=2) == pytest.approx([4 / 7, 0, 3 / 7, 0])
    assert chances(LOGITS, top_k=9) == pytest.approx([0.4, 0.1, 0.3, 0.2])
    assert chances(LOGITS, top_p=0.65) == pytest.approx([4 / 7, 0, 3 / 7, 0])
    assert chances(LOGITS, top_p=0.75) == pytest.approx([4 / 9, 0, 3 / 9, 2 / 9])
    assert chances(LOGITS, top_p=0.01) == pytest.approx([1, 0, 0, 0])
    # Of the two likeliest, the first has 4/7 of the probability.
    assert chances(LOGITS, top_k=2, top_p=0.5) == pytest.approx([1, 0, 0, 0])


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    draw = Sampling(top_k=3, generator=torch.Generator().manual_seed(0))
    tokens = draw(torch.tensor([LOGITS]).expand(20_000, 4))
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert_close(shares, torch.tensor([4 / 9, 0, 3 / 9, 2 / 9]), atol=0.015, rtol=0)


def test_no_temperature_takes_the_likeliest() -> None:
    assert Sampling(temperature=0)(torch.tensor([LOGITS, LOGITS[::-1]])).tolist() == [0, 3]


def test_the_same_seed_draws_the_same_tokens(model: AESGDecoderLM) -> None:
    prompt = text(seed=2)[:, :5]
    first, again, other = (
        model.generate(prompt, 10, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.int64
    assert torch.equal(first[:, :5], prompt)
    assert int(first.max()) < VOCAB


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1"),
        ({"temperature": -0.1}, r"temperature: expected a finite number >= 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k: expected an integer >= 0, got -1"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, "top_p"),
        ({"eos": VOCAB}, f"eos: expected an integer from 0 to {VOCAB - 1}, got {VOCAB}"),
        ({"eos": -1}, "eos"),
    ],
)
def test_arguments_out_of_range_are_errors(
    model: AESGDecoderLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AESGConfigError, match=message):
        model.generate(text(), **{"max_new_tokens": 2, **options})


def test_a_prompt_without_tokens_is_an_error(model: AESGDecoderLM) -> None:
    with pytest.raises(AESGTrainingError, match="at least one"):
        model.generate(torch.zeros(1, 0, dtype=torch.long), 2)
