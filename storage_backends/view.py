"""The read state of one generation: dense columns by slot, adjacency and seed index.

A view never changes. A commit makes the next one, sharing with it every array that stayed as it
was: new rows go into spare capacity behind the rows that older views can see. A view that was
opened from a snapshot stands on mapped arrays, and what a commit costs depends on how much has
changed since the snapshot, not on the size of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_backends import flat_columns
from storage_backends.adjacency import REST, Adjacency, Rows
from storage_backends.columns import Column, Filled, Scalar, Slots
from storage_backends.errors import StoreCorruptError
from storage_backends.faiss_index import SeedIndex
from storage_backends.hnsw import HnswBase
from storage_backends.id_map import IdMap, SortedIds
from storage_backends.lazy import lazy
from storage_backends.types import EDGE, STATS, Concepts, Contents, Floats, Ids, Records

#: A unit key that moved by no more was only written again, not changed.
_ROUNDING = 1e-6

_NO_SLOTS: Slots = np.empty(0, np.int64)


@dataclass(frozen=True)
class View:
    """Everything that a retrieval reads, of one generation.

    Parameters
    ----------
    generation : int
        Commit that this view shows.
    ids : column of (N,) uint64
        Concept id of each slot.
    alive : column of (N,) bool
        False where the slot is a tombstone.
    keys : column of (N, D) float32
        Unit keys (zero vectors stay zero).
    norms : column of (N,) float32
        Length of the raw keys.
    value_kinds : column of (N,) uint8
        `ValueKind` of each slot.
    value_ids : column of (N,) int64
        Integer values.
    value_vectors : column of (N, D) float32 or None
        Vector values; None while no concept has one.
    stats : column of (N,) STATS
        Statistics.
    regions : column of (N,) uint32
        Their ``region`` once more. What changes other statistics shares this column.
    id_map : IdMap
        From id to slot; tombstones may be in it.
    adjacency : Adjacency
        Out-edges by slot.
    base : HnswBase or None
        Graph over the first slots, once there are many.
    settings : mapping of name to bytes
        The caller's entries of the ``sys`` table.
    node_count : int
        Number of live concepts.
    moved : (M,) int64
        Slots of the graph that have another key than it was built from, ascending.
    filled : Filled
        How far the buffers behind the columns are taken.
    """

    generation: int
    ids: Column[np.uint64]
    alive: Column[np.bool_]
    keys: Column[np.float32]
    norms: Column[np.float32]
    value_kinds: Column[np.uint8]
    value_ids: Column[np.int64]
    value_vectors: Column[np.float32] | None
    stats: Column[np.void]
    regions: Column[np.uint32]
    id_map: IdMap
    adjacency: Adjacency
    base: HnswBase | None
    settings: Mapping[str, bytes]
    node_count: int = 0
    moved: Slots = field(default_factory=lambda: _NO_SLOTS, repr=False)
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

    @classmethod
    def of_columns(
        cls,
        columns: Mapping[str, NDArray[Any]],
        generation: int,
        settings: Mapping[str, bytes],
        base: HnswBase | None,
    ) -> View:
        """Build a view over what `columns` returned, without reading it.

        Parameters
        ----------
        columns : mapping of name to array
            Kept, and never written to.
        generation : int
            Commit that they show.
        settings : mapping of name to bytes
            As in `View`.
        base : HnswBase or None
            The graph that the view had whose columns they are, or that graph read from a file.

        Raises
        ------
        StoreCorruptError
            If the columns are not those of one view.
        """
        parts = flat_columns.parts_of(columns)
        return cls(generation=generation, settings=dict(settings), base=base, **parts)

    def columns(self) -> dict[str, flat_columns.Rows]:
        """Return all that the view shows, but for the settings.

        Slots stay what they are, tombstones included. A column whose rows are all the same has one
        row only. The longest columns are not copied: they are given part by part.
        """
        columns = {name: getattr(self, name) for name in flat_columns.COLUMNS if name != "ids"}
        return flat_columns.columns_of(
            self.ids, columns, self.adjacency, self.moved, self.node_count
        )

    @property
    def size(self) -> int:
        """Number of slots, tombstones included."""
        return len(self.ids)

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
    def greatest_id(self) -> int:
        """Greatest id of a live concept; 0 where there is none."""
        return self.id_map.greatest(self.alive)

    @property
    def uncovered(self) -> int:
        """Number of live slots that the graph does not answer for."""
        return self.index.uncovered

    @property
    def outside(self) -> int:
        """Number of slots that were added or changed since the columns were plain arrays."""
        columns = (self.alive, self.keys, self.stats, self.adjacency.rows)
        changed = np.concatenate([column.changed for column in columns])
        changed = np.sort(changed, kind="stable")  # a few ascending runs: merged in linear time
        again = np.count_nonzero(changed[1:] == changed[:-1])
        return len(self.ids.tail) + len(changed) - int(again)

    @lazy
    def index(self) -> SeedIndex:
        """Seed lookup over the live slots."""
        return SeedIndex(self.keys, self.alive if self.dead else None, self.base, self.moved)

    def slots(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where there is no such concept."""
        slots = self.id_map.find(ids)
        if self.dead and self.size:
            slots = np.where(self.alive[slots], slots, -1)
        return slots

    def edges(self, concept_id: int) -> Records:
        """Return the out-edges of a concept as ``EDGE`` records; none if it does not exist.

        They are stated as of its `edge_epochs`: the strongest first, of equals the lowest id.
        """
        slot = int(self.slots(np.array([concept_id], np.uint64))[0])
        return np.empty(0, EDGE) if slot < 0 else self._named(self.adjacency.row(slot))

    def out_edges(self, slots: Slots) -> tuple[Slots, Records]:
        """Return the out-edges of some slots, and the place in ``slots`` of each one's source."""
        owner, edges = self.adjacency.expand(slots)
        return owner, self._named(edges)

    def rows_of(self, slots: Slots) -> list[Records]:
        """Return the out-edges of each of some slots, as `edges` does of one concept."""
        owner, edges = self.out_edges(slots)
        bounds = np.searchsorted(owner, np.arange(1, len(slots)))
        return np.split(edges, bounds) if len(slots) else []

    def _named(self, edges: NDArray[np.void]) -> Records:
        """Return edges to slots as edges to concepts."""
        named = np.empty(len(edges), EDGE)
        named["target"] = self.ids[edges["target"]]
        for name in REST.names or ():
            named[name] = edges[name]
        return named

    def edge_epochs(self, slots: Slots) -> NDArray[np.uint32]:
        """Return as of which consolidation epoch the out-edges of slots are stated, ``(M,)``.

        0 where there is no edge.
        """
        return self.adjacency.epochs(slots)

    def raw_keys(self, slots: Slots) -> Floats:
        """Return keys with the length that they were stored with, ``(M, D)``."""
        return self.keys[slots] * self.norms[slots][:, None]

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
            view = replace(
                view,
                stats=view.stats.replaced(slots, changes.stats),
                regions=_regions(view.regions, slots, changes.stats),
            )
        if len(changes.edge_sources):
            view = view._with_edges(changes)
        if view.edge_count:
            view = view._with_epochs(np.concatenate([changes.concepts.ids, changes.stats_ids]))
        return replace(view, generation=changes.generation, settings=dict(changes.settings))

    def compacted(self) -> View:
        """Return an equal view without tombstones; slots change, the graph base is dropped."""
        return self._of_slots(np.flatnonzero(self.alive.whole()))

    def arranged(self) -> View:
        """Return an equal view without tombstones whose slots are in the order of the ids.

        That is the order in which a view of records has them. The graph base is dropped.
        """
        ids = self.ids.whole()
        if not self.dead and bool((ids[1:] > ids[:-1]).all()):
            return self
        kept = np.flatnonzero(self.alive.whole())
        return self._of_slots(kept[np.argsort(ids[kept])])

    def _of_slots(self, kept: Slots) -> View:
        """Return a view that has some slots, in this order, and no graph base."""
        slot_of = np.full(self.size, -1, np.int64)
        slot_of[kept] = np.arange(len(kept))
        columns: dict[str, Any] = {}
        for name in flat_columns.COLUMNS:
            column = getattr(self, name)
            columns[name] = None if column is None else Column.of(column[kept])
        columns["regions"] = Column.of(self.regions[kept])
        return replace(
            self,
            **columns,
            id_map=IdMap(SortedIds.of(self.ids[kept])),
            adjacency=self.adjacency.renumbered(slot_of),
            base=None,
            moved=_NO_SLOTS,
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
            alive=self.alive.replaced(slots, np.zeros(len(slots), np.bool_)),
            adjacency=self.adjacency.without(slots),
            node_count=self.node_count - len(slots),
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
            rows = _vectors(concepts.value_vectors, concepts.keys)
            vectors = (_zeros_like(self.keys) if vectors is None else vectors).replaced(slots, rows)
        return replace(
            self,
            keys=self.keys.replaced(slots, keys),
            norms=self.norms.replaced(slots, norms),
            value_kinds=self.value_kinds.replaced(slots, concepts.value_kinds),
            value_ids=self.value_ids.replaced(slots, concepts.value_ids),
            value_vectors=vectors,
            stats=self.stats.replaced(slots, concepts.stats),
            regions=_regions(self.regions, slots, concepts.stats),
            moved=self._moved_with(slots, keys),
        )

    def _moved_with(self, slots: Slots, keys: Floats) -> Slots:
        """Return the slots of the graph whose keys have moved, once some have new keys."""
        covered = slots < (0 if self.base is None else self.base.size)
        slots, keys = slots[covered], keys[covered]
        far = (np.abs(keys - self.keys[slots]) > _ROUNDING).any(axis=1)
        return np.union1d(self.moved, slots[far]) if far.any() else self.moved

    def _with_added(self, concepts: Concepts) -> View:
        count = len(concepts)
        slots = np.arange(self.size, self.size + count, dtype=np.int64)
        filled, in_place = self.filled.claim(self.size, count)

        def longer(column: Column[Scalar], rows: NDArray[Scalar]) -> Column[Scalar]:
            return column.appended(rows, in_place=in_place)

        keys, norms = _unit(concepts.keys)
        vectors = self.value_vectors
        if vectors is not None or concepts.value_vectors is not None:
            vectors = longer(
                _zeros_like(self.keys) if vectors is None else vectors,
                _vectors(concepts.value_vectors, concepts.keys),
            )
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
            regions=longer(self.regions, concepts.stats["region"]),
            id_map=self.id_map.extended(concepts.ids, slots),
            adjacency=self.adjacency.longer(self.size + count, in_place=in_place),
            node_count=self.node_count + count,
            filled=filled,
        )

    def _with_edges(self, changes: Contents) -> View:
        sources = self._held_slots(changes.edge_sources, "adjacency")
        targets = self._held_slots(changes.edges["target"], "adjacency")
        epochs = self.stats.field("edge_epoch")[sources]
        rows = Rows(sources, changes.edge_counts, changes.edges, targets, epochs)
        return replace(self, adjacency=self.adjacency.patched(rows))

    def _with_epochs(self, ids: Ids) -> View:
        """Return the view whose rows are stated as of what the statistics of some ids say."""
        slots = self.slots(ids)
        epochs = self.stats.field("edge_epoch")[slots]
        return replace(self, adjacency=self.adjacency.restated(slots, epochs))


