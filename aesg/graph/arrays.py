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


def common_origin(origins: Ids) -> Ids:
    """Return the origin that some concepts share, ``(1,)`` uint64; 0, which is none, else."""
    return np.where((origins == origins[0]).all(), origins[:1], np.uint64(0))


def unit(vectors: Floats) -> Floats:
    """Return vectors, ``(..., D)`` float32, at a length of one; zeros stay zero."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))[..., None]
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
