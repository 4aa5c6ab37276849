"""Sequences read position by position, balanced attention, and the operators of compiled models."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGMemory, AESGMemoryError, AESGNavigationError
from aesg.context import COLUMNS, RetrievedContext
from aesg.memory_ops import parts_of
from tests.memory_build import DIM, near, opened, pattern, patterns

BATCH, TIME = 3, 6


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    """Return queries ``(B, T, D)`` and what came at each."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(BATCH, TIME, DIM, generator=generator)
    return queries, torch.randint(0, 4, (BATCH, TIME), generator=generator)


def experienced(**fields: Any) -> AESGMemory:
    """Return a memory of sequences met once or twice: born, provisional, linked."""
    memory = opened(memory_mode="ONLINE", novelty_birth_threshold=2, **fields)
    for seed in (0, 1, 0, 2, 1, 3):
        queries, came = sequences(seed)
        memory.defer(memory.recall(queries), came)
        memory.update_topology()
    memory.save()
    assert memory.storage.node_count
    assert memory.provisional_count
    assert memory.storage.edge_count
    return memory


def assert_same(one: RetrievedContext, other: RetrievedContext) -> None:
    for name in (*COLUMNS, "best_cosine", "vectors"):
        assert_close(getattr(one, name), getattr(other, name), msg=name)
    for each in dataclasses.fields(one.found):
        ours, theirs = getattr(one.found, each.name), getattr(other.found, each.name)
        if each.name in ("cosines", "begun"):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=each.name)


# Position by position


@pytest.mark.parametrize("top_k", [1, 4, 32])
@pytest.mark.parametrize("gaps", [False, True])
def test_positions_in_turn_retrieve_what_one_call_does(top_k: int, gaps: bool) -> None:
    memory = experienced()
    queries, came = sequences(0)
    if gaps:
        came[:, 2] = -100
    whole = memory.recall(queries, outcomes=came, top_k=top_k)
    context, contexts = None, []
    for t in range(TIME):
        context = memory.recall(queries[:, t], after=(context, came[:, t - 1]), top_k=top_k)
        contexts.append(context)
    assert whole.found.followed.any()
    assert not whole.found.followed.all()
    assert_same(RetrievedContext.stack(contexts), whole)


def test_a_sequence_goes_on_from_the_last_position_of_the_one_before() -> None:
    memory = experienced()
    queries, came = sequences(0)
    whole = memory.recall(queries, outcomes=came)
    first = memory.recall(queries[:, :4], outcomes=came[:, :4])
    rest = memory.recall(queries[:, 4:], outcomes=came[:, 4:], after=(first, came[:, 3]))
    assert whole.found.followed.reshape(BATCH, TIME)[:, 4].any()
    for t in (4, 5):
        wanted = whole.weights[:, t]
        width = min(wanted.shape[-1], rest.weights.shape[-1])
        assert_close(rest.weights[:, t - 4, :width], wanted[:, :width])
        assert not wanted[:, width:].any()


def test_what_did_not_come_is_not_followed() -> None:
    memory = experienced()
    queries, came = sequences(0)
    before = memory.recall(queries[:, 0], after=(None, came[:, 0]))
    for told, follows in ((came[:, 0], True), (came[:, 0] * 0 - 100, False)):
        after = memory.recall(queries[:, 1], after=(before, told))
        assert after.found.followed.any() == follows
    assert not memory.recall(queries[:, 1], after=(None, came[:, 0])).found.followed.any()


def test_a_concept_that_is_gone_is_not_followed() -> None:
    memory = experienced()
    queries, came = sequences(0)
    before = memory.recall(queries[:, 0], after=(None, came[:, 0]))
    other = opened("other", memory_mode="ONLINE")
    other.remember(patterns(0, 1))
    after = other.recall(queries[:, 1], after=(before, came[:, 0]))
    assert after.mask.all()
    known = set(before.found.seeds.ravel().tolist())
    assert max(known) > 2
    assert set(after.concept_ids.ravel().tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ((None, torch.zeros(2)), "expected 3 integers"),
        ((None, torch.zeros(2, dtype=torch.long)), "expected 3 integers"),
        ((1, torch.zeros(3, dtype=torch.long)), "expected 3 sequences, got 1"),
    ],
)
def test_a_position_before_that_does_not_fit_is_told(after: Any, words: str) -> None:
    memory = experienced()
    if after[0] is not None:
        after = (memory.recall(pattern(0)), after[1])
    with pytest.raises(AESGNavigationError, match=words):
        memory.recall(patterns(0, 1, 2), after=after)


