"""Changes that wait for the next commit, and how they become one `WriteBatch`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from aesg.graph import consolidation
from aesg.graph.edges import strengthened
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.types import (
    EVENT,
    STATS,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Ids,
    Records,
    ValueKind,
    WriteBatch,
)
from storage_backends.view import View


@dataclass
class Clock:
    """Counters of a memory.

    Parameters
    ----------
    next_id : int
        First concept id that was never given.
    epoch : int
        Consolidation epochs so far.
    tick : int
        Topology updates so far.
    """

    next_id: int = 1
    epoch: int = 0
    tick: int = 0


@dataclass
class Pending:
    """What was learned since the last commit.

    Parameters
    ----------
    born : set-like dict of id
        Provisional concepts that enter the graph, in order of birth.
    used : dict of id to int
        Uses of concepts of the graph.
    links : dict of (source, target, kind) to int
        Uses of edges; both ends are in the graph or about to be born, else the use is dropped.
    refined : dict of id to (D,) float32
        New vector values of concepts of the graph.
    deleted : set-like dict of id
        Concepts to prune.
    events : list
        ``(Unix seconds, type, id1, id2, value)``.
    since : float
        Monotonic seconds at which this began.
    """

    born: dict[int, None] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    links: dict[tuple[int, int, EdgeKind], int] = field(default_factory=dict)
    refined: dict[int, Floats] = field(default_factory=dict)
    deleted: dict[int, None] = field(default_factory=dict)
    events: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        graph = len(self.used) + len(self.refined) + len(self.links)
        return len(self.born) + graph + len(self.deleted)

    def use(self, ids: Ids, counts: Iterable[int]) -> None:
        """Count uses of concepts of the graph."""
        for concept_id, count in zip(ids.tolist(), counts, strict=True):
            self.used[concept_id] = self.used.get(concept_id, 0) + int(count)

    def refine(self, view: View, ids: Ids, towards: Floats, share: float) -> None:
        """Move vector values of concepts of the graph part of the way; others are ignored."""
        slots = view.slots(ids)
        for concept_id, slot, target in zip(ids.tolist(), slots.tolist(), towards, strict=True):
            if slot >= 0 and view.value_kinds[slot] == ValueKind.VECTOR:
                value = self.refined.get(concept_id)
                if value is None and view.value_vectors is not None:
                    value = view.value_vectors[slot]
                if value is not None:
                    self.refined[concept_id] = value + np.float32(share) * (target - value)

    def link(self, pairs: Ids, kind: EdgeKind) -> None:
        """Count uses of directed edges, ``(L, 2)`` ids."""
        for source, target in pairs.tolist():
            place = (source, target, kind)
            self.links[place] = self.links.get(place, 0) + 1

    def note(self, event: EventType, id1: int = 0, id2: int = 0, value: float = 0.0) -> None:
        """Add an event of the evolution log, dated now."""
        self.events.append(_event(event, id1, id2, value))

    def take_back(self, deleted: Collection[int], events: int) -> None:
        """Take back deletions other than those given, and all but the first ``events`` events."""
        for concept_id in [each for each in self.deleted if each not in deleted]:
            del self.deleted[concept_id]
        del self.events[events:]

    def batch(
        self, view: View, shortterm: ShortTermMemory, clock: Clock, most_edges: int
    ) -> WriteBatch:
        """Return the concepts, statistics, edges and events of one transaction.

        Rows may still hold edges to concepts that the batch deletes: `Engine.commit` removes all
        edges of that kind.

        Parameters
        ----------
        view : View
            The graph before it.
        shortterm : ShortTermMemory
            Holds the concepts to be born.
        clock : Clock
        most_edges : int
            Out-edges that a concept may have.

        Returns
        -------
        WriteBatch
        """
        now = microseconds()
        born = _born(view, shortterm, _ids(self.born), clock, now)
        deleted = _ids(self.deleted)
        deleted = deleted[view.slots(deleted) >= 0]
        used = _ids(self.used)
        kept = (view.slots(used) >= 0) & ~np.isin(used, deleted)
        used, counts = used[kept], np.fromiter(self.used.values(), np.int64, len(used))[kept]
        created = [_event(EventType.CREATE, concept_id) for concept_id in born.ids.tolist()]
        return WriteBatch(
            deleted=deleted,
            concepts=joined(born, self._refined(view, deleted)),
            stats_ids=used,
            stats=consolidation.touched(
                view.stats[view.slots(used)], counts, clock.epoch, clock.tick, now
            ),
            edges=self._rows(view, shortterm, born.ids, deleted, most_edges),
            events=np.array(self.events + created, EVENT),
        )

    def _refined(self, view: View, deleted: Ids) -> Concepts | None:
        """Return the concepts whose values moved, as they are to be."""
        ids = _ids(self.refined)
        kept = (view.slots(ids) >= 0) & ~np.isin(ids, deleted)
        if not kept.any():
            return None
        slots = view.slots(ids[kept])
        return Concepts(
            ids=ids[kept],
            keys=view.raw_keys(slots),
            value_kinds=view.value_kinds[slots],
            value_ids=view.value_ids[slots],
            value_vectors=np.stack([self.refined[each] for each in ids[kept].tolist()]),
            stats=view.stats[slots],
        )

    def _rows(
        self, view: View, shortterm: ShortTermMemory, born: Ids, deleted: Ids, most: int
    ) -> dict[int, Records]:
        """Return the out-rows that change, with all uses of their edges applied."""
        uses = dict(self.links)
        for source, target in _links_at_birth(shortterm, born):
            uses.setdefault((source, target, EdgeKind.SUCCESSOR), 1)
        ends = np.array([end for source, target, _ in uses for end in (source, target)], np.uint64)
        lasting = ((view.slots(ends) >= 0) & ~np.isin(ends, deleted)) | np.isin(ends, born)
        exists = set(ends[lasting].tolist())
        rows: dict[int, Records] = {}
        for (source, target, kind), count in uses.items():
            if source in exists and target in exists and source != target:
                row = rows[source] if source in rows else view.edges(source)
                rows[source] = strengthened(row, target, kind, count, most)
        return rows


def _event(
    event: EventType, id1: int, id2: int = 0, value: float = 0.0
) -> tuple[int, int, int, int, float]:
    return microseconds() // 1_000_000, int(event), id1, id2, value


def microseconds() -> int:
    """Return the Unix time; 0 where the clock of the system stands before 1970."""
    return max(time.time_ns() // 1000, 0)


def _ids(held: Collection[int]) -> Ids:
    return np.fromiter(held, np.uint64, len(held))


def _links_at_birth(shortterm: ShortTermMemory, born: Ids) -> Iterable[tuple[int, int]]:
    """Return the pairs of ids that concepts about to be born make with their neighbours."""
    entries = shortterm.entries[shortterm.find(born)]
    for entry in entries[["id", "previous", "next"]].tolist():
        concept_id, before, after = entry
        if before:
            yield before, concept_id
        if after:
            yield concept_id, after


def _born(view: View, shortterm: ShortTermMemory, ids: Ids, clock: Clock, now: int) -> Concepts:
    """Return provisional concepts as concepts of the graph, those that are still provisional."""
    rows = np.sort(shortterm.find(ids[view.slots(ids) < 0]))
    rows = rows[rows >= 0]
    entries = shortterm.entries[rows]
    stats = newborn(entries["origin"], clock, now)
    stats["frequency"] = entries["confirmations"]
    vectors = shortterm.vectors
    return Concepts(
        ids=entries["id"].copy(),
        keys=shortterm.keys[rows] * entries["norm"][:, None],
        value_kinds=entries["value_kind"].copy(),
        value_ids=entries["value_id"].copy(),
        value_vectors=None if vectors is None else vectors[rows],
        stats=stats,
    )


def newborn(origins: Ids, clock: Clock, now: int) -> Records:
    """Return the statistics of concepts that enter the graph now."""
    stats = np.zeros(len(origins), STATS)
    stats["created"] = stats["modified"] = now
    stats["origin"] = origins
    stats["epoch"], stats["tick"] = clock.epoch, clock.tick
    stats["frequency"] = 1
    stats["relevance"] = stats["stability"] = 1.0
    return stats


def joined(first: Concepts | None, second: Concepts | None) -> Concepts | None:
    """Return the concepts of both, the first ones first; None where there are none."""
    if not first or not second:
        return first or second or None
    left, right = first.value_vectors, second.value_vectors
    vectors = None
    if left is not None or right is not None:
        vectors = np.concatenate(
            [
                np.zeros_like(part.keys) if part.value_vectors is None else part.value_vectors
                for part in (first, second)
            ]
        )
    return Concepts(
        ids=np.concatenate([first.ids, second.ids]),
        keys=np.concatenate([first.keys, second.keys]),
        value_kinds=np.concatenate([first.value_kinds, second.value_kinds]),
        value_ids=np.concatenate([first.value_ids, second.value_ids]),
        value_vectors=vectors,
        stats=np.concatenate([first.stats, second.stats]),
    )
