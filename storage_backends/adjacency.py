"""Out-edges of every slot, as arrays that a commit patches without rebuilding.

Each slot has a run in a pool of edges, which are sorted by strength. A changed row is written as a
new run at the pool's end and the slot is pointed at it, so that arrays handed out earlier stay
valid. The first part of the pool may be a mapped file and is never written to; what was added
behind it is rewritten when more than half of it is dead.

The pool is split in two: what spreading reads of an edge stands apart from the rest of it, so that
eight bytes of each edge pass through the cache instead of 24.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Column, Filled, Slots, ragged_positions
from storage_backends.incoming import Incoming
from storage_backends.lazy import lazy
from storage_backends.types import Floats, Records

__all__ = [
    "LEAD",
    "OUT_EDGE",
    "REST",
    "ROW",
    "Adjacency",
    "Rows",
    "Slots",
    "ragged_positions",
    "rows_of_runs",
    "strengths",
]

#: The out-edges of one slot, 24 bytes: where they begin in the pool and how many they are, their
#: `EdgeKind` flags together, the sum of their strengths (rounded up), and the consolidation epoch
#: as of which they are stated. All zero where there is no edge.
ROW = np.dtype(
    [("start", "<i8"), ("count", "<u4"), ("kinds", "<u4"), ("total", "<f4"), ("epoch", "<u4")]
)

#: What spreading reads of an edge, 8 bytes; ``target`` is a slot.
LEAD = np.dtype([("target", "<u4"), ("strength", "<f4")])

#: The rest of an edge, 16 bytes.
REST = np.dtype([("weight", "<f4"), ("confidence", "<f4"), ("use", "<u4"), ("kind", "<u4")])

#: One edge put together; ``target`` is a slot.
OUT_EDGE = np.dtype(
    [("target", "<i8"), *((name, REST[name]) for name in REST.names or ()), ("strength", "<f4")]
)

#: Dead edges that are not worth rewriting the pool for.
_LITTLE = 1024


@dataclass(frozen=True)
class Rows:
    """New rows of some slots.

    Parameters
    ----------
    sources, counts : (M,) int64
        The slots, without repeats, and how many out-edges each has now.
    edges : (sum of counts,) EDGE
        The edges, source after source, in any order within one.
    targets : (sum of counts,) int64
        Their targets as slots.
    epochs : (M,) uint32
        Consolidation epoch as of which each row is stated.
    """

    sources: Slots
    counts: Slots
    edges: Records
    targets: Slots
    epochs: NDArray[np.uint32]


@dataclass(frozen=True)
class Adjacency:
    """Out-edges of ``N`` slots.

    Parameters
    ----------
    rows : column of (N,) ROW
        The run of each slot in the pool, and what its edges have in common.
    leads : column of (P,) LEAD
        The pool: each run from the strongest edge to the weakest, of equal ones the lowest concept
        id first. The runs in its base, if it has one, are those of the base of ``rows``, in slot
        order, without gaps.
    rest : column of (P,) REST
        What else there is of the same edges.
    owners : column of (T,) uint32
        Sources of the edges in the pool's tail, dead ones included.
    incoming : Incoming
        Sources of the edges in the pool's base and of some in its tail.
    edge_count : int
        Number of live edges.
    in_tail : int
        How many of them are in the pool's tail.
    filled : Filled
        How far the buffers behind the pool are taken.
    """

    rows: Column[np.void]
    leads: Column[np.void]
    rest: Column[np.void]
    owners: Column[np.uint32]
    incoming: Incoming = field(default_factory=Incoming, repr=False)
    edge_count: int = 0
    in_tail: int = 0
    filled: Filled = field(default_factory=Filled, repr=False)

    @classmethod
    def empty(cls, slots: int = 0) -> Adjacency:
        """Return an adjacency of ``slots`` slots and no edge."""
        none = np.empty(0, np.uint32)
        return cls.of(np.zeros(slots, ROW), np.empty(0, LEAD), np.empty(0, REST), none)

    @classmethod
    def of(
        cls,
        rows: NDArray[np.void],
        leads: NDArray[np.void],
        rest: NDArray[np.void],
        owners: NDArray[np.uint32],
    ) -> Adjacency:
        """Return an adjacency whose pool is all tail, and all alive."""
        return cls(
            Column.of(rows),
            Column.of(leads),
            Column.of(rest),
            Column.of(owners),
            edge_count=len(leads),
            in_tail=len(leads),
            filled=Filled(len(leads)),
        )

    @property
    def size(self) -> int:
        """Number of slots."""
        return len(self.rows)

    def counts(self, slots: Slots) -> Slots:
        """Return how many out-edges some slots have."""
        counts: Slots = self.rows.field("count")[slots].astype(np.int64)
        return counts

    def kinds(self, slots: Slots) -> NDArray[np.uint32]:
        """Return the `EdgeKind` flags of the out-edges of some slots; 0 where there is none."""
        return self.rows.field("kinds")[slots]

    def epochs(self, slots: Slots) -> NDArray[np.uint32]:
        """Return as of which epoch some rows are stated; 0 where there is no edge."""
        return self.rows.field("epoch")[slots]

    def row(self, slot: int) -> NDArray[np.void]:
        """Return the out-edges of one slot as ``OUT_EDGE`` records, the strongest first."""
        row = self.rows[slot]
        start = int(row["start"])
        end = start + int(row["count"])
        return _joined(self.leads.part(start, end), self.rest.part(start, end))

    def positions(self, slots: Slots) -> tuple[Slots, Slots]:
        """Return where the out-edges of many slots are in the pool.

        Returns
        -------
        owner : (E,) int64
            Index into ``slots`` of each edge's source.
        positions : (E,) int64
            Source after source, the strongest edge first.
        """
        rows = self.rows[slots]
        counts = rows["count"].astype(np.int64)
        owner = np.repeat(np.arange(len(slots), dtype=np.int64), counts)
        return owner, ragged_positions(rows["start"], counts)

    def expand(self, slots: Slots) -> tuple[Slots, NDArray[np.void]]:
        """Return the out-edges of many slots.

        Parameters
        ----------
        slots : (M,) int64

        Returns
        -------
        owner : (E,) int64
            Index into ``slots`` of each edge's source.
        edges : (E,) OUT_EDGE
            The edges, source after source, the strongest first.
        """
        owner, positions = self.positions(slots)
        return owner, _joined(self.leads[positions], self.rest[positions])

    def sources_of(self, targets: Slots) -> Slots:
        """Return the slots that have an edge to any of ``targets``, ascending."""
        sources = self._all_incoming.sources_of(targets)
        owner, positions = self.positions(sources)
        leading = np.isin(self.leads[positions]["target"], targets)
        return sources[np.unique(owner[leading])]

    @lazy
    def _all_incoming(self) -> Incoming:
        """Sources of all edges."""
        known = self.incoming
        tail = self.leads.tail["target"][known.covered :]
        return known.extended(tail, self.owners.tail[known.covered :])

    def longer(self, slots: int, *, in_place: bool = False) -> Adjacency:
        """Return this adjacency with further slots, which have no edges.

        Parameters
        ----------
        slots : int
            Number of slots of the result, at least as many as now.
        in_place : bool
            Whether the spare rows behind ``rows``, if there are any, belong to the caller.
        """
        more = np.zeros(slots - self.size, ROW)
        return (
            replace(self, rows=self.rows.appended(more, in_place=in_place)) if len(more) else self
        )

    def patched(self, rows: Rows) -> Adjacency:
        """Return this adjacency with some rows replaced."""
        if not len(rows.sources):
            return self
        order = _order(rows)
        leads, rest = _parted(rows.edges[order], rows.targets[order])
        owners = np.repeat(rows.sources, rows.counts).astype(np.uint32)
        was = self.rows[rows.sources]
        late = was["start"] >= self.leads.base_size
        filled, in_place = self.filled.claim(len(self.leads), len(leads))
        new = rows_of_runs(rows.counts, leads["strength"], rest["kind"], rows.epochs)
        new["start"][rows.counts > 0] += len(self.leads)
        patched = self._with(
            rows=self.rows.replaced(rows.sources, new),
            leads=self.leads.appended(leads, in_place=in_place),
            rest=self.rest.appended(rest, in_place=in_place),
            owners=self.owners.appended(owners, in_place=in_place),
            edge_count=self.edge_count - int(was["count"].sum()) + len(leads),
            in_tail=self.in_tail - int(was["count"][late].sum()) + len(leads),
            filled=filled,
        )
        wasteful = len(patched.leads.tail) > 2 * patched.in_tail + _LITTLE
        return patched.packed() if wasteful else patched

    def without(self, sources: Slots) -> Adjacency:
        """Return this adjacency without the out-edges of some slots."""
        was = self.rows[sources]
        having = was["count"] > 0
        sources, was = sources[having], was[having]
        if not len(sources):
            return self
        late = was["start"] >= self.leads.base_size
        return self._with(
            rows=self.rows.replaced(sources, np.zeros(len(sources), ROW)),
            edge_count=self.edge_count - int(was["count"].sum()),
            in_tail=self.in_tail - int(was["count"][late].sum()),
        )

    def restated(self, slots: Slots, epochs: NDArray[np.uint32]) -> Adjacency:
        """Return this adjacency with some rows stated as of another epoch, where they have edges.

        Parameters
        ----------
        slots : (M,) int64
            Without repeats.
        epochs : (M,) uint32
        """
        rows = self.rows[slots]
        changed = (rows["count"] > 0) & (rows["epoch"] != epochs)
        if not changed.any():
            return self
        rows = rows[changed]
        rows["epoch"] = epochs[changed]
        return self._with(rows=self.rows.replaced(slots[changed], rows))

    def _with(self, **changes: Any) -> Adjacency:
        """Return this adjacency with some fields replaced, and all that is known of sources."""
        known = self.__dict__.get("_all_incoming", self.incoming)
        return replace(self, incoming=known, **changes)

    def _in_tail(self) -> Slots:
        """Return the slots whose runs are in the pool's tail, ascending."""
        size, rows = self.leads.base_size, self.rows
        changed = rows.changed[(rows.rows["start"] >= size) & (rows.rows["count"] > 0)]
        behind = np.flatnonzero((rows.tail["start"] >= size) & (rows.tail["count"] > 0))
        return np.concatenate([changed, behind + rows.base_size])

    def packed(self) -> Adjacency:
        """Return the same edges without dead ones in the pool's tail."""
        slots, size = self._in_tail(), self.leads.base_size
        owner, positions = self.positions(slots)
        rows = self.rows[slots]
        rows["start"] = size + np.cumsum(rows["count"], dtype=np.int64) - rows["count"]
        return replace(
            self,
            rows=self.rows.replaced(slots, rows),
            leads=replace(self.leads, tail=self.leads[positions]),
            rest=replace(self.rest, tail=self.rest[positions]),
            owners=Column.of(slots[owner].astype(np.uint32)),
            incoming=self.incoming.restarted(),
            filled=Filled(size + len(positions)),
        )

    def renumbered(self, slot_of: Slots) -> Adjacency:
        """Return the adjacency after slots were dropped or have changed places.

        Parameters
        ----------
        slot_of : (N,) int64
            New slot of each present one; -1 where it is dropped. Edges to dropped slots go.
        """
        kept = np.flatnonzero(slot_of >= 0)
        kept = kept[np.argsort(slot_of[kept])]
        owner, positions = self.positions(kept)
        leads = self.leads[positions]
        targets = slot_of[leads["target"]]
        alive = targets >= 0
        owner, leads = owner[alive], leads[alive]
        leads["target"] = targets[alive]
        rest = self.rest[positions[alive]]
        counts = np.bincount(owner, minlength=len(kept)).astype(np.int64)
        rows = rows_of_runs(counts, leads["strength"], rest["kind"], self.epochs(kept))
        return Adjacency.of(rows, leads, rest, owner.astype(np.uint32))


