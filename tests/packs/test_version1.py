"""Packs of release 3.0."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aesg import AESGStorageError
from aesg.packs import Pack, read_pack, write_pack
from tests.earlier_build import EDGE, NOW, edges_of, nodes_of, some_pairs
from tests.earlier_build import write_pack as write_earlier

Nodes = NDArray[Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.aesgpack"


def read(path: Path, nodes: Nodes, edges: Nodes | None = None) -> Pack:
    return read_pack(write_earlier(path, nodes, edges))


def test_concepts_come_with_their_vectors_and_statistics(path: Path) -> None:
    nodes = nodes_of(20)
    pack = read(path, nodes)
    nodes = nodes[np.argsort(nodes["id"])]
    assert (pack.name, pack.vector_dim, pack.node_count, pack.version) == ("old", 6, 20, 1)
    columns = pack.columns
    np.testing.assert_array_equal(columns["ids"], nodes["id"])
    raw = columns["keys"] * columns["norms"][:, None]
    np.testing.assert_allclose(raw, nodes["vector"], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(columns["keys"], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(columns["created"], nodes["created_at"] * 1_000_000)
    np.testing.assert_array_equal(columns["modified"], nodes["modified_at"] * 1_000_000)
    for name, of in (
        ("frequency", "use_frequency"),
        ("relevance", "relevance"),
        ("stability", "stability"),
        ("region", "region_id"),
        ("age", "age"),
        ("updates", "age"),
    ):
        np.testing.assert_array_equal(columns[name], nodes[of])
    assert pack.provenance.created == int(nodes["modified_at"].max()) * 1_000_000
    assert pack.provenance.notes == ""


def test_edges_come_with_their_strength_the_strongest_first(path: Path) -> None:
    nodes = nodes_of(12)
    edges = edges_of(nodes, some_pairs(12, 50))
    pack = read(path, nodes, edges)
    expected = {(int(e["source_id"]), int(e["target_id"])): tuple(e)[2:5] for e in edges}
    found = {(e["source_id"], e["target_id"]): tuple(e)[2:5] for e in pack.edges[:]}
    assert found == expected
    strength = pack.columns["edge_weights"] * pack.columns["edge_confidences"]
    ends = np.cumsum(pack.columns["edge_counts"])
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        assert (np.diff(strength[begin:end]) <= 0).all()


def test_the_digest_is_that_of_the_payload(path: Path) -> None:
    pack = read(path, nodes_of(3))
    assert pack.digest == hashlib.sha256(path.read_bytes()[56:]).hexdigest()


def test_a_pack_may_be_empty(path: Path) -> None:
    pack = read(path, nodes_of(0))
    assert (pack.node_count, pack.edge_count, pack.vector_dim) == (0, 0, 6)


def test_edges_that_lead_out_of_the_pack_are_left_out_and_told(path: Path) -> None:
    nodes = nodes_of(4)
    edges = edges_of(nodes, [(0, 1), (1, 2), (2, 3), (3, 0)])
    pack = read(path, nodes[:3], edges)
    assert pack.edge_count == 2
    assert pack.provenance.notes.splitlines() == [
        "left out: 1 edges from concepts that are not there",
        "left out: 1 edges to concepts that are not there",
    ]


def inactive(nodes: Nodes) -> None:
    nodes["is_active"][1] = 0


def not_a_number(nodes: Nodes) -> None:
    nodes["vector"][1, 0] = np.nan


def infinite(nodes: Nodes) -> None:
    nodes["vector"][1, 0] = -np.inf


def too_long(nodes: Nodes) -> None:
    nodes["vector"][1] = np.finfo(np.float32).max


@pytest.mark.parametrize("spoil", [inactive, not_a_number, infinite, too_long])
def test_what_is_no_concept_is_left_out_with_its_edges(
    path: Path, spoil: Callable[[Nodes], None]
) -> None:
    nodes = nodes_of(3)
    edges = edges_of(nodes, [(0, 1), (1, 2), (2, 0)])
    spoil(nodes)
    pack = read(path, nodes, edges)
    assert sorted(pack.columns["ids"].tolist()) == sorted(nodes["id"][[0, 2]].tolist())
    assert pack.edge_count == 1
    assert pack.provenance.notes.startswith("left out: 1 concepts ")


def test_a_concept_whose_id_is_taken_zero_or_too_great_gets_another(path: Path) -> None:
    nodes = nodes_of(5)
    nodes["id"] = [7, 7, 0, 2**63 - 2, 2**64 - 1]
    edges = edges_of(nodes, [(0, 2), (2, 0), (1, 3)])
    pack = read(path, nodes, edges)
    assert pack.columns["ids"].tolist() == [7, 8, 9, 10, 11]
    found = {(e["source_id"], e["target_id"]) for e in pack.edges[:]}
    assert found == {(7, 9), (9, 7), (7, 10)}  # of two with one id, the first is meant
    assert pack.provenance.notes.startswith("changed: 4 concepts that got another id")


def test_ids_up_to_the_last_leave_room_for_others(path: Path) -> None:
    nodes = nodes_of(3)
    nodes["id"] = [2**62 - 1, 1, 2**62]
    assert read(path, nodes).columns["ids"].tolist() == [1, 2, 2**62 - 1]


def test_ages_that_leave_no_room_are_cut_and_told(path: Path) -> None:
    nodes = nodes_of(3)
    nodes["id"], nodes["age"] = [1, 2, 3], [2**24, 2**24 + 1, 2**32 - 1]
    pack = read(path, nodes)
    assert pack.columns["age"].tolist() == pack.columns["updates"].tolist() == [2**24] * 3
    assert pack.provenance.notes == "changed: 2 ages above 16,777,216 consolidations, set to that"


def test_vectors_of_zeros_and_nearly_so_are_zeros(path: Path) -> None:
    nodes = nodes_of(3)
    nodes["id"] = [1, 2, 3]
    nodes["vector"][0], nodes["vector"][1] = 0, 1e-44
    pack = read(path, nodes)
    assert not pack.columns["keys"][:2].any()
    assert pack.columns["norms"][:2].tolist() == [0, 0]
    assert pack.provenance.notes == (
        "changed: 1 vectors too short to have a direction, set to zeros"
    )


def test_statistics_that_cannot_be_become_those_of_a_new_concept(path: Path) -> None:
    nodes = nodes_of(3)
    nodes["id"] = [1, 2, 3]
    nodes["relevance"] = [np.nan, -1, 0.25]
    nodes["stability"] = [np.inf, 0.25, 0.25]
    nodes["created_at"] = [2**64 - 1, NOW, NOW]
    columns = read(path, nodes).columns
    assert columns["relevance"].tolist() == [1, 1, 0.25]
    assert columns["stability"].tolist() == [0.5, 0.25, 0.25]
    assert columns["created"].tolist() == [0, NOW * 10**6, NOW * 10**6]


def test_edges_that_cannot_be_are_left_out(path: Path) -> None:
    nodes = nodes_of(5)
    edges = edges_of(nodes, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)])
    edges["weight"] = [1, np.nan, -1, np.inf, 1, 1]
    edges["confidence"] = [1, 1, 1, 1, np.nan, 1.5]
    pack = read(path, nodes, edges)
    assert pack.columns["edge_confidences"].tolist() == [1]
    assert pack.provenance.notes.splitlines() == [
        "left out: 1 edges from a concept to itself",
        "left out: 4 edges whose weight or confidence is not a number of 0 or more",
        "changed: 1 confidences above 1, set to 1",
    ]


def test_of_edges_that_repeat_one_another_the_strongest_stands(path: Path) -> None:
    nodes = nodes_of(2)
    edges = edges_of(nodes, [(0, 1), (1, 0), (0, 1), (0, 1)])
    edges["weight"], edges["confidence"] = [1, 9, 3, 2], 0.5
    edges["use_count"] = [2**32 - 2, 9, 1, 2]
    pack = read(path, nodes, edges)
    found = {(e["source_id"], e["target_id"]): tuple(e)[2:5] for e in pack.edges[:]}
    first, second = nodes["id"].tolist()
    assert found == {(first, second): (3, 0.5, 2**32 - 1), (second, first): (9, 0.5, 9)}


def test_of_equally_strong_edges_the_one_to_the_lowest_id_is_first(path: Path) -> None:
    nodes = nodes_of(6)
    edges = edges_of(nodes, some_pairs(6, 25))
    edges["weight"], edges["confidence"] = 1, 0.5
    edges["weight"][::5] = -0.0
    pack = read(path, nodes, edges)
    records = pack.edges[:]
    order = np.lexsort((records["target_id"], -np.abs(records["weight"]), records["source_id"]))
    np.testing.assert_array_equal(order, np.arange(25))


def test_a_pack_that_was_rewritten_is_the_same(path: Path, tmp_path: Path) -> None:
    nodes = nodes_of(9)
    pack = read(path, nodes, edges_of(nodes, some_pairs(9, 30)))
    newer = tmp_path / "new.aesgpack"
    write_pack(newer, pack.columns, vector_dim=6, provenance=pack.provenance)
    again = read_pack(newer)
    assert again.version == 2
    assert again.columns.keys() == pack.columns.keys()
    for name, column in pack.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)


def cut(content: bytes) -> bytes:
    return content[:-1]


def longer(content: bytes) -> bytes:
    return content + b"\0"


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def without_header(content: bytes) -> bytes:
    return content[:40]


def header_of(*sizes: int) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        return struct.pack(">8s4I", b"AESGPACK", 1, *sizes) + content[24:]

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        longer,
        flipped,
        without_header,
        header_of(6, 2**32 - 1, 2**32 - 1),
        header_of(2**32 - 1, 5, 4),
        header_of(0, 5, 4),
        header_of(6, 4, 4),
    ],
)
def test_a_damaged_pack_is_refused(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    nodes = nodes_of(5)
    write_earlier(path, nodes, edges_of(nodes, [(0, 1), (1, 2), (2, 3), (3, 4)]))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(AESGStorageError, match=rf"^Failed to read pack file '{path}': expected"):
        read_pack(path)


def test_a_pack_of_another_width_is_refused(path: Path) -> None:
    write_earlier(path, nodes_of(2))
    with pytest.raises(AESGStorageError, match="expected vector_dim 7, got 6"):
        read_pack(path, vector_dim=7)
    assert read_pack(path, vector_dim=6, name="other").name == "other"


def test_no_column_can_be_written_to(path: Path) -> None:
    nodes = nodes_of(4)
    pack = read(path, nodes, edges_of(nodes, [(0, 1)]))
    assert not any(column.flags.writeable for column in pack.columns.values())


def test_a_pipe_does_not_keep_the_reader_waiting(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(AESGStorageError, match="expected a regular file"):
        read_pack(path)


def test_the_records_are_packed_without_padding() -> None:
    assert nodes_of(1, dim=6).dtype.itemsize == 53 + 4 * 6
    assert EDGE.itemsize == 36
