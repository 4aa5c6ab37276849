"""What a last layer gives to some tokens, beside what it gives to all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from aesg.context import RetrievedContext
from aesg.nn import MemoryMixture
from aesg.nn import likelihood as module
from aesg.nn.likelihood import LastLayer, log_probabilities
from aesg.outcomes import UNKNOWN
from tests.test_nn import HIDDEN, VOCAB, Values, context_of, shared

WIDTH = 5


def layer(rows: int, vocab: int, seed: int = 0) -> LastLayer:
    dice = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, WIDTH, dtype=torch.float64, generator=dice)
    weight = torch.randn(vocab, WIDTH, dtype=torch.float64, generator=dice)
    return LastLayer(states.requires_grad_(), weight.requires_grad_())


def all_of(last: LastLayer) -> Tensor:
    """Return the log-probabilities of all tokens, by the definition."""
    return log_probabilities(last.states @ last.weight.T)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocab=st.integers(1, 7),
    at_once=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_what_is_given_and_its_gradients_are_those_of_log_softmax(
    rows: int, vocab: int, at_once: int, seed: int
) -> None:
    last, dice = layer(rows, vocab, seed), torch.Generator().manual_seed(seed)
    came, other = torch.randint(0, vocab, (2, rows), generator=dice)
    wanted = all_of(last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)  # parts of one row up to all rows
        got = last.given_to(came, other)
    assert_close(got.came, wanted.gather(1, came[:, None])[:, 0])
    assert_close(got.other, wanted.gather(1, other[:, None])[:, 0].detach())
    assert_close(got.peak, wanted.amax(1).detach())
    assert not got.other.requires_grad
    assert not got.peak.requires_grad
    share = torch.randn(rows, dtype=torch.float64, generator=dice)
    assert_close(
        torch.autograd.grad(got.came @ share, last),
        torch.autograd.grad(wanted.gather(1, came[:, None])[:, 0] @ share, last),
    )


def test_ties_and_scores_that_leave_no_probability_are_as_in_log_softmax() -> None:
    states = torch.tensor([[0.0], [1.0], [1e4], [-1e4]], requires_grad=True)
    last = LastLayer(states, torch.tensor([[1.0], [1.0], [-1.0]]))
    came, other = torch.tensor([0, 2, 2, 0]), torch.tensor([2, 0, 0, 2])
    wanted, got = all_of(last), last.given_to(came, other)
    assert_close(got.came, wanted.gather(1, came[:, None])[:, 0])
    assert_close(got.other, wanted.gather(1, other[:, None])[:, 0].detach())
    assert_close(got.peak, wanted.amax(1).detach())
    assert got.came[2] < -1.9e4


def test_going_backward_to_the_states_again_leaves_the_weight_alone() -> None:
    last = layer(4, 6)
    came = torch.arange(4)
    inner = LastLayer(last.states * 1, last.weight)
    loss = inner.given_to(came, came).came.sum()
    torch.autograd.backward(loss, retain_graph=True)
    assert last.states.grad is not None
    assert last.weight.grad is not None
    once, weight = last.states.grad.clone(), last.weight.grad.clone()
    torch.autograd.backward(2 * loss, inputs=[last.states])
    assert_close(last.states.grad, 3 * once)
    assert torch.equal(last.weight.grad, weight)


@pytest.mark.parametrize("learned", ["states", "weight"])
def test_what_is_frozen_gets_no_gradient(learned: str) -> None:
    last = layer(4, 6)
    for name, each in last._asdict().items():
        each.requires_grad_(name == learned)
    came, one = torch.arange(4), getattr(last, learned)
    got, wanted = last.given_to(came, came).came, all_of(last).gather(1, came[:, None])
    assert_close(torch.autograd.grad(got.sum(), one), torch.autograd.grad(wanted.sum(), one))


def test_without_anything_to_learn_there_is_no_gradient() -> None:
    last = layer(4, 6)
    with torch.no_grad():
        assert not last.given_to(torch.arange(4), torch.arange(4)).came.requires_grad
    frozen = LastLayer(*(each.detach() for each in last))
    assert not frozen.given_to(torch.arange(4), torch.arange(4)).came.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_log_softmax_of_the_same_scores(dtype: torch.dtype) -> None:
    last = LastLayer(*(each.detach().to(dtype).requires_grad_() for each in layer(4, 6)))
    came = torch.arange(4)
    wanted, got = all_of(last), last.given_to(came, came)
    assert got.came.dtype is torch.float32
    assert torch.equal(got.came, wanted.gather(1, came[:, None])[:, 0])


def test_an_unknown_target_counts_for_nothing() -> None:
    last = layer(3, 6)
    got = last.of_targets(torch.tensor([2, UNKNOWN, 5]))
    wanted = all_of(last)
    assert_close(got, torch.stack([wanted[0, 2], torch.zeros_like(wanted[0, 0]), wanted[2, 5]]))
    (states,) = torch.autograd.grad(got.sum(), [last.states])
    assert not states[1].any()


@st.composite
def retrieved(draw: Any) -> tuple[Values, int, int, int]:
    """Return values of concepts for each asking position, batch, time and ``every``."""
    batch, time, every = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    asking, top_k = batch * -(-time // every), draw(st.integers(1, 4))
    # None is no integer, -1 no concept, and beyond 6 is no token.
    value = st.sampled_from([None, -1, 0, 1, 2, 2, 6, VOCAB, VOCAB + 3])
    row = st.lists(value, min_size=top_k, max_size=top_k)
    return draw(st.lists(row, min_size=asking, max_size=asking)), batch, time, every


def placed(context: RetrievedContext, batch: int) -> RetrievedContext:
    """Return a context ``(N, K)`` as ``(B, T', K)``, as far as a mixture reads it."""
    names = ("mask", "weights", "value_ids", "ages", "cosines")
    shape = (batch, len(context.mask) // batch)
    return replace(context, **{name: getattr(context, name).unflatten(0, shape) for name in names})


def mixture() -> MemoryMixture:
    """Return one whose gate is open, and sees what there is."""
    made = MemoryMixture(HIDDEN).double()
    torch.nn.init.normal_(made.gate.weight)
    torch.nn.init.zeros_(made.gate.bias)
    return made


def at(log_probs: Tensor, targets: Tensor) -> Tensor:
    picked = log_probs.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return picked.masked_fill(targets == UNKNOWN, 0)


@settings(max_examples=60, deadline=None)
@given(asked=retrieved(), tied=st.booleans(), seed=st.integers(0, 99))
def test_targets_are_given_what_the_whole_mixture_gives_them(
    asked: tuple[Values, int, int, int], tied: bool, seed: int
) -> None:
    values, batch, time, every = asked
    torch.manual_seed(seed)
    made = mixture()
    states = torch.randn(batch, time, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(batch, time, HIDDEN, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(len(values), len(values[0]), dtype=torch.float64) * (not tied)
    context = placed(context_of(values, shared(scores.requires_grad_(), values)), batch)
    targets = torch.randint(0, VOCAB, (batch, time))
    targets[torch.rand(batch, time) < 0.2] = UNKNOWN
    last, logits = LastLayer(states, weight), states @ weight.T
    wanted = log_probabilities(logits), made.where_asked(every, logits, hidden, context)[0]
    learned = [states, weight, hidden, scores, *made.parameters()]
    share = torch.randn(batch, time, dtype=torch.float64)
    for got, whole in zip(
        made.of_targets(targets, every, last, hidden, context), wanted, strict=True
    ):
        assert_close(got, at(whole, targets))
        gradients = (
            torch.autograd.grad(
                (each * share).sum(), learned, retain_graph=True, materialize_grads=True
            )
            for each in (got, at(whole, targets))
        )
        assert_close(*gradients)


def test_where_nothing_is_retrieved_targets_are_given_what_the_model_gives_them() -> None:
    made, last = mixture(), layer(6, VOCAB)
    states, hidden = last.states.view(2, 3, WIDTH), torch.randn(2, 3, HIDDEN, dtype=torch.float64)
    nothing = torch.zeros(6, 0, dtype=torch.float64)
    context = placed(context_of([[]] * 6, nothing), 2)
    targets = torch.tensor([[0, UNKNOWN, 2], [3, 4, 5]])
    own, both = made.of_targets(targets, 1, LastLayer(states, last.weight), hidden, context)
    assert torch.equal(own, both)
    assert_close(own, at(all_of(last).view(2, 3, VOCAB), targets))
    last.states.requires_grad_(False)
    last.weight.requires_grad_(False)
    frozen = LastLayer(states.detach(), last.weight)
    assert made.of_targets(targets, 1, frozen, hidden, context)[1].requires_grad