# Joining contexts


def test_a_stacked_context_teaches_what_its_parts_do() -> None:
    queries, came = sequences(7)
    counts = []
    for name in ("one", "other"):
        memory = opened(name, memory_mode="ONLINE", novelty_birth_threshold=1)
        memory.remember(patterns(*range(DIM)), list(range(DIM)))
        if name == "one":
            context = memory.recall(queries)
        else:
            context = RetrievedContext.stack([memory.recall(each) for each in queries.unbind(1)])
        memory.defer(context, came)
        memory.update_topology()
        memory.save()
        learned = dataclasses.replace(memory.rates, retrievals=0)
        counts.append((memory.storage.node_count, memory.storage.edge_count, learned))
    assert counts[0] == counts[1]
    assert counts[0][0] > DIM


def test_a_stack_pads_what_found_less_and_keeps_the_gradient() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), [5, 6], origins=torch.tensor([1, 2]))
    query = patterns(0, 1).requires_grad_()
    parts = [
        memory.recall(query, origins=torch.tensor([1, 1]), vectors=False),
        memory.recall(query, vectors=True),
    ]
    both = RetrievedContext.stack(parts)
    assert both.mask.tolist() == [[[True, False], [True, True]]] * 2
    assert both.value_ids[:, 0].tolist() == [[6, -1], [6, -1]]
    assert both.found.sequences == (2, 2)
    assert both.gathered is None
    both.weights.square().sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_contexts_that_do_not_fit_together_are_told() -> None:
    memory = opened()
    for parts in (
        [],
        [memory.recall(pattern(0))],
        [memory.recall(patterns(*range(n))) for n in (1, 2)],
    ):
        with pytest.raises(AESGMemoryError, match="of the same shape"):
            RetrievedContext.stack(parts)


# Balance


def crowded() -> AESGMemory:
    """Return a memory with many concepts of value 1 and few of value 2, in graph and window."""
    memory = opened(memory_mode="ONLINE", novelty_birth_threshold=9)
    memory.remember(near(0) + 0.01 * patterns(*range(1, 9)), [1] * 7 + [2])
    memory.defer(memory.recall(patterns(9, 10)), torch.tensor([1, 3]))
    memory.update_topology()
    return memory


def test_balance_takes_the_number_of_concepts_with_a_value_out_of_its_weight() -> None:
    memory = crowded()
    query = patterns(0, 9)
    plain, balanced = memory.recall(query), memory.recall(query, balanced=True)
    assert torch.equal(balanced.value_ids, plain.value_ids)
    counts = torch.tensor([0.0, 8.0, 1.0, 1.0])  # with value 1: seven in the graph, one beside it
    wanted = plain.weights / counts[plain.value_ids]
    left = 1 - plain.weights.sum(-1) + wanted.sum(-1)
    assert_close(balanced.weights, wanted / left.unsqueeze(-1))
    assert_close(balanced.abstract_weight, plain.abstract_weight / left)


def test_balance_follows_what_is_written() -> None:
    memory = crowded()

    def counted(value: int) -> float:
        """Return with how many concepts one shares this value, if one has value 3."""
        plain, balanced = (
            memory.recall(near(0), top_k=64, balanced=each) for each in (False, True)
        )
        lost = plain.weights.detach() / balanced.weights.detach()
        one, many = (lost[plain.value_ids == each].mean() for each in (3, value))
        return float(many / one)

    assert counted(1) == pytest.approx(8, rel=1e-4)
    memory.remember(patterns(11, 12), [1, 2])
    assert (counted(1), counted(2)) == pytest.approx((9, 2), rel=1e-4)
    memory.defer(memory.recall(pattern(13)), torch.tensor(2))
    memory.update_topology()
    assert (counted(1), counted(2)) == pytest.approx((9, 3), rel=1e-4)


def test_balance_leaves_concepts_without_an_integer_value_alone() -> None:
    memory = opened()
    memory.remember(patterns(0, 1, 2))
    query = near(1)
    assert_close(memory.recall(query, balanced=True).weights, memory.recall(query).weights)


# What a context holds


