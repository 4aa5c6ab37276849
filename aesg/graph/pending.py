"""Changes that wait for the next commit, and how they become one `WriteBatch`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np

from aesg.graph import consolidation
from aesg.graph.arrays import ids_of, reached_by
from aesg.graph.association import CONFIDENCE, Associations
from aesg.graph.clock import Clock, microseconds
from aesg.graph.draft import Draft
from aesg.graph.edges import FIRST_CONFIDENCE, Uses, strengthened
from aesg.graph.out_edges import OutEdges
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.columns import Slots
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

#: Cosine from which a key of the graph is left as it is: to write it again would cost more than
#: so small a turn can matter.
_UNMOVED = 0.999

#: An edge, by source and target, and the kind of a use of it.
Link: TypeAlias = tuple[int, int, int]

#: Kind of a use that gives an edge no kind: activation came along it and was right.
TRAVELLED = EdgeKind(0)


@dataclass
class Pending:
    """What was learned since the last commit.

    Parameters
    ----------
    born : set-like dict of id
        Provisional concepts that enter the graph, in order of birth.
    used : dict of id to int
        Uses of concepts of the graph.
    links : counter of (source, target, kind)
        Uses of edges; both ends are in the graph or about to be born, else the use is dropped. Of
        kind `TRAVELLED` only an edge that exists is strengthened.
    refined : dict of id to (D,) float32
        New vector values of concepts of the graph.
    rekeyed : dict of id to (D,) float32
        New raw keys of concepts of the graph.
    deleted : set-like dict of id
        Concepts to prune.
    events : list
        ``(Unix seconds, type, id1, id2, value)``.
    since : float
        Monotonic seconds at which nothing waited, the last time that anybody looked.
    """

    born: dict[int, None] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    links: Counter[Link] = field(default_factory=Counter)
    refined: dict[int, Floats] = field(default_factory=dict)
    rekeyed: dict[int, Floats] = field(default_factory=dict)
    deleted: dict[int, None] = field(default_factory=dict)
    events: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return self.changes + len(self.events)

    @property
    def changes(self) -> int:
        """Number of changes of the graph; the others are events alone."""
        used = len(self.used) + len(self.refined) + len(self.links)
        return len(self.born) + used + len(self.deleted) + len(self.rekeyed)

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

    def rekey(self, view: View, ids: Ids, keys: Floats, norms: Floats) -> None:
        """Give concepts of the graph other keys, where those have moved; others are ignored.

        Parameters
        ----------
        view : View
        ids : (M,) uint64
        keys : (M, D) float32
            Unit vectors.
        norms : (M,) float32
            Length of the raw keys.
        """
        slots = view.slots(ids)
        held = np.flatnonzero(slots >= 0)
        if not len(held):
            return
        turned = (view.keys[slots[held]] * keys[held]).sum(axis=1) < _UNMOVED
        for concept_id in ids[held[~turned]].tolist():
            self.rekeyed.pop(concept_id, None)
        moved = held[turned]
        raw = keys[moved] * norms[moved][:, None]
        self.rekeyed.update(zip(ids[moved].tolist(), raw, strict=True))

    def link(self, pairs: Ids, kind: EdgeKind) -> None:
        """Count uses of directed edges, ``(L, 2)`` ids."""
        sources, targets = pairs.T.tolist()
        self.links.update(zip(sources, targets, repeat(int(kind))))

    def travel(self, pairs: Ids) -> None:
        """Count that edges, ``(L, 2)`` ids, led to what was right."""
        self.link(pairs, TRAVELLED)

    def note(self, event: EventType, id1: int = 0, id2: int = 0, value: float = 0.0) -> None:
        """Add an event of the evolution log, dated now."""
        self.events.append((microseconds() // 1_000_000, int(event), id1, id2, value))

    def take_back(self, deleted: Collection[int], events: int) -> None:
        """Take back deletions other than those given, and all but the first ``events`` events."""
        for concept_id in [each for each in self.deleted if each not in deleted]:
            del self.deleted[concept_id]
        del self.events[events:]

    def newcomers(self, view: View, shortterm: ShortTermMemory, clock: Clock) -> Concepts:
        """Return the concepts to be born, those that are still provisional, by ascending id."""
        return _born(view, shortterm, ids_of(self.born), clock, microseconds())

    def batch(
        self,
        view: View,
        shortterm: ShortTermMemory,
        clock: Clock,
        new: Concepts,
        called_for: Associations,
        most_edges: int,
    ) -> WriteBatch:
        """Return the concepts, statistics, edges and events of one transaction.

        Rows may still hold edges to concepts that the batch deletes: `Engine.commit` removes all
        edges of that kind.

        Parameters
        ----------
        view : View
            The graph before it.
        shortterm : ShortTermMemory
            Knows the neighbours, in their sequences, of concepts to be born.
        clock : Clock
        new : Concepts
            What enters the graph: the newcomers, and what was remembered.
        called_for : Associations
            Edges from values to keys.
        most_edges : int
            Out-edges that a concept may have.

        Returns
        -------
        WriteBatch
        """
        draft = Draft(view, clock)
        deleted = ids_of(self.deleted)
        for concept_id in deleted[view.slots(deleted) >= 0].tolist():
            draft.delete(concept_id)
        draft.put_concepts(new)
        moved = self._moved(view, deleted)
        if moved is not None:
            draft.put_concepts(moved)
        self._put_uses(draft, deleted)
        joined = self._put_rows(draft, shortterm, new.ids, called_for, most_edges)
        for concept_id in new.ids.tolist():
            draft.note(EventType.CREATE, concept_id)
        for each in joined:
            draft.note(EventType.RESTRUCTURE, *each)
        batch = draft.batch()
        earlier = np.array(self.events, EVENT)
        return replace(batch, events=np.concatenate([earlier, batch.events], dtype=EVENT))

    def _moved(self, view: View, deleted: Ids) -> Concepts | None:
        """Return the concepts whose keys or values moved, as they are to be."""
        ids = ids_of(dict.fromkeys([*self.refined, *self.rekeyed]))
        ids = ids[(view.slots(ids) >= 0) & ~np.isin(ids, deleted)]
        if not len(ids):
            return None
        slots = view.slots(ids)
        keys, held = view.raw_keys(slots), view.value_vectors
        vectors = None if held is None else held[slots]
        for row, concept_id in enumerate(ids.tolist()):
            keys[row] = self.rekeyed.get(concept_id, keys[row])
            if vectors is not None:
                vectors[row] = self.refined.get(concept_id, vectors[row])
        return Concepts(
            ids=ids,
            keys=keys,
            value_kinds=view.value_kinds[slots],
            value_ids=view.value_ids[slots],
            value_vectors=vectors,
            stats=view.stats[slots],
        )

    def _put_uses(self, draft: Draft, deleted: Ids) -> None:
        """Let the statistics of the concepts used say so."""
        view, clock = draft.view, draft.clock
        used = ids_of(self.used)
        kept = (view.slots(used) >= 0) & ~np.isin(used, deleted)
        counts = np.fromiter(self.used.values(), np.int64, len(used))[kept]
        slots, counts = _with_abstract(view, view.slots(used[kept]), counts)
        living = ~np.isin(view.ids[slots], deleted)
        slots, counts = slots[living], counts[living]
        after = consolidation.touched(view.stats[slots], counts, clock.epoch, clock.tick, draft.now)
        draft.put_stats(view.ids[slots], after)

    def _put_rows(
        self,
        draft: Draft,
        shortterm: ShortTermMemory,
        new: Ids,
        called_for: Associations,
        most: int,
    ) -> list[tuple[int, int, float]]:
        """Apply all uses of edges to the rows that they are in.

        Returns
        -------
        list of (int, int, float)
            Pairs of concepts that co-activation has joined, the lower id first, and the confidence
            of their edges.
        """
        used = dict(self.links)
        for source, target in _links_at_birth(shortterm, new):
            used.setdefault((source, target, int(EdgeKind.SUCCESSOR)), 1)
        weights = dict(zip(_pairs(called_for.pairs), called_for.cosines.tolist(), strict=True))
        for source, target in weights:
            used.setdefault((source, target, int(EdgeKind.VALUE)), 1)
        if not used:
            return []
        sources, uses = _lasting(draft, used, weights)
        before = draft.rows(sources)
        after = strengthened(before, uses, most)
        changed = before.changed(after)  # the others have nothing but ways that are no edges
        draft.put_rows(sources[changed], after.only(changed))
        return _joined(sources, uses, before, after)


def _with_abstract(view: View, slots: Slots, counts: Slots) -> tuple[Slots, Slots]:
    """Return concepts and their uses, with the abstract ones above them used as often too.

    Of two concepts with an edge of abstraction between them that one is above which has more such
    edges; of equals either is.
    """
    below = np.flatnonzero(view.adjacency.kinds(slots) & np.uint32(EdgeKind.ABSTRACTION))
    if not len(below):
        return slots, counts
    owner, targets = reached_by(view, slots[below], EdgeKind.ABSTRACTION)
    others, place = np.unique(targets, return_inverse=True)
    own = np.bincount(owner, minlength=len(below))
    theirs = np.bincount(reached_by(view, others, EdgeKind.ABSTRACTION)[0], minlength=len(others))
    above = theirs[place] >= own[owner]
    every, place = np.unique(np.append(slots, targets[above]), return_inverse=True)
    total = np.zeros(len(every), np.int64)
    np.add.at(total, place, np.append(counts, counts[below][owner[above]]))
    return every, total


def _lasting(
    draft: Draft, used: Mapping[Link, int], weights: Mapping[tuple[int, int], float]
) -> tuple[Ids, Uses]:
    """Return the uses of edges whose ends exist after the draft, and the concepts they are of.

    Parameters
    ----------
    draft : Draft
    used : mapping of (source, target, kind) to int
    weights : mapping of (source, target) to float
        Of the edges that a value calls for.

    Returns
    -------
    sources : (M,) uint64
        In the order in which they are first used.
    uses : Uses
    """
    named = np.fromiter(chain.from_iterable(used), np.uint64, 3 * len(used)).reshape(-1, 3)
    ends, place = np.unique(named[:, :2], return_inverse=True)
    lasting = draft.holds(ends)[place.reshape(-1, 2)].all(axis=1)
    rows = np.flatnonzero(lasting & (named[:, 0] != named[:, 1]))
    named, times = named[rows], np.fromiter(used.values(), np.int64, len(used))[rows]
    sources, first, owner = np.unique(named[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    weight, trust = np.ones(len(rows)), np.full(len(rows), FIRST_CONFIDENCE)
    if weights:
        for row, pair in enumerate(_pairs(named[:, :2])):
            if pair in weights:
                weight[row], trust[row] = weights[pair], CONFIDENCE
    kinds = named[:, 2].astype(np.uint32)
    return sources[order], Uses(rank[owner], named[:, 1], kinds, times, weight, trust)


def _joined(
    sources: Ids, uses: Uses, before: OutEdges, after: OutEdges
) -> list[tuple[int, int, float]]:
    """Return the pairs, lower id first, that co-activation has joined, and their confidence.

    An edge that had to yield to stronger ones joins nothing.
    """
    lower = sources[uses.owner]
    rows = np.flatnonzero((uses.kinds == EdgeKind.COACTIVATION) & (lower < uses.targets))
    rows = rows[np.argsort(uses.owner[rows], kind="stable")]
    owner, targets = uses.owner[rows], uses.targets[rows]
    place = after.places(owner, targets)
    fresh = (place >= 0) & (before.places(owner, targets) < 0)
    sure = after.edges["confidence"][place[fresh]].tolist()
    pairs = zip(lower[rows][fresh].tolist(), targets[fresh].tolist(), strict=True)
    return [(source, target, each) for (source, target), each in zip(pairs, sure, strict=True)]


def _pairs(pairs: Ids) -> list[tuple[int, int]]:
    return [(source, target) for source, target in pairs.tolist()]


def _links_at_birth(shortterm: ShortTermMemory, born: Ids) -> Iterable[tuple[int, int]]:
    """Return the pairs of ids that concepts about to be born make with their neighbours."""
    rows = shortterm.find(born)
    entries = shortterm.entries[rows[rows >= 0]]
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
