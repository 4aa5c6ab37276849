"""Edges of several concepts as the edges of one."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph.out_edges import OutEdges
from aesg.graph.retargeting import retargeted
from aesg.graph.retargeting import united as united_rows
from storage_backends.types import EDGE, EdgeKind, Records
from tests.graph import plain
from tests.graph.evolving import row
from tests.storage.build import ids

edges = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.floats(0, 1, width=32),
        st.floats(0, 1, width=32),
        st.integers(0, 2**32 - 1),
        st.integers(0, 15),
    ),
    max_size=20,
).map(lambda many: np.array(many, EDGE))


def united(row: Records, source: int, most: int) -> Records:
    """Return one row with each target once."""
    return united_rows(OutEdges.of([row]), ids(source), most).edges


def test_targets_that_are_gone_are_replaced() -> None:
    before = row((5, 0.1), (2, 0.2), (9, 0.3), (2, 0.4))
    after = retargeted(before, ids(9, 2), ids(1, 7))
    assert after["target"].tolist() == [5, 7, 1, 7]
    assert before["target"].tolist() == [5, 2, 9, 2]
    np.testing.assert_array_equal(after["confidence"], before["confidence"])


def test_without_stand_ins_all_targets_stay() -> None:
    assert retargeted(row((5, 0.1)), ids(), ids())["target"].tolist() == [5]
    assert len(retargeted(row(), ids(5), ids(1))) == 0


@given(edges)
def test_each_target_occurs_once_and_the_source_never(row: Records) -> None:
    after = united(row, 1, 20)
    assert sorted(after["target"].tolist()) == sorted(set(row["target"].tolist()) - {1})


@given(edges)
def test_an_edge_says_what_those_to_its_target_said_together(row: Records) -> None:
    for edge in united(row, 1, 20):
        same = row[row["target"] == edge["target"]]
        doubt = np.prod(1 - same["confidence"].astype(np.float64))
        assert edge["confidence"] == pytest.approx(1 - doubt, abs=1e-6)
        assert edge["confidence"] >= same["confidence"].max()
        assert edge["weight"] == same["weight"].max()
        assert edge["use"] == min(int(same["use"].sum(dtype=np.uint64)), 2**32 - 1)
        assert edge["kind"] == np.bitwise_or.reduce(same["kind"])


@given(edges, st.integers(1, 6))
def test_the_strongest_stay(row: Records, most: int) -> None:
    every, kept = united(row, 1, 20), united(row, 1, most)
    assert len(kept) == min(len(every), most)
    gone = every[~np.isin(every["target"], kept["target"])]
    if len(gone):
        least = (kept["weight"] * kept["confidence"]).min()
        assert (gone["weight"] * gone["confidence"]).max() <= least


def test_reasons_are_gathered() -> None:
    both = np.append(row((2, 0.5)), row((2, 0.5), kind=EdgeKind.VALUE))
    assert united(both, 1, 9)["kind"].tolist() == [EdgeKind.COACTIVATION | EdgeKind.VALUE]


@given(st.lists(edges, max_size=5), st.integers(1, 6))
def test_rows_of_many_concepts_are_united_as_those_of_each_alone(
    rows: list[Records], most: int
) -> None:
    sources = ids(*range(1, len(rows) + 1))
    found = united_rows(OutEdges.of(rows), sources, most).split()
    for source, before, after in zip(sources.tolist(), rows, found, strict=True):
        assert after.tobytes() == plain.united(before, source, most).tobytes()


@given(edges, st.dictionaries(st.integers(1, 6), st.integers(7, 9)))
def test_targets_are_replaced_as_one_by_one(row: Records, stand_ins: dict[int, int]) -> None:
    found = retargeted(row, ids(*stand_ins), ids(*stand_ins.values()))
    assert found.tobytes() == plain.retargeted(row, stand_ins).tobytes()
