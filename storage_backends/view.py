"""The read state of one generation: dense columns by slot, adjacency and seed index.

A view never changes. A commit makes the next one, sharing with it every array that stayed as it
was: new rows go into spare capacity behind the rows that older views can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency, Slots, pool_records
from storage_backends.columns import Filled, Scalar, appended
from storage_backends.errors import StoreCorruptError
from storage_backends.faiss_index import HnswBase, SeedIndex
from storage_backends.lazy import lazy
from storage_backends.types import EDGE, STATS, Concepts, Contents, Floats, Ids, Records

#: A unit key that moved by no more was only written again, not changed.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class IdMap:
    """Slots of concept ids, as two sorted columns."""

    ids: Ids
    slots: Slots

    def find(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where there is none."""
        if not len(self.ids):
            return np.full(np.shape(ids), -1, np.int64)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[place] == ids, self.slots[place], -1)

    def extended(self, ids: Ids, slots: Slots) -> IdMap:
        """Return a map with further ids, none of which it holds."""
        order = np.argsort(ids, kind="stable")
        place = np.searchsorted(self.ids, ids[order])
        return IdMap(
            np.insert(self.ids, place, ids[order]), np.insert(self.slots, place, slots[order])
        )

    def without(self, ids: Ids) -> IdMap:
        """Return a map without some of its ids."""
        kept = ~np.isin(self.ids, ids)
        return IdMap(self.ids[kept], self.slots[kept])


