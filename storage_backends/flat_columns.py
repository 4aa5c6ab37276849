"""A view as plain arrays, ready to be written to a file, and back.

Going back reads none of them, so that they may be mapped: what a view needs to know of all of its
rows together, such as how many are alive, is written down with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import POOL, Adjacency, ragged_positions
from storage_backends.columns import Column, Fields, Filled, Slots
from storage_backends.errors import StoreCorruptError
from storage_backends.id_map import IdMap, SortedIds
from storage_backends.types import STATS

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

#: The columns that each view has, by the names of its fields.
_ALWAYS = ("ids", "alive", "keys", "norms", "value_kinds", "value_ids")

#: Columns that are given part by part, because they may take much memory.
_LONG = ("keys", "value_vectors")

#: All columns of a view; it has ``value_vectors`` only where some concept has one.
COLUMNS = (*_ALWAYS, "value_vectors", "stats")

#: What the ``totals`` tell.
_LIVE, _EDGES, _TOTALS = 0, 1, 2


class Edges:
    """All edges in the order of their slots, as rows of bytes that are gathered when asked for.

    Parameters
    ----------
    adjacency : Adjacency
    """

    dtype: np.dtype[np.uint8] = np.dtype(np.uint8)

    def __init__(self, adjacency: Adjacency) -> None:
        self._adjacency = adjacency
        self._ends = np.cumsum(adjacency.count.whole())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of edges, and bytes of each."""
        return self._adjacency.edge_count, POOL.itemsize

    def __len__(self) -> int:
        return self._adjacency.edge_count

    def part(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return edges ``begin`` to ``end``."""
        first, last = np.searchsorted(self._ends, (begin, end), side="right")
        slots = np.arange(first, min(last + 1, len(self._ends)))
        counts = self._adjacency.count[slots]
        skipped = begin - int((self._ends[slots] - counts)[:1].sum())
        positions = ragged_positions(self._adjacency.start[slots], counts)
        edges = self._adjacency.pool[positions[skipped : skipped + end - begin]]
        rows: NDArray[np.uint8] = edges.view(np.uint8)
        return rows.reshape(-1, POOL.itemsize)


#: Rows that are at hand, or that are gathered part by part.
Rows: TypeAlias = NDArray[Any] | Column[Any] | Edges


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
    counts = adjacency.count.whole()
    by_id = SortedIds.of(ids.whole())
    if by_id.slots is not None:
        arrays["sorted_ids"], arrays["sorted_slots"] = by_id.ids, by_id.slots
    return arrays | {
        "edge_start": _short(np.cumsum(counts) - counts),
        "edge_count": _short(counts),
        "edge_kinds": _short(adjacency.kinds.whole()),
        "pool": Edges(adjacency),
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
    pool = arrays["pool"].reshape(-1).view(POOL)
    by_id = SortedIds(ids)
    if "sorted_ids" in arrays:
        by_id = SortedIds(arrays["sorted_ids"], arrays["sorted_slots"])
    return {
        **{name: column(name) for name in _ALWAYS},
        "value_vectors": column("value_vectors") if "value_vectors" in arrays else None,
        "stats": Column.over(Fields(fields, STATS)),
        "id_map": IdMap(by_id),
        "adjacency": Adjacency(
            column("edge_start"),
            column("edge_count"),
            column("edge_kinds"),
            Column.over(pool),
            totals[_EDGES],
            0,
            Filled(len(pool)),
        ),
        "node_count": totals[_LIVE],
        "moved": arrays["moved"],
        "filled": Filled(size),
    }


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return bytes that mean nothing as numbers: files hold numbers."""
    return np.ascontiguousarray(array).view(np.uint64) if array.dtype.kind == "V" else array


def _short(array: NDArray[Any]) -> NDArray[Any]:
    """Return one row instead of many that are all the same."""
    return array[:1] if len(array) and (array == array[0]).all() else array


def _long(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Return ``size`` rows, where there may be one that stands for all."""
    return np.broadcast_to(array, (size, *array.shape[1:]))
