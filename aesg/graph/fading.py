"""What of a graph has faded away, found without looking at the rest.

Concepts and rows of edges each have a hint: an epoch before which they need no look. One that
comes too early costs a look, one that came too late would let something outlive its time. So a
hint is noted where something begins to fade; whatever is touched meanwhile keeps it, and is judged
again when it falls due.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from aesg.graph import consolidation, edges
from aesg.graph.arrays import ids_of, live
from aesg.graph.clock import Clock
from aesg.graph.decay import decayed
from aesg.graph.expiry import Expiry
from storage_backends.columns import Slots
from storage_backends.types import Floats, Ids, WriteBatch
from storage_backends.view import View

#: What concepts and edges need, so as not to be pruned: the relevance of a concept, the uses that
#: keep it whatever its relevance, and the confidence of an edge.
Thresholds: TypeAlias = tuple[float, int, float]

#: Concepts that are looked at together.
_CHUNK = 65_536


class Fading:
    """Knows when which concepts and edges of a graph may have faded away.

    It looks at the whole graph once, and from then on at what it is told of.

    Parameters
    ----------
    view : View
    thresholds : (float, int, float)
        As in `Thresholds`.
    """

    def __init__(self, view: View, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._concepts = Expiry()
        self._rows = Expiry()
        for begin in range(0, view.size, _CHUNK):
            end = min(begin + _CHUNK, view.size)
            slots = np.flatnonzero(view.alive.part(begin, end)) + begin
            self._watch_concepts(view, slots)
            self._watch_rows(view, slots)

    def settled(self, view: View, batch: WriteBatch) -> None:
        """Take note of a commit.

        Parameters
        ----------
        view : View
            The graph after it.
        batch : WriteBatch
            What was committed. Where it changes statistics only, relevance, epoch and frequency
            do not fall: a touch postpones.
        """
        if batch.concepts is not None:
            self._watch_concepts(view, live(view, batch.concepts.ids))
        if batch.edges:
            self._watch_rows(view, live(view, ids_of(batch.edges)))

    def due(self, view: View, clock: Clock) -> tuple[Slots, Slots]:
        """Return the slots of what has faded away, each ascending.

        What is returned is returned again until it is gone.

        Parameters
        ----------
        view : View
            The graph after the last commit told of.
        clock : Clock

        Returns
        -------
        concepts : (M,) int64
            Prunable concepts.
        rows : (L,) int64
            Concepts with an out-edge that is too weak.
        """
        concepts, rows = self._concepts.due(clock.epoch), self._rows.due(clock.epoch)
        return self._prunable(view, concepts, clock.epoch), self._weak(view, rows, clock.epoch)

    def _prunable(self, view: View, ids: Ids, epoch: int) -> Slots:
        """Return the slots of those concepts that are prunable; all are watched on."""
        slots = np.sort(live(view, ids))
        if not len(slots):
            return slots
        self._watch_concepts(view, slots)
        stats = consolidation.fading_stats(view, slots)
        return slots[consolidation.are_prunable(stats, epoch, *self.thresholds[:2])]

    def _weak(self, view: View, ids: Ids, epoch: int) -> Slots:
        """Return the slots of those concepts that have too weak an edge; all are watched on."""
        slots = np.sort(live(view, ids))
        if not len(slots):
            return slots
        self._watch_rows(view, slots)
        slots, least = _least_confidences(view, slots)
        ages = consolidation.edge_ages(view, slots, epoch)
        return slots[decayed(least, edges.EDGE_DECAY, ages) < self.thresholds[2]]

    def _watch_concepts(self, view: View, slots: Slots) -> None:
        """Note when concepts need a look."""
        stats = consolidation.fading_stats(view, slots)
        epochs = consolidation.expiry_of(stats, *self.thresholds[:2])
        self._concepts.add(view.ids[slots], epochs)

    def _watch_rows(self, view: View, slots: Slots) -> None:
        """Note when the out-edges of concepts need a look."""
        slots, least = _least_confidences(view, slots)
        stated = view.stats.field("edge_epoch")[slots]
        epochs = edges.expiry_of(least, stated, self.thresholds[2])
        self._rows.add(view.ids[slots], epochs)


def _least_confidences(view: View, slots: Slots) -> tuple[Slots, Floats]:
    """Return those slots that have out-edges that can fade, and the least confidence of each.

    As stated, not as of now.
    """
    owner, positions = view.adjacency.positions(slots)
    held = view.adjacency.rest[positions]
    fading = consolidation.can_fade(held)
    owner, held = owner[fading], held[fading]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    if not len(first):
        return slots[:0], np.empty(0, np.float32)
    least: Floats = np.minimum.reduceat(held["confidence"], first)
    return slots[owner[first]], least