def strengths(edges: NDArray[np.void]) -> Floats:
    """Return ``weight * confidence`` of each edge, float32."""
    product: Floats = edges["weight"] * edges["confidence"]
    return product


def _joined(leads: NDArray[np.void], rest: NDArray[np.void]) -> NDArray[np.void]:
    edges = np.empty(len(leads), OUT_EDGE)
    for part in (leads, rest):
        for name in part.dtype.names or ():
            edges[name] = part[name]
    return edges


def _parted(edges: Records, targets: Slots) -> tuple[NDArray[np.void], NDArray[np.void]]:
    leads, rest = np.empty(len(edges), LEAD), np.empty(len(edges), REST)
    leads["target"], leads["strength"] = targets, strengths(edges)
    for name in REST.names or ():
        rest[name] = edges[name]
    return leads, rest


def _order(rows: Rows) -> Slots:
    """Return the order of edges: row after row, strongest first, of equal ones the lowest id."""
    owner = np.repeat(np.arange(len(rows.sources), dtype=np.uint64), rows.counts)
    # Row and strength in one number: such numbers ascend from row to row, and are then sorted much
    # faster than row, strength and id one after another.
    key = owner << np.uint64(32) | _descending(strengths(rows.edges))
    order = np.argsort(key, kind="stable")
    key, ids = key[order], rows.edges["target"][order]
    again = key[1:] == key[:-1]
    if (again & (ids[1:] < ids[:-1])).any():
        tied = np.zeros(len(key), np.bool_)
        tied[1:] |= again
        tied[:-1] |= again
        places = np.flatnonzero(tied)
        order[places] = order[places][np.lexsort((ids[places], key[places]))]
    return order


