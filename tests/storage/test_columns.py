"""Columns against plain arrays."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from storage_backends.columns import Column, Filled
from storage_backends.types import STATS
from tests.storage.split import by_field, split

Rows = NDArray[np.int64]


def _numbered(count: int, first: int = 0) -> Rows:
    """Return rows of two numbers that no other row has."""
    return np.arange(first, first + 2 * count).reshape(count, 2)


def _assert_is(column: Column[np.int64], wanted: Rows) -> None:
    slots = np.random.default_rng(0).permutation(len(wanted))
    assert column.shape == wanted.shape
    np.testing.assert_array_equal(column[slots], wanted[slots])
    np.testing.assert_array_equal(column[np.stack([slots, slots])], wanted[np.stack([slots] * 2)])
    np.testing.assert_array_equal(column.whole(), wanted)
    for slot in slots[:3].tolist():
        np.testing.assert_array_equal(column[slot], wanted[slot])


@given(data=st.data(), count=st.integers(0, 12), cut=st.integers(0, 12))
def test_changes_add_up_and_leave_earlier_columns_alone(
    data: st.DataObject, count: int, cut: int
) -> None:
    start = _numbered(count)
    base = start[:cut].copy()
    base.setflags(write=False)
    column = Column.over(base).appended(start[cut:], in_place=False)
    past = [(column, start)]
    for step in range(1, data.draw(st.integers(1, 6))):
        column, wanted = data.draw(st.sampled_from(past[-2:]))  # at times two grow from one
        if data.draw(st.booleans()) and len(wanted):
            chosen = data.draw(st.lists(st.integers(0, len(wanted) - 1), unique=True))
            slots = np.array(chosen, np.int64)
            wanted = wanted.copy()
            wanted[slots] = _numbered(len(slots), 1000 * step)
            column = column.replaced(slots, wanted[slots])
        else:
            more = _numbered(data.draw(st.integers(0, 90)), 1000 * step)
            wanted = np.concatenate([wanted, more])
            column = column.appended(more, in_place=False)
        past.append((column, wanted))
    for column, wanted in past:
        _assert_is(column, wanted)


def test_rows_are_appended_behind_what_is_there_without_moving_it() -> None:
    first = Column.of(_numbered(3)).appended(_numbered(1, 90), in_place=False)
    second = first.appended(_numbered(2, 50), in_place=True)
    third = second.appended(_numbered(2, 70), in_place=True)
    assert np.shares_memory(first.tail, third.tail)
    _assert_is(first, np.concatenate([_numbered(3), _numbered(1, 90)]))
    _assert_is(second, np.concatenate([first.whole(), _numbered(2, 50)]))
    _assert_is(third, np.concatenate([second.whole(), _numbered(2, 70)]))


def test_rows_are_appended_behind_replaced_ones_without_moving_them() -> None:
    first = Column.of(_numbered(3))
    second = first.replaced(np.array([1]), _numbered(1, 90))
    third = second.appended(_numbered(2, 50), in_place=True)
    assert np.shares_memory(second.tail, third.tail)
    assert not np.shares_memory(first.tail, second.tail)
    _assert_is(first, _numbered(3))
    _assert_is(third, np.concatenate([second.whole(), _numbered(2, 50)]))


def test_an_empty_column_takes_rows_of_any_width() -> None:
    grown = Column.of(np.empty((0, 0), np.int64)).appended(_numbered(2), in_place=True)
    _assert_is(grown, _numbered(2))
    _assert_is(
        Column.over(np.empty((0, 2), np.int64)).appended(_numbered(2), in_place=True), grown.whole()
    )


@given(seed=st.integers(0, 999), count=st.integers(0, 20), data=st.data())
def test_a_part_is_what_the_slots_of_a_range_hold(
    seed: int, count: int, data: st.DataObject
) -> None:
    rows = _numbered(count)
    begin = data.draw(st.integers(0, count))
    end = data.draw(st.integers(begin, count))
    np.testing.assert_array_equal(split(rows, seed).part(begin, end), rows[begin:end])


def test_what_lies_together_is_not_copied() -> None:
    base = _numbered(6)
    column = Column.over(base).appended(_numbered(3, 50), in_place=False)
    column = column.replaced(np.array([4]), _numbered(1, 70))
    assert np.shares_memory(column.part(0, 4), base)
    assert np.shares_memory(column.part(7, 9), column.tail)
    assert not np.shares_memory(column.part(3, 5), base)
    assert np.shares_memory(Column.over(base).whole(), base)


def test_what_a_change_costs_does_not_depend_on_the_base() -> None:
    base = np.broadcast_to(np.int64(7), (10**15,))  # would fit no memory
    column = Column.over(base).replaced(np.array([10**14, 5]), np.array([1, 2]))
    column = column.appended(np.array([3, 4]), in_place=True)
    column = column.replaced(np.array([5, 10**15 + 1]), np.array([6, 8]))
    assert column[np.array([0, 5, 10**14, 10**15, 10**15 + 1])].tolist() == [7, 6, 1, 3, 8]
    assert len(column) == 10**15 + 2


@pytest.mark.parametrize("apart", [False, True])
def test_a_field_of_records_is_a_column_too(apart: bool) -> None:
    records = np.zeros(8, STATS)
    records["tick"], records["relevance"] = np.arange(8), np.linspace(0, 1, 8)
    records["reserved"] = np.frombuffer(b"8 bytes!", "V8")
    column = Column.over(by_field(records[:5]) if apart else records[:5])
    column = column.appended(records[5:], in_place=False)
    column = column.replaced(np.array([2]), records[7:])
    records[2] = records[7]
    slots = np.array([[6, 2], [0, 4]])
    assert column[slots].tolist() == records[slots].tolist()
    assert column[2].tolist() == records[2].tolist()
    assert column.whole().tolist() == records.tolist()
    for name in ("tick", "relevance"):
        assert column.field(name)[slots].tolist() == records[name][slots].tolist()
        assert column.field(name).whole().tolist() == records[name].tolist()


def test_spare_rows_go_to_whoever_claims_them_first() -> None:
    filled = Filled(4)
    assert filled.claim(4, 2) == (filled, True)
    other, free = filled.claim(4, 1)
    assert (other.rows, free) == (5, False)
    assert filled.claim(6, 1) == (filled, True)


@pytest.mark.parametrize("lies", ["together", "apart", "mapped", "repeated"])
def test_rows_are_copies_however_the_base_lies(lies: str) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(4, 3)
    base = {
        "together": plain.copy(),
        "apart": np.repeat(plain, 2, axis=1)[:, ::2],
        "mapped": np.frombuffer(b"." + plain.tobytes(), np.float32, offset=1).reshape(4, 3),
        "repeated": np.broadcast_to(plain[1], (4, 3)),
    }[lies]
    wanted = base.copy()
    column = Column.over(base).appended(plain[:1] + 20, in_place=False)
    column = column.replaced(np.array([2]), plain[:1] + 40)
    rows = column[np.array([[4, 2], [0, 3]])]
    assert rows.tolist() == [[[20, 21, 22], [40, 41, 42]], [wanted[0].tolist(), wanted[3].tolist()]]
    rows[:] = 9
    Column.over(base)[np.array([1, 0])][:] = 9
    assert (base == wanted).all()
