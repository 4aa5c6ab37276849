"""A change of the graph in the making: what a `WriteBatch` will say, readable as it grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import ids_of
from aesg.graph.clock import Clock, microseconds
from aesg.graph.consolidation import edge_ages
from aesg.graph.edges import weakened
from aesg.graph.out_edges import OutEdges
from storage_backends.columns import Slots
from storage_backends.types import (
    EVENT,
    STATS,
    Concepts,
    EventType,
    Ids,
    Records,
    WriteBatch,
)
from storage_backends.view import View


class Draft:
    """Changes over a view, each readable as soon as it is made.

    Parameters
    ----------
    view : View
        The graph before them.
    clock : Clock
        States the present epoch; it is not moved.
    now : int, optional
        Unix microseconds; without it the time of day.
    """

    def __init__(self, view: View, clock: Clock, now: int | None = None) -> None:
        self.view = view
        self.clock = clock
        self.now = microseconds() if now is None else now
        self._next_id = clock.next_id
        self._deleted: dict[int, None] = {}
        self._concepts: list[Concepts] = []
        self._stats: list[tuple[Ids, Records]] = []
        self._rows: dict[int, Records] = {}
        self._payloads: dict[int, bytes] = {}
        self._aliases: dict[int, int] = {}
        self._events: list[tuple[int, int, int, int, float]] = []

    def new_id(self) -> int:
        """Return an id that was never given.

        Whoever commits the batch moves ``clock.next_id`` beyond the ids that it puts.
        """
        self._next_id += 1
        return self._next_id - 1

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which of some concepts there are after the changes so far."""
        held = (self.view.slots(ids) >= 0) | np.isin(ids, self._put_ids())
        lasting: NDArray[np.bool_] = held & ~np.isin(ids, ids_of(self._deleted))
        return lasting

    def row(self, concept_id: int) -> Records:
        """Return the out-edges of a concept as of the present epoch, ``(M,)`` EDGE.

        They may lead to concepts that were deleted; `Engine.commit` removes such edges.
        """
        put = self._rows.get(concept_id)
        return self.rows(np.array([concept_id], np.uint64)).edges if put is None else put.copy()

    def rows(self, ids: Ids) -> OutEdges:
        """Return the out-edges of many concepts, as `row` does of one."""
        if not self._rows.keys().isdisjoint(ids.tolist()):
            return OutEdges.of([self.row(concept_id) for concept_id in ids.tolist()])
        held = np.flatnonzero((self.view.slots(ids) >= 0) & ~np.isin(ids, ids_of(self._deleted)))
        slots = self.view.slots(ids[held])
        owner, edges = self.view.out_edges(slots)
        ages = edge_ages(self.view, slots, self.clock.epoch)
        return OutEdges(len(ids), held[owner], weakened(edges, ages[owner]))

    def put_row(self, concept_id: int, row: Records) -> None:
        """Give a concept other out-edges, stated as of the present epoch."""
        self._rows[concept_id] = row

    def put_rows(self, ids: Ids, rows: OutEdges) -> None:
        """Give many concepts other out-edges, as `put_row` does one."""
        self._rows.update(zip(ids.tolist(), rows.split(), strict=True))

    def put_stats(self, ids: Ids, records: Records) -> None:
        """Give concepts other statistics; ``edge_epoch`` follows from their rows."""
        self._stats.append((ids, records.copy()))

    def put_concepts(self, concepts: Concepts) -> None:
        """Put new concepts, or replace present ones whole; their payloads and edges stay."""
        self._concepts.append(concepts)
        self.put_stats(concepts.ids, concepts.stats)

    def delete(self, concept_id: int) -> None:
        """Remove a concept, with whatever else the draft says of it."""
        self._deleted[concept_id] = None
        self._rows.pop(concept_id, None)
        self._payloads.pop(concept_id, None)

    def alias(self, gone: int, stands: int) -> None:
        """Let a concept stand for a deleted one from now on."""
        self._aliases[gone] = stands

    def payload(self, concept_id: int, payload: bytes) -> None:
        """Give a concept another payload; ``b""`` removes it."""
        self._payloads[concept_id] = payload

    def note(self, event: EventType, id1: int = 0, id2: int = 0, val: float = 0.0) -> None:
        """Add an event of the evolution log."""
        self._events.append((self.now // 1_000_000, int(event), id1, id2, val))

    def batch(self) -> WriteBatch:
        """Return the changes as one transaction, for `Engine.commit`."""
        deleted = ids_of(self._deleted)
        ids, stats = self._final_stats(deleted)
        put = np.isin(ids, self._put_ids())
        return WriteBatch(
            deleted=deleted[self.view.slots(deleted) >= 0],
            concepts=self._final_concepts(ids[put], stats[put]),
            stats_ids=ids[~put],
            stats=stats[~put],
            payloads=dict(self._payloads),
            edges=dict(self._rows),
            aliases=dict(self._aliases),
            events=np.array(self._events, EVENT),
        )

    def _put_ids(self) -> Ids:
        return np.concatenate([np.empty(0, np.uint64), *(each.ids for each in self._concepts)])

    def _final_stats(self, deleted: Ids) -> tuple[Ids, Records]:
        """Return the statistics that change; those of sources say as of when their rows are."""
        sources = ids_of(self._rows)
        every = np.concatenate([np.empty(0, np.uint64), *(ids for ids, _ in self._stats)])
        records = np.concatenate(
            [np.empty(0, STATS), *(each for _, each in self._stats)], dtype=STATS
        )
        last = _last_of(every)
        last = last[~np.isin(every[last], deleted)]
        others = sources[~np.isin(sources, every)]
        ids, slots = np.append(every[last], others), self.view.slots(others)
        stats = np.concatenate([records[last], self.view.stats[slots]], dtype=STATS)
        slots = self.view.slots(ids)
        known = slots >= 0
        stats["edge_epoch"][known] = self.view.stats.field("edge_epoch")[slots[known]]
        stats["edge_epoch"][np.isin(ids, sources)] = self.clock.epoch
        return ids, stats

    def _final_concepts(self, ids: Ids, stats: Records) -> Concepts | None:
        """Return the concepts put, each as it was put last, in the order of ``ids``."""
        every = joined(self._concepts)
        if every is None or not len(ids):
            return None
        last = _last_of(every.ids)
        order = np.argsort(every.ids[last])
        rows = last[order[np.searchsorted(every.ids[last], ids, sorter=order)]]
        vectors = every.value_vectors
        return Concepts(
            ids=ids,
            keys=every.keys[rows],
            value_kinds=every.value_kinds[rows],
            value_ids=every.value_ids[rows],
            value_vectors=None if vectors is None else vectors[rows],
            stats=stats,
        )


def _last_of(ids: Ids) -> Slots:
    """Return the last row of each id, in the order in which the ids first occur."""
    _, first = np.unique(ids, return_index=True)
    _, behind = np.unique(ids[::-1], return_index=True)
    last: Slots = (len(ids) - 1 - behind)[np.argsort(first)]
    return last


def joined(parts: Sequence[Concepts]) -> Concepts | None:
    """Return the concepts of all parts, in their order; None where there are none."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else None
    vectors = None
    if any(part.value_vectors is not None for part in parts):
        vectors = np.concatenate(
            [
                np.zeros_like(part.keys) if part.value_vectors is None else part.value_vectors
                for part in parts
            ]
        )
    return Concepts(
        ids=np.concatenate([part.ids for part in parts]),
        keys=np.concatenate([part.keys for part in parts]),
        value_kinds=np.concatenate([part.value_kinds for part in parts]),
        value_ids=np.concatenate([part.value_ids for part in parts]),
        value_vectors=vectors,
        stats=np.concatenate([part.stats for part in parts]),
    )
