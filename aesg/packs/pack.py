"""A pack as it is in memory: columns that nothing writes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aesg.payload import unpack_payload
from storage_backends.lazy import lazy

Columns: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Provenance:
    """Where a pack comes from.

    Parameters
    ----------
    memory_uuid : str
        Of the memory that it was exported from; empty where that is not known.
    generation : int
        Of that memory, 0 or more.
    created : int
        The newest change to a concept of the pack, Unix microseconds.
    library : str
        Version of the library that wrote the pack.
    notes, licence : str
        What the exporter had to say.
    """

    memory_uuid: str
    generation: int
    created: int
    library: str
    notes: str = ""
    licence: str = ""


@dataclass(frozen=True, eq=False)
class Pack:
    """A portable subgraph: concepts, and the edges between them.

    Parameters
    ----------
    name : str
    vector_dim : int
        Width D of keys and vector values.
    columns : mapping of name to array
        All of ``docs/pack-format.md``, N or E rows each; none can be written to, and some may be
        mapped from a file. ``value_vectors`` is there only where some concept has one.
    provenance : Provenance
    digest : str
        SHA-256 of the body of the file, 64 hexadecimal digits: equal packs have equal digests.
    path : Path or None
        The file that it was read from.
    version : {1, 2}
        Of the format of that file.
    signer : bytes or None
        The public key of a signature that the file has, 32 bytes. Nobody has compared it with a
        key that is trusted.
    """

    name: str
    vector_dim: int
    columns: Columns
    provenance: Provenance
    digest: str
    path: Path | None
    version: int
    signer: bytes | None = None

    @property
    def node_count(self) -> int:
        """Number of concepts."""
        return len(self.columns["ids"])

    @property
    def edge_count(self) -> int:
        """Number of edges."""
        return len(self.columns["edge_targets"])

    @property
    def checksum(self) -> str:
        """The `digest`."""
        return self.digest

    @property
    def nodes(self) -> Nodes:
        """The concepts, in ascending order of their ids, as records."""
        return Nodes(self)

    @property
    def edges(self) -> PackEdges:
        """The edges, source after source and the strongest first, as records."""
        return PackEdges(self)

    def payload(self, position: int) -> bytes | None:
        """Return the payload of the concept at a position, encoded by msgpack; None without one.

        Raises
        ------
        IndexError
            If there is no such position.
        """
        if not 0 <= position < self.node_count:
            raise IndexError(f"expected a position below {self.node_count}, got {position}")
        begin, end = self.payload_ends[position : position + 2].tolist()
        return self.columns["payloads"][begin:end].tobytes() if end > begin else None

    def payloads(self, positions: Any = None) -> list[Any]:
        """Return the payloads of concepts, decoded as `AESGMemory.payloads` does.

        Parameters
        ----------
        positions : int, slice or (M,) integers, optional
            Places in the pack, in any order; all of them where None.

        Returns
        -------
        list
            None for a concept without one.

        Raises
        ------
        IndexError
            If there is no such position.
        """
        rows = np.arange(self.node_count)
        if positions is not None:
            listed = isinstance(positions, Sequence)  # of which a tuple would name dimensions
            rows = np.atleast_1d(rows[list(positions) if listed else positions])
        return [unpack_payload(self.payload(row)) for row in rows.tolist()]

    @lazy
    def payload_ends(self) -> NDArray[np.int64]:
        """Where payloads begin and end: that of ``i`` from ``[i]`` to ``[i + 1]``, ``(N + 1,)``."""
        return _ends(self.columns["payload_sizes"])

    @lazy
    def edge_ends(self) -> NDArray[np.int64]:
        """Where edges begin and end: those of ``i`` from ``[i]`` to ``[i + 1]``, ``(N + 1,)``."""
        return _ends(self.columns["edge_counts"])

    def __copy__(self) -> Pack:
        return self  # nothing changes it

    def __deepcopy__(self, memo: Mapping[int, object]) -> Pack:
        return self

    def __repr__(self) -> str:
        return (
            f"Pack({self.name!r}, concepts={self.node_count}, edges={self.edge_count}, "
            f"vector_dim={self.vector_dim})"
        )


def _ends(counts: NDArray[np.uint32]) -> NDArray[np.int64]:
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


#: The fields of the records, in their order, and the columns that they are from.
_NODE_FIELDS = {
    "id": "ids",
    "vector": "keys",
    "created_at": "created",
    "modified_at": "modified",
    "use_frequency": "frequency",
    "relevance": "relevance",
    "age": "age",
    "stability": "stability",
    "region_id": "region",
    "value_kind": "value_kinds",
    "value_id": "value_ids",
}
_EDGE_FIELDS = {
    "source_id": "ids",
    "target_id": "ids",
    "weight": "edge_weights",
    "confidence": "edge_confidences",
    "use_count": "edge_uses",
}


#: Records that are made together.
_CHUNK = 4096


class _Records:
    """Rows of several columns as records, made when they are asked for.

    Parameters
    ----------
    pack : Pack
    size : int
        How many there are.
    fields : mapping of str to str
        The names of the fields, and of their columns.
    """

    def __init__(self, pack: Pack, size: int, fields: Mapping[str, str]) -> None:
        self._pack = pack
        self._size = size
        self._columns = fields
        columns = ((name, pack.columns[column]) for name, column in fields.items())
        self.dtype = np.dtype([(name, rows.dtype, rows.shape[1:]) for name, rows in columns])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, chosen: Any) -> Any:
        """Return one record, those of a slice or of an array of positions, or a field by name."""
        if isinstance(chosen, str):
            if chosen not in self._columns:
                raise KeyError(f"expected one of {', '.join(self._columns)}, got {chosen!r}")
            return self._field(chosen, np.arange(self._size))
        rows = self._rows(chosen)
        records = np.empty(np.shape(rows), self.dtype)
        for name in self._columns:
            records[name] = self._field(name, rows)
        return records[()]

    def __iter__(self) -> Iterator[Any]:
        for begin in range(0, self._size, _CHUNK):
            yield from self[begin : begin + _CHUNK]

    def _rows(self, chosen: Any) -> Any:
        if isinstance(chosen, slice):
            return np.arange(*chosen.indices(self._size))
        if isinstance(chosen, int | np.integer):
            return range(self._size)[chosen]
        return np.arange(self._size)[chosen]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._size} of {', '.join(self._columns)})"

    def _field(self, name: str, rows: Any) -> NDArray[Any]:
        found: NDArray[Any] = self._pack.columns[self._columns[name]][rows]
        return found


class Nodes(_Records):
    """The concepts of a pack as records: ``len``, ``[i]``, ``[i:j]`` and ``["field"]``.

    The field ``vector`` is the key as it was learned, ``(D,)`` float32. ``value_id`` is the value
    where ``value_kind`` is 1; a kind of 0 stands for the key itself, 2 for a vector, which is in
    ``pack.columns["value_vectors"]``.

    Parameters
    ----------
    pack : Pack
    """

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack, pack.node_count, _NODE_FIELDS)

    def _field(self, name: str, rows: Any) -> NDArray[Any]:
        found = super()._field(name, rows)
        if name == "vector":
            found = found * self._pack.columns["norms"][rows][..., np.newaxis]
        return found


class PackEdges(_Records):
    """The edges of a pack as records: ``len``, ``[i]``, ``[i:j]`` and ``["field"]``.

    Parameters
    ----------
    pack : Pack
    """

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack, pack.edge_count, _EDGE_FIELDS)

    def _field(self, name: str, rows: Any) -> NDArray[Any]:
        if name == "target_id":
            rows = self._pack.columns["edge_targets"][rows]
        elif name == "source_id":
            rows = np.searchsorted(self._pack.edge_ends, rows, side="right") - 1
        return super()._field(name, rows)
