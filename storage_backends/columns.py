"""Columns that grow at the end without being copied, while earlier readers keep what they have.

A column is the front of a buffer with spare rows behind it. Appending writes into the spare rows,
which no reader of the shorter column can see, and returns a longer column of the same buffer.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

_GROWTH = 1.5
_LEAST_SPARE = 64


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
