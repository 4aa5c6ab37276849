"""Ageing, decay and pruning, worked out when read.

A concept stores its relevance as of its last touch and the consolidation epoch of that touch. Age
and present relevance follow from the epoch counter alone, so a consolidation pass writes nothing
for the concepts that it only makes older.
"""

from __future__ import annotations

import numpy as np

from storage_backends.adjacency import Slots
from storage_backends.types import Floats, Ids, Records
from storage_backends.view import View

#: Relevance kept per consolidation epoch: the documented decay of 5 %.
RELEVANCE_DECAY = 0.95
#: Epochs without a touch after which a concept is old enough to be pruned.
PRUNING_AGE = 10
#: Share of the missing relevance that a touch restores.
_REVIVAL = 0.1


def ages(stats: Records, epoch: int) -> Ids:
    """Return the consolidation epochs since the last touch of each concept, uint64."""
    past: Ids = np.uint64(epoch) - np.minimum(stats["epoch"], np.uint64(epoch))
    return past


def relevances(stats: Records, epoch: int) -> Floats:
    """Return the present relevance of each concept, float32 in [0, 1]."""
    decayed: Floats = stats["relevance"] * np.power(
        np.float32(RELEVANCE_DECAY), ages(stats, epoch).astype(np.float32)
    )
    return decayed


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


def prunable(view: View, epoch: int, least_relevance: float, least_frequency: int) -> Slots:
    """Return the slots of concepts that are irrelevant, rarely used and old enough."""
    stats = view.stats
    weak = relevances(stats, epoch) < least_relevance
    rare = stats["frequency"] < least_frequency
    old = ages(stats, epoch) >= PRUNING_AGE
    return np.flatnonzero(view.alive & weak & rare & old)


def weakest(view: View, epoch: int, count: int) -> Slots:
    """Return the ``count`` live slots of least relevance, then least use, then lowest id."""
    live = np.flatnonzero(view.alive)
    stats = view.stats[live]
    order = np.lexsort((view.ids[live], stats["frequency"], relevances(stats, epoch)))
    return live[order[:count]]