def test_cosines_are_those_of_query_and_keys_and_carry_no_gradient() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), origins=torch.tensor([5, 6]))
    query = torch.stack([near(0), near(1)]).requires_grad_()
    found = memory.recall(query, origins=torch.tensor([5, 0]))
    unit = nn.functional.normalize(query.detach(), dim=-1)
    assert_close(found.cosines, (found.keys @ unit.unsqueeze(-1)).squeeze(-1))
    assert not found.cosines.requires_grad
    assert found.cosines[0].tolist()[1] == found.ages[0].tolist()[1] == 0


# Operators


def recalled(memory: AESGMemory, **given: Any) -> tuple[Any, ...]:
    """Return arguments of ``torch.ops.aesg.recall``."""
    arguments = {
        "query": torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(3)),
        "handle": memory.handle,
        "top_k": 5,
        "hops": memory.config.spreading_activation_steps,
        "outcomes": None,
        "before": [],
        "origins": None,
        "vectors": True,
        "balanced": False,
    }
    return tuple({**arguments, **given}.values())


def test_the_operators_keep_the_rules_of_torch() -> None:
    memory = experienced()
    came = torch.zeros(2, 3, dtype=torch.long)
    before = [torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4), torch.zeros(2).long()]
    for given in (
        {},
        {"vectors": False, "balanced": True, "outcomes": came, "origins": torch.tensor([1, 2])},
        {"outcomes": came, "before": before},
        {"top_k": 2 * DIM},
    ):
        torch.library.opcheck(torch.ops.aesg.recall.default, recalled(memory, **given))
    context = memory.recall(torch.randn(2, 3, DIM))
    counter = torch.zeros((), dtype=torch.long)
    for vectors, known in ((None, None), (context.vectors, came)):
        arguments = (counter, memory.handle, parts_of(context), vectors, known, None, None)
        torch.library.opcheck(torch.ops.aesg.defer.default, arguments)
    torch.library.opcheck(torch.ops.aesg.learn.default, (counter, memory.handle, parts_of(context)))


def test_the_operator_gives_what_a_reading_does_padded_to_top_k() -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1, 2), [4, 5, 6])
    keys, mask, *_ = torch.ops.aesg.recall(*recalled(memory, query=near(1)))
    assert keys.shape == (1, 5, DIM)
    assert mask.tolist() == [[True] * len(ids) + [False] * 2]
    known = memory.recall(near(1))
    assert_close(keys[0, :3], known.keys)


def test_a_handle_leads_to_its_memory_as_long_as_it_lives() -> None:
    memory, other = opened(), opened("other")
    assert memory.handle != other.handle
    handle = other.handle
    with pytest.raises(AESGMemoryError, match="no other memory"):
        memory.bind_handle(handle)
    for wrong in (0, -1, 2**63, 1.5, True, "7"):
        with pytest.raises(AESGMemoryError, match="expected an integer from 1"):
            memory.bind_handle(wrong)  # type: ignore[arg-type]
    del other
    gc.collect()
    with pytest.raises(AESGMemoryError, match=rf"bind_handle\({handle}\)"):
        torch.ops.aesg.recall(*recalled(memory, handle=handle))
    memory.bind_handle(handle)
    memory.bind_handle(handle)
    assert memory.handle == handle
    torch.ops.aesg.recall(*recalled(memory))


def test_the_first_handle_on_a_directory_is_the_same_in_every_process() -> None:
    memory = opened()
    handle = memory.handle
    second = opened()
    assert second.handle != handle
    memory.close()
    del memory
    gc.collect()
    assert opened().handle == handle


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_answers_to_a_handle_of_its_own(copied: Any) -> None:
    memory = experienced()
    again = copied(memory)
    assert again.handle != memory.handle
    one, other = (torch.ops.aesg.recall(*recalled(each)) for each in (memory, again))
    assert_close(one, other)


def test_a_memory_cannot_be_replicated() -> None:
    memory = opened()
    with pytest.raises(AESGMemoryError, match="DataParallel; run the model on one device"):
        memory._replicate_for_data_parallel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: needs a CUDA device")
def test_the_operator_answers_on_the_device_of_its_queries() -> None:
    memory = experienced()
    query = torch.randn(2, 3, DIM)
    there = torch.ops.aesg.recall(*recalled(memory, query=query.cuda()))
    here = torch.ops.aesg.recall(*recalled(memory, query=query))
    assert {each.device.type for each in there[:9]} == {"cuda"}
    assert {each.device.type for each in there[9:]} == {"cpu"}
    for one, other in zip(there, here, strict=True):
        assert_close(one.cpu(), other)