def _regions(regions: Column[np.uint32], slots: Slots, stats: Records) -> Column[np.uint32]:
    """Return regions as new statistics have them, replaced only where they are others."""
    other = stats["region"] != regions[slots]
    return regions.replaced(slots[other], stats["region"][other]) if other.any() else regions


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


def _zeros_like(keys: Column[np.float32]) -> Column[np.float32]:
    width = keys.shape[1]
    base = np.broadcast_to(np.zeros(width, np.float32), (keys.base_size, width))
    return replace(Column.over(base), tail=np.zeros(keys.tail.shape, np.float32))


def _nothing() -> View:
    return View(
        generation=0,
        ids=Column.of(np.empty(0, np.uint64)),
        alive=Column.of(np.empty(0, np.bool_)),
        keys=Column.of(np.empty((0, 0), np.float32)),
        norms=Column.of(np.empty(0, np.float32)),
        value_kinds=Column.of(np.empty(0, np.uint8)),
        value_ids=Column.of(np.empty(0, np.int64)),
        value_vectors=None,
        stats=Column.of(np.empty(0, STATS)),
        regions=Column.of(np.empty(0, np.uint32)),
        id_map=IdMap(SortedIds(np.empty(0, np.uint64))),
        adjacency=Adjacency.empty(),
        base=None,
        settings={},
    )
