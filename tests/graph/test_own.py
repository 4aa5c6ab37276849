"""Which concepts a sample meets again, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph import own
from aesg.graph.novelty import Experience
from aesg.graph.own import OriginIndex, match
from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.types import Floats, ValueKind, WriteBatch
from tests.graph.build import DIM, concepts, engine, entries, unit
from tests.storage.build import ids

SAMENESS = 0.6


def asking(
    keys: Floats, origins: list[int], values: list[int] | None = None, vectors: Floats | None = None
) -> Experience:
    count = len(keys)
    kind = ValueKind.KEY if values is None else ValueKind.INTEGER
    none = np.empty((count, 0))
    return Experience(
        keys=keys,
        norms=np.ones(count, np.float32),
        value_kind=kind if vectors is None else ValueKind.VECTOR,
        value_ids=np.array(values or [0] * count, np.int64),
        value_vectors=vectors,
        explained=np.zeros(count, np.float32),
        found=none.astype(np.uint64),
        cosines=none.astype(np.float32),
        right=none.astype(np.bool_),
        parents=none.astype(np.uint64),
        origins=np.array(origins, np.uint64),
        previous=np.full(count, -1, np.int64),
    )


def scope_of(graph: dict[int, int], ring: dict[int, int], values: dict[int, int]) -> Scope:
    """Return concepts of given origins in graph and ring, with integer values."""
    made = engine([])
    if graph:
        put = concepts(list(graph))
        put.stats["origin"] = list(graph.values())
        put.value_ids[:] = [values[each] for each in graph]
        made.commit(WriteBatch(concepts=put))
    memory, new = ShortTermMemory(DIM, 64), entries(list(ring))
    new["origin"], new["value_id"] = list(ring.values()), [values[each] for each in ring]
    memory.append(new, unit(list(ring)), None)
    return Scope(made.view(), memory)


_few = st.integers(0, 2)


@settings(max_examples=100)
@given(data=st.data(), held=st.integers(0, 12), cut=st.integers(0, 12), asked=st.integers(0, 8))
def test_each_query_meets_the_most_similar_of_its_sample_and_value(
    data: st.DataObject, held: int, cut: int, asked: int
) -> None:
    origin = {number: data.draw(_few) for number in range(1, held + 1)}
    value = {number: data.draw(_few) for number in origin}
    graph = {number: of for number, of in origin.items() if number <= cut}
    ring = {number: of for number, of in origin.items() if number > cut}
    origins = [data.draw(_few) for _ in range(asked)]
    values = [data.draw(_few) for _ in range(asked)]
    keys = unit(range(100, 100 + asked))
    scope = scope_of(graph, ring, value)
    met = match(asking(keys, origins, values), scope, OriginIndex(), SAMENESS).tolist()
    pairs = [
        (-float(keys[row] @ unit([number])[0]), row, number)
        for row in range(asked)
        for number in origin
        if origin[number] and origin[number] == origins[row] and value[number] == values[row]
    ]
    wanted = [0] * asked
    for _, row, number in sorted(pairs):
        if not wanted[row] and number not in wanted:
            wanted[row] = number
    assert met == wanted


def test_of_vector_outcomes_the_value_tells_which_concept_is_met() -> None:
    memory, new = ShortTermMemory(DIM, 8), entries([1, 2], origin=7)
    new["value_kind"] = ValueKind.VECTOR
    memory.append(new, unit([1, 2]), 3 * unit([11, 12]))
    scope = Scope(engine([]).view(), memory)
    # the keys say the opposite; the third value resembles none
    keys, values = unit([2, 1, 1]), unit([11, 12, 13])
    assert max(values[2] @ unit([11, 12]).T) < SAMENESS
    again = asking(keys, [7, 7, 7], vectors=values)
    assert match(again, scope, OriginIndex(), SAMENESS).tolist() == [1, 2, 0]


def test_without_an_outcome_only_a_similar_key_is_met() -> None:
    memory, new = ShortTermMemory(DIM, 8), entries([1, 2], origin=7)
    new["value_kind"] = ValueKind.KEY
    memory.append(new, unit([1, 2]), None)
    scope = Scope(engine([]).view(), memory)
    near = unit([1]) + 0.1 * unit([2])
    keys = np.concatenate([near / np.linalg.norm(near), -unit([2])]).astype(np.float32)
    assert match(asking(keys, [7, 7]), scope, OriginIndex(), SAMENESS).tolist() == [1, 0]


def test_a_query_without_direction_meets_nothing() -> None:
    scope = scope_of({1: 7}, {2: 8}, {1: 3, 2: 3})
    keys = np.concatenate([np.zeros((2, DIM), np.float32), unit([2])])
    lost = replace(asking(keys, [7, 8, 8], [3, 3, 3]), norms=np.array([0, 0, 1], np.float32))
    assert match(lost, scope, OriginIndex(), SAMENESS).tolist() == [0, 0, 2]


def test_a_value_of_another_kind_is_not_met() -> None:
    scope = scope_of({1: 7}, {2: 7}, {1: 3, 2: 3})
    keys = unit([1, 2])
    assert match(asking(keys, [7, 7]), scope, OriginIndex(), SAMENESS).tolist() == [0, 0]
    assert match(asking(keys, [7, 7], [3, 3]), scope, OriginIndex(), SAMENESS).tolist() == [1, 2]


@settings(max_examples=50)
@given(data=st.data(), least=st.sampled_from([0, 3, 1_000]))
def test_an_index_that_is_told_of_changes_knows_what_a_new_one_finds(
    data: st.DataObject, least: int
) -> None:
    made, index, last = engine([]), OriginIndex(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "_LEAST_ADDED", least)
        for _ in range(data.draw(st.integers(1, 6))):
            before = made.view()
            new = list(range(last + 1, last + 1 + data.draw(st.integers(0, 4))))
            changed = data.draw(st.sets(st.integers(1, last))) if last else set()
            put = concepts([*new, *(each for each in changed if before.slots(ids(each))[0] >= 0)])
            put.stats["origin"] = [data.draw(_few) if each in new else 0 for each in put.ids]
            gone = data.draw(st.sets(st.integers(1, last))) - set(put.ids.tolist()) if last else []
            deleted = ids(*(each for each in gone if before.slots(ids(each))[0] >= 0))
            batch = WriteBatch(concepts=put if len(put) else None, deleted=deleted)
            view = made.commit(batch)
            if data.draw(st.booleans()):
                index.committed(before, view, batch)
            last += len(new)
            asked = np.array([1, 2], np.uint64)
            assert sorted(index.slots(view, asked)) == sorted(OriginIndex().slots(view, asked))
