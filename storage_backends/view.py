"""The read state of one generation: dense columns by slot, adjacency and seed index.

A view never changes. A commit makes the next one, sharing with it every array that stayed as it
was: new rows go into spare capacity behind the rows that older views can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency, Slots, pool_records
from storage_backends.faiss_index import HnswBase, SeedIndex
from storage_backends.types import EDGE, STATS, Concepts, Contents, Floats, Ids, Records

Scalar = TypeVar("Scalar", bound=np.generic)

_SPARE = 1.5  # growth factor of the columns


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

    @classmethod
    def of(cls, contents: Contents) -> View:
        """Build a view of everything that a store holds."""
        return _EMPTY.advanced(contents)

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

    @property
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
        """Return the view after a change set."""
        view = self._without(changes.deleted) if len(changes.deleted) else self
        if len(changes.concepts):
            view = view._with_concepts(changes.concepts)
        if len(changes.stats_ids):
            stats = view.stats.copy()
            stats[view.slots(changes.stats_ids)] = changes.stats
            view = replace(view, stats=stats)
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
        )

    def _without(self, ids: Ids) -> View:
        alive = self.alive.copy()
        slots = self.slots(ids)
        alive[slots] = False
        none = np.empty(0, self.adjacency.pool.dtype)
        adjacency = self.adjacency.patched(self.size, slots, np.zeros(len(slots), np.int64), none)
        return replace(self, alive=alive, id_map=self.id_map.without(ids), adjacency=adjacency)

    def _with_concepts(self, concepts: Concepts) -> View:
        slots = self.slots(concepts.ids)
        known = slots >= 0
        view = self
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
        if base is not None and not np.array_equal(keys, self.keys[slots]):
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
        view = self if self.node_count else _EMPTY  # an empty memory may change its width
        slots = np.arange(view.size, view.size + count, dtype=np.int64)
        keys, norms = _unit(concepts.keys)
        vectors = view.value_vectors
        if vectors is not None or concepts.value_vectors is not None:
            vectors = _appended(
                _vectors(vectors, view.keys), _vectors(concepts.value_vectors, concepts.keys)
            )
        none = np.empty(0, np.int64)
        return replace(
            view,
            ids=_appended(view.ids, concepts.ids),
            alive=_appended(view.alive, np.ones(count, np.bool_)),
            keys=_appended(view.keys, keys),
            norms=_appended(view.norms, norms),
            value_kinds=_appended(view.value_kinds, concepts.value_kinds),
            value_ids=_appended(view.value_ids, concepts.value_ids),
            value_vectors=vectors,
            stats=_appended(view.stats, concepts.stats),
            id_map=view.id_map.extended(concepts.ids, slots),
            adjacency=view.adjacency.patched(
                view.size + count, none, none, np.empty(0, view.adjacency.pool.dtype)
            ),
        )

    def _with_edges(self, changes: Contents) -> View:
        sources = self.slots(changes.edge_sources)
        records = pool_records(changes.edges, self.slots(changes.edges["target"]))
        adjacency = self.adjacency.patched(self.size, sources, changes.edge_counts, records)
        return replace(self, adjacency=adjacency)


def _unit(keys: Floats) -> tuple[Floats, Floats]:
    norms: Floats = np.linalg.norm(keys, axis=1).astype(np.float32)
    lengths = np.where(norms > 0, norms, np.float32(1))
    unit: Floats = (keys / lengths[:, None]).astype(np.float32)
    return unit, norms


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


def _appended(column: NDArray[Scalar], rows: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return ``column`` with ``rows`` behind it, in its spare capacity where that is free.

    Only the newest view of a column may be extended: the rows behind it belong to nobody else.
    """
    size = len(column) + len(rows)
    spare = column.base
    if (
        isinstance(spare, np.ndarray)
        and spare.dtype == column.dtype
        and spare.shape[1:] == rows.shape[1:]
        and len(spare) >= size
    ):
        buffer = spare
    else:
        buffer = np.empty((int(size * _SPARE) + 64, *rows.shape[1:]), column.dtype)
        if len(column):  # an empty column may have another width
            buffer[: len(column)] = column
    buffer[len(column) : size] = rows
    return buffer[:size]


_EMPTY = View(
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
