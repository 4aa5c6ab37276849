"""The record of the ``snapshot`` table that says which files hold a copy of which generation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from storage_backends.errors import StoreCorruptError
from storage_backends.recorded_file import FileRecord

VERSION = 1

_COLUMNS_NAME = re.compile(r"columns-\d{6,20}\.aesg")
_GRAPH_NAME = re.compile(r"index-\d{6,20}\.faiss")
_HASH_BYTES = 32


@dataclass(frozen=True)
class Manifest:
    """The two files of a snapshot, and what they show.

    Parameters
    ----------
    generation : int
        The commit that the columns show.
    columns : FileRecord
        The columns of the view.
    graph : FileRecord or None
        The links of the seed index; None where it has none.
    graph_size : int
        Number of slots, from 0 on, that the graph was built over; 0 without one.
    parameters : mapping of str to int
        How the graph was built.
    """

    generation: int
    columns: FileRecord
    graph: FileRecord | None
    graph_size: int
    parameters: Mapping[str, int]

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The files that there are."""
        return (self.columns,) if self.graph is None else (self.columns, self.graph)

    def encode(self) -> bytes:
        """Return the record: a msgpack map, and its SHA-256 behind it."""
        packed: bytes = msgpack.packb(
            {
                "version": VERSION,
                "generation": self.generation,
                "columns": _encode_file(self.columns),
                "graph": None if self.graph is None else _encode_file(self.graph),
                "graph_size": self.graph_size,
                "parameters": dict(self.parameters),
            }
        )
        return packed + hashlib.sha256(packed).digest()

    @classmethod
    def decode(cls, record: bytes) -> Manifest:
        """Return the manifest that a record holds.

        Raises
        ------
        StoreCorruptError
            If the record is not one that `encode` returns.
        """
        packed, digest = record[:-_HASH_BYTES], record[-_HASH_BYTES:]
        if hashlib.sha256(packed).digest() != digest:
            raise StoreCorruptError(
                f"snapshot: expected a manifest with its hash behind it, got {record[:32]!r}"
            )
        try:
            return _decode(msgpack.unpackb(packed))
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise StoreCorruptError(f"snapshot: expected a manifest, got {error}") from error


def columns_name(seq: int) -> str:
    """Return the name of the columns file of a snapshot."""
    return f"columns-{seq:06}.aesg"


def graph_name(seq: int) -> str:
    """Return the name of the graph file that is first written for a snapshot."""
    return f"index-{seq:06}.faiss"


def is_snapshot_file(name: str) -> bool:
    """Return whether a finished file of some snapshot may have this name."""
    return bool(_COLUMNS_NAME.fullmatch(name) or _GRAPH_NAME.fullmatch(name))


def _encode_file(record: FileRecord) -> list[str | int | bytes]:
    return [record.name, record.size, record.mtime_ns, bytes.fromhex(record.sha256)]


def _decode(fields: Any) -> Manifest:
    if fields["version"] != VERSION:
        raise ValueError(f"version {fields['version']}, expected {VERSION}")
    graph = None if fields["graph"] is None else _decode_file(fields["graph"], _GRAPH_NAME)
    manifest = Manifest(
        generation=_count(fields["generation"]),
        columns=_decode_file(fields["columns"], _COLUMNS_NAME),
        graph=graph,
        graph_size=_count(fields["graph_size"]),
        parameters=_parameters(fields["parameters"]),
    )
    if (graph is None) != (manifest.graph_size == 0):
        raise ValueError(f"a graph {graph} over {manifest.graph_size} slots")
    return manifest


def _decode_file(fields: Any, pattern: re.Pattern[str]) -> FileRecord:
    name, size, mtime_ns, sha256 = fields
    if not (isinstance(name, str) and pattern.fullmatch(name)):
        raise ValueError(f"a file named {name!r}, expected {pattern.pattern}")
    if not (isinstance(sha256, bytes) and len(sha256) == _HASH_BYTES):
        raise ValueError(f"the hash {sha256!r} of {name}, expected {_HASH_BYTES} bytes")
    return FileRecord(name, _count(size), _count(mtime_ns), sha256.hex())


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r}, expected a whole number from 0 on")
    return number


def _parameters(fields: Any) -> Mapping[str, int]:
    if not isinstance(fields, dict):
        raise ValueError(f"parameters {fields!r}, expected a map")
    for name, value in fields.items():
        if not isinstance(name, str):
            raise ValueError(f"a parameter named {name!r}, expected a text")
        _count(value)
    return fields
