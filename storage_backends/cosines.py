"""Inner products that do not depend on the machine, the batch or the way that led to a key.

Sums of floats depend on their order. Here it is sixteen sums side by side, each of every sixteenth
product, which are then added by halves. `_lookup.c` sums so, too.
"""

from __future__ import annotations

import numpy as np

from storage_backends.columns import Slots
from storage_backends.types import Floats

__all__ = ["SUMS", "best", "cosines_of", "laid_out"]

#: Sums side by side.
SUMS = 16
#: Keys that are gathered at a time.
_CHUNK = 65_536


def laid_out(queries: Floats) -> Floats:
    """Return queries ``(N, D)`` with their end filled up to a multiple of `SUMS`.

    The end meets the last `SUMS` elements of a key. Before it, zeros meet those that have had their
    turn; behind it, the zeros with which a narrower key is filled up.
    """
    count, width = queries.shape
    rest = width % SUMS
    if not rest:
        return np.ascontiguousarray(queries, np.float32)
    filled = np.zeros((count, width - rest + SUMS), np.float32)
    filled[:, : width - rest] = queries[:, : width - rest]
    end = filled[:, :rest] if width < SUMS else filled[:, -rest:]
    end[...] = queries[:, width - rest :]
    return filled


def cosines_of(queries: Floats, keys: Floats, rows: Slots) -> Floats:
    """Return the inner product of each query with some of the keys.

    Parameters
    ----------
    queries : (N, D) float32
    keys : (M, D) float32
    rows : (N, K) int64
        Of ``keys``, as numpy counts.

    Returns
    -------
    (N, K) float32
    """
    filled = laid_out(queries)[:, None]  # (N, 1, W)
    step = max(_CHUNK // max(rows.shape[1], 1), 1)
    found = np.empty(rows.shape, np.float32)
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        found[part] = _summed(filled[part] * _extended(keys[rows[part]]))
    return found


def _extended(keys: Floats) -> Floats:
    """Return keys ``(N, K, D)`` with their end once more, as a query that is laid out meets it."""
    width = keys.shape[-1]
    rest = width % SUMS
    if not rest:
        return keys
    if width < SUMS:
        return np.pad(keys, ((0, 0), (0, 0), (0, SUMS - width)))
    return np.concatenate([keys[..., : width - rest], keys[..., -SUMS:]], axis=-1)


def _summed(products: Floats) -> Floats:
    """Add up products ``(N, K, W)``."""
    sums = np.zeros((*products.shape[:2], SUMS), np.float32)
    for begin in range(0, products.shape[-1], SUMS):
        sums += products[..., begin : begin + SUMS]
    for half in (8, 4, 2, 1):
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


def best(slots: Slots, cosines: Floats, k: int) -> tuple[Slots, Floats]:
    """Return the best ``k`` of each row: descending by cosine, then ascending by slot; -1 last.

    Parameters
    ----------
    slots : (N, M) int64
        -1 pads.
    cosines : (N, M) float32
    k : int

    Returns
    -------
    slots : (N, k) int64
        -1 pads.
    cosines : (N, k) float32
        0 where padded.
    """
    order = np.lexsort((slots, np.where(slots >= 0, -cosines, np.inf)))[:, :k]
    slots, cosines = np.take_along_axis(slots, order, 1), np.take_along_axis(cosines, order, 1)
    missing = k - slots.shape[1]
    if missing > 0:
        slots = np.pad(slots, ((0, 0), (0, missing)), constant_values=-1)
        cosines = np.pad(cosines, ((0, 0), (0, missing)))
    return slots, np.where(slots >= 0, cosines, np.float32(0))
