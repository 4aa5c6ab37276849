"""Out-edges of many concepts at once: what is done to a row, done to all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Slots
from storage_backends.types import EDGE, Ids, Records


@dataclass(frozen=True)
class OutEdges:
    """Out-edges of ``M`` concepts, concept after concept.

    Parameters
    ----------
    concepts : int
        ``M``; those without an edge count too.
    owner : (E,) int64
        Place of each edge's source among the concepts, ascending.
    edges : (E,) EDGE
    """

    concepts: int
    owner: Slots
    edges: Records

    @classmethod
    def of(cls, rows: Sequence[Records]) -> OutEdges:
        """Return the edges of rows, one for each concept."""
        counts = [len(row) for row in rows]
        edges = np.concatenate(rows, dtype=EDGE) if rows else np.empty(0, EDGE)
        return cls(len(rows), np.repeat(np.arange(len(rows)), counts), edges)

    @property
    def counts(self) -> Slots:
        """How many edges each concept has, ``(M,)`` int64."""
        return np.bincount(self.owner, minlength=self.concepts)

    def split(self) -> list[Records]:
        """Return the row of each concept."""
        ends = np.cumsum(self.counts).tolist()
        starts = [0, *ends[:-1]]
        return [self.edges[start:end] for start, end in zip(starts, ends, strict=False)]

    def where(self, chosen: NDArray[np.bool_]) -> OutEdges:
        """Return some of the edges, of all concepts."""
        return replace(self, owner=self.owner[chosen], edges=self.edges[chosen])

    def only(self, chosen: NDArray[np.bool_]) -> OutEdges:
        """Return the edges of some of the concepts, ``(M,)`` bool, and only those concepts."""
        held = self.where(chosen[self.owner])
        return replace(held, concepts=int(chosen.sum()), owner=(np.cumsum(chosen) - 1)[held.owner])

    def with_behind(self, owner: Slots, edges: Records) -> OutEdges:
        """Return these edges, and behind those of each concept some others, in their order."""
        if not len(edges):
            return self
        every = np.concatenate([self.owner, owner])
        order = np.argsort(every, kind="stable")
        # With the type given, numpy does not work it out from the fields, which takes long.
        joined = np.concatenate([self.edges, edges], dtype=EDGE)
        return replace(self, owner=every[order], edges=joined[order])

    def places(self, owner: Slots, targets: Ids) -> Slots:
        """Return the place of the edge from each of some concepts to a target, -1 without one.

        Parameters
        ----------
        owner : (U,) int64
        targets : (U,) uint64
        """
        named, rank = np.unique(targets, return_inverse=True)
        held = self.edges["target"]
        near = np.searchsorted(named, held)
        near[near == len(named)] = 0
        places = np.flatnonzero(named[near] == held) if len(named) else near[:0]
        if not len(places):
            return np.full(len(owner), -1, np.int64)
        # Owner and target in one number, which is sorted and found faster than two.
        keys = self.owner[places] * len(named) + near[places]
        order = np.argsort(keys)
        wanted = owner * len(named) + rank
        at = np.searchsorted(keys, wanted, sorter=order)
        at[at == len(keys)] = 0
        return np.where(keys[order[at]] == wanted, places[order[at]], -1)

    def strongest(self, most: int) -> OutEdges:
        """Return the ``most`` strongest edges of each concept, in their order.

        Of equals those of the highest targets stay.
        """
        surplus = self.counts - most
        if not (surplus > 0).any():
            return self
        crowded = np.flatnonzero(surplus[self.owner] > 0)
        edges, owner = self.edges[crowded], self.owner[crowded]
        strength = edges["weight"] * edges["confidence"]
        order = np.lexsort((edges["target"], strength, owner))  # the weakest of each first
        ordered = owner[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept = np.ones(len(self.edges), np.bool_)
        kept[crowded[order[rank < surplus[ordered]]]] = False
        return self.where(kept)

    def changed(self, after: OutEdges) -> NDArray[np.bool_]:
        """Tell of which concepts the rows are others ``after``, ``(M,)`` bool."""
        before_counts, after_counts = self.counts, after.counts
        changed: NDArray[np.bool_] = before_counts != after_counts
        before, now = self.where(~changed[self.owner]), after.where(~changed[after.owner])
        other = np.zeros(len(now.edges), np.bool_)
        for name in EDGE.names or ():
            other |= before.edges[name] != now.edges[name]
        changed[now.owner[other]] = True
        return changed
