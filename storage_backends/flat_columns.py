"""A view as plain arrays, ready to be written to a file, and back.

Going back reads none of them, so that they may be mapped: what a view needs to know of all of its
rows together, such as how many are alive, is written down with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import LEAD, REST, ROW, Adjacency
from storage_backends.columns import Column, Fields, Filled, Slots
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.id_map import IdMap, SortedIds
from storage_backends.incoming import Incoming, pairs
from storage_backends.types import STATS

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

#: The columns that each view has, by the names of its fields.
_ALWAYS = ("ids", "alive", "keys", "norms", "value_kinds", "value_ids")

#: Columns that are given part by part, because they may take much memory.
_LONG = ("keys", "value_vectors")

#: All columns of a view; it has ``value_vectors`` only where some concept has one.
COLUMNS = (*_ALWAYS, "value_vectors", "stats")

#: What the ``totals`` tell.
_LIVE, _EDGES = 0, 1

#: Edges that are looked through at a time, and sources that are found together.
_CHUNK = 1 << 20
_BLOCK = 1 << 22

#: They are numbered in 32 bits.
_MOST_EDGES = 1 << 32


class Edges:
    """A part of each edge in the order of their slots, as bytes that are gathered when asked for.

    Parameters
    ----------
    adjacency : Adjacency
    pool : column of (P,) record
        Its ``leads`` or ``rest``.
    """

    dtype: np.dtype[np.uint8] = np.dtype(np.uint8)

    def __init__(self, adjacency: Adjacency, pool: Column[np.void]) -> None:
        self._adjacency = adjacency
        self._pool = pool
        self._ends = np.cumsum(_counts(adjacency))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of edges, and bytes of each."""
        return self._adjacency.edge_count, self._pool.dtype.itemsize

    def __len__(self) -> int:
        return self._adjacency.edge_count

    def part(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return edges ``begin`` to ``end``."""
        slots, skipped = _slots_with(self._ends, begin, end)
        _, positions = self._adjacency.positions(slots)
        edges = self._pool[positions[skipped : skipped + end - begin]]
        return _bytes(edges)


class Sources:
    """The sources of all edges in the order of their targets, found when asked for.

    All edges are looked through for each block of the result, so that it need not be held whole.

    Parameters
    ----------
    adjacency : Adjacency

    Raises
    ------
    StoreError
        If there are more edges than a snapshot can number.
    """

    dtype: np.dtype[np.uint32] = np.dtype(np.uint32)

    def __init__(self, adjacency: Adjacency) -> None:
        if adjacency.edge_count >= _MOST_EDGES:
            raise StoreError(
                f"expected fewer than {_MOST_EDGES} edges in a snapshot, got {adjacency.edge_count}"
            )
        self._adjacency = adjacency
        self._ends = np.cumsum(_counts(adjacency))
        counts = np.zeros(adjacency.size, np.int64)
        for _, targets in self._edges():
            counts += np.bincount(targets, minlength=len(counts))
        self._target_ends = np.cumsum(counts)
        self._begin, self._block = 0, np.empty(0, np.uint32)

    @property
    def starts(self) -> NDArray[np.uint32]:
        """Where the sources of each slot begin, ``(N,)``."""
        starts = np.zeros(self._adjacency.size, np.uint32)
        starts[1:] = self._target_ends[:-1]
        return starts

    @property
    def shape(self) -> tuple[int]:
        """Number of edges."""
        return (self._adjacency.edge_count,)

    def __len__(self) -> int:
        return self._adjacency.edge_count

    def part(self, begin: int, end: int) -> NDArray[np.uint32]:
        """Return the sources at ``begin`` to ``end``."""
        parts = []
        while begin < end:
            if not self._begin <= begin < self._begin + len(self._block):
                self._load(begin)
            piece = self._block[begin - self._begin : end - self._begin]
            parts.append(piece)
            begin += len(piece)
        return np.concatenate(parts) if parts else self._block[:0]

    def _load(self, position: int) -> None:
        """Find the sources of the target that a position belongs to, and of some after it."""
        first = int(np.searchsorted(self._target_ends, position, side="right"))
        self._begin = int(self._target_ends[first - 1]) if first else 0
        last = int(np.searchsorted(self._target_ends, self._begin + _BLOCK, side="right"))
        last = max(last, first + 1)
        found = []
        for owners, targets in self._edges():
            wanted = (targets >= first) & (targets < last)
            found.append(pairs(targets[wanted], owners[wanted]))
        block = np.concatenate(found)
        block.sort()
        self._block = block.astype(np.uint32)  # the low half is the source

    def _edges(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """Yield sources and targets of all edges, many at a time."""
        for begin in range(0, len(self), _CHUNK):
            end = min(begin + _CHUNK, len(self))
            slots, skipped = _slots_with(self._ends, begin, end)
            owner, positions = self._adjacency.positions(slots)
            chosen = slice(skipped, skipped + end - begin)
            targets = self._adjacency.leads.field("target")[positions[chosen]]
            yield slots[owner[chosen]].astype(np.uint32), targets


def _slots_with(ends: Slots, begin: int, end: int) -> tuple[Slots, int]:
    """Return the slots whose edges are ``begin`` to ``end``, and how many come before these."""
    first, last = np.searchsorted(ends, (begin, end), side="right")
    slots = np.arange(first, min(last + 1, len(ends)))
    return slots, begin - (int(ends[first - 1]) if first else 0)


#: Rows that are at hand, or that are gathered part by part.
Rows: TypeAlias = NDArray[Any] | Column[Any] | Edges | Sources


def columns_of(
    ids: Column[np.uint64],
    columns: Mapping[str, Column[Any] | None],
    adjacency: Adjacency,
    moved: Slots,
    live: int,
) -> dict[str, Rows]:
    """Return what a view holds as plain arrays, the longest in parts.

    Parameters
    ----------
    ids : column of (N,) uint64
    columns : mapping of name to column
        The others of `COLUMNS`.
    adjacency, moved
        As in the view.
    live : int
        How many of its slots are alive.
    """
    arrays: dict[str, Rows] = {}
    for name, column in columns.items():
        if column is None:
            continue
        if name == "stats":
            for field in STATS.names or ():
                arrays[f"stats.{field}"] = _short(_plain(column.field(field).whole()))
        else:
            arrays[name] = column if name in _LONG else _short(column.whole())
    arrays["ids"] = ids.whole()  # their number is that of the slots
    by_id = SortedIds.of(ids.whole())
    if by_id.slots is not None:
        arrays["sorted_ids"], arrays["sorted_slots"] = by_id.ids, by_id.slots
    sources = Sources(adjacency)
    return arrays | {
        "edge_rows": _bytes(_short(_in_order(adjacency))),
        "leads": Edges(adjacency, adjacency.leads),
        "rest": Edges(adjacency, adjacency.rest),
        "in_start": _short(sources.starts),
        "in_source": sources,
        "moved": moved,
        "totals": np.array([live, adjacency.edge_count], np.int64),
    }


def parts_of(arrays: Arrays) -> dict[str, Any]:
    """Return what a view over such arrays is made of.

    Raises
    ------
    StoreCorruptError
        If they are not those of one view.
    """
    try:
        return _parts_of(arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise StoreCorruptError(f"expected the columns of a view: {error}") from error


def _parts_of(arrays: Arrays) -> dict[str, Any]:
    ids = arrays["ids"]
    size = len(ids)

    def column(name: str) -> Column[Any]:
        return Column.over(_long(arrays[name], size))

    fields = {name: _long(arrays[f"stats.{name}"], size) for name in STATS.names or ()}
    fields = {name: array.view(STATS[name]) for name, array in fields.items()}
    totals = arrays["totals"].tolist()
    by_id = SortedIds(ids)
    if "sorted_ids" in arrays:
        by_id = SortedIds(arrays["sorted_ids"], arrays["sorted_slots"])
    return {
        **{name: column(name) for name in _ALWAYS},
        "value_vectors": column("value_vectors") if "value_vectors" in arrays else None,
        "stats": Column.over(Fields(fields, STATS)),
        "id_map": IdMap(by_id),
        "regions": Column.over(fields["region"]),
        "adjacency": _adjacency_of(arrays, size, totals[_EDGES]),
        "node_count": totals[_LIVE],
        "moved": arrays["moved"],
        "filled": Filled(size),
    }


def _adjacency_of(arrays: Arrays, size: int, edges: int) -> Adjacency:
    rows = _long(_records(arrays["edge_rows"], ROW), size)
    leads, rest = _records(arrays["leads"], LEAD), _records(arrays["rest"], REST)
    incoming = Incoming(_long(arrays["in_start"], size), arrays["in_source"])
    for name in ("leads", "rest", "in_source"):
        if len(arrays[name]) != edges:
            raise ValueError(f"{name}: expected {edges} edges, got {len(arrays[name])}")
    return Adjacency(
        Column.over(rows),
        Column.over(leads),
        Column.over(rest),
        Column.of(np.empty(0, np.uint32)),
        incoming,
        edge_count=edges,
        filled=Filled(edges),
    )


def _in_order(adjacency: Adjacency) -> NDArray[np.void]:
    """Return the rows as they are where the edges stand in the order of their slots."""
    rows = adjacency.rows.whole().copy()
    ends = np.cumsum(rows["count"], dtype=np.int64)
    rows["start"] = np.where(rows["count"] > 0, ends - rows["count"], 0)
    return rows


def _counts(adjacency: Adjacency) -> Slots:
    counts: Slots = adjacency.rows.field("count").whole().astype(np.int64)
    return counts


def _bytes(records: NDArray[np.void]) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.ascontiguousarray(records).view(np.uint8)
    return rows.reshape(-1, records.dtype.itemsize)


def _records(rows: NDArray[np.uint8], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    return rows.reshape(-1).view(dtype)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return bytes that mean nothing as numbers: files hold numbers."""
    return np.ascontiguousarray(array).view(np.uint32) if array.dtype.kind == "V" else array


def _short(array: NDArray[Any]) -> NDArray[Any]:
    """Return one row instead of many that are all the same."""
    return array[:1] if len(array) and (array == array[0]).all() else array


def _long(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Return ``size`` rows, where there may be one that stands for all."""
    return np.broadcast_to(array, (size, *array.shape[1:]))
