"""The memory layers, against dense computations in probability space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGMemory
from aesg.context import RetrievedContext, Trace
from aesg.nn import MemoryAttention, MemoryMixture
from storage_backends.types import ValueKind
from tests.memory_build import DIM, opened, patterns

Values: TypeAlias = Sequence[Sequence[int | None]]

HIDDEN = 12
VOCAB = 7


def context_of(values: Values, weights: Tensor) -> RetrievedContext:
    """Return a context ``(N, K)`` of concepts with these values.

    None is a concept without an integer value, -1 a place where there is no concept.
    """
    shape = tuple(weights.shape)
    ids = np.array([[each != -1 for each in row] for row in values], np.uint64).reshape(shape)
    integer = np.array([[each is not None for each in row] for row in values]).reshape(shape)
    dice = np.random.default_rng(1)
    cosines = torch.from_numpy(dice.random(shape, np.float32))
    kinds = np.where(integer, ValueKind.INTEGER, ValueKind.KEY).astype(np.uint8)
    value_ids = np.array([[-1 if each is None else each for each in row] for row in values])
    none = torch.zeros(shape[0], 0)
    trace = Trace(
        queries=torch.zeros(shape[0], DIM),
        norms=torch.ones(shape[0]),
        ids=torch.from_numpy(ids.view(np.int64)),
        paths=torch.zeros((*shape, 3), dtype=torch.int64),
        cosines=cosines,
        value_kinds=torch.from_numpy(kinds),
        value_ids=torch.from_numpy(value_ids.reshape(shape).astype(np.int64)),
        origins=torch.zeros(shape[0], dtype=torch.int64),
        seeds=none.long(),
        begun=none,
        followed=torch.zeros(shape[0], dtype=torch.bool),
    )
    mask = torch.from_numpy(ids != 0)
    return RetrievedContext(
        keys=torch.zeros(*shape, DIM),
        weights=weights,
        mask=mask,
        activations=mask.float(),
        ages=torch.from_numpy(dice.integers(0, 9, shape)).float() * mask,
        cosines=cosines * mask,
        value_kinds=trace.value_kinds,
        value_ids=trace.value_ids,
        abstract=torch.zeros(shape[0], DIM),
        abstract_weight=torch.zeros(shape[0]),
        trace=trace,
    )


def shared(scores: Tensor, values: Values) -> Tensor:
    """Return attention over the places that hold a concept and, unseen, a null slot."""
    present = torch.tensor([[each != -1 for each in row] for row in values])
    scores = scores.masked_fill(~present.view(scores.shape), -torch.inf)
    null = torch.zeros_like(scores[:, :1]) if scores.shape[1] else scores.new_zeros(len(scores), 1)
    return torch.cat([scores, null], 1).softmax(1)[:, :-1]


def expressed(values: Values, weights: Tensor, vocab: int) -> Tensor:
    """Return what the memory gives to each integer, ``(N, V)``, one by one."""
    rows = []
    for number, row in enumerate(values):
        shares = [0 * weights[number].sum() for _ in range(vocab)]
        for place, value in enumerate(row):
            if value is not None and 0 <= value < vocab:
                shares[value] = shares[value] + weights[number, place]
        rows.append(torch.stack(shares))
    return torch.stack(rows)


def mixture(hidden_size: int = HIDDEN) -> MemoryMixture:
    """Return a mixture in float64 whose gate looks at the hidden state alone."""
    torch.manual_seed(3)
    made = MemoryMixture(hidden_size).double()
    with torch.no_grad():
        made.gate.weight[:, :hidden_size].normal_()
    return made


def dense(
    layer: MemoryMixture,
    logits: Tensor,
    hidden: Tensor,
    values: Values,
    weights: Tensor,
) -> Tensor:
    """Return ``log((1 - g) p_model + g p_memory)`` of a layer that `mixture` made."""
    width = hidden.shape[-1]
    centred = hidden - hidden.mean(-1, keepdim=True)
    normed = centred / (hidden.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    opening = (normed @ layer.gate.weight[0, :width] + layer.gate.bias).sigmoid()
    found = torch.tensor([any(each != -1 for each in row) for row in values])
    gate = (opening.clamp(0.01, 0.99) * found).unsqueeze(-1)  # (N, 1)
    memory = expressed(values, weights, logits.shape[-1])  # (N, V)
    model = logits.softmax(-1)
    return ((1 - gate * memory.sum(-1, keepdim=True)) * model + gate * memory).log()


# Repeats, places without a concept, concepts without an integer value or one beyond the vocabulary.
_places = st.lists(st.sampled_from([0, 0, 2, 3, 6, None, -1, VOCAB, 500]), min_size=5, max_size=5)


@settings(max_examples=60)
@given(values=st.lists(_places, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_mixture_and_its_gradients_are_those_of_dense_probabilities(
    values: list[list[int | None]], seed: int
) -> None:
    layer = mixture()
    dice = torch.Generator().manual_seed(seed)
    count = len(values)
    leaves = [
        (3 * torch.randn(count, width, generator=dice, dtype=torch.float64)).requires_grad_()
        for width in (VOCAB, HIDDEN, 5)
    ]
    logits, hidden, scores = leaves
    probe = torch.randn(count, VOCAB, generator=dice, dtype=torch.float64)
    context = context_of(values, shared(scores, values))
    got = layer(logits, hidden, context)
    wanted = dense(layer, logits, hidden, values, shared(scores, values))
    assert_close(got, wanted)
    assert_close(got.exp().sum(-1), torch.ones(count, dtype=torch.float64))
    seen = layer.gate.weight
    gradients, expected = (
        torch.autograd.grad((out * probe).sum(), [*leaves, seen, layer.gate.bias])
        for out in (got, wanted)
    )
    names = ("logits", "hidden", "scores", "gate", "bias")
    for name, one, other in zip(names, gradients, expected, strict=True):
        assert torch.isfinite(one).all(), name
        if name == "gate":  # the reference sees the hidden state only
            one, other = one[:, :HIDDEN], other[:, :HIDDEN]
        assert_close(one, other, atol=1e-9, rtol=1e-6)


def test_every_part_of_the_gate_gets_a_finite_gradient() -> None:
    torch.manual_seed(0)
    layer = MemoryMixture(HIDDEN)
    nn.init.normal_(layer.gate.weight)
    values: Values = [[1, 1, None, -1], [-1] * 4, [0, 5, 5, 6]]
    scores = torch.randn(3, 4, requires_grad=True)
    logits = (30 * torch.randn(3, VOCAB)).requires_grad_()
    out = layer(logits, torch.randn(3, HIDDEN), context_of(values, shared(scores, values)))
    assert_close(out.exp().sum(-1), torch.ones(3))
    out.max(-1).values.sum().backward()
    for leaf in (scores, logits, layer.gate.weight, layer.gate.bias):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.any()
    assert layer.gate.weight.grad is not None
    assert layer.gate.weight.grad.ne(0).all()


def test_a_value_that_the_memory_is_sure_of_becomes_likelier_and_the_others_less() -> None:
    layer, logits = MemoryMixture(HIDDEN), torch.zeros(1, VOCAB)
    out = layer(logits, torch.zeros(1, HIDDEN), context_of([[4, 4]], torch.tensor([[0.5, 0.4]])))
    uniform = logits.log_softmax(-1)
    assert out[0, 4] > uniform[0, 4]
    others = [each for each in range(VOCAB) if each != 4]
    assert (out[0, others] < uniform[0, others]).all()


def test_the_memory_can_say_what_the_model_rules_out() -> None:
    layer, logits = MemoryMixture(HIDDEN), torch.zeros(2, VOCAB)
    logits[:, :5] = -torch.inf
    logits.requires_grad_()
    values = [[4, 6, 4], [6, 5, 6]]
    weights = torch.tensor([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]])
    out = layer(logits, torch.zeros(2, HIDDEN), context_of(values, weights))
    chances = out.exp()
    gate = layer.gate.bias.sigmoid().item()
    alone = (1 - gate) / 2
    wanted = torch.tensor([[0.8 * gate, alone], [0.0, alone + 0.2 * gate]])
    assert_close(chances[:, [4, 5]], wanted, atol=1e-3, rtol=0)
    assert_close(chances.sum(-1), torch.ones(2), atol=1e-3, rtol=0)
    assert not chances[:, :4].any()
    out[0, 4].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_where_nothing_was_retrieved_the_model_speaks_alone() -> None:
    torch.manual_seed(0)
    layer = MemoryMixture(HIDDEN)
    nn.init.normal_(layer.gate.weight)
    values = [[-1, -1], [3, -1], [-1, -1]]
    logits, hidden = torch.randn(3, VOCAB), torch.randn(3, HIDDEN)
    out = layer(logits, hidden, context_of(values, shared(torch.randn(3, 2), values)))
    model = logits.log_softmax(-1)
    assert torch.equal(out[[0, 2]], model[[0, 2]])
    assert not torch.equal(out[1], model[1])


def test_without_places_the_model_speaks_alone_and_stays_trainable() -> None:
    layer = MemoryMixture(HIDDEN)
    logits = torch.randn(3, VOCAB)
    out = layer(logits, torch.randn(3, HIDDEN), context_of([[]] * 3, torch.zeros(3, 0)))
    assert torch.equal(out, logits.log_softmax(-1))
    out.sum().backward()
    assert layer.gate.bias.grad is not None
    assert not layer.gate.bias.grad.any()


def test_concepts_that_the_vocabulary_does_not_hold_leave_the_model_as_it_is() -> None:
    layer, logits = MemoryMixture(HIDDEN), torch.randn(2, VOCAB)
    values: Values = [[None, VOCAB], [500, -1]]
    out = layer(
        logits, torch.randn(2, HIDDEN), context_of(values, shared(torch.randn(2, 2), values))
    )
    assert_close(out, logits.log_softmax(-1))


@pytest.fixture
def memory() -> AESGMemory:
    return opened()


def attention(memory: AESGMemory) -> MemoryAttention:
    torch.manual_seed(0)
    return MemoryAttention(HIDDEN, memory, top_k=4)


def test_attention_leaves_hidden_states_alone_at_first(memory: AESGMemory) -> None:
    memory.remember(patterns(0, 1, 2), [4, 2, 4])
    layer, hidden = attention(memory), torch.randn(2, 3, HIDDEN)
    context = memory.recall(layer.query(hidden))
    assert context.mask.any()
    assert torch.equal(layer(hidden, context, torch.randn(VOCAB, HIDDEN)), hidden)


def test_attention_leaves_hidden_states_alone_where_nothing_was_retrieved(
    memory: AESGMemory,
) -> None:
    layer = attention(memory)
    nn.init.normal_(layer.inject.weight)
    hidden, table = torch.randn(2, 3, HIDDEN), torch.randn(VOCAB, HIDDEN)
    assert torch.equal(layer(hidden, memory.recall(layer.query(hidden)), table), hidden)
    values = [[-1, -1], [3, -1]]
    some = context_of(values, shared(torch.randn(2, 2), values))
    out = layer(hidden[0, :2], some, table)
    assert torch.equal(out[0], hidden[0, 0])
    assert not torch.equal(out[1], hidden[0, 1])


@settings(max_examples=30)
@given(values=st.lists(_places, min_size=1, max_size=4))
def test_attention_adds_the_attended_embeddings(values: list[list[int | None]]) -> None:
    with opened() as memory:
        layer = attention(memory)
    nn.init.normal_(layer.inject.weight)
    hidden = torch.randn(len(values), HIDDEN)
    table = torch.randn(VOCAB, HIDDEN, requires_grad=True)
    scores = torch.randn(len(values), 5, requires_grad=True)
    weights = shared(scores, values)
    got = layer(hidden, context_of(values, weights), table)
    wanted = hidden + expressed(values, weights, VOCAB) @ table @ layer.inject.weight.T
    assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    probe = torch.randn_like(got)
    leaves = [scores, table, layer.inject.weight]
    gradients, expected = (
        torch.autograd.grad((out * probe).sum(), leaves, retain_graph=True) for out in (got, wanted)
    )
    for one, other in zip(gradients, expected, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_running_mean_shows_from_the_next_call_on(memory: AESGMemory) -> None:
    layer = attention(memory)
    hidden = torch.randn(4, 3, HIDDEN) + torch.arange(HIDDEN)
    fresh = layer.eval().query(hidden)
    assert torch.equal(layer.train().query(hidden), fresh)
    later = layer.eval().query(hidden)
    assert not torch.allclose(later, fresh)
    # The first batch is the mean, so that its own queries have none any more.
    assert_close(later.mean((0, 1)), torch.zeros(DIM), atol=1e-5, rtol=0)


def test_a_query_does_not_depend_on_its_batch_in_training(memory: AESGMemory) -> None:
    hidden = torch.randn(4, 3, HIDDEN)
    together = attention(memory).train().query(hidden)
    alone = attention(memory).train().query(hidden[1:2])
    assert_close(together[1:2], alone)


def test_eval_mode_changes_no_buffer(memory: AESGMemory) -> None:
    layer = attention(memory)
    layer.query(torch.randn(4, HIDDEN))
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.eval().query(torch.randn(4, HIDDEN) + 5)
    assert before
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_batch_with_nan_leaves_the_running_mean_as_it_was(memory: AESGMemory) -> None:
    layer = attention(memory)
    layer.query(torch.randn(4, HIDDEN))
    before = layer.query.mean.clone()
    layer.query(torch.full((4, HIDDEN), torch.nan))
    assert torch.equal(layer.query.mean, before)


def test_the_running_mean_follows_the_hidden_states(memory: AESGMemory) -> None:
    layer = attention(memory)
    away = torch.linspace(-2, 2, HIDDEN)
    for _ in range(50):
        layer.query(torch.randn(16, HIDDEN) + away)
    usual = layer.query.norm(torch.randn(2000, HIDDEN) + away).mean(0)
    assert_close(layer.query.mean, usual, atol=0.1, rtol=0)


def test_a_gradient_reaches_the_query_projection(memory: AESGMemory) -> None:
    memory.remember(patterns(0, 1, 2), [4, 2, 4])
    layer = attention(memory)
    nn.init.normal_(layer.inject.weight)
    hidden = torch.randn(2, 3, HIDDEN)
    out = layer(hidden, memory.recall(layer.query(hidden)), torch.randn(VOCAB, HIDDEN))
    out.square().sum().backward()
    for parameter in (layer.query.projection.weight, memory.log_scale):
        assert parameter.grad is not None
        assert parameter.grad.any()
