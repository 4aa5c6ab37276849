"""Ascending ids as runs of consecutive ones."""

from __future__ import annotations

import numpy as np

from storage_backends.types import Ids


def as_runs(ids: Ids) -> list[int]:
    """Return ascending ids as the gap before each run of consecutive ones, and its length."""
    breaks = np.flatnonzero(np.diff(ids) != 1) + 1
    bounds = np.concatenate([[0], breaks, [len(ids)]])
    first, lengths = ids[bounds[:-1]], np.diff(bounds).astype(np.uint64)
    gaps = first - np.concatenate([[np.uint64(0)], (first + lengths)[:-1]])
    runs: list[int] = np.stack([gaps, lengths], axis=1).reshape(-1).tolist()
    return runs


def from_runs(runs: list[int]) -> Ids:
    """Return the ids that `as_runs` was given.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If these are not pairs of whole numbers in [0, 2**64).
    """
    pairs = np.array(runs, np.uint64).reshape(-1, 2)
    lengths = pairs[:, 1]
    first = np.cumsum(pairs.sum(axis=1, dtype=np.uint64), dtype=np.uint64) - lengths
    before = np.cumsum(lengths, dtype=np.uint64) - lengths
    repeats = lengths.astype(np.int64)
    return np.repeat(first - before, repeats) + np.arange(repeats.sum(), dtype=np.uint64)
