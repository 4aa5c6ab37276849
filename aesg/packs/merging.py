"""From a pack into the memory, for good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import ids_of
from aesg.graph.clock import Clock, microseconds
from aesg.graph.consolidation import RELEVANCE_DECAY
from aesg.graph.decay import decayed
from aesg.packs.choosing import ReadPayloads
from aesg.packs.graph import view_of
from aesg.packs.matching import Match
from aesg.packs.pack import Pack
from aesg.packs.uniting import united_rows
from storage_backends.columns import Column, Slots
from storage_backends.types import (
    EVENT,
    STATS,
    Concepts,
    EventType,
    Floats,
    Ids,
    Records,
    WriteBatch,
)
from storage_backends.view import View

_MOST_USES = 2**32 - 1

#: How the statistics of two concepts become those of one, where that is all there is to it.
_JOINED = {
    "created": np.minimum,
    "epoch": np.maximum,
    "tick": np.maximum,
    "stability": np.maximum,
}

#: Lengths that keys of a memory have, if not 0.
SHORTEST = np.float32(1e-18)
LONGEST = np.float32(1e18)

#: Payloads that are compared at a time.
_CHUNK = 8_192

#: The setting that names where merged packs came from, the last ones, 32 bytes each.
_MERGED = "merged_packs"
_MOST_MERGED = 256
_DIGEST_BYTES = 32

#: Shares of relevance below it are none.
_LEAST = np.finfo(np.float64).tiny

#: By how much an age that follows from a relevance may be off for rounding.
_ROUNDING = 1e-3


class Conflict(NamedTuple):
    """What a pack and the memory disagree about.

    Parameters
    ----------
    id : int
        The concept of the memory, which stays as it is.
    position : int
        The concept of the pack, by its place there.
    what : {"value", "payload"}
        With another value for a like key the concept of the pack was added; another payload for
        the same concept was left out.
    """

    id: int
    position: int
    what: Literal["value", "payload"]


@dataclass(frozen=True, eq=False)
class MergeReport:
    """What `merge_pack` has done.

    Parameters
    ----------
    added : int
        Concepts of the pack that are new in the memory.
    merged : int
        Those that it had already.
    conflicts : tuple of Conflict
        By position.
    edges_added : int
        Edges that are new in the memory.
    edges_merged : int
        Edges of the pack that it had already.
    ids : (N,) uint64
        The concept of the memory that stands for each of the pack; 0 where nothing was written.
    """

    added: int
    merged: int
    conflicts: tuple[Conflict, ...]
    edges_added: int
    edges_merged: int
    ids: Ids

    def __repr__(self) -> str:
        return (
            f"MergeReport(added={self.added}, merged={self.merged}, "
            f"conflicts={len(self.conflicts)}, edges_added={self.edges_added}, "
            f"edges_merged={self.edges_merged})"
        )


def nothing_merged(pack: Pack) -> MergeReport:
    """Return the report on a pack that may not be merged."""
    return MergeReport(0, 0, (), 0, 0, np.zeros(pack.node_count, np.uint64))


@dataclass(frozen=True)
class Target:
    """A memory as of its last commit, to merge into.

    Parameters
    ----------
    view : View
    clock : Clock
        Its counters; not moved.
    uuid : str
        Identity of the memory.
    read_payloads : callable
        Returns the packed payload of each concept.
    most_edges : int
        Out-edges that a concept may have; the weakest yield.
    """

    view: View
    clock: Clock
    uuid: str
    read_payloads: ReadPayloads
    most_edges: int


def guest_of(pack: Pack) -> View:
    """Return the view of a pack, with keys of lengths that a memory takes.

    Shorter ones would lose their direction when they are written.
    """
    view = view_of(pack)
    norms = view.norms.whole()
    bounded = np.where(norms > 0, np.clip(norms, SHORTEST, LONGEST), norms)
    return view if np.array_equal(norms, bounded) else replace(view, norms=Column.over(bounded))


def merge(pack: Pack, target: Target, found: Match) -> tuple[WriteBatch | None, MergeReport]:
    """Return what brings the concepts of a pack into a memory, and the report on it.

    A concept that the memory has already takes over uses, relevance and edges of that of the pack,
    and its payload where it has none. The others get ids of their own. Of a pack that comes from
    this memory, or from one of which a pack was merged before, uses count once: the greater number
    holds. New concepts keep their origin,
    which names a sample whatever memory it came to; a concept that several samples stand behind
    has none. Concepts of another memory have no region here.

    Parameters
    ----------
    pack : Pack
        As wide as the memory.
    target : Target
    found : Match
        What there is of the pack, its view being `guest_of`, in that of the target.

    Returns
    -------
    WriteBatch or None
        For `DurableState.take_in`; None where the memory stays as it is.
    MergeReport
    """
    merging = _Merging(pack, target, found)
    return merging.batch(), merging.report()


class _Merging:
    """A pack on its way into a memory; parameters as for `merge`."""

    def __init__(self, pack: Pack, target: Target, found: Match) -> None:
        self._pack, self._target, self._found = pack, target, found
        self._view, self._guest = target.view, guest_of(pack)
        self._new = np.flatnonzero(found.stands < 0)
        self._known = np.flatnonzero(found.stands >= 0)
        self._ids = ids = np.empty(pack.node_count, np.uint64)
        ids[self._known] = self._view.ids[found.stands[self._known]]
        first = np.uint64(target.clock.next_id)
        ids[self._new] = first + np.arange(len(self._new), dtype=np.uint64)
        self._is_own = pack.provenance.memory_uuid == target.uuid
        self._source = _source_of(pack)
        self._is_counted = self._is_own or self._source in _merged_before(self._view)
        self._rows = united_rows(
            self._view,
            target.clock.epoch,
            pack,
            ids,
            target.most_edges,
            is_counted=self._is_counted,
        )
        self._payloads, self._differing = self._compared_payloads()

    def report(self) -> MergeReport:
        """Return what is done."""
        rivals = np.flatnonzero(self._found.rival >= 0)
        held = self._view.ids[self._found.rival[rivals]]
        conflicts = [
            *_conflicts(held, rivals, "value"),
            *_conflicts(self._ids[self._differing], self._differing, "payload"),
        ]
        return MergeReport(
            added=len(self._new),
            merged=len(self._known),
            conflicts=tuple(sorted(conflicts, key=lambda each: each.position)),
            edges_added=self._rows.added,
            edges_merged=self._rows.merged,
            ids=self._ids,
        )

    def batch(self) -> WriteBatch | None:
        """Return what is to be written."""
        now, new = microseconds(), self._new
        arriving = self._statistics(now)
        rows = self._rows.changed
        stats_ids, stats = self._taken(arriving[self._known], ids_of({**rows, **self._payloads}))
        if not len(new) and not len(stats_ids):
            return None
        stats["modified"] = now
        stats["edge_epoch"][np.isin(stats_ids, ids_of(rows))] = self._target.clock.epoch
        merged = [*_merged_before(self._view), self._source][-_MOST_MERGED:]
        return WriteBatch(
            concepts=self._concepts(arriving[new]) if len(new) else None,
            stats_ids=stats_ids,
            stats=stats,
            payloads=self._payloads,
            edges=rows,
            events=self._events(stats_ids, now),
            settings={_MERGED: b"".join(dict.fromkeys(merged))},
        )

    def _concepts(self, stats: Records) -> Concepts:
        """Return the new concepts."""
        guest, new = self._guest, self._new
        vectors = guest.value_vectors
        return Concepts(
            ids=self._ids[new],
            keys=guest.raw_keys(new),
            value_kinds=guest.value_kinds[new],
            value_ids=guest.value_ids[new],
            value_vectors=None if vectors is None else vectors[new],
            stats=stats,
        )

    def _statistics(self, now: int) -> Records:
        """Return the statistics of the concepts of the pack, by the clock of the memory."""
        columns, clock = self._pack.columns, self._target.clock
        stats = np.zeros(len(self._ids), STATS)
        for name in ("created", "modified"):
            stats[name] = np.minimum(columns[name], np.uint64(now))
        stats["origin"] = columns["origin"]
        present = np.minimum(columns["relevance"], np.float32(1)).astype(np.float64)
        ages = np.minimum(_bounded_ages(columns["age"], present), clock.epoch)
        stats["epoch"] = clock.epoch - ages
        stats["tick"] = clock.tick - np.minimum(columns["updates"], np.uint64(clock.tick))
        stats["frequency"], stats["stability"] = columns["frequency"], columns["stability"]
        # As of the last touch: since then it has lost what leaves what it is now.
        kept = np.float64(RELEVANCE_DECAY) ** ages
        stats["relevance"] = np.minimum(present, kept) / np.maximum(kept, _LEAST)
        stats["edge_epoch"] = clock.epoch
        return stats

    def _taken(self, arriving: Records, others: Ids) -> tuple[Ids, Records]:
        """Return the concepts that take in others of the pack and change by it, and how.

        Parameters
        ----------
        arriving : (M,) STATS
            Of the concepts of the pack that are known.
        others : (L,) uint64
            Concepts that change whatever their statistics say.
        """
        slots, place = np.unique(self._found.stands[self._known], return_inverse=True)
        before, ids = self._view.stats[slots], self._view.ids[slots]
        after = before.copy()
        use = before["frequency"].astype(np.uint64)
        joined = np.maximum if self._is_counted else np.add
        joined.at(use, place, arriving["frequency"].astype(np.uint64))
        after["frequency"] = np.minimum(use, np.uint64(_MOST_USES))
        strange = np.zeros(len(slots), np.bool_)
        np.logical_or.at(strange, place, arriving["origin"] != before["origin"][place])
        after["origin"][strange] = 0  # what several samples say is nobody's own
        for name, united in _JOINED.items():
            held = before[name].copy()
            united.at(held, place, arriving[name])
            after[name] = held
        relevance = _relevances(before, after["epoch"])
        np.maximum.at(relevance, place, _relevances(arriving, after["epoch"][place]))
        after["relevance"] = relevance
        changed = (after != before) | np.isin(ids, others)
        return ids[changed], after[changed]

    def _compared_payloads(self) -> tuple[dict[int, bytes], Slots]:
        """Return the payloads that concepts get, and the positions of those left out."""
        sizes, pack = self._pack.columns["payload_sizes"], self._pack
        new = self._new[sizes[self._new] > 0]
        known = self._known[sizes[self._known] > 0]
        got = {int(self._ids[each]): pack.payload(each) or b"" for each in new.tolist()}
        differing = []
        for begin in range(0, len(known), _CHUNK):
            part = known[begin : begin + _CHUNK]
            held = self._target.read_payloads(self._ids[part])
            for position, own in zip(part.tolist(), held, strict=True):
                payload = pack.payload(position) or b""
                if (own or got.setdefault(int(self._ids[position]), payload)) != payload:
                    differing.append(position)
        return got, np.array(differing, np.int64)

    def _events(self, changed: Ids, now: int) -> Records:
        """Return the events of births, and of concepts that took in others.

        Such a MERGE has no second number: no concept is gone.
        """
        is_new = self._found.stands < 0
        events = np.zeros(len(is_new), EVENT)
        events["timestamp"] = now // 1_000_000
        events["type"] = np.where(is_new, EventType.CREATE, EventType.MERGE)
        events["id1"], events["val"] = self._ids, self._found.cosines
        return events[is_new | np.isin(self._ids, changed)]


def _bounded_ages(ages: NDArray[np.uint32], present: NDArray[np.float64]) -> Slots:
    """Return ages after which concepts can be as relevant as they are.

    Release 3.0 let the age of a concept grow on while it was in use.
    """
    most = np.log(np.maximum(present, _LEAST)) / np.log(RELEVANCE_DECAY)
    bounded: Slots = np.minimum(ages, np.floor(most + _ROUNDING)).astype(np.int64)
    return np.where(present > 0, bounded, ages.astype(np.int64))


def _relevances(stats: Records, epochs: Ids) -> Floats:
    """Return what relevances are at epochs that are no earlier than the last touch."""
    return decayed(stats["relevance"], RELEVANCE_DECAY, epochs - stats["epoch"])


def _source_of(pack: Pack) -> bytes:
    """Return what packs have in common of which the later tells the uses of the earlier again.

    That is the memory that they come from, or, where it is not told, all that they hold.
    """
    uuid = pack.provenance.memory_uuid
    if uuid:
        return hashlib.sha256(uuid.encode()).digest()
    found = hashlib.sha256()
    for name, rows in sorted(pack.columns.items()):
        found.update(f"{name} {rows.shape} ".encode())
        for begin in range(0, len(rows), _CHUNK):
            found.update(np.ascontiguousarray(rows[begin : begin + _CHUNK]).data)
    return found.digest()


def _merged_before(view: View) -> list[bytes]:
    """Return where the packs came from that were merged into a memory, as far as it knows."""
    stored = view.settings.get(_MERGED, b"")
    return [stored[begin : begin + _DIGEST_BYTES] for begin in range(0, len(stored), _DIGEST_BYTES)]


def _conflicts(ids: Ids, positions: Slots, what: Literal["value", "payload"]) -> Iterator[Conflict]:
    for concept_id, position in zip(ids.tolist(), positions.tolist(), strict=True):
        yield Conflict(concept_id, position, what)