@dataclass(frozen=True)
class View:
    """Everything that a retrieval reads, of one generation.

    Parameters
    ----------
    generation : int
        Commit that this view shows.
    ids : (N,) uint64
        Concept id of each slot.
    alive : (N,) bool
        False where the slot is a tombstone.
    keys : (N, D) float32
        Unit keys (zero vectors stay zero).
    norms : (N,) float32
        Length of the raw keys.
    value_kinds : (N,) uint8
        `ValueKind` of each slot.
    value_ids : (N,) int64
        Integer values.
    value_vectors : (N, D) float32 or None
        Vector values; None while no concept has one.
    stats : (N,) STATS
        Statistics.
    id_map : IdMap
        From id to slot; holds live concepts only.
    adjacency : Adjacency
        Out-edges by slot.
    base : HnswBase or None
        Graph over the first slots, once there are many.
    settings : mapping of name to bytes
        The caller's entries of the ``sys`` table.
    filled : Filled
        How far the buffers behind the columns are taken.
    """

    generation: int
    ids: Ids
    alive: NDArray[np.bool_]
    keys: Floats
    norms: Floats
    value_kinds: NDArray[np.uint8]
    value_ids: NDArray[np.int64]
    value_vectors: Floats | None
    stats: Records
    id_map: IdMap
    adjacency: Adjacency
    base: HnswBase | None
    settings: Mapping[str, bytes]
    filled: Filled = field(default_factory=Filled, repr=False)

    @classmethod
    def of(cls, contents: Contents) -> View:
        """Build a view of everything that a store holds.

        Raises
        ------
        StoreCorruptError
            If an edge leads to a concept that the store does not hold.
        """
        return _nothing().advanced(contents)

    @property
    def size(self) -> int:
        """Number of slots, tombstones included."""
        return len(self.ids)

    @property
    def node_count(self) -> int:
        """Number of live concepts."""
        return len(self.id_map.ids)

    @property
    def edge_count(self) -> int:
        """Number of edges."""
        return self.adjacency.edge_count

    @property
    def vector_dim(self) -> int:
        """Width of the keys; 0 while the memory is empty."""
        return self.keys.shape[1] if self.node_count else 0

    @property
    def dead(self) -> int:
        """Number of tombstones."""
        return self.size - self.node_count

    @lazy
    def index(self) -> SeedIndex:
        """Seed lookup over the live slots."""
        return SeedIndex(self.keys, self.alive if self.dead else None, self.base)

    def slots(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where there is no such concept."""
        return self.id_map.find(ids)

    def edges(self, concept_id: int) -> Records:
        """Return the out-edges of a concept as ``EDGE`` records; none if it does not exist."""
        slot = int(self.slots(np.array([concept_id], np.uint64))[0])
        if slot < 0:
            return np.empty(0, EDGE)
        row = self.adjacency.row(slot)
        edges = np.empty(len(row), EDGE)
        edges["target"] = self.ids[row["target"]]
        for name in ("weight", "confidence", "use", "kind"):
            edges[name] = row[name]
        return edges

    def raw_keys(self, slots: Slots) -> Floats:
        """Return keys with the length that they were stored with, ``(M, D)``."""
        return self.keys[slots] * self.norms[slots, None]

    def advanced(self, changes: Contents) -> View:
        """Return the view after a change set.

        Raises
        ------
        StoreCorruptError
            If the change set speaks of concepts that are neither held nor put by it.
        """
        view = self._without(changes.deleted) if len(changes.deleted) else self
        if len(changes.concepts):
            view = view._with_concepts(changes.concepts)
        if len(changes.stats_ids):
            slots = view._held_slots(changes.stats_ids, "meta")
            view = replace(view, stats=_set(view.stats, slots, changes.stats))
        if len(changes.edge_sources):
            view = view._with_edges(changes)
        return replace(view, generation=changes.generation, settings=dict(changes.settings))

    def compacted(self) -> View:
        """Return an equal view without tombstones; slots change, the graph base is dropped."""
        kept = np.flatnonzero(self.alive)
        slot_of = np.full(self.size, -1, np.int64)
        slot_of[kept] = np.arange(len(kept))
        vectors = self.value_vectors
        return replace(
            self,
            ids=self.ids[kept],
            alive=self.alive[kept],
            keys=self.keys[kept],
            norms=self.norms[kept],
            value_kinds=self.value_kinds[kept],
            value_ids=self.value_ids[kept],
            value_vectors=None if vectors is None else vectors[kept],
            stats=self.stats[kept],
            id_map=IdMap(self.id_map.ids, slot_of[self.id_map.slots]),
            adjacency=self.adjacency.renumbered(slot_of),
            base=None,
            filled=Filled(len(kept)),
        )

    def _held_slots(self, ids: Ids, table: str) -> Slots:
        slots = self.slots(ids)
        if (slots < 0).any():
            raise StoreCorruptError(
                f"{table}: expected concepts that the store holds, got {ids[slots < 0][0]}"
            )
        return slots

    def _without(self, ids: Ids) -> View:
        slots = self._held_slots(ids, "deleted")
        return replace(
            self,
            alive=_set(self.alive, slots, np.zeros(len(slots), np.bool_)),
            id_map=self.id_map.without(ids),
            adjacency=self.adjacency.patched(
                self.size,
                slots,
                np.zeros(len(slots), np.int64),
                np.empty(0, self.adjacency.pool.dtype),
            ),
        )

    def _with_concepts(self, concepts: Concepts) -> View:
        # Only an empty memory takes another width: what stands here in another is all outdated.
        view = self if self.vector_dim == concepts.keys.shape[1] else _nothing()
        slots = view.slots(concepts.ids)
        known = slots >= 0
        if known.any():
            view = view._with_replaced(_rows(concepts, known), slots[known])
        if not known.all():
            view = view._with_added(_rows(concepts, ~known))
        return view

    def _with_replaced(self, concepts: Concepts, slots: Slots) -> View:
        keys, norms = _unit(concepts.keys)
        vectors = self.value_vectors
        if vectors is not None or concepts.value_vectors is not None:
            vectors = _vectors(vectors, self.keys).copy()
            vectors[slots] = _vectors(concepts.value_vectors, concepts.keys)
        base = self.base
        if base is not None:
            covered = slots < base.size
            if not np.allclose(keys[covered], self.keys[slots[covered]], rtol=0, atol=_ROUNDING):
                base = None  # the graph holds the old keys
        return replace(
            self,
            keys=_set(self.keys, slots, keys),
            norms=_set(self.norms, slots, norms),
            value_kinds=_set(self.value_kinds, slots, concepts.value_kinds),
            value_ids=_set(self.value_ids, slots, concepts.value_ids),
            value_vectors=vectors,
            stats=_set(self.stats, slots, concepts.stats),
            base=base,
        )

    def _with_added(self, concepts: Concepts) -> View:
        count = len(concepts)
        slots = np.arange(self.size, self.size + count, dtype=np.int64)
        filled, in_place = self.filled.claim(self.size, count)

        def longer(column: NDArray[Scalar], rows: NDArray[Scalar]) -> NDArray[Scalar]:
            return appended(column, rows, in_place=in_place)

        keys, norms = _unit(concepts.keys)
        vectors = self.value_vectors
        if vectors is not None or concepts.value_vectors is not None:
            vectors = longer(
                _vectors(vectors, self.keys), _vectors(concepts.value_vectors, concepts.keys)
            )
        none = np.empty(0, np.int64)
        no_edges = np.empty(0, self.adjacency.pool.dtype)
        return replace(
            self,
            ids=longer(self.ids, concepts.ids),
            alive=longer(self.alive, np.ones(count, np.bool_)),
            keys=longer(self.keys, keys),
            norms=longer(self.norms, norms),
            value_kinds=longer(self.value_kinds, concepts.value_kinds),
            value_ids=longer(self.value_ids, concepts.value_ids),
            value_vectors=vectors,
            stats=longer(self.stats, concepts.stats),
            id_map=self.id_map.extended(concepts.ids, slots),
            adjacency=self.adjacency.patched(self.size + count, none, none, no_edges),
            filled=filled,
        )

    def _with_edges(self, changes: Contents) -> View:
        sources = self._held_slots(changes.edge_sources, "adjacency")
        targets = self._held_slots(changes.edges["target"], "adjacency")
        records = pool_records(changes.edges, targets)
        adjacency = self.adjacency.patched(self.size, sources, changes.edge_counts, records)
        return replace(self, adjacency=adjacency)


def _unit(keys: Floats) -> tuple[Floats, Floats]:
    # In float64, the squares of very long and very short keys stay in range.
    lengths = np.sqrt(np.einsum("nd,nd->n", keys, keys, dtype=np.float64))
    norms = np.minimum(lengths, np.finfo(np.float32).max).astype(np.float32)
    divisors = np.where(norms > 0, norms, np.float32(1))
    return (keys / divisors[:, None]).astype(np.float32, copy=False), norms


def _rows(concepts: Concepts, chosen: NDArray[np.bool_]) -> Concepts:
    vectors = concepts.value_vectors
    return Concepts(
        concepts.ids[chosen],
        concepts.keys[chosen],
        concepts.value_kinds[chosen],
        concepts.value_ids[chosen],
        None if vectors is None else vectors[chosen],
        concepts.stats[chosen],
    )


def _vectors(vectors: Floats | None, like: Floats) -> Floats:
    return np.zeros(like.shape, np.float32) if vectors is None else vectors


def _set(column: NDArray[Scalar], slots: Slots, rows: NDArray[Scalar]) -> NDArray[Scalar]:
    changed = column.copy()
    changed[slots] = rows
    return changed


def _nothing() -> View:
    return View(
        generation=0,
        ids=np.empty(0, np.uint64),
        alive=np.empty(0, np.bool_),
        keys=np.empty((0, 0), np.float32),
        norms=np.empty(0, np.float32),
        value_kinds=np.empty(0, np.uint8),
        value_ids=np.empty(0, np.int64),
        value_vectors=None,
        stats=np.empty(0, STATS),
        id_map=IdMap(np.empty(0, np.uint64), np.empty(0, np.int64)),
        adjacency=Adjacency.empty(),
        base=None,
        settings={},
    )
