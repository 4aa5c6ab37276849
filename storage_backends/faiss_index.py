"""Seed lookup: the concepts whose keys are most similar to a query.

Below `EXACT_BELOW` concepts the search is exact. Above, an immutable HNSW graph answers for the
slots it was built from and an exact search for those added or moved since. Nothing is ever added
to a graph that is searched: FAISS crashes.

Both run in C where they can (`storage_backends.lookup`), else in FAISS. A cosine is summed in one
order on all roads (`storage_backends.cosines`), so that an answer does not depend on its batch.

A graph goes on leading to tombstones, and where they lie close together it leads to little else.
So it is asked for more than is wanted, tombstones are taken out, and a query that is left with too
little is answered exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

from storage_backends import lookup
from storage_backends.columns import Column, Slots
from storage_backends.cosines import best, cosines_of
from storage_backends.hnsw import HnswBase
from storage_backends.lazy import lazy
from storage_backends.types import Floats

__all__ = [
    "EXACT_BELOW",
    "HnswBase",
    "SeedIndex",
    "merge_by_cosine",
    "nearest",
    "one_thread",
    "padded",
]

EXACT_BELOW = 20_000
#: A graph that leads to tombstones is asked for at least so many.
_REACH = 64
#: Keys that are compared at a time, and copied at a time where some of them are hidden.
_CHUNK = 65_536
#: Multiply-adds that two milliseconds of one core do; below, a second thread costs more than it
#: brings.
_ONE_THREAD_WORK = 20_000_000

_NO_SLOTS: Slots = np.empty(0, np.int64)


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Let FAISS use one OpenMP thread inside, and restore the count, which torch shares."""
    before = faiss.omp_get_max_threads()
    if not when or before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True)
