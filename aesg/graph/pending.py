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
    Ids,
    Records,
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
    deleted: dict[int, None] = field(default_factory=dict)
    events: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.born) + len(self.used) + len(self.links) + len(self.deleted)

    def use(self, ids: Ids, counts: Iterable[int]) -> None:
        """Count uses of concepts of the graph."""
        for concept_id, count in zip(ids.tolist(), counts, strict=True):
            self.used[concept_id] = self.used.get(concept_id, 0) + int(count)

    def link(self, pairs: Ids, kind: EdgeKind) -> None:
        """Count uses of directed edges, ``(L, 2)`` ids."""
        for source, target in pairs.tolist():
            place = (source, target, kind)
            self.links[place] = self.links.get(place, 0) + 1

    def note(self, event: EventType, id1: int = 0, id2: int = 0, value: float = 0.0) -> None:
        """Add an event of the evolution log, dated now."""
        self.events.append(_event(event, id1, id2, value))

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
        now = time.time_ns() // 1000
        born = _born(view, shortterm, _ids(self.born), clock, now)
        deleted = _ids(self.deleted)
        deleted = deleted[view.slots(deleted) >= 0]
        used = _ids(self.used)
        kept = (view.slots(used) >= 0) & ~np.isin(used, deleted)
        used, counts = used[kept], np.fromiter(self.used.values(), np.int64, len(used))[kept]
        created = [_event(EventType.CREATE, concept_id) for concept_id in born.ids.tolist()]
        return WriteBatch(
            deleted=deleted,
            concepts=born if len(born) else None,
            stats_ids=used,
            stats=consolidation.touched(
                view.stats[view.slots(used)], counts, clock.epoch, clock.tick, now
            ),
            edges=self._rows(view, shortterm, born.ids, deleted, most_edges),
            events=np.array(self.events + created, EVENT),
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
    return int(time.time()), int(event), id1, id2, value


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
