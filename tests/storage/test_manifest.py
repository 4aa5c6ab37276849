"""The record that names the files of a snapshot."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from storage_backends.errors import StoreCorruptError
from storage_backends.manifest import Manifest, columns_name, graph_name, is_snapshot_file
from storage_backends.recorded_file import FileRecord

COLUMNS = FileRecord("columns-000012.aesg", 2**40, 1_700_000_000_123_456_789, "0a" * 32)
GRAPH = FileRecord("index-000011.faiss", 0, 0, "ff" * 32)

MANIFEST = Manifest(
    generation=2**64 - 1,
    columns=COLUMNS,
    graph=GRAPH,
    graph_size=1_000_000,
    parameters={"neighbours": 32, "ef_construction": 120},
)
WITHOUT_GRAPH = Manifest(0, COLUMNS, None, 0, {})


def sealed(fields: Any) -> bytes:
    """Return a record of any content with the right hash behind it."""
    packed: bytes = msgpack.packb(fields)
    return packed + hashlib.sha256(packed).digest()


def fields_of(manifest: Manifest) -> Any:
    return msgpack.unpackb(manifest.encode()[:-32])


@pytest.mark.parametrize("manifest", [MANIFEST, WITHOUT_GRAPH])
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    assert Manifest.decode(manifest.encode()) == manifest


def test_a_manifest_knows_its_files() -> None:
    assert MANIFEST.files == (COLUMNS, GRAPH)
    assert WITHOUT_GRAPH.files == (COLUMNS,)


def test_the_record_is_a_map_with_its_hash_behind_it() -> None:
    assert fields_of(MANIFEST) == {
        "version": 1,
        "generation": 2**64 - 1,
        "columns": ["columns-000012.aesg", 2**40, 1_700_000_000_123_456_789, b"\x0a" * 32],
        "graph": ["index-000011.faiss", 0, 0, b"\xff" * 32],
        "graph_size": 1_000_000,
        "parameters": {"neighbours": 32, "ef_construction": 120},
    }
    assert sealed(fields_of(MANIFEST)) == MANIFEST.encode()


def test_every_changed_bit_and_every_missing_byte_is_found() -> None:
    record = MANIFEST.encode()
    for position in range(len(record)):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[position] ^= 1 << bit
            with pytest.raises(StoreCorruptError, match="snapshot: expected a manifest"):
                Manifest.decode(bytes(damaged))
        with pytest.raises(StoreCorruptError, match="snapshot: expected a manifest"):
            Manifest.decode(record[:position])


def test_random_bytes_are_no_manifest() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        content = rng.randbytes(rng.randrange(200))
        for record in (content, content + hashlib.sha256(content).digest()):
            with pytest.raises(StoreCorruptError, match="snapshot: expected a manifest"):
                Manifest.decode(record)


def put(*path: Any, value: Any) -> Callable[[Any], object]:
    """Return what sets an entry of a nested map."""

    def change(fields: Any) -> None:
        for step in path[:-1]:
            fields = fields[step]
        fields[path[-1]] = value

    return change


CHANGES: dict[str, Callable[[Any], object]] = {
    "a later version": put("version", value=2),
    "no generation": lambda fields: fields.pop("generation"),
    "a negative generation": put("generation", value=-1),
    "a generation that is no number": put("generation", value="7"),
    "a generation that is a truth value": put("generation", value=True),
    "no columns": put("columns", value=None),
    "a file of three": put("columns", value=["columns-000012.aesg", 1, 2]),
    "a size below zero": put("columns", 1, value=-1),
    "a time that is no number": put("columns", 2, value=1.5),
    "a short hash": put("columns", 3, value=b"\x0a" * 31),
    "a hash in letters": put("columns", 3, value="0a" * 16),
    "a file elsewhere": put("columns", 0, value="../columns-000012.aesg"),
    "an absolute path": put("columns", 0, value="/columns-000012.aesg"),
    "a line behind the name": put("columns", 0, value="columns-000012.aesg\n"),
    "the data file": put("columns", 0, value="data.mdb"),
    "a name that is no text": put("columns", 0, value=b"columns-000012.aesg"),
    "the graph for columns": put("columns", 0, value="index-000011.faiss"),
    "columns for the graph": put("graph", 0, value="columns-000012.aesg"),
    "a graph over nothing": put("graph_size", value=0),
    "nothing over many": put("graph", value=None),
    "parameters in a row": put("parameters", value=[1]),
    "a parameter that is a text": put("parameters", value={"neighbours": "32"}),
    "a parameter of parts": put("parameters", value={"neighbours": [32]}),
    "a parameter without a name": put("parameters", value={b"neighbours": 32}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_record_that_nobody_writes_is_refused(kind: str) -> None:
    fields = fields_of(MANIFEST)
    CHANGES[kind](fields)
    with pytest.raises(StoreCorruptError, match="snapshot: expected a manifest"):
        Manifest.decode(sealed(fields))


@pytest.mark.parametrize("content", [None, 1, [], {}, "text", b"bytes", [1, 2, 3, 4, 5, 6]])
def test_something_else_is_no_manifest(content: object) -> None:
    with pytest.raises(StoreCorruptError, match="snapshot: expected a manifest"):
        Manifest.decode(sealed(content))


def test_names_are_those_that_a_manifest_may_hold() -> None:
    for seq in (0, 7, 999_999, 1_000_000, 2**64 - 1):
        columns, graph = (
            replace(COLUMNS, name=columns_name(seq)),
            replace(GRAPH, name=graph_name(seq)),
        )
        manifest = replace(MANIFEST, columns=columns, graph=graph)
        assert Manifest.decode(manifest.encode()) == manifest
        assert is_snapshot_file(columns.name)
        assert is_snapshot_file(graph.name)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "columns-1.aesg", "index-000001", ""])
def test_other_files_are_not_taken_for_those_of_a_snapshot(name: str) -> None:
    assert not is_snapshot_file(name)
