"""Numbers that lose a fixed share per consolidation epoch, worked out when read."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage_backends.types import Floats

Epochs: TypeAlias = NDArray[np.int64]

#: The epoch of what does not expire.
NEVER = np.iinfo(np.int64).max

#: Epochs that rounding to float32 can make a difference of, and more.
_MARGIN = 1e-3


def decayed(held: Floats, kept: float, epochs: int | NDArray[np.integer[Any]]) -> Floats:
    """Return what numbers are worth after more epochs.

    Parameters
    ----------
    held : (M,) float32
    kept : float
        Share that one epoch leaves, in (0, 1).
    epochs : int or (M,) int
        Of all or of each, at least 0.
    """
    now: Floats = (held * np.float64(kept) ** epochs).astype(np.float32)
    return now


def epochs_until(held: Floats, kept: float, threshold: float) -> Epochs:
    """Return after how many epochs numbers fall below a threshold.

    Where `decayed` comes within rounding of the threshold it may be one epoch less, never more.

    Parameters
    ----------
    held : (M,) float32
        At least 0.
    kept : float
        Share that one epoch leaves, in (0, 1).
    threshold : float

    Returns
    -------
    (M,) int64
        `NEVER` where the threshold is not above 0 as a float32.
    """
    if np.float32(threshold) <= 0:
        return np.full(len(held), NEVER)
    share = threshold / np.maximum(held.astype(np.float64), np.finfo(np.float32).smallest_subnormal)
    exact = np.log(share) / np.log(kept)
    whole: Epochs = np.maximum(np.ceil(exact - _MARGIN), 0).astype(np.int64)
    return whole


def later(epochs: NDArray[np.integer[Any]], more: Epochs) -> Epochs:
    """Return ``epochs + more``; `NEVER` where ``more`` is."""
    since: Epochs = np.minimum(epochs.astype(np.uint64), np.uint64(NEVER)).astype(np.int64)
    summed: Epochs = np.where(more == NEVER, NEVER, since + np.minimum(more, NEVER - since))
    return summed
