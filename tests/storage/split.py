"""Columns that hold given rows in base, overlay and tail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Column, Fields, Scalar


def split(rows: NDArray[Scalar], seed: int = 0) -> Column[Scalar]:
    """Return a column of ``rows``, cut by chance into a base, what replaces some of it, a tail."""
    rng = np.random.default_rng(seed)
    cut = int(rng.integers(0, len(rows) + 1))
    base = rows[:cut].copy()
    changed = np.flatnonzero(rng.random(cut) < rng.choice([0, 0.3]))
    base[changed] = np.roll(rows, 1, axis=0)[changed]
    base.setflags(write=False)  # as a mapped file
    column = replace(Column.over(base), tail=rows[cut:].copy())
    return column.replaced(changed, rows[changed])


def by_field(records: NDArray[np.void]) -> Fields:
    """Return records as one array for each field, none of which can be written to."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in records.dtype.names or ():
        arrays[name] = np.ascontiguousarray(records[name])
        arrays[name].setflags(write=False)
    return Fields(arrays, records.dtype)
