"""Slots that count through several tables, and gathering what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Slots

Bounds = Sequence[tuple[int, int]]


class _Part(NamedTuple):
    """What lies in one table: which of the slots, None for all of them, and the rows there."""

    table: int
    chosen: Slots | None
    rows: Slots


class Places:
    """The rows in which some slots are, found once for all columns that are gathered.

    Parameters
    ----------
    slots : (...,) int64
        -1 stands for nothing.
    bounds : sequence of (int, int)
        Where the slots of each table begin and end; one table begins where another ends.
    """

    def __init__(self, slots: Slots, bounds: Bounds) -> None:
        self._shape = slots.shape
        flat = slots.ravel()
        self._parts = list(_parts(flat, bounds))
        self._missing: Slots | None = None
        if len(self._parts) == 1 and self._parts[0].chosen is not None:
            # The rest is nothing. A column gives some row for a negative one.
            table, first = self._parts[0].table, bounds[self._parts[0].table][0]
            self._parts = [_Part(table, None, np.maximum(flat - first, 0) if first else flat)]
            self._missing = np.flatnonzero(flat < 0)

    def gather(
        self, column_of: Callable[[int], Any], dtype: np.dtype[Any], row: tuple[int, ...] = ()
    ) -> NDArray[Any]:
        """Return the rows of one column, ``(..., *row)``; zeros where there is nothing.

        Parameters
        ----------
        column_of : callable
            Returns the column of a table, which is told by its number. Its rows are copied.
        dtype, row
            Type and shape of a row.
        """
        if len(self._parts) == 1:
            out = column_of(self._parts[0].table)[self._parts[0].rows]
            if self._missing is not None:
                out[self._missing] = np.zeros((), dtype)
        else:
            out = np.zeros((int(np.prod(self._shape)), *row), dtype)
            for table, chosen, rows in self._parts:
                out[chosen] = column_of(table)[rows]
        gathered: NDArray[Any] = out.reshape(*self._shape, *row)
        return gathered


def _parts(flat: Slots, bounds: Bounds) -> Iterator[_Part]:
    if not flat.size:
        return
    low, high = int(flat.min()), int(flat.max())
    for table, (first, end) in enumerate(bounds):
        if first <= low and high < end:
            yield _Part(table, None, flat - first if first else flat)
            return
    for table, (first, end) in enumerate(bounds):
        if low < end and high >= first:
            chosen = np.flatnonzero((flat >= first) & (flat < end))
            if len(chosen):
                yield _Part(table, chosen, flat[chosen] - first)
