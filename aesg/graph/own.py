"""Recognition: a sample that comes again meets the concepts that it left the last time.

In training a query never *reads* a concept of its own sample, but the memory knows which one it
is: the concept of the same origin and the same outcome. That concept is re-keyed to the present
query, so that keys follow the network that makes them, and it stands for the query in place of a
duplicate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import unit
from aesg.graph.novelty import Experience
from aesg.graph.scope import Scope
from storage_backends.columns import Slots
from storage_backends.types import Floats, Ids, ValueKind, WriteBatch
from storage_backends.view import View

#: Concepts that were added to an index, per sorted one, before all are sorted anew.
_MOST_ADDED = 0.5
_LEAST_ADDED = 1_024


class OriginIndex:
    """Finds the concepts of the graph that came from some samples.

    They are sorted by origin when first asked for, and again when half as many have been added; in
    between the cost of a lookup follows what it finds, not the size of the memory. It is told of
    changes through `committed`.
    """

    def __init__(self) -> None:
        self._generation = -1  # of the view that it knows
        self._origins: Ids = np.empty(0, np.uint64)  # sorted
        self._ids: Ids = np.empty(0, np.uint64)
        self._added: dict[int, list[int]] = {}
        self._count = 0  # of what was added

    def committed(self, before: View, view: View, batch: WriteBatch) -> None:
        """Be told of a batch and of the views before and after it."""
        if self._generation != before.generation:
            return
        self._generation = view.generation
        concepts = batch.concepts
        if concepts is None:
            return
        new = before.slots(concepts.ids) < 0
        pairs = zip(concepts.stats["origin"][new].tolist(), concepts.ids[new].tolist(), strict=True)
        for origin, concept_id in pairs:
            self._added.setdefault(origin, []).append(concept_id)
            self._count += 1

    def slots(self, view: View, origins: Ids) -> Slots:
        """Return the slots of the concepts of some origins, ascending.

        Parameters
        ----------
        view : View
        origins : (O,) uint64
            Each once; none is 0.
        """
        most = max(_LEAST_ADDED, _MOST_ADDED * len(self._ids))
        if self._generation != view.generation or self._count > most:
            self._sort(view)
        first = np.searchsorted(self._origins, origins)
        last = np.searchsorted(self._origins, origins, side="right")
        held = [self._ids[begin:end] for begin, end in zip(first, last, strict=True)]
        added = [each for origin in origins.tolist() for each in self._added.get(origin, ())]
        slots = view.slots(np.concatenate([*held, np.array(added, np.uint64)]))
        slots = np.sort(slots[slots >= 0])
        # a concept that another was merged into may have no origin any more
        return slots[np.isin(view.stats[slots]["origin"], origins)]

    def _sort(self, view: View) -> None:
        origins = view.stats.field("origin").whole()
        chosen = np.flatnonzero(view.alive.whole() & (origins != 0))
        order = chosen[np.argsort(origins[chosen], kind="stable")]
        self._origins, self._ids = origins[order], view.ids[order]
        self._added, self._count = {}, 0
        self._generation = view.generation


def match(experience: Experience, scope: Scope, index: OriginIndex, sameness: float) -> Ids:
    """Return for each query the concept of its own sample that it meets again.

    Of integer outcomes the concept has the same value, and of several the most similar key. Of
    vector outcomes it has the most similar value, of none the most similar key, and the cosine is
    at least ``sameness``. A concept stands for one query at most. A query without direction meets
    none: as a key it would be found by nobody.

    Parameters
    ----------
    experience : Experience
    scope : Scope
    index : OriginIndex
    sameness : float
        In [0, 1].

    Returns
    -------
    (M,) uint64
        0 for none: it has no origin or no direction, or no such concept is held.
    """
    own = np.zeros(len(experience.keys), np.uint64)
    asking = np.where(experience.norms > 0, experience.origins, np.uint64(0))
    origins = np.unique(asking[asking != 0])
    slots = _slots(scope, index, origins)
    if not len(slots):
        return own
    slots = slots[scope.value_kinds(slots) == experience.value_kind]
    ids, values = scope.ids(slots), scope.value_ids(slots)
    asked, held = _compared(experience, scope, slots)
    for rows, those in _groups(asking, scope.origins(slots)):
        cosines = asked[rows] @ held[those].T  # (Q, C)
        if experience.value_kind is ValueKind.INTEGER:
            fits = experience.value_ids[rows][:, None] == values[those]
        else:
            fits = cosines >= sameness
        row, column = _paired(np.where(fits, cosines, np.float32(-np.inf)))
        own[rows[row]] = ids[those[column]]
    return own


def _slots(scope: Scope, index: OriginIndex, origins: Ids) -> Slots:
    """Return the slots of all concepts of some origins, provisional ones last."""
    if not len(origins):
        return np.empty(0, np.int64)
    graph = index.slots(scope.view, origins)
    ring = np.flatnonzero(np.isin(scope.shortterm.entries["origin"], origins))
    return np.concatenate([graph, ring + scope.firsts[-1]])


def _groups(asking: Ids, held: Ids) -> Iterator[tuple[Slots, Slots]]:
    """Yield rows of both that have the same origin, origin after origin, in ascending order."""
    both = np.intersect1d(asking, held)
    yield from zip(_rows_of(both, asking), _rows_of(both, held), strict=True)


def _rows_of(origins: Ids, column: Ids) -> list[Slots]:
    """Return the rows in which a column has each of some origins."""
    order = np.argsort(column, kind="stable")
    first = np.searchsorted(column, origins, sorter=order)
    last = np.searchsorted(column, origins, side="right", sorter=order)
    return [order[begin:end] for begin, end in zip(first, last, strict=True)]


def _compared(experience: Experience, scope: Scope, slots: Slots) -> tuple[Floats, Floats]:
    """Return what tells queries and concepts apart, unit vectors: vector values, else keys."""
    vectors = experience.value_vectors
    if experience.value_kind is ValueKind.VECTOR and vectors is not None:
        return unit(vectors), unit(scope.vectors(slots))
    return experience.keys, scope.keys(slots)


def _paired(left: NDArray[np.float32]) -> tuple[Slots, Slots]:
    """Pair rows and columns, the best fitting first; return both, without what stays alone.

    What does not fit is minus infinity; so is everything in the end.
    """
    pairs: list[Slots] = []
    every = np.arange(len(left))
    while True:
        column = left.argmax(axis=1)
        best = (left.argmax(axis=0)[column] == every) & (left[every, column] > -np.inf)
        rows = np.flatnonzero(best)
        if not len(rows):
            break
        pairs.append(np.stack([rows, column[rows]]))
        left[rows] = left[:, column[rows]] = -np.inf
    found = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    return found[0], found[1]
