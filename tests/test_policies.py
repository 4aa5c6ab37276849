"""Which positions ask the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGConfigError, AESGDecoderLM, AESGTrainer
from aesg.nn import MemoryQuery
from aesg.outcomes import UNKNOWN
from tests.memory_build import DIM, opened
from tests.test_decoder_lm import VOCAB, filled, lm, text

HIDDEN = 12


def asking(every: Any) -> MemoryQuery:
    torch.manual_seed(0)
    return MemoryQuery(HIDDEN, opened(), every=every)


@pytest.mark.parametrize(
    ("every", "places"), [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 2, 4, 6]), (3, [0, 3, 6]), (9, [0])]
)
def test_every_nth_position_asks_from_the_first_on(every: int, places: list[int]) -> None:
    query, hidden = asking(every), torch.randn(2, 7, HIDDEN)
    assert torch.equal(query.places(hidden), hidden[:, places])
    assert torch.equal(query.at_places(torch.arange(7)[None]), torch.tensor([places]))
    asked = query.eval()(hidden)
    assert asked.shape == (2, len(places), DIM)
    assert_close(asked, query.project(hidden)[:, places])


def test_a_sample_asks_once_with_its_mean() -> None:
    query, hidden = asking("sample").eval(), torch.randn(2, 7, HIDDEN)
    assert_close(query(hidden), query.project(hidden.mean(1, keepdim=True)))


@pytest.mark.parametrize("every", [1, 2, 3, 9])
def test_results_are_put_where_they_were_asked_for(every: int) -> None:
    query, whole = asking(every), torch.randn(2, 7, 4, requires_grad=True)
    part = torch.randn_like(query.at_places(whole), requires_grad=True)
    got = query.put(whole, part)
    for t in range(7):
        assert torch.equal(got[:, t], whole[:, t] if t % every else part[:, t // every])
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert part.grad is not None
    assert part.grad.all()


def test_no_position_of_a_sample_asks_by_itself() -> None:
    query = asking("sample")
    for call in (query.at_places, lambda rows: query.put(rows, rows)):
        with pytest.raises(AESGConfigError, match="no position of its own asks"):
            call(torch.zeros(1, 2, 3))


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "all"])
def test_a_policy_that_is_none_is_an_error(every: Any) -> None:
    with pytest.raises(AESGConfigError, match="query_every: expected an integer >= 1 or 'sample'"):
        asking(every)


def test_a_causal_model_cannot_ask_with_the_mean_of_what_is_to_come() -> None:
    sample: Any = "sample"
    with pytest.raises(AESGConfigError, match="holds what comes after"):
        lm(query_every=sample)


# In a model


def learned(model: AESGDecoderLM) -> list[int]:
    held: list[int] = model.memory._state.shortterm.entries["value_id"].tolist()
    return held


def test_only_positions_that_ask_are_learned_from() -> None:
    model, tokens = lm(query_every=3).eval(), torch.randperm(VOCAB)[:14].view(2, 7)
    model.memory.set_mode("ONLINE")
    model(tokens)
    model.memory.update_topology()
    assert learned(model) == [int(tokens[b, t + 1]) for b in range(2) for t in (0, 3)]
    assert model.queries(tokens).shape == (2, 3, DIM)


def test_targets_of_all_positions_are_told_to_those_that_ask() -> None:
    model = lm(query_every=2).eval()
    model.memory.set_mode("ONLINE")
    model(text(batch=1, time=5))
    model.observe(torch.tensor([[40, 41, UNKNOWN, 43, 44]]))
    model.memory.update_topology()
    assert learned(model) == [40, 44]


def heard(model: AESGDecoderLM, tokens: Tensor) -> Tensor:
    """Tell at which positions ``(B, T)`` the memory shows in the output."""
    with model.without_memory():
        alone = model(tokens)
    return ~torch.isclose(model(tokens), alone, atol=1e-6).all(-1)


def test_the_memory_is_heard_where_it_was_asked() -> None:
    model = filled(query_every=3)
    model.memory.set_mode("INFERENCE")
    shown = heard(model, text(seed=2))
    assert shown[:, ::3].all()
    assert not shown[:, 1::3].any()
    assert not shown[:, 2::3].any()


def test_an_empty_memory_changes_nothing_at_all() -> None:
    model = lm(query_every=2).eval()
    nn.init.normal_(model.memory_attention.inject.weight)
    assert not heard(model, text()).any()


def test_a_position_is_unchanged_by_later_tokens() -> None:
    model = filled(query_every=2)
    model.memory.set_mode("INFERENCE")
    tokens = text(seed=2)
    before = model(tokens)
    for t in range(1, tokens.shape[1]):
        assert_close(model(tokens[:, :t]), before[:, :t], atol=1e-5, rtol=1e-5)


def test_a_model_that_asks_seldom_trains_and_grows_its_memory() -> None:
    model = lm(query_every=4)
    pairs = [(row[:-1], row[1:]) for row in text(batch=8, time=12)]
    losses = AESGTrainer(model, batch_size=4, learning_rate=0.01, progress=False).fit(
        pairs, epochs=5
    )
    assert losses[-1] < losses[0] - 0.3
    assert model.memory.provisional_count + model.memory.storage.node_count > 0
    assert model.memory.storage.verify() == []
