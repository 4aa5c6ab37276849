"""A change of the graph in the making: what a `WriteBatch` will say, readable as it grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import ids_of
from aesg.graph.clock import Clock, microseconds
from aesg.graph.consolidation import edge_ages
from aesg.graph.edges import weakened
from storage_backends.types import (
    EDGE,
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
        self._stats: dict[int, np.void] = {}
        self._put: dict[int, None] = {}
        self._rows: dict[int, Records] = {}
        self._loaded: dict[int, Records] = {}
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
        held = (self.view.slots(ids) >= 0) | np.isin(ids, ids_of(self._put))
        lasting: NDArray[np.bool_] = held & ~np.isin(ids, ids_of(self._deleted))
        return lasting

    def row(self, concept_id: int) -> Records:
        """Return the out-edges of a concept as of the present epoch, ``(M,)`` EDGE.

        They may lead to concepts that were deleted; `Engine.commit` removes such edges.
        """
        if concept_id not in self._rows and concept_id not in self._loaded:
            self.load(np.array([concept_id], np.uint64))
        known = self._rows.get(concept_id, self._loaded.get(concept_id))
        return np.empty(0, EDGE) if known is None else known.copy()  # None: it was deleted

    def load(self, ids: Ids) -> None:
        """Have rows of concepts at hand; for many this is quicker than `row` for each alone."""
        ids = np.setdiff1d(ids, ids_of(self._deleted))
        self._loaded.update(dict.fromkeys(ids.tolist(), np.empty(0, EDGE)))
        slots = self.view.slots(ids)
        ids, slots = ids[slots >= 0], slots[slots >= 0]
        owner, edges = self.view.out_edges(slots)
        ages = edge_ages(self.view, slots, self.clock.epoch)
        ends = np.searchsorted(owner, np.arange(len(ids)), side="right")
        rows = np.split(weakened(edges, ages[owner]), ends)
        self._loaded.update(zip(ids.tolist(), rows, strict=False))

    def put_row(self, concept_id: int, row: Records) -> None:
        """Give a concept other out-edges, stated as of the present epoch."""
        self._rows[concept_id] = row

    def stats(self, concept_id: int) -> np.void:
        """Return the statistics of a concept that exists, one STATS record of the caller's own."""
        if concept_id in self._stats:
            return self._stats[concept_id].copy()
        record: np.void = self.view.stats[self._slot(concept_id)].copy()
        return record

    def put_stats(self, concept_id: int, record: np.void) -> None:
        """Give a concept other statistics; ``edge_epoch`` follows from its row."""
        self._stats[concept_id] = record.copy()

    def put_concepts(self, concepts: Concepts) -> None:
        """Put new concepts, or replace present ones whole; their payloads and edges stay."""
        self._concepts.append(concepts)
        for concept_id, record in zip(concepts.ids.tolist(), concepts.stats.copy(), strict=True):
            self._put[concept_id] = None
            self._stats[concept_id] = record

    def delete(self, concept_id: int) -> None:
        """Remove a concept, with whatever else the draft said of it."""
        self._deleted[concept_id] = None
        for said in (self._put, self._stats, self._rows, self._loaded, self._payloads):
            said.pop(concept_id, None)

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
        ids, stats = self._final_stats()
        put = np.isin(ids, ids_of(self._put))
        deleted = ids_of(self._deleted)
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

    def _final_stats(self) -> tuple[Ids, Records]:
        """Return the statistics that change; those of sources say as of when their rows are."""
        sources, drafted = ids_of(self._rows), ids_of(self._stats)
        others = sources[~np.isin(sources, drafted)]
        ids = np.concatenate([drafted, others])
        slots = self.view.slots(ids)
        held = self.view.stats[slots[len(drafted) :]]
        stats = np.concatenate([np.array(list(self._stats.values()), STATS), held])
        known = slots >= 0
        stats["edge_epoch"][known] = self.view.stats[slots[known]]["edge_epoch"]
        stats["edge_epoch"][np.isin(ids, sources)] = self.clock.epoch
        return ids, stats

    def _final_concepts(self, ids: Ids, stats: Records) -> Concepts | None:
        """Return the concepts put, each as it was put last, in the order of ``ids``."""
        every = joined(self._concepts)
        if every is None or not len(ids):
            return None
        last = {concept_id: row for row, concept_id in enumerate(every.ids.tolist())}
        rows = np.array([last[each] for each in ids.tolist()], np.int64)
        vectors = every.value_vectors
        return Concepts(
            ids=ids,
            keys=every.keys[rows],
            value_kinds=every.value_kinds[rows],
            value_ids=every.value_ids[rows],
            value_vectors=None if vectors is None else vectors[rows],
            stats=stats,
        )

    def _slot(self, concept_id: int) -> int:
        return int(self.view.slots(np.array([concept_id], np.uint64))[0])


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
