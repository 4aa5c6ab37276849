"""Out-edges of every slot, as arrays that a commit patches without rebuilding.

Each slot has a run in a pool of edges. A changed row is written as a new run at the pool's end
and the slot is pointed at it, so that arrays handed out earlier stay valid. The first part of the
pool may be a mapped file and is never written to; what was added behind it is rewritten when more
than half of it is dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Column, Filled, Slots
from storage_backends.types import Floats

__all__ = ["POOL", "Adjacency", "Slots", "pool_records", "ragged_positions", "strengths"]

#: One edge of the pool, 24 bytes; ``target`` is a slot.
POOL = np.dtype(
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

#: Edges of a mapped pool that are looked through at a time.
_CHUNK = 1 << 20


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
    start, count : column of (N,) int64
        The run of each slot in the pool.
    kinds : column of (N,) uint32
        `EdgeKind` flags of the out-edges of each slot; 0 where there is none.
    pool : column of (P,) record
        ``target`` (slot), ``weight``, ``confidence``, ``use``, ``kind``. The runs in its base, if
        it has one, are those of the bases of ``start`` and ``count``, in slot order, without gaps.
    edge_count : int
        Number of live edges.
    in_tail : int
        How many of them are in the pool's tail.
    filled : Filled
        How far the buffer behind the pool is taken.
    """

    start: Column[np.int64]
    count: Column[np.int64]
    kinds: Column[np.uint32]
    pool: Column[np.void]
    edge_count: int = 0
    in_tail: int = 0
    filled: Filled = field(default_factory=Filled, repr=False)

    @classmethod
    def empty(cls, slots: int = 0) -> Adjacency:
        """Return an adjacency of ``slots`` slots and no edge."""
        none = np.empty(0, POOL)
        return cls.of(np.zeros(slots, np.int64), np.zeros(slots, np.uint32), none)

    @classmethod
    def of(cls, count: Slots, kinds: NDArray[np.uint32], pool: NDArray[np.void]) -> Adjacency:
        """Return an adjacency whose runs stand in the pool in slot order, without gaps."""
        start = np.cumsum(count) - count
        columns = Column.of(start), Column.of(count), Column.of(kinds), Column.of(pool)
        return cls(*columns, len(pool), len(pool), Filled(len(pool)))

    @property
    def size(self) -> int:
        """Number of slots."""
        return len(self.start)

    def row(self, slot: int) -> NDArray[np.void]:
        """Return the out-edges of one slot as pool records."""
        start = int(self.start[slot])
        return self.pool.part(start, start + int(self.count[slot]))

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
        """Return the slots that have an edge to any of ``targets``, ascending.

        All edges are looked through.
        """
        sought = np.zeros(self.size, np.bool_)
        sought[targets] = True
        late = self._in_tail()
        owner, edges = self.expand(late)
        found = np.concatenate(
            [self._base_sources_of(sought), late[owner[sought[edges["target"]]]]]
        )
        return np.unique(found)

    def _base_sources_of(self, sought: NDArray[np.bool_]) -> Slots:
        """Return the slots whose runs are in the pool's base and lead to what is sought."""
        if self.pool.base is None or self.start.base is None:
            return np.empty(0, np.int64)
        found = []
        for begin in range(0, self.pool.base_size, _CHUNK):
            hits = np.flatnonzero(sought[self.pool.base[begin : begin + _CHUNK]["target"]]) + begin
            # Of slots that start at the same position, the last is the one that has edges.
            found.append(np.searchsorted(self.start.base[:], hits, side="right") - 1)
        slots = np.unique(np.concatenate(found))
        unchanged: Slots = slots[self.start[slots] == self.start.base[slots]]
        return unchanged

    def _in_tail(self) -> Slots:
        """Return the slots whose runs are in the pool's tail, ascending."""
        size, start = self.pool.base_size, self.start
        behind = np.flatnonzero(start.tail >= size) + start.base_size
        slots = np.concatenate([start.changed[start.rows >= size], behind])
        return slots[self.count[slots] > 0]

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
        longer = self._with_slots(slots)
        if not len(sources):
            return longer
        was = longer.count[sources]
        lost = int(was.sum())
        lost_tail = int(was[longer.start[sources] >= self.pool.base_size].sum())
        filled, in_place = self.filled.claim(len(self.pool), len(edges))
        patched = Adjacency(
            longer.start.replaced(sources, len(self.pool) + np.cumsum(counts) - counts),
            longer.count.replaced(sources, counts),
            longer.kinds.replaced(sources, _kinds(counts, edges)),
            self.pool.appended(edges, in_place=in_place),
            self.edge_count - lost + len(edges),
            self.in_tail - lost_tail + len(edges),
            filled,
        )
        wasteful = len(patched.pool.tail) > 2 * patched.in_tail + _LITTLE
        return patched.packed() if wasteful else patched

    def _with_slots(self, slots: int) -> Adjacency:
        more = slots - self.size
        if not more:
            return self
        zeros = np.zeros(more, np.int64)
        return replace(
            self,
            start=self.start.appended(zeros, in_place=False),
            count=self.count.appended(zeros, in_place=False),
            kinds=self.kinds.appended(zeros.astype(np.uint32), in_place=False),
        )

    def packed(self) -> Adjacency:
        """Return the same edges without dead ones in the pool's tail."""
        slots, size = self._in_tail(), self.pool.base_size
        counts = self.count[slots]
        tail = self.pool[ragged_positions(self.start[slots], counts)]
        return replace(
            self,
            start=self.start.replaced(slots, size + np.cumsum(counts) - counts),
            pool=replace(self.pool, tail=tail),
            filled=Filled(size + len(tail)),
        )

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
        return Adjacency.of(count, _kinds(count, edges[alive]), edges[alive])


def pool_records(edges: NDArray[np.void], targets: Slots) -> NDArray[np.void]:
    """Return stored ``EDGE`` records as pool records with slots for targets."""
    pool = np.empty(len(edges), POOL)
    pool["target"] = targets
    for name in ("weight", "confidence", "use", "kind"):
        pool[name] = edges[name]
    return pool


def strengths(edges: NDArray[np.void]) -> Floats:
    """Return ``weight * confidence`` of each edge, float32."""
    product: Floats = edges["weight"] * edges["confidence"]
    return product


def _kinds(counts: Slots, edges: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the flags of the edges of each row together."""
    kinds = np.zeros(len(counts), np.uint32)
    rows = np.flatnonzero(counts)
    if len(rows):
        first = (np.cumsum(counts) - counts)[rows]
        kinds[rows] = np.bitwise_or.reduceat(edges["kind"], first)
    return kinds
