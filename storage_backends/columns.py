"""Columns: one row for each slot, over a big immutable part and what changed since.

The big part, the *base*, may be a mapped file: a gather touches only the rows that it asks for,
and nothing here copies it. Rows added since stand in the *tail*, base rows replaced since in a
small overlay. A column never changes: each change returns another one, which shares with it all
that stayed.

The tail is the front of a buffer with spare rows behind it. Appending writes into the spare rows,
which no reader of the shorter column can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Slots = NDArray[np.int64]

_GROWTH = 1.5
_LEAST_SPARE = 64
_NO_SLOTS: Slots = np.empty(0, np.int64)


def ragged_positions(starts: Slots, counts: Slots) -> Slots:
    """Return the positions of several runs, one run after another.

    Parameters
    ----------
    starts, counts : (M,) int64
        First position and length of each run.

    Returns
    -------
    (sum of counts,) int64
    """
    total = int(counts.sum())
    ends = np.cumsum(counts)
    offset = np.repeat(starts - (ends - counts), counts)
    return offset + np.arange(total, dtype=np.int64)


class Filled:
    """How many rows are taken of the buffers that successive columns share.

    Two columns can be grown from one: the first takes the spare rows, the second is copied.

    Parameters
    ----------
    rows : int
        Length of the columns that start the line.
    """

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows

    def claim(self, rows: int, more: int) -> tuple[Filled, bool]:
        """Take ``more`` rows behind columns of ``rows``.

        Returns
        -------
        Filled
            The line that the longer columns belong to.
        bool
            Whether the rows behind the columns were free.
        """
        if rows != self.rows:
            return Filled(rows + more), False
        self.rows += more
        return self, True


@dataclass(frozen=True)
class Fields:
    """Records of which each field stands in an array of its own.

    Reading one field of some rows then touches no other field.

    Parameters
    ----------
    arrays : mapping of name to (N,) array
        One for each field of ``dtype``.
    dtype : dtype
        Of the records.
    """

    arrays: Mapping[str, NDArray[Any]]
    dtype: np.dtype[np.void]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the records."""
        return next(iter(self.arrays.values())).shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> NDArray[np.void]:
        parts = {name: array[chosen] for name, array in self.arrays.items()}
        records = np.empty(np.shape(next(iter(parts.values()))), self.dtype)
        for name, part in parts.items():
            records[name] = part
        return records


