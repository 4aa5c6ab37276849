"""Edges from what a concept leads to: from its value to the concepts whose keys resemble it.

With them activation answers questions of two steps: what the answer of the first step leads to
(Gutierrez et al., 2024, "HippoRAG", spread over a graph to the same end).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import live, unit
from aesg.graph.neighbours import nearest_among
from storage_backends.columns import Slots
from storage_backends.faiss_index import merge_by_cosine, nearest, padded
from storage_backends.types import Concepts, EdgeKind, Floats, Ids, ValueKind
from storage_backends.view import View

#: Concepts that one value is linked to, at most.
_NEIGHBOURS = 8

#: Confidence that these edges begin with. Their weight says how alike value and key are, and no use
#: has to confirm it first. At the 0.3 of edges that were met once, an answer of two steps stays
#: behind the neighbours of its question: `benchmarks/association.py` finds none, from 0.8 on all.
CONFIDENCE = 0.9

#: Values that wait for a key which resembles them; beyond, the oldest are given up.
MOST_WAITING = 4_096

#: From this cosine on, a value is the key of its own concept and leads nowhere else.
_OWN_KEY = 1 - 1e-6


@dataclass(frozen=True)
class Values:
    """Vector values of concepts.

    Parameters
    ----------
    ids : (M,) uint64
    units : (M, D) float32
        Unit vectors.
    """

    ids: Ids
    units: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls, width: int) -> Values:
        """Return no values, of a width."""
        return cls(np.empty(0, np.uint64), np.empty((0, width), np.float32))

    def where(self, chosen: NDArray[np.bool_]) -> Values:
        """Return some of the values, in order."""
        return Values(self.ids[chosen], self.units[chosen])

    def followed_by(self, others: Values) -> Values:
        """Return these values and others behind them."""
        if not len(self):
            return others
        ids = np.concatenate([self.ids, others.ids])
        return Values(ids, np.concatenate([self.units, others.units]))

    def last(self, count: int) -> Values:
        """Return the last values, at most ``count``."""
        return Values(self.ids[-count:], self.units[-count:])


@dataclass(frozen=True)
class Associations:
    """Edges that new concepts call for.

    Parameters
    ----------
    pairs : (L, 2) uint64
        Source and target of each, which differ; no pair repeats.
    cosines : (L,) float32
        Similarity of the source's value and the target's key, above 0.
    waiting : Values
        What no key resembles so far.
    """

    pairs: Ids
    cosines: Floats
    waiting: Values


def associate(view: View, new: Concepts, waiting: Values, least: float) -> Associations:
    """Find the keys that values resemble, where either side is new.

    Of the new keys a value is compared with all where they are few, else with those that are most
    likely near (`nearest_among`).

    Parameters
    ----------
    view : View
        The graph without the new concepts.
    new : Concepts
        What enters the graph.
    waiting : Values
        Values of concepts of the graph that no key has resembled so far; those of concepts that
        are gone are dropped.
    least : float
        Cosine from which a value resembles a key, in [0, 1].

    Returns
    -------
    Associations
    """
    waiting = waiting.where(view.slots(waiting.ids) >= 0)
    values = _values_of(new)
    if not len(values) and not (len(waiting) and len(new)):
        return Associations(np.empty((0, 2), np.uint64), np.empty(0, np.float32), waiting)
    keys = unit(new.keys)
    earlier, similar = _nearest_new(waiting, new.ids, keys, least)
    pairs, cosines = _nearest_of_all(view, values, new.ids, keys, least)
    unanswered = waiting.followed_by(values)
    pairs, cosines = np.concatenate([earlier, pairs]), np.concatenate([similar, cosines])
    unanswered = unanswered.where(~np.isin(unanswered.ids, pairs[:, 0]))
    return Associations(pairs, cosines, unanswered.last(MOST_WAITING))


def unanswered(view: View, width: int) -> Values:
    """Return the newest vector values of a graph that lead to no key, `MOST_WAITING` at most.

    Parameters
    ----------
    view : View
    width : int
        Of vectors, where there are none.
    """
    vectors, found = view.value_vectors, Values.none(width)
    if vectors is None:
        return found
    leading = view.adjacency.rows.field("kinds").whole() & np.uint32(EdgeKind.VALUE)
    valued = view.value_kinds.whole() == ValueKind.VECTOR
    slots = np.flatnonzero(valued & view.alive.whole() & (leading == 0))
    slots = slots[np.argsort(view.ids[slots])]
    for end in range(len(slots), 0, -MOST_WAITING):
        part = slots[max(end - MOST_WAITING, 0) : end]
        found = _onward(view.ids[part], view.keys[part], vectors[part]).followed_by(found)
        if len(found) >= MOST_WAITING:
            break
    return found.last(MOST_WAITING)


def values_of(view: View, ids: Ids) -> Values:
    """Return the vector values of those of some concepts that exist and lead beyond themselves."""
    slots, vectors = live(view, ids), view.value_vectors
    if vectors is None or not len(slots):
        return Values.none(view.keys.shape[1])
    slots = slots[view.value_kinds[slots] == ValueKind.VECTOR]
    return _onward(view.ids[slots], view.keys[slots], vectors[slots])


def _values_of(new: Concepts) -> Values:
    """Return the vector values that have a direction and are not the key of their own concept."""
    if new.value_vectors is None:
        return Values.none(new.keys.shape[1])
    rows = np.flatnonzero(new.value_kinds == ValueKind.VECTOR)
    return _onward(new.ids[rows], new.keys[rows], new.value_vectors[rows])


def _onward(ids: Ids, keys: Floats, vectors: Floats) -> Values:
    units = unit(vectors)
    own = (units * unit(keys)).sum(axis=1) >= _OWN_KEY
    return Values(ids, units).where(~own & units.any(axis=1))


def _nearest_new(values: Values, ids: Ids, keys: Floats, least: float) -> tuple[Ids, Floats]:
    """Return the edges from values to new concepts."""
    found, cosines = padded(*nearest(values.units, keys, _NEIGHBOURS), _NEIGHBOURS)
    return _edges(values.ids, np.where(found >= 0, ids[found], 0), cosines, least)


def _nearest_of_all(
    view: View, values: Values, ids: Ids, keys: Floats, least: float
) -> tuple[Ids, Floats]:
    """Return the edges from new values to old and new concepts."""
    reach = _NEIGHBOURS + 1  # the concept itself may be among them
    slots, cosines = nearest_among(values.units, keys, reach)
    slots = np.where(slots >= 0, slots + view.size, -1)
    if view.node_count and len(values):
        known = view.index.search(values.units, reach)
        slots, cosines = merge_by_cosine(known, (slots, cosines), reach)
    targets = _ids_of(view, ids, slots)
    own = targets == values.ids[:, None]
    cosines = np.where(own | (targets == 0), np.float32(-1), cosines)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEIGHBOURS]
    targets = np.take_along_axis(targets, order, 1)
    return _edges(values.ids, targets, np.take_along_axis(cosines, order, 1), least)


def _ids_of(view: View, ids: Ids, slots: Slots) -> Ids:
    """Return the ids of slots of the view, and of new concepts behind them; 0 for -1."""
    held = np.where(slots < view.size, slots, -1)
    old = view.ids[np.maximum(held, 0)] if view.size else np.zeros(slots.shape, np.uint64)
    new = ids[np.maximum(slots - view.size, 0)]
    return np.where(slots < 0, np.uint64(0), np.where(held >= 0, old, new))


def _edges(sources: Ids, targets: Ids, cosines: Floats, least: float) -> tuple[Ids, Floats]:
    """Return pairs of ids and cosines of the ``(M, k)`` targets that are alike enough."""
    alike = (targets != 0) & (cosines >= least) & (cosines > 0)
    row, column = np.nonzero(alike)
    return np.stack([sources[row], targets[row, column]], axis=1), cosines[row, column]
