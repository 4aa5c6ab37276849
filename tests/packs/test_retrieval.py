"""Retrieval through attached packs: they are found as in the memory that they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from aesg import AESGMemory, RetrievedContext
from aesg.context import COLUMNS
from aesg.graph.scope import PACK_ID
from storage_backends.spreading import use
from storage_backends.types import Ids
from tests.memory_build import DIM, near, opened, pattern, patterns
from tests.packs.attached import BATCH, TIME, attached, link, packed, sequences, source
from tests.storage.spreading_worlds import KERNELS


def there(memory: AESGMemory, ids: Ids) -> NDArray[np.uint64]:
    """Return ids as those of the memory that they were exported from; 0 for none."""
    named = [concept_id for _, concept_id in memory.sources(ids.ravel())]
    return np.array(named, np.uint64).reshape(ids.shape)


def assert_same(memory: AESGMemory, got: RetrievedContext, wanted: RetrievedContext) -> None:
    """Check that a context of a pack is to the bit that of the memory it was exported from."""
    for name in (*COLUMNS, "vectors"):
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name
    for name in ("ids", "paths", "seeds"):
        ours = there(memory, getattr(got.found, name))
        np.testing.assert_array_equal(ours, getattr(wanted.found, name), err_msg=name)
    for name in ("begun", "followed", "cosines"):
        np.testing.assert_array_equal(getattr(got.found, name), getattr(wanted.found, name))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pack_alone_retrieves_what_the_memory_it_came_from_does(kernel: str) -> None:
    origin = source()
    memory = attached(packed(origin))
    with use("C" if kernel == "C" else "numpy"):
        assert_retrieves_the_same(memory, origin)


@pytest.mark.long
def test_a_large_pack_alone_retrieves_what_the_memory_it_came_from_does() -> None:
    origin = source(count=20_400)
    origin._state.engine.rebuild()
    memory = attached(packed(origin))
    (guest,) = memory._scope(memory._state).guests
    assert origin._state.view.base is not None
    assert guest.view.base is not None
    assert_retrieves_the_same(memory, origin)


def assert_retrieves_the_same(memory: AESGMemory, origin: AESGMemory) -> None:
    queries, came = sequences(3)
    for top_k in (1, 5, 32):
        assert_same(
            memory, memory.recall(queries, top_k=top_k), origin.recall(queries, top_k=top_k)
        )
    for balanced in (False, True):
        got, wanted = (
            each.recall(queries, outcomes=came, top_k=8, balanced=balanced)
            for each in (memory, origin)
        )
        assert_same(memory, got, wanted)
        assert wanted.found.followed.any()
        assert (wanted.found.paths != 0).any()
    for got, wanted in zip(
        in_turn(memory, queries, came), in_turn(origin, queries, came), strict=True
    ):
        assert_same(memory, got, wanted)
    ids = memory.recall(queries).concept_ids.ravel()
    assert memory.payloads(ids) == origin.payloads(there(memory, ids))


def in_turn(memory: AESGMemory, queries: Tensor, came: Tensor) -> Iterator[RetrievedContext]:
    """Yield what each position retrieves after the one before."""
    context = None
    for t in range(queries.shape[1]):
        before = came[:, t - 1] if t else torch.zeros(len(queries), dtype=torch.long)
        context = memory.recall(queries[:, t], after=(context, before), top_k=8)
        yield context


def test_a_pack_of_a_memory_that_aged_retrieves_what_that_does() -> None:
    origin = opened("source", consolidation_epoch_interval=5, memory_mode="ONLINE")
    dice = np.random.default_rng(0)
    ids = origin.remember(dice.normal(size=(40, DIM)), dice.integers(0, 4, 40))
    link(origin, ids, dice)
    for _ in range(30):
        origin.update_topology()
    assert origin._state.clock.epoch == 6
    memory = attached(packed(origin), consolidation_epoch_interval=1)
    for _ in range(10):
        memory.update_topology()  # a pack does not age
    queries, came = sequences(3)
    got, wanted = (each.recall(queries, outcomes=came, top_k=8) for each in (memory, origin))
    np.testing.assert_array_equal(there(memory, got.found.ids), wanted.found.ids)
    assert_close(got.activations, wanted.activations)
    assert_close(got.ages, wanted.ages)
    assert wanted.ages.max() == 30
    told, meant = (each.explain(queries[0]) for each in (memory, origin))
    for ours, theirs in zip(told.queries, meant.queries, strict=True):
        for one, other in zip(ours.concepts, theirs.concepts, strict=True):
            assert (one.age, one.region) == (other.age, other.region)
            assert one.relevance == pytest.approx(other.relevance)
            assert one.age == 6


def test_what_packs_weigh_is_in_activations_once() -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1), [4, 5])
    path = packed(origin)
    memory = opened()
    own = memory.remember(pattern(0), [9])
    for name, priority in (("a", 75), ("b", 25)):
        memory.attach_pack(memory.load_pack(path, name=name), priority)
    context = memory.recall(pattern(0), top_k=3)
    assert memory.sources(context.concept_ids) == [(None, int(own[0])), ("a", 1), ("b", 1)]
    assert_close(context.activations, torch.tensor([1, 0.75, 0.25]))
    assert_close(context.cosines, torch.ones(3))
    # At equal similarity and age the attention follows activation alone.
    assert_close(context.weights / context.weights[0], context.activations)


def test_a_light_pack_is_found_beside_a_memory_that_resembles_the_query_less() -> None:
    origin = opened("source")
    origin.remember(pattern(0), [4])
    memory = opened()
    memory.remember(torch.stack([pattern(0) + pattern(n) for n in range(1, 12)]), [7] * 11)
    heavy = opened("heavy")
    heavy.remember(pattern(15), [0])
    memory.attach_pack(memory.load_pack(packed(origin)), 1)
    memory.attach_pack(memory.load_pack(packed(heavy, "heavy")), 99)
    context = memory.recall(pattern(0), top_k=4)
    assert ("medical", 1) in memory.sources(context.concept_ids)


def test_a_pack_without_weight_takes_no_part() -> None:
    origin = source()
    memory = attached(packed(origin))
    memory.set_pack_priority("medical", 0)
    assert not memory.recall(near(0)).mask.any()
    assert not memory.explain(near(0)).queries[0].concepts
    memory.set_pack_priority("medical", 1)
    assert memory.recall(near(0)).mask.all()


def test_a_query_finds_no_concept_of_its_own_origin_in_a_pack() -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1), [4, 5], origins=torch.tensor([8, 9]))
    path = packed(origin)
    for mode, found in (
        ("TRAIN", [2]),
        ("FINETUNE", [2]),
        ("ONLINE", [1, 2]),
        ("INFERENCE", [1, 2]),
    ):
        with attached(path, mode, memory_mode=mode) as memory:
            context = memory.recall(near(0)[None], origins=torch.tensor([8]))
            assert there(memory, context.concept_ids).tolist() == [found], mode


def test_a_context_of_a_pack_that_was_detached_leads_nowhere() -> None:
    queries, came = sequences(3)
    memory = attached(packed(source()), memory_mode="INFERENCE")
    for t in range(TIME - 1):
        first = memory.recall(queries[:, t], top_k=8)
        followed = memory.recall(queries[:, t + 1], after=(first, came[:, t]), top_k=8)
        if followed.found.followed.any():
            break
    assert followed.found.followed.any()
    pack = memory.detach_pack("medical")
    memory.attach_pack(pack)  # under other ids
    again = memory.recall(queries[:, t + 1], after=(first, came[:, t]), top_k=8)
    assert not again.found.followed.any()
    assert not np.isin(again.found.ids, first.found.ids).any()
    memory.detach_pack("medical")
    assert not memory.recall(queries[:, t + 1], after=(first, came[:, t])).mask.any()


def test_a_retrieval_is_as_it_was_once_the_pack_is_detached() -> None:
    path = packed(source())
    memory = opened()
    memory.remember(patterns(*range(8)), list(range(8)))
    before = memory.recall(near(3))
    memory.attach_pack(memory.load_pack(path))
    assert memory.recall(near(3)).mask.sum() > before.mask.sum()
    memory.detach_pack("medical")
    after = memory.recall(near(3))
    for name in COLUMNS:
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    np.testing.assert_array_equal(after.concept_ids, before.concept_ids)


def test_a_sample_retrieves_the_same_alone_and_in_a_batch() -> None:
    memory = attached(packed(source()), memory_mode="INFERENCE")
    memory.attach_pack(memory.load_pack(packed(source("second", 40), "second")), 20)
    queries, came = sequences(5)
    together = memory.recall(queries, outcomes=came, top_k=8)
    for row in range(BATCH):
        alone = memory.recall(queries[row : row + 1], outcomes=came[row : row + 1], top_k=8)
        np.testing.assert_array_equal(alone.concept_ids[0], together.concept_ids[row])
        assert torch.equal(alone.activations[0], together.activations[row])


def test_balance_counts_the_concepts_of_packs() -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1, 2), [7, 7, 7])
    memory = opened()
    memory.remember(patterns(0, 1), [7, 3])
    memory.attach_pack(memory.load_pack(packed(origin)))
    plain, balanced = (memory.recall(near(0), balanced=each) for each in (False, True))
    counts = torch.where(plain.value_ids == 7, 4.0, 1.0)
    shares = plain.weights / counts
    assert_close(balanced.weights / balanced.weights.sum(), shares / shares.sum())


def test_the_operator_of_compiled_models_sees_packs() -> None:
    memory = attached(packed(source()), memory_mode="INFERENCE")
    queries, came = sequences(1)
    hops = memory.config.spreading_activation_steps
    asked: tuple[Any, ...] = (queries, memory.handle, 5, hops, came, [], None, True, True)
    torch.library.opcheck(torch.ops.aesg.recall.default, asked)
    keys, mask, *_ = torch.ops.aesg.recall(*asked)
    known = memory.recall(queries, outcomes=came, top_k=5)
    assert mask.any(dim=1).all()
    assert torch.equal(mask.view(known.mask.shape), known.mask)
    assert torch.equal(keys.view(known.keys.shape), known.keys)


# Explaining


def test_an_explanation_names_pack_and_concept() -> None:
    origin = opened("source")
    ids = origin.remember(patterns(*range(8)), list(range(8)), payloads=[f"p{n}" for n in range(8)])
    link(origin, ids, np.random.default_rng(0))
    memory = attached(packed(origin))
    own = int(memory.remember(pattern(12), [3])[0])
    explanation = memory.explain(near(3), torch.tensor(3), top_k=4)
    (query,) = explanation.queries
    first = query.concepts[0]
    assert memory.sources([first.concept_id]) == [("medical", 4)]
    assert (first.payload, first.right, first.provisional) == ("p3", True, False)
    text = str(explanation)
    assert "medical#4" in text
    assert str(PACK_ID)[:6] not in text
    assert explanation.names[first.concept_id] == "medical#4"
    assert explanation.to_dict()["names"] == explanation.names
    assert query.judgement is not None
    assert query.judgement.standing == 0
    assert memory.explain(pattern(12)).queries[0].concepts[0].concept_id == own


def test_an_explanation_says_that_a_pack_explains_and_stays_as_it_is() -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1), [4, 5])
    memory = attached(packed(origin))
    judgement = memory.explain(near(0)).queries[0].judgement
    assert judgement is not None
    mix = "cosine with the mix of what was retrieved (medical#1, the nearest: 0.995)"
    assert judgement.basis == mix
    assert judgement.verdict == "explained by medical#1 of a pack, which stays as it is"
    before = memory.provisional_count
    memory.retrieve(near(0))
    assert memory.provisional_count == before


def test_an_explanation_outlasts_a_pack_that_is_detached_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1), [4, 5])
    memory = attached(packed(origin))
    sources = AESGMemory.sources

    def late(self: AESGMemory, ids: Ids) -> list[tuple[str | None, int]]:
        self.detach_pack("medical")
        return sources(self, ids)

    monkeypatch.setattr(AESGMemory, "sources", late)
    explanation = memory.explain(near(0))
    assert explanation.names == {}
    concept_id = explanation.queries[0].concepts[0].concept_id
    assert concept_id >= PACK_ID
    assert f"{concept_id} (0.995)" in str(explanation)