@dataclass(frozen=True, eq=False)
class Column(Generic[Scalar]):
    """One row for each slot.

    Parameters
    ----------
    base : (B, ...) array or Fields or None
        The first rows as they were once; never written to. None where there are none.
    tail : (T, ...) array
        The rows behind them.
    changed : (M,) int64
        Slots of base rows that were replaced, ascending.
    rows : (M, ...) array
        What replaced them.
    """

    base: NDArray[Scalar] | Fields | None
    tail: NDArray[Scalar]
    changed: Slots
    rows: NDArray[Scalar]

    @classmethod
    def of(cls, rows: NDArray[Scalar]) -> Column[Scalar]:
        """Return a column of the given rows, which are its tail."""
        return cls(None, rows, _NO_SLOTS, rows[:0])

    @classmethod
    def over(cls, base: NDArray[Scalar] | Fields) -> Column[Scalar]:
        """Return a column whose rows are all in its base."""
        none: NDArray[Any] = np.empty((0, *base.shape[1:]), base.dtype)
        return cls(base if len(base) else None, none, _NO_SLOTS, none)

    @property
    def dtype(self) -> np.dtype[Scalar]:
        """Type of the rows."""
        return self.tail.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, then the shape of one."""
        return (len(self), *self.tail.shape[1:])

    @property
    def base_size(self) -> int:
        """Number of rows in the base."""
        return 0 if self.base is None else len(self.base)

    def __len__(self) -> int:
        return self.base_size + len(self.tail)

    @overload
    def __getitem__(self, slots: int) -> Any: ...

    @overload
    def __getitem__(self, slots: Slots) -> NDArray[Scalar]: ...

    def __getitem__(self, slots: Any) -> Any:
        """Return the rows of some slots: ``(..., *row)`` for an int or an int64 array ``(...,)``.

        Slots count from 0. A negative one stands for some row or other, as long as there is one.
        """
        base = self.base
        if base is None:
            return _rows(self.tail, slots)
        if not len(self.tail) and not len(self.changed):
            return _rows(base, slots)
        wanted = np.asarray(slots, np.int64)
        rows = self._gathered(base, wanted.reshape(-1))
        return rows.reshape(wanted.shape + rows.shape[1:])[()]

    def _gathered(self, base: NDArray[Scalar] | Fields, slots: Slots) -> NDArray[Scalar]:
        size = len(base)
        behind = np.flatnonzero(slots >= size)
        if len(behind) == len(slots):
            return _rows(self.tail, slots - size)
        rows: NDArray[Any] = _rows(base, np.minimum(slots, size - 1) if len(behind) else slots)
        if len(behind):
            rows[behind] = _rows(self.tail, slots[behind] - size)
        if len(self.changed):
            place = np.minimum(np.searchsorted(self.changed, slots), len(self.changed) - 1)
            replaced = np.flatnonzero(self.changed[place] == slots)
            if len(replaced):
                rows[replaced] = _rows(self.rows, place[replaced])
        return rows

    def field(self, name: str) -> Column[Any]:
        """Return one field of a column of records, without copying it."""
        base: Any = self.base
        if base is not None:
            base = base.arrays[name] if isinstance(base, Fields) else base[name]
        tail: NDArray[Any] = self.tail
        rows: NDArray[Any] = self.rows
        return Column(base, tail[name], self.changed, rows[name])

    def part(self, begin: int, end: int) -> NDArray[Scalar]:
        """Return the rows of slots ``begin`` to ``end``, not copied where they lie together."""
        size = self.base_size
        if self.base is None or begin >= size:
            return self.tail[begin - size : max(end - size, 0)]
        low, high = np.searchsorted(self.changed, (begin, end))
        rows: NDArray[Any] = self.base[begin : min(end, size)]
        if low == high and end <= size:
            return rows
        rows = np.concatenate([rows, self.tail[: max(end - size, 0)]])
        rows[self.changed[low:high] - begin] = self.rows[low:high]
        return rows

    def whole(self) -> NDArray[Scalar]:
        """Return all rows, not copied where base or tail is everything."""
        return self.part(0, len(self))

    def replaced(self, slots: Slots, rows: NDArray[Scalar]) -> Column[Scalar]:
        """Return a column with other rows at ``slots``, which do not repeat."""
        size = self.base_size
        column, behind = self, slots >= size
        if behind.any():
            tail = appended(self.tail, self.tail[:0], in_place=False)  # a copy with spare rows
            tail[slots[behind] - size] = rows[behind]
            column = replace(column, tail=tail)
        if not behind.all():
            column = column._overlaid(slots[~behind], rows[~behind])
        return column

    def _overlaid(self, slots: Slots, rows: NDArray[Scalar]) -> Column[Scalar]:
        order = np.argsort(slots)
        slots, rows = slots[order], rows[order]
        place = np.searchsorted(self.changed, slots)
        again = np.zeros(len(slots), np.bool_)
        held = place < len(self.changed)
        again[held] = self.changed[place[held]] == slots[held]
        new = ~again
        # The only copy: for a large overlay, what it costs is the memory that it touches.
        grown = np.insert(self.rows, place[new], rows[new], axis=0)
        grown[place[again] + np.searchsorted(slots[new], slots[again])] = rows[again]
        return replace(self, changed=np.insert(self.changed, place[new], slots[new]), rows=grown)

    def appended(self, rows: NDArray[Scalar], *, in_place: bool) -> Column[Scalar]:
        """Return a column with ``rows`` behind the present ones; they are copied.

        Parameters
        ----------
        rows : (M, ...) array
            An empty column takes them in any width.
        in_place : bool
            Whether the spare rows of the tail's buffer, if it has any, belong to the caller.
        """
        tail = appended(self.tail, rows, in_place=in_place)
        return replace(self, tail=tail, rows=self.rows if len(self.rows) else tail[:0])


def _rows(table: NDArray[Any] | Fields, slots: Any) -> NDArray[Any]:
    """Return some rows of a table, copied."""
    rows: NDArray[Any]
    if isinstance(table, Fields) or table.ndim == 1:
        rows = table[slots]
    elif table.flags.c_contiguous and table.flags.aligned:
        rows = table.take(slots, axis=0)  # twice as quick; of others it would copy the table
    else:
        rows = table[slots]
    return rows


def appended(column: NDArray[Scalar], rows: NDArray[Scalar], *, in_place: bool) -> NDArray[Scalar]:
    """Return ``column`` with ``rows`` behind it.

    Parameters
    ----------
    column : (N, ...) array
        An empty one may have another width than ``rows``.
    rows : (M, ...) array
        Copied.
    in_place : bool
        Whether the spare rows of the column's buffer, if it has any, belong to the caller.
    """
    size = len(column) + len(rows)
    buffer = column.base
    if not (
        in_place
        and isinstance(buffer, np.ndarray)
        and buffer.dtype == column.dtype
        and buffer.shape[1:] == rows.shape[1:]
        and len(buffer) >= size
    ):
        spare = int(size * (_GROWTH - 1)) + _LEAST_SPARE
        buffer = np.empty((size + spare, *rows.shape[1:]), column.dtype)
        if len(column):
            buffer[: len(column)] = column
    buffer[len(column) : size] = rows
    return buffer[:size]
