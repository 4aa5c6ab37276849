"""The adjacency against a dict of rows."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from storage_backends import flat_columns
from storage_backends.adjacency import Adjacency, Rows, ragged_positions, strengths
from storage_backends.columns import Column, Filled
from storage_backends.errors import StoreError
from storage_backends.flat_columns import Sources
from storage_backends.incoming import Incoming
from storage_backends.types import EDGE

#: Target, weight, confidence, use, kind.
Row = list[tuple[int, float, float, int, int]]
#: Epoch and edges.
Model = dict[int, tuple[int, Row]]

_share = st.sampled_from([0.0, 0.25, 0.5, 1.0, -0.5])
_PRIME = 31  # concept ids descend and ascend over the slots


def _id(slot: int) -> int:
    return 1 + slot * 12 % _PRIME


def _rows(slots: int, most: int = 5) -> st.SearchStrategy[tuple[int, Row]]:
    edge = st.tuples(
        st.integers(0, slots - 1), _share, _share, st.integers(0, 9), st.sampled_from([1, 2, 4, 5])
    )
    unique = st.lists(edge, max_size=most, unique_by=lambda each: each[0])
    return st.tuples(st.integers(0, 5), unique)


def _models(slots: int) -> st.SearchStrategy[Model]:
    return st.dictionaries(st.integers(0, slots - 1), _rows(slots))


def _patch(adjacency: Adjacency, slots: int, model: Model) -> Adjacency:
    edges = np.array([edge for _, row in model.values() for edge in row], EDGE)
    targets = edges["target"].astype(np.int64)
    edges["target"] = [_id(slot) for slot in targets.tolist()]
    rows = Rows(
        np.array(list(model), np.int64),
        np.array([len(row) for _, row in model.values()], np.int64),
        edges,
        targets,
        np.array([epoch for epoch, _ in model.values()], np.uint32),
    )
    return adjacency.longer(slots).patched(rows)


def _listed(adjacency: Adjacency) -> list[Row]:
    rows = [adjacency.row(slot) for slot in range(adjacency.size)]
    return [[edge[:5] for edge in row.tolist()] for row in rows]


def _ranked(row: Row) -> Row:
    return sorted(row, key=lambda edge: (-edge[1] * edge[2], _id(edge[0])))


def _expected(model: Model, slots: int) -> list[Row]:
    return [_ranked(model.get(slot, (0, []))[1]) for slot in range(slots)]


def _common(model: Model, slots: int) -> list[tuple[int, int, float, int]]:
    """Return count, flags, sum and epoch of each row; the sums of these tests are exact."""
    found = []
    for slot in range(slots):
        epoch, row = model.get(slot, (0, []))
        flags = functools.reduce(operator.or_, (edge[4] for edge in row), 0)
        found.append((len(row), flags, sum(e[1] * e[2] for e in row), epoch if row else 0))
    return found


def _opened(adjacency: Adjacency) -> Adjacency:
    """Return the same edges, all in the bases of the columns, as after mapping a file."""
    slots = np.arange(adjacency.size)
    rows = adjacency.rows[slots]
    ends = np.cumsum(rows["count"], dtype=np.int64)
    _, positions = adjacency.positions(slots)
    rows["start"] = np.where(rows["count"] > 0, ends - rows["count"], 0)
    sources = Sources(adjacency)
    return Adjacency(
        rows=Column.over(rows),
        leads=Column.over(adjacency.leads[positions]),
        rest=Column.over(adjacency.rest[positions]),
        owners=Column.of(np.empty(0, np.uint32)),
        incoming=Incoming(sources.starts, sources.part(0, len(sources))),
        edge_count=len(positions),
        filled=Filled(len(positions)),
    )


def _of(model: Model, slots: int) -> Adjacency:
    return _patch(Adjacency.empty(), slots, model)


def _sources(model: Model, targets: list[int]) -> list[int]:
    return sorted(s for s, (_, row) in model.items() if {edge[0] for edge in row} & set(targets))


@given(data=st.data())
def test_patches_add_up_and_leave_earlier_ones_alone(data: st.DataObject) -> None:
    past: list[tuple[Adjacency, int, Model]] = [(Adjacency.empty(), 0, {})]
    for _ in range(data.draw(st.integers(1, 6))):
        adjacency, slots, model = data.draw(
            st.sampled_from(past[-2:])
        )  # at times two grow from one
        slots += data.draw(st.integers(0 if slots else 1, 3))
        new = data.draw(_models(slots))
        patched, model = _patch(adjacency, slots, new), model | new
        if data.draw(st.booleans()):
            asked = data.draw(st.lists(st.integers(0, slots - 1), max_size=3))
            found = patched.sources_of(np.array(asked, np.int64))
            assert found.tolist() == _sources(model, asked)
        changes: list[Callable[[Adjacency], Adjacency]] = [replace, _opened, Adjacency.packed]
        past.append((data.draw(st.sampled_from(changes))(patched), slots, model))
    for earlier, slots, model in past:
        everything = list(range(slots))
        assert _listed(earlier) == _listed(earlier.packed()) == _expected(model, slots)
        assert _listed(_opened(earlier)) == _expected(model, slots)
        rows = earlier.rows.whole()[["count", "kinds", "total", "epoch"]]
        assert rows.tolist() == _common(model, slots)
        assert earlier.edge_count == sum(len(row) for _, row in model.values())
        assert len(earlier.packed().leads.tail) == earlier.in_tail
        for each in everything:
            assert earlier.sources_of(np.array([each])).tolist() == _sources(model, [each])
        assert earlier.sources_of(np.array(everything, np.int64)).tolist() == [
            slot for slot, row in enumerate(_expected(model, slots)) if row
        ]


def test_a_pool_that_is_mostly_dead_is_rewritten() -> None:
    row = [(1, 0.5, 0.5, 1, 1)] * 100
    adjacency = _of({0: (0, [(1, 1.0, 1.0, 1, 2)])}, 2)
    for _ in range(50):
        adjacency = _patch(adjacency, 2, {0: (0, row)})
        assert adjacency.sources_of(np.array([1])).tolist() == [0]
    assert len(adjacency.leads) < 2000
    assert len(adjacency.owners) == len(adjacency.rest) == len(adjacency.leads)
    assert _listed(adjacency) == [row, []]


def test_of_a_pool_that_was_opened_only_what_was_added_is_rewritten() -> None:
    row = [(1, 0.5, 0.5, 1, 1)] * 100
    opened = _opened(_of(dict.fromkeys(range(3), (0, row)), 3))
    adjacency = opened
    for _ in range(50):
        adjacency = _patch(adjacency, 3, {0: (0, row), 2: (0, [])})
    assert adjacency.leads.base is opened.leads.base
    assert adjacency.rest.base is opened.rest.base
    assert len(adjacency.leads.tail) < 2000
    assert _listed(adjacency) == [row, row, []]
    assert adjacency.edge_count == 200
    assert adjacency.sources_of(np.array([1])).tolist() == [0, 1]


@given(data=st.data(), slots=st.integers(1, 6))
def test_questions_are_answered_as_by_a_dict(data: st.DataObject, slots: int) -> None:
    model = data.draw(_models(slots))
    adjacency = _of(model, slots)
    if data.draw(st.booleans()):
        adjacency = _opened(adjacency)
    new = data.draw(_models(slots))
    adjacency, model = _patch(adjacency, slots, new), model | new
    some = data.draw(st.lists(st.integers(0, slots - 1), max_size=8))
    asked = np.array(some, np.int64)
    owner, edges = adjacency.expand(asked)
    expected = _expected(model, slots)
    wanted = [(place, edge) for place, slot in enumerate(some) for edge in expected[slot]]
    assert [(o, e[:5]) for o, e in zip(owner.tolist(), edges.tolist(), strict=True)] == wanted
    assert strengths(edges).tolist() == [edge[1] * edge[2] for _, edge in wanted]
    assert edges["strength"].tolist() == strengths(edges).tolist()
    assert adjacency.counts(asked).tolist() == [len(expected[slot]) for slot in some]
    common = _common(model, slots)
    assert adjacency.kinds(asked).tolist() == [common[slot][1] for slot in some]
    assert adjacency.epochs(asked).tolist() == [common[slot][3] for slot in some]
    assert adjacency.sources_of(asked).tolist() == _sources(model, some)


@given(data=st.data(), slots=st.integers(1, 6))
def test_dropped_slots_go_with_the_edges_to_them(data: st.DataObject, slots: int) -> None:
    model = data.draw(_models(slots))
    adjacency = _of(model, slots)
    kept = sorted(data.draw(st.sets(st.integers(0, slots - 1))))
    slot_of = np.full(slots, -1, np.int64)
    slot_of[kept] = np.arange(len(kept))
    before = _expected(model, slots)
    wanted = [
        [(kept.index(edge[0]), *edge[1:]) for edge in before[slot] if edge[0] in kept]
        for slot in kept
    ]
    renumbered = adjacency.renumbered(slot_of)
    assert _listed(renumbered) == wanted
    assert _listed(adjacency) == before
    epochs = {
        place: (model.get(slot, (0, []))[0], wanted[place]) for place, slot in enumerate(kept)
    }
    rows = renumbered.rows.whole()[["count", "kinds", "total", "epoch"]]
    assert rows.tolist() == _common(epochs, len(kept))
    for place in range(len(kept)):
        assert renumbered.sources_of(np.array([place])).tolist() == _sources(epochs, [place])


@given(data=st.data(), slots=st.integers(1, 6))
def test_without_some_rows_and_stated_anew_the_others_stay(data: st.DataObject, slots: int) -> None:
    model = data.draw(_models(slots))
    adjacency = _of(model, slots)
    if data.draw(st.booleans()):
        adjacency = _opened(adjacency)
    some = sorted(data.draw(st.sets(st.integers(0, slots - 1))))
    less = adjacency.without(np.array(some, np.int64))
    rest = {slot: row for slot, row in model.items() if slot not in some}
    assert _listed(less) == _expected(rest, slots)
    assert less.edge_count == sum(len(row) for _, row in rest.values())
    assert len(less.packed().leads.tail) == less.in_tail
    for each in range(slots):
        assert less.sources_of(np.array([each])).tolist() == _sources(rest, [each])
    epochs = np.arange(2, 2 + len(some), dtype=np.uint32)
    stated = adjacency.restated(np.array(some, np.int64), epochs)
    assert _listed(stated) == _expected(model, slots)
    for slot, epoch in zip(some, epochs.tolist(), strict=True):
        row = model.get(slot, (0, []))[1]
        assert stated.epochs(np.array([slot])).tolist() == [epoch if row else 0]


def test_a_row_that_was_stated_as_it_is_shares_everything() -> None:
    adjacency = _of({0: (3, [(1, 1.0, 0.5, 1, 1)])}, 2)
    assert adjacency.restated(np.array([0, 1]), np.array([3, 9], np.uint32)) is adjacency
    assert adjacency.without(np.array([1])) is adjacency


def _sums(*shares: float) -> NDArray[np.float32]:
    row = [(slot, share, 1.0, 0, 1) for slot, share in enumerate(shares, 1)]
    total: NDArray[np.float32] = _of({0: (0, row)}, len(row) + 1).rows.whole()["total"][:1]
    return total


def test_the_sum_of_a_row_is_never_less_than_its_strengths() -> None:
    least = float(np.float32(2**-24))
    assert _sums(1.0).tolist() == [1.0]
    assert _sums(1.0, least).tolist() == [1 + 2**-23]
    assert _sums(1.0, least, least).tolist() == [1 + 2**-23]
    assert _sums(1.0, -least).tolist() == [1 - 2**-24]


@pytest.mark.parametrize("block", [1, 10, 1000])
def test_sources_are_found_part_by_part_wherever_the_parts_are_cut(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(flat_columns, "_BLOCK", block)
    monkeypatch.setattr(flat_columns, "_CHUNK", 7)
    model: Model = {slot: (0, [(t, 1.0, 1.0, 0, 1) for t in range(slot)]) for slot in range(9)}
    sources = Sources(_of(model, 9))
    whole = [slot for target in range(9) for slot in range(target + 1, 9)]
    for step in (1, 5, 36):
        pieces = [sources.part(at, min(at + step, 36)).tolist() for at in range(0, 36, step)]
        assert [each for piece in pieces for each in piece] == whole
    assert sources.starts.tolist() == [sum(range(9 - target, 9)) for target in range(9)]


def test_more_edges_than_a_snapshot_can_number_are_refused() -> None:
    most = replace(Adjacency.empty(), edge_count=2**32)
    with pytest.raises(StoreError, match="fewer than 4294967296 edges in a snapshot, got"):
        Sources(most)


def test_runs_are_expanded_one_after_another() -> None:
    positions = ragged_positions(np.array([7, 0, 3]), np.array([2, 0, 3]))
    assert positions.tolist() == [7, 8, 3, 4, 5]
    assert not len(ragged_positions(np.empty(0, np.int64), np.empty(0, np.int64)))
