"""Rows of several tables by one range of slots, against plain lists."""

from __future__ import annotations

from itertools import accumulate, pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph.places import Places

_SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=4)


@given(_SIZES, st.data(), st.sampled_from([(), (3,)]))
def test_each_slot_gives_the_row_of_its_table_and_nothing_gives_zeros(
    sizes: list[int], data: st.DataObject, row: tuple[int, ...]
) -> None:
    count = sum(sizes)
    held = np.arange(1, 1 + count * int(np.prod(row)), dtype=np.float32).reshape(count, *row)
    bounds = list(pairwise(accumulate(sizes, initial=0)))
    tables = [held[first:end] for first, end in bounds]
    wanted = data.draw(st.lists(st.integers(-1, count - 1), max_size=8))
    places = Places(np.array(wanted, np.int64), bounds)
    found = places.gather(lambda table: tables[table], np.dtype(np.float32), row)
    rows = [np.zeros(row) if slot < 0 else held[slot] for slot in wanted]
    assert found.shape == (len(wanted), *row)
    assert found.tolist() == [each.tolist() for each in rows]


@pytest.mark.parametrize("slots", [[[1, 0], [2, 1]], [[1, 4], [0, 3]], [[1, -1], [-1, 4]]])
def test_what_is_gathered_has_the_shape_of_the_slots_and_is_a_copy(slots: list[list[int]]) -> None:
    tables = [np.arange(3), np.arange(3, 5)]
    places = Places(np.array(slots), [(0, 3), (3, 5)])
    found = places.gather(lambda table: tables[table], np.dtype(np.int64))
    assert found.tolist() == [[max(each, 0) for each in row] for row in slots]
    found[:] = 7
    assert [each.tolist() for each in tables] == [[0, 1, 2], [3, 4]]


def test_records_are_gathered_whole() -> None:
    record = np.dtype([("id", "<u8"), ("kind", "u1")])
    table = np.array([(5, 1), (6, 2)], record)
    found = Places(np.array([1, -1]), [(0, 2)]).gather(lambda _: table, record)
    assert found.tolist() == [(6, 2), (0, 0)]
