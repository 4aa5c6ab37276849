"""Conversions of arrays that several parts of the graph share."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from storage_backends.columns import Slots
from storage_backends.types import EdgeKind, Floats, Ids
from storage_backends.view import View


def ids_of(held: Collection[int]) -> Ids:
    """Return concept ids in the order in which a collection gives them, ``(M,)`` uint64."""
    return np.fromiter(held, np.uint64, len(held))


def live(view: View, ids: Ids) -> Slots:
    """Return the slots of those concepts that exist, in the order of ``ids``, ``(L,)`` int64."""
    if not len(ids):
        return np.empty(0, np.int64)
    slots = view.slots(ids)
    return slots[slots >= 0]


def reached_by(view: View, slots: Slots, kind: EdgeKind) -> tuple[Slots, Slots]:
    """Return the out-edges of one kind: the place in ``slots`` of each one's source, and target."""
    owner, edges = view.adjacency.expand(slots)
    chosen = (edges["kind"] & np.uint32(kind)) != 0
    return owner[chosen], edges["target"][chosen]


def renamed(ids: Ids, gone: Ids, stands: Ids) -> Ids:
    """Return ids with others in the place of some.

    Parameters
    ----------
    ids : (M,) uint64
        Copied.
    gone : (G,) uint64
        Without repeats.
    stands : (G,) uint64
        What stands for each; none of it is gone.
    """
    if not len(gone):
        return ids.copy()
    order = np.argsort(gone)
    gone, stands = gone[order], stands[order]
    place = np.minimum(np.searchsorted(gone, ids), len(gone) - 1)
    return np.where(gone[place] == ids, stands[place], ids)


def common_origin(origins: Ids) -> Ids:
    """Return the origin that some concepts share, ``(1,)`` uint64; 0, which is none, else."""
    return np.where((origins == origins[0]).all(), origins[:1], np.uint64(0))


def unit(vectors: Floats) -> Floats:
    """Return vectors, ``(..., D)`` float32, at a length of one; zeros stay zero."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))[..., None]
    units = np.empty(vectors.shape, np.float32)
    # In float64, but rounded part by part: no array of that type is made of all of them.
    scale = np.where(lengths > 0, lengths, 1)
    return np.divide(vectors, scale, out=units, dtype=np.float64, casting="same_kind")
