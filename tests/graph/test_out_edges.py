"""Out-edges of many concepts, against rows taken one by one."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from aesg.graph.out_edges import OutEdges
from storage_backends.types import EDGE, Records
from tests.graph import plain
from tests.graph.evolving import out_rows
from tests.storage.build import ids

_rows = st.integers(0, 4).flatmap(out_rows)


def _bytes(rows: OutEdges) -> list[bytes]:
    return [row.tobytes() for row in rows.split()]


@given(_rows)
def test_rows_come_out_as_they_went_in(rows: list[Records]) -> None:
    joined = OutEdges.of(rows)
    assert joined.counts.tolist() == [len(row) for row in rows]
    assert _bytes(joined) == [row.tobytes() for row in rows]


@given(_rows, st.integers(0, 4))
def test_the_strongest_of_each_stay(rows: list[Records], most: int) -> None:
    kept = OutEdges.of(rows).strongest(most)
    assert _bytes(kept) == [plain.strongest(row, most).tobytes() for row in rows]


@given(out_rows(4), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=12))
def test_an_edge_is_found_by_its_ends(rows: list[Records], asked: list[tuple[int, int]]) -> None:
    joined = OutEdges.of(rows)
    owner = np.array([place for place, _ in asked], np.int64)
    found = joined.places(owner, ids(*(target for _, target in asked)))
    for (place, target), at in zip(asked, found.tolist(), strict=True):
        assert (at >= 0) == (target in rows[place]["target"])
        if at >= 0:
            assert (joined.owner[at], joined.edges["target"][at]) == (place, target)


@given(out_rows(3), out_rows(3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_row_has_changed_where_any_of_it_has(
    rows: list[Records], others: list[Records], same: list[bool]
) -> None:
    after = [row if kept else other for row, other, kept in zip(rows, others, same, strict=True)]
    changed = OutEdges.of(rows).changed(OutEdges.of(after))
    assert changed.tolist() == [
        a.tobytes() != b.tobytes() for a, b in zip(rows, after, strict=True)
    ]
    chosen = OutEdges.of(after).only(changed)
    assert _bytes(chosen) == [
        row.tobytes() for row, other in zip(after, changed, strict=True) if other
    ]


@given(out_rows(3), out_rows(3))
def test_edges_are_put_behind_those_of_their_source(
    rows: list[Records], more: list[Records]
) -> None:
    behind = OutEdges.of(more)
    order = np.argsort(-behind.owner, kind="stable")  # whatever order they come in
    joined = OutEdges.of(rows).with_behind(behind.owner[order], behind.edges[order])
    both = [np.concatenate(pair, dtype=EDGE) for pair in zip(rows, more, strict=True)]
    assert _bytes(joined) == [row.tobytes() for row in both]
