"""Ageing, decay and pruning, worked out when read.

A concept stores its relevance as of its last touch and the consolidation epoch of that touch. Age
and present relevance follow from the epoch counter alone, so a consolidation pass writes nothing
for the concepts that it only makes older.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aesg.graph.clock import Clock, microseconds
from aesg.graph.decay import NEVER, Epochs, decayed, epochs_until, later
from aesg.graph.edges import EDGE_DECAY
from storage_backends.columns import Slots
from storage_backends.types import EVENT, EdgeKind, EventType, Floats, Ids, Records, WriteBatch
from storage_backends.view import View

#: Relevance kept per consolidation epoch: the documented decay of 5 %.
RELEVANCE_DECAY = 0.95
#: Epochs without a touch after which a concept is old enough to be pruned.
PRUNING_AGE = 10
#: Share of the missing relevance that a touch restores.
_REVIVAL = 0.1

#: The statistics that pruning depends on.
_FADING = ("epoch", "relevance", "frequency")

#: Concepts whose out-edges are examined at a time.
_CHUNK_OF_ROWS = 16_384

#: Statistics as records, or the fields of them that are asked for.
Stats: TypeAlias = Records | Mapping[str, NDArray[Any]]


def ages(stats: Stats, epoch: int | Ids) -> Ids:
    """Return the consolidation epochs from the last touch of each concept to ``epoch``, uint64."""
    now = np.asarray(epoch, np.uint64)
    past: Ids = now - np.minimum(stats["epoch"], now)
    return past


def relevances(stats: Stats, epoch: int | Ids) -> Floats:
    """Return the relevance of each concept at an epoch, of all or of each, float32 in [0, 1]."""
    return decayed(stats["relevance"], RELEVANCE_DECAY, ages(stats, epoch))


def touched(stats: Records, counts: Slots, epoch: int, tick: int, now: int) -> Records:
    """Return statistics after concepts proved useful.

    Parameters
    ----------
    stats : (M,) STATS
    counts : (M,) int
        How often each was used.
    epoch, tick : int
        The present consolidation epoch and topology update.
    now : int
        Unix microseconds.
    """
    after = stats.copy()
    missing = 1 - relevances(stats, epoch)
    after["relevance"] = 1 - missing * np.power(np.float32(1 - _REVIVAL), counts)
    total = stats["frequency"].astype(np.uint64) + counts.astype(np.uint64)
    after["frequency"] = np.minimum(total, np.iinfo(np.uint32).max)
    after["epoch"], after["tick"], after["modified"] = epoch, tick, now
    return after


def expiry_of(stats: Stats, least_relevance: float, least_frequency: int) -> Epochs:
    """Return the epoch before which concepts are not prunable unless they are touched.

    Parameters
    ----------
    stats : (M,) STATS
    least_relevance, least_frequency
        As for `are_prunable`.

    Returns
    -------
    (M,) int64
        `NEVER` where a concept is used often enough.
    """
    ages = epochs_until(stats["relevance"], RELEVANCE_DECAY, least_relevance)
    epochs = later(stats["epoch"], np.maximum(ages, PRUNING_AGE))
    return np.where(stats["frequency"] < least_frequency, epochs, NEVER)


def are_prunable(
    stats: Stats, epoch: int, least_relevance: float, least_frequency: int
) -> NDArray[np.bool_]:
    """Return which concepts are irrelevant, rarely used and old enough.

    Parameters
    ----------
    stats : (M,) STATS
    epoch : int
        The present consolidation epoch.
    least_relevance : float
        Relevance below which a concept is irrelevant.
    least_frequency : int
        Uses below which it is rarely used.
    """
    weak = relevances(stats, epoch) < least_relevance
    rare = stats["frequency"] < least_frequency
    old = ages(stats, epoch) >= PRUNING_AGE
    prunable: NDArray[np.bool_] = weak & rare & old
    return prunable


def prune(
    view: View, candidates: Slots, clock: Clock, least_relevance: float, least_frequency: int
) -> WriteBatch | None:
    """Return what removes those candidates that are prunable, each with its event.

    Parameters
    ----------
    view : View
    candidates : (M,) int64
        Live slots, without repeats.
    clock : Clock
    least_relevance, least_frequency
        As for `are_prunable`.

    Returns
    -------
    WriteBatch or None
        For `Engine.commit`; None where none is prunable.
    """
    stats = fading_stats(view, candidates)
    chosen = are_prunable(stats, clock.epoch, least_relevance, least_frequency)
    if not chosen.any():
        return None
    ids, values = view.ids[candidates[chosen]], relevances(stats, clock.epoch)[chosen]
    return WriteBatch(deleted=ids, events=_prunings(ids, np.zeros_like(ids), values))


def drop_edges(view: View, candidates: Slots, clock: Clock, threshold: float) -> WriteBatch | None:
    """Return what removes edges of present confidence below a threshold, if they `can_fade`.

    The edges that stay are as they were: their rows state them as of the same epoch as before.
    Each row that loses edges has one event, which tells how many and the greatest confidence
    among them: a faded neighbourhood is not to push everything else out of a bounded log.

    Parameters
    ----------
    view : View
    candidates : (M,) int64
        Live slots whose out-edges are judged, without repeats.
    clock : Clock
    threshold : float

    Returns
    -------
    WriteBatch or None
        For `Engine.commit`; the ``id2`` of its events sum to the edges that go. None where all
        stay.
    """
    rows: dict[int, Records] = {}
    events = [np.empty(0, EVENT)]
    for begin in range(0, len(candidates), _CHUNK_OF_ROWS):
        slots = candidates[begin : begin + _CHUNK_OF_ROWS]
        owner, edges = view.out_edges(slots)
        now = decayed(edges["confidence"], EDGE_DECAY, edge_ages(view, slots, clock.epoch)[owner])
        weak = (now < threshold) & can_fade(edges)
        sources = view.ids[slots]
        changed, first, gone = np.unique(owner[weak], return_index=True, return_counts=True)
        greatest = np.maximum.reduceat(now[weak], first) if len(first) else now[:0]
        events.append(_prunings(sources[changed], gone.astype(np.uint64), greatest))
        kept = ~weak & np.isin(owner, changed)
        ends = np.searchsorted(owner[kept], changed, side="right")
        split = np.split(edges[kept], ends[:-1]) if len(changed) else []
        rows.update(zip(sources[changed].tolist(), split, strict=True))
    return WriteBatch(edges=rows, events=np.concatenate(events, dtype=EVENT)) if rows else None


def can_fade(edges: Records) -> NDArray[np.bool_]:
    """Tell which edges may go for weakness: not those between a concept and an abstract one.

    Without them a group would be without its abstract concept, and would be given another.
    """
    fading: NDArray[np.bool_] = (edges["kind"] & np.uint32(EdgeKind.ABSTRACTION)) == 0
    return fading


def edge_ages(view: View, slots: Slots, epoch: int) -> Epochs:
    """Return the consolidation epochs since the out-edges of slots were stated."""
    return np.maximum(epoch - view.edge_epochs(slots).astype(np.int64), 0)


def weakest(view: View, epoch: int, count: int) -> Slots:
    """Return the ``count`` live slots of least relevance, then least use, then lowest id.

    All concepts are looked at.
    """
    slots = np.flatnonzero(view.alive.whole())
    if not 0 < count < len(slots):
        return _weakest_first(view, slots, epoch)[: max(count, 0)]
    held = {name: view.stats.field(name).whole()[slots] for name in ("epoch", "relevance")}
    present = relevances(held, epoch)
    bound = np.partition(present, count - 1)[count - 1]
    return _weakest_first(view, slots[present <= bound], epoch)[:count]


def _weakest_first(view: View, slots: Slots, epoch: int) -> Slots:
    stats = fading_stats(view, slots)
    return slots[np.lexsort((view.ids[slots], stats["frequency"], relevances(stats, epoch)))]


def fading_stats(view: View, slots: Slots) -> Stats:
    """Return the statistics of slots that pruning depends on, and no others."""
    return {name: view.stats.field(name)[slots] for name in _FADING}


def _prunings(id1: Ids, id2: Ids, values: Floats) -> Records:
    events = np.zeros(len(id1), EVENT)
    events["timestamp"] = microseconds() // 1_000_000
    events["type"] = EventType.PRUNE
    events["id1"], events["id2"], events["val"] = id1, id2, values
    return events