def _descending(values: Floats) -> NDArray[np.uint64]:
    """Return numbers below 2**32 that ascend where the values descend."""
    bits = (values + np.float32(0)).view(np.int32)  # of -0.0 it makes 0.0
    ordered = np.where(bits < 0, bits, ~bits & np.int32(0x7FFFFFFF))
    return ordered.view(np.uint32).astype(np.uint64)


def rows_of_runs(
    counts: Slots, strength: Floats, kind: NDArray[np.uint32], epochs: NDArray[np.uint32]
) -> NDArray[np.void]:
    """Return the rows of edges that stand one after another from the pool's start.

    Parameters
    ----------
    counts : (N,) int64
        How many edges each slot has.
    strength : (E,) float32
        Of the edges, source after source.
    kind : (E,) uint32
        Their `EdgeKind` flags.
    epochs : (N,) uint32
        Consolidation epoch as of which each row is stated.

    Returns
    -------
    (N,) ROW
    """
    rows = np.zeros(len(counts), ROW)
    having = np.flatnonzero(counts)
    if not len(having):
        return rows
    start = (np.cumsum(counts) - counts)[having]
    owner = np.repeat(np.arange(len(counts)), counts)
    rows["start"][having], rows["count"] = start, counts
    rows["kinds"][having] = np.bitwise_or.reduceat(kind, start)
    totals = np.bincount(owner, strength.astype(np.float64), len(counts))
    rows["total"] = _rounded_up(totals.astype(np.float64, copy=False))
    rows["epoch"][having] = epochs[having]
    return rows


def _rounded_up(totals: NDArray[np.float64]) -> Floats:
    """Return the least float32 numbers that are no smaller."""
    with np.errstate(over="ignore"):
        rounded: Floats = totals.astype(np.float32)
        return np.where(rounded < totals, np.nextafter(rounded, np.float32(np.inf)), rounded)
