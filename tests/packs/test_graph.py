"""The view of a pack shows what its columns say, as a view of a memory with the same would."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aesg.packs import Pack, graph, read_pack, write_pack
from aesg.packs.graph import NO_EPOCH, view_of
from storage_backends.adjacency import REST
from storage_backends.types import EDGE, STATS, Concepts, Contents
from storage_backends.view import View
from tests.pack_build import PROVENANCE, pack_columns, write_tiny

Columns = dict[str, NDArray[Any]]


def pack_of(columns: Columns) -> Pack:
    return Pack("tiny", columns["keys"].shape[1], columns, PROVENANCE, "0" * 64, None, 2)


def with_counts(columns: Columns, counts: list[int]) -> Columns:
    """Return columns of which each concept has only its strongest edges."""
    ends = np.cumsum(columns["edge_counts"])
    chosen = [
        np.arange(end - whole, end - whole + min(count, whole))
        for end, whole, count in zip(ends, columns["edge_counts"], counts, strict=True)
    ]
    edges = {name: rows for name, rows in columns.items() if name.startswith("edge_")}
    kept = {
        name: rows[np.concatenate(chosen).astype(int)]
        for name, rows in edges.items()
        if name != "edge_counts"
    }
    return {**columns, **kept, "edge_counts": np.array([len(each) for each in chosen], np.uint32)}


def contents(columns: Columns) -> Contents:
    """Return what a store would hold that has the same concepts and edges."""
    count = len(columns["ids"])
    stats = np.zeros(count, STATS)
    for name in ("created", "modified", "origin", "frequency", "region", "relevance", "stability"):
        stats[name] = columns[name]
    stats["tick"], stats["epoch"], stats["edge_epoch"] = columns["updates"], columns["age"], 5
    edges = np.zeros(len(columns["edge_targets"]), EDGE)
    edges["target"] = columns["ids"][columns["edge_targets"]]
    for name, column in (("weight", "weights"), ("confidence", "confidences"), ("use", "uses")):
        edges[name] = columns[f"edge_{column}"]
    edges["kind"] = columns["edge_kinds"]
    return Contents(
        generation=1,
        concepts=Concepts(
            columns["ids"],
            columns["keys"],
            columns["value_kinds"],
            columns["value_ids"],
            columns.get("value_vectors"),
            stats,
        ),
        stats_ids=np.empty(0, np.uint64),
        stats=np.empty(0, STATS),
        edge_sources=columns["ids"],
        edge_counts=columns["edge_counts"].astype(np.int64),
        edges=edges,
        deleted=np.empty(0, np.uint64),
        settings={},
    )


def require_same(found: View, expected: View) -> None:
    slots = np.arange(expected.size)
    assert np.array_equal(found.ids.whole(), expected.ids.whole())
    for name in set(STATS.names or ()) - {"edge_epoch", "reserved"}:
        assert np.array_equal(found.stats.field(name)[slots], expected.stats.field(name)[slots])
    for name in ("value_kinds", "value_ids", "regions"):
        assert np.array_equal(getattr(found, name)[slots], getattr(expected, name)[slots])
    rows, wanted = found.adjacency.rows.whole(), expected.adjacency.rows.whole()
    for name in ("start", "count", "kinds", "total"):
        assert np.array_equal(rows[name], wanted[name])
    for name in ("leads", "rest"):
        part, whole = getattr(found.adjacency, name), getattr(expected.adjacency, name)
        assert part.whole().tobytes() == whole.whole().tobytes()
    for one in expected.ids.whole().tolist():
        assert found.edges(one).tobytes() == expected.edges(one).tobytes()
    assert (found.node_count, found.edge_count) == (expected.node_count, expected.edge_count)


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
@settings(max_examples=25)
@given(counts=st.lists(st.integers(0, 5), min_size=12, max_size=12))
def test_a_view_is_that_of_a_memory_with_the_same_concepts_and_edges(
    chunk: int, counts: list[int]
) -> None:
    columns = with_counts(pack_columns(edges_each=5, vectors=True), counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_CHUNK", chunk)
        found = view_of(pack_of(columns))
    require_same(found, View.of(contents(columns)))


def test_no_edge_of_a_pack_grows_older() -> None:
    view = view_of(pack_of(with_counts(pack_columns(), [0, 3] * 6)))
    assert view.edge_epochs(np.array([0, 1])).tolist() == [0, NO_EPOCH]
    assert (view.stats.field("edge_epoch").whole() == NO_EPOCH).all()


def test_a_column_with_one_row_for_all_is_read_as_if_it_had_them_all(tmp_path: Path) -> None:
    columns = pack_columns()
    for name in ("updates", "region", "edge_uses", "edge_kinds", "norms"):
        columns[name] = np.full_like(columns[name], 1)
    short = {
        name: rows[:1] if name != "ids" and rows.ndim == 1 and (rows == rows[:1]).all() else rows
        for name, rows in columns.items()
    }
    write_pack(tmp_path / "p", short, name="", vector_dim=4, provenance=PROVENANCE)
    pack = read_pack(tmp_path / "p")
    assert pack.columns["edge_kinds"].strides == (0,)
    require_same(view_of(pack), View.of(contents(columns)))


def test_the_seed_lookup_finds_the_key_itself() -> None:
    view = view_of(pack_of(pack_columns(vector_dim=8)))
    slots, cosines = view.index.search(np.ascontiguousarray(view.keys.whole()), 1)
    assert slots[:, 0].tolist() == list(range(12))
    assert cosines == pytest.approx(1)
    assert (view.base, view.dead, len(view.moved)) == (None, 0, 0)


def test_a_pack_without_edges_or_concepts_has_a_view(tmp_path: Path) -> None:
    no_edges = view_of(read_pack(write_tiny(tmp_path / "a", concepts=3, edges_each=0)))
    nothing = view_of(read_pack(write_tiny(tmp_path / "b", concepts=0)))
    assert (no_edges.node_count, no_edges.edge_count) == (3, 0)
    assert (nothing.node_count, nothing.size, nothing.edge_count) == (0, 0, 0)
    assert len(no_edges.adjacency.rest) == 0 and no_edges.adjacency.rest.dtype == REST


def test_the_view_is_made_once_and_does_not_travel_with_the_pack(tmp_path: Path) -> None:
    pack = read_pack(write_tiny(tmp_path / "p"))
    assert view_of(pack) is view_of(pack)
    again = pickle.loads(pickle.dumps(pack))
    assert graph.kept_view(again) is None
    require_same(view_of(again), view_of(pack))


def test_a_view_cannot_be_written_through(tmp_path: Path) -> None:
    view = view_of(read_pack(write_tiny(tmp_path / "p")))
    for column in (view.ids, view.keys, view.norms):
        with pytest.raises(ValueError, match="read-only"):
            column.whole()[:] = 0