class SeedIndex:
    """Nearest-key search over one view.

    Parameters
    ----------
    keys : column of (N, D) float32
        Unit keys by slot.
    alive : column of (N,) bool or None
        Slots that may be found; None means all.
    base : HnswBase or None
        Graph over the first slots; None makes the whole search exact.
    moved : (M,) int64
        Slots of the graph that have another key than it was built from, ascending.
    """

    keys: Column[np.float32]
    alive: Column[np.bool_] | None
    base: HnswBase | None
    moved: Slots = field(default_factory=lambda: _NO_SLOTS)

    def search(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Find the ``k`` most similar live slots of each query.

        Parameters
        ----------
        queries : (N, D) float32
            Unit vectors.
        k : int
            At least 1.

        Returns
        -------
        slots : (N, k) int64
            Descending by cosine, of equal ones the lower first; -1 pads.
        cosines : (N, k) float32
            0 where padded.
        """
        if self.base is None:
            return _compared(self._outside, queries, k)
        return _compared(self._outside, queries, k, self._in_graph(self.base, queries, k))

    @property
    def covered(self) -> int:
        """Slots from which on the graph knows nothing."""
        return 0 if self.base is None else self.base.size

    def search_graph(self, base: HnswBase, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Find live slots by the graph alone, which may be fewer; returned as by `search`."""
        if self.alive is None and not len(self.moved):
            return base.search(queries, k)
        slots, cosines = base.search(queries, max(2 * k, _REACH))
        return best(np.where(self._visible(slots), slots, -1), cosines, k)

    def search_covered(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Find by comparison the nearest of the slots that the graph answers for, at most ``k``."""
        width = min(k, self._most_in_graph)
        if not width:
            return _no_answers(queries, 0)
        return _compared(self._parts(0, self.covered), queries, width)

    def _in_graph(self, base: HnswBase, queries: Floats, k: int) -> tuple[Slots, Floats]:
        slots, cosines = self.search_graph(base, queries, k)
        short = np.flatnonzero(slots[:, -1] < 0)
        if len(short):
            short = short[(slots[short] >= 0).sum(axis=1) < self._most_in_graph]
        if len(short):
            slots[short], cosines[short] = padded(*self.search_covered(queries[short], k), k)
        return slots, cosines

    def _visible(self, slots: Slots) -> NDArray[np.bool_]:
        """Tell which slots of the graph may be found by it."""
        visible = slots >= 0
        if self.alive is not None:
            visible &= self.alive[slots]
        if len(self.moved):
            place = np.minimum(np.searchsorted(self.moved, slots), len(self.moved) - 1)
            visible &= self.moved[place] != slots
        return visible

    @lazy
    def _most_in_graph(self) -> int:
        """Number of slots that the graph answers for."""
        return self.covered - self._dead(0, self.covered) - len(self._live_moved)

    @property
    def uncovered(self) -> int:
        """Number of live slots that the graph does not answer for."""
        size = len(self.keys)
        behind = size - self.covered - self._dead(self.covered, size)
        return behind + len(self._live_moved)

    @property
    def _live_moved(self) -> Slots:
        return self.moved if self.alive is None else self.moved[self.alive[self.moved]]

    def _dead(self, begin: int, end: int) -> int:
        if self.alive is None:
            return 0
        return end - begin - int(np.count_nonzero(self.alive.part(begin, end)))

    @lazy
    def _outside(self) -> list[_Flat]:
        parts = list(self._parts(self.covered, len(self.keys)))
        moved = self._live_moved
        return [*parts, _Flat(0, moved, self.keys[moved])] if len(moved) else parts

    def _parts(self, begin: int, end: int) -> Iterator[_Flat]:
        """Return the slots of a range that may be found by comparison, in pieces.

        What nothing is hidden in is not copied.
        """
        edges = {*range(begin, end, _CHUNK), end, min(max(self.keys.base_size, begin), end)}
        for first, last in pairwise(sorted(edges)):
            visible = self._compared(first, last)
            keys = self.keys.part(first, last)
            if visible is None:
                yield _Flat(first, None, keys)
            else:
                yield _Flat(first, visible, keys[visible])

    def _compared(self, begin: int, end: int) -> Slots | None:
        """Return which of a range may be found by comparison, counted from its begin; None: all."""
        dead = self._dead(begin, end)
        low, high = np.searchsorted(self.moved, (begin, end))
        if not dead and low == high:
            return None
        visible = np.ones(end - begin, np.bool_)
        if self.alive is not None:
            visible &= self.alive.part(begin, end)
        visible[self.moved[low:high] - begin] = False
        return np.flatnonzero(visible)


@dataclass(frozen=True)
class _Flat:
    """Keys that are compared one by one.

    Row ``i`` is slot ``first + chosen[i]``, or ``first + i`` where nothing was chosen.
    """

    first: int
    chosen: Slots | None
    keys: Floats


def _compared(
    parts: Iterable[_Flat],
    queries: Floats,
    k: int,
    found: tuple[Slots, Floats] | None = None,
) -> tuple[Slots, Floats]:
    """Compare queries with several parts, and return the best ``k`` of these and of ``found``."""
    if found is None:
        found = _no_answers(queries, k)
    in_c = lookup.is_used()
    for part in parts:
        if in_c:
            lookup.compare(found, queries, part.keys, part.first, part.chosen)
        else:
            found = _by_faiss(part, queries, k, found)
    return found


def _no_answers(queries: Floats, k: int) -> tuple[Slots, Floats]:
    return np.full((len(queries), k), -1), np.zeros((len(queries), k), np.float32)


def _by_faiss(
    part: _Flat, queries: Floats, k: int, found: tuple[Slots, Floats]
) -> tuple[Slots, Floats]:
    """Compare by FAISS, which sums in an order of its own, and sum again what it finds."""
    width = min(k, len(part.keys))
    if not width or not len(queries):
        return found
    with one_thread(len(queries) * part.keys.size < _ONE_THREAD_WORK):
        rows = faiss.knn(queries, part.keys, width, metric=faiss.METRIC_INNER_PRODUCT)[1]
    cosines = cosines_of(queries, part.keys, rows)
    slots = part.first + (rows if part.chosen is None else part.chosen[rows])
    slots = np.concatenate([found[0], np.where(rows >= 0, slots, -1)], axis=1)
    return best(slots, np.concatenate([found[1], cosines], axis=1), k)


def nearest(queries: Floats, keys: Floats, k: int) -> tuple[Slots, Floats]:
    """Exact search: rows of ``keys`` (M, D) most similar to each query, at most ``k`` of them.

    They descend by cosine, and among equal ones ascend.
    """
    width = min(k, len(keys))
    if not width or not len(queries):
        return _no_answers(queries, 0)
    return _compared([_Flat(0, None, keys)], queries, width)


def padded(slots: Slots, cosines: Floats, k: int) -> tuple[Slots, Floats]:
    """Return both arrays ``k`` wide, with -1 and 0 where nothing was found."""
    missing = k - slots.shape[1]
    if missing > 0:
        slots = np.pad(slots, ((0, 0), (0, missing)), constant_values=-1)
        cosines = np.pad(cosines, ((0, 0), (0, missing)))
    return slots, np.where(slots >= 0, cosines, np.float32(0))


def merge_by_cosine(
    left: tuple[Slots, Floats], right: tuple[Slots, Floats], k: int
) -> tuple[Slots, Floats]:
    """Merge two result lists of the same queries and keep the best ``k``; -1 goes last."""
    slots = np.concatenate([left[0], right[0]], axis=1)
    cosines = np.concatenate([left[1], right[1]], axis=1)
    rank = np.where(slots >= 0, -cosines, np.inf)
    order = np.argsort(rank, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(slots, order, 1), np.take_along_axis(cosines, order, 1)


def _use_one_thread() -> None:
    faiss.omp_set_num_threads(1)


# A child inherits a pool of threads that no longer run, and would wait for them for ever.
os.register_at_fork(after_in_child=_use_one_thread)
