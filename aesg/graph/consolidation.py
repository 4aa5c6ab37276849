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

from storage_backends.columns import Slots
from storage_backends.types import Floats, Ids, Records
from storage_backends.view import View

#: Relevance kept per consolidation epoch: the documented decay of 5 %.
RELEVANCE_DECAY = 0.95
#: Epochs without a touch after which a concept is old enough to be pruned.
PRUNING_AGE = 10
#: Share of the missing relevance that a touch restores.
_REVIVAL = 0.1

#: Concepts that are examined at a time.
_CHUNK = 65_536

#: Statistics as records, or the fields of them that are asked for.
Stats: TypeAlias = Records | Mapping[str, NDArray[Any]]


def ages(stats: Stats, epoch: int) -> Ids:
    """Return the consolidation epochs since the last touch of each concept, uint64."""
    past: Ids = np.uint64(epoch) - np.minimum(stats["epoch"], np.uint64(epoch))
    return past


def relevances(stats: Stats, epoch: int) -> Floats:
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
    found = []
    for begin in range(0, view.size, _CHUNK):
        end = min(begin + _CHUNK, view.size)
        stats = _fields(view, begin, end)
        weak = relevances(stats, epoch) < least_relevance
        rare = stats["frequency"] < least_frequency
        old = ages(stats, epoch) >= PRUNING_AGE
        found.append(np.flatnonzero(view.alive.part(begin, end) & weak & rare & old) + begin)
    return np.concatenate([np.empty(0, np.int64), *found])


def weakest(view: View, epoch: int, count: int) -> Slots:
    """Return the ``count`` live slots of least relevance, then least use, then lowest id."""
    stats = _fields(view, 0, view.size)
    order = np.lexsort((view.ids.whole(), stats["frequency"], relevances(stats, epoch)))
    return order[view.alive.whole()[order]][:count]


def _fields(view: View, begin: int, end: int) -> Mapping[str, NDArray[Any]]:
    """Return what decides on pruning, and no other field, of a range of slots."""
    names = ("epoch", "relevance", "frequency")
    return {name: view.stats.field(name).part(begin, end) for name in names}
