"""Out-edges of every slot, as arrays that a commit patches without rebuilding.

Each slot has a run in a pool of edges. A changed row is written as a new run at the pool's end
and the slot is pointed at it, so that arrays handed out earlier stay valid; the pool is rewritten
when more than half of it is dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Filled, appended
from storage_backends.lazy import lazy
from storage_backends.types import Floats

Slots = NDArray[np.int64]

_POOL_DTYPE = np.dtype(
    [
        ("target", "<i8"),
        ("weight", "<f4"),
        ("confidence", "<f4"),
        ("use", "<u4"),
        ("kind", "<u4"),
    ]
)

#: Dead edges that are not worth rewriting the pool for.
_LITTLE = 1024


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


@dataclass(frozen=True)
class Adjacency:
    """Out-edges of ``N`` slots.

    Parameters
    ----------
    start, count : (N,) int64
        The run of each slot in the pool.
    pool : (P,) record
        ``target`` (slot), ``weight``, ``confidence``, ``use``, ``kind``.
    filled : Filled
        How far the buffer behind the pool is taken.
    """

    start: Slots
    count: Slots
    pool: NDArray[np.void]
    filled: Filled = field(default_factory=Filled, repr=False)

    @classmethod
    def empty(cls, slots: int = 0) -> Adjacency:
        """Return an adjacency of ``slots`` slots and no edge."""
        zeros = np.zeros(slots, np.int64)
        return cls(zeros, zeros.copy(), np.empty(0, _POOL_DTYPE))

    @lazy
    def edge_count(self) -> int:
        """Number of live edges."""
        return int(self.count.sum())

    @lazy
    def slot_kinds(self) -> NDArray[np.uint32]:
        """`EdgeKind` flags of the out-edges of each slot, ``(N,)``; 0 where there is none."""
        kinds = np.zeros(len(self.count), np.uint32)
        sources = np.flatnonzero(self.count)
        if len(sources):
            counts = self.count[sources]
            live = ragged_positions(self.start[sources], counts)
            kinds[sources] = np.bitwise_or.reduceat(
                self.pool["kind"][live], np.cumsum(counts) - counts
            )
        return kinds

    def row(self, slot: int) -> NDArray[np.void]:
        """Return the out-edges of one slot as pool records."""
        start = self.start[slot]
        return self.pool[start : start + self.count[slot]]

    def expand(self, slots: Slots) -> tuple[Slots, NDArray[np.void]]:
        """Return the out-edges of many slots.

        Parameters
        ----------
        slots : (M,) int64

        Returns
        -------
        owner : (E,) int64
            Index into ``slots`` of each edge's source.
        edges : (E,) record
            The edges, source after source.
        """
        counts = self.count[slots]
        owner = np.repeat(np.arange(len(slots), dtype=np.int64), counts)
        return owner, self.pool[ragged_positions(self.start[slots], counts)]

    def sources_of(self, targets: Slots) -> Slots:
        """Return the slots that have an edge to any of ``targets``, ascending."""
        sought = np.zeros(len(self.start), np.bool_)
        sought[targets] = True
        live = ragged_positions(self.start, self.count)
        owner = np.repeat(np.arange(len(self.start), dtype=np.int64), self.count)
        return np.unique(owner[sought[self.pool["target"][live]]])

    def patched(
        self, slots: int, sources: Slots, counts: Slots, edges: NDArray[np.void]
    ) -> Adjacency:
        """Return this adjacency with some rows replaced.

        Parameters
        ----------
        slots : int
            Number of slots of the result, at least as many as now.
        sources, counts : (M,) int64
            The rows that change, without repeats, and their new lengths.
        edges : (sum of counts,) record
            Their new edges, with slots as targets.
        """
        start = _grown(self.start, slots)
        count = _grown(self.count, slots)
        start[sources] = len(self.pool) + np.cumsum(counts) - counts
        count[sources] = counts
        filled, in_place = self.filled.claim(len(self.pool), len(edges))
        pool = appended(self.pool, edges, in_place=in_place)
        patched = Adjacency(start, count, pool, filled)
        return patched.packed() if len(pool) > 2 * patched.edge_count + _LITTLE else patched

    def packed(self) -> Adjacency:
        """Return the same edges with the runs in slot order and no dead pool entry."""
        start = np.cumsum(self.count) - self.count
        return Adjacency(start, self.count, self.pool[ragged_positions(self.start, self.count)])

    def renumbered(self, slot_of: Slots) -> Adjacency:
        """Return the adjacency after slots were dropped.

        Parameters
        ----------
        slot_of : (N,) int64
            New slot of each present one, ascending; -1 where it is dropped. Edges to dropped slots
            go.
        """
        kept = np.flatnonzero(slot_of >= 0)
        owner, edges = self.expand(kept)
        edges["target"] = slot_of[edges["target"]]
        alive = edges["target"] >= 0
        count = np.bincount(owner[alive], minlength=len(kept)).astype(np.int64)
        return Adjacency(np.cumsum(count) - count, count, edges[alive])


def pool_records(edges: NDArray[np.void], targets: Slots) -> NDArray[np.void]:
    """Return stored ``EDGE`` records as pool records with slots for targets."""
    pool = np.empty(len(edges), _POOL_DTYPE)
    pool["target"] = targets
    for name in ("weight", "confidence", "use", "kind"):
        pool[name] = edges[name]
    return pool


def strengths(edges: NDArray[np.void]) -> Floats:
    """Return ``weight * confidence`` of each edge, float32."""
    product: Floats = edges["weight"] * edges["confidence"]
    return product


def _grown(array: Slots, size: int) -> Slots:
    grown = np.zeros(size, np.int64)
    grown[: len(array)] = array
    return grown
