"""The adjacency against a dict of rows."""

from __future__ import annotations

import functools
import operator

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency, pool_records, ragged_positions, strengths
from storage_backends.columns import Column, Filled, Slots
from storage_backends.types import EDGE

#: Target, weight, confidence, use, kind.
Row = list[tuple[int, float, float, int, int]]
Model = dict[int, Row]

_share = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def _rows(slots: int, most: int = 5) -> st.SearchStrategy[Row]:
    edge = st.tuples(
        st.integers(0, slots - 1), _share, _share, st.integers(0, 9), st.sampled_from([1, 2, 4, 5])
    )
    return st.lists(edge, max_size=most)


def _patch(adjacency: Adjacency, slots: int, rows: Model) -> Adjacency:
    return adjacency.patched(slots, *_columns(rows))


def _columns(rows: Model) -> tuple[Slots, Slots, NDArray[np.void]]:
    sources = np.array(list(rows), np.int64)
    counts = np.array([len(row) for row in rows.values()], np.int64)
    edges = np.array([edge for row in rows.values() for edge in row], EDGE)
    return sources, counts, pool_records(edges, edges["target"].astype(np.int64))


def _listed(adjacency: Adjacency) -> list[Row]:
    return [adjacency.row(slot).tolist() for slot in range(adjacency.size)]


def _opened(adjacency: Adjacency) -> Adjacency:
    """Return the same edges, all in the bases of the columns, as after mapping a file."""
    starts, counts = adjacency.start.whole(), adjacency.count.whole()
    pool = adjacency.pool[ragged_positions(starts, counts)]
    return Adjacency(
        start=Column.over(np.cumsum(counts) - counts),
        count=Column.over(counts),
        kinds=Column.over(adjacency.kinds.whole()),
        pool=Column.over(pool),
        edge_count=len(pool),
        filled=Filled(len(pool)),
    )


def _flags(row: Row) -> int:
    return functools.reduce(operator.or_, (edge[4] for edge in row), 0)


def _of(rows: Model, slots: int) -> Adjacency:
    return _patch(Adjacency.empty(), slots, rows)


@given(data=st.data())
def test_patches_add_up_and_leave_earlier_ones_alone(data: st.DataObject) -> None:
    past: list[tuple[Adjacency, list[Row]]] = [(Adjacency.empty(), [])]
    for _ in range(data.draw(st.integers(1, 6))):
        adjacency, model = data.draw(st.sampled_from(past[-2:]))  # at times two grow from one
        slots = len(model) + data.draw(st.integers(0 if model else 1, 3))
        new = data.draw(st.dictionaries(st.integers(0, slots - 1), _rows(slots)))
        grown = [*model, *([] for _ in range(slots - len(model)))]
        model = [new.get(slot, row) for slot, row in enumerate(grown)]
        patched = _patch(adjacency, slots, new)
        past.append((_opened(patched) if data.draw(st.booleans()) else patched, model))
    for earlier, rows in past:
        assert _listed(earlier) == _listed(earlier.packed()) == rows
        assert earlier.edge_count == sum(map(len, rows))
        assert len(earlier.packed().pool.tail) == earlier.in_tail
        assert _listed(_opened(earlier)) == rows
        assert earlier.kinds.whole().tolist() == [_flags(row) for row in rows]


def test_a_pool_that_is_mostly_dead_is_rewritten() -> None:
    row = [(1, 0.5, 0.5, 1, 1)] * 100
    adjacency = _of({0: [(1, 1.0, 1.0, 1, 2)]}, 2)
    for _ in range(50):
        adjacency = _patch(adjacency, 2, {0: row})
    assert len(adjacency.pool) < 2000
    assert _listed(adjacency) == [row, []]


def test_of_a_pool_that_was_opened_only_what_was_added_is_rewritten() -> None:
    row = [(1, 0.5, 0.5, 1, 1)] * 100
    opened = _opened(_of({0: row, 1: row, 2: row}, 3))
    adjacency = opened
    for _ in range(50):
        adjacency = _patch(adjacency, 3, {0: row, 2: []})
    assert adjacency.pool.base is opened.pool.base
    assert len(adjacency.pool.tail) < 2000
    assert _listed(adjacency) == [row, row, []]
    assert adjacency.edge_count == 200


@given(data=st.data(), slots=st.integers(1, 6))
def test_questions_are_answered_as_by_a_dict(data: st.DataObject, slots: int) -> None:
    model = data.draw(st.dictionaries(st.integers(0, slots - 1), _rows(slots)))
    adjacency = _of(model, slots)
    if data.draw(st.booleans()):
        adjacency = _opened(adjacency)
    new = data.draw(st.dictionaries(st.integers(0, slots - 1), _rows(slots)))
    adjacency, model = _patch(adjacency, slots, new), model | new
    some = data.draw(st.lists(st.integers(0, slots - 1), max_size=8))
    owner, edges = adjacency.expand(np.array(some, np.int64))
    wanted = [(place, edge) for place, slot in enumerate(some) for edge in model.get(slot, [])]
    assert list(zip(owner.tolist(), edges.tolist(), strict=True)) == wanted
    assert strengths(edges).tolist() == [edge[1] * edge[2] for _, edge in wanted]
    sources = {source for source, row in model.items() if {edge[0] for edge in row} & set(some)}
    assert adjacency.sources_of(np.array(some, np.int64)).tolist() == sorted(sources)


@given(data=st.data(), slots=st.integers(1, 6))
def test_dropped_slots_go_with_the_edges_to_them(data: st.DataObject, slots: int) -> None:
    model = data.draw(st.dictionaries(st.integers(0, slots - 1), _rows(slots)))
    adjacency = _of(model, slots)
    kept = sorted(data.draw(st.sets(st.integers(0, slots - 1))))
    slot_of = np.full(slots, -1, np.int64)
    slot_of[kept] = np.arange(len(kept))
    wanted = [
        [(kept.index(edge[0]), *edge[1:]) for edge in model.get(slot, []) if edge[0] in kept]
        for slot in kept
    ]
    assert _listed(adjacency.renumbered(slot_of)) == wanted
    assert _listed(adjacency) == [model.get(slot, []) for slot in range(slots)]


def test_runs_are_expanded_one_after_another() -> None:
    positions = ragged_positions(np.array([7, 0, 3]), np.array([2, 0, 3]))
    assert positions.tolist() == [7, 8, 3, 4, 5]
    assert not len(ragged_positions(np.empty(0, np.int64), np.empty(0, np.int64)))
