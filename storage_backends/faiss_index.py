"""Seed lookup: the concepts whose keys are most similar to a query.

Below `EXACT_BELOW` concepts the search is exact. Above, an immutable HNSW graph (Malkov and
Yashunin, 2018) answers for the slots it was built from and an exact search for those added since;
the two are merged by cosine. Nothing is ever added to a graph that is searched: FAISS crashes.

A graph goes on leading to tombstones, and where they lie close together it leads to little else.
So it is asked for more than is wanted, tombstones are taken out, and a query that is left with too
little is answered exactly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Slots
from storage_backends.lazy import lazy
from storage_backends.types import Floats

EXACT_BELOW = 20_000
_NEIGHBOURS = 32
_EF_CONSTRUCTION = 120
_EF_SEARCH = 64
_BUILD_CHUNK = 4_096
#: Multiply-adds that two milliseconds of one core do; below, a second thread costs more than it
#: brings.
_ONE_THREAD_WORK = 20_000_000


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
class HnswBase:
    """An immutable HNSW graph over slots ``0 .. size - 1``."""

    graph: faiss.IndexHNSWFlat
    size: int

    @classmethod
    def build(cls, keys: Floats, stop: threading.Event | None = None) -> HnswBase | None:
        """Build a graph over unit keys ``(N, D)``; None if ``stop`` was set before the end."""
        graph = faiss.IndexHNSWFlat(keys.shape[1], _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        for begin in range(0, len(keys), _BUILD_CHUNK):
            if stop is not None and stop.is_set():
                return None
            graph.add(keys[begin : begin + _BUILD_CHUNK])
        return cls(graph, len(keys))

    def search(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Return the approximately nearest ``k`` slots and their cosines, both ``(N, k)``."""
        # The stubs of FAISS lack the class as Python sees it.
        settings = faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, k))  # type: ignore[attr-defined]
        cosines, slots = self.graph.search(queries, k, params=settings)
        return slots, cosines


@dataclass(frozen=True)
class SeedIndex:
    """Nearest-key search over one view.

    Parameters
    ----------
    keys : (N, D) float32
        Unit keys by slot.
    alive : (N,) bool or None
        Slots that may be found; None means all.
    base : HnswBase or None
        Graph over the first slots; None makes the whole search exact.
    """

    keys: Floats
    alive: NDArray[np.bool_] | None
    base: HnswBase | None

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
            Descending by cosine; -1 pads.
        cosines : (N, k) float32
            0 where padded.
        """
        outside = self._outside
        work = len(queries) * max(outside.keys.size, 1)
        with one_thread(work < _ONE_THREAD_WORK):
            slots, cosines = outside.search(queries, k)
            if self.base is not None:
                found = self._in_graph(self.base, queries, k)
                slots, cosines = merge_by_cosine((slots, cosines), found, k)
        return padded(slots, cosines, k)

    def _in_graph(self, base: HnswBase, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Search the live slots that the graph covers."""
        alive = self.alive
        reach = k if alive is None else max(2 * k, _EF_SEARCH)
        slots, cosines = base.search(queries, reach)
        if alive is not None:
            slots = np.where(alive[slots], slots, -1)
        short = np.flatnonzero((slots >= 0).sum(axis=1) < min(k, len(self._inside.slots)))
        if len(short):
            exact, similar = self._inside.search(queries[short], k)
            slots[short] = -1
            slots[short, : exact.shape[1]] = exact
            cosines[short, : exact.shape[1]] = similar
        return slots, cosines

    @lazy
    def _inside(self) -> _Flat:
        return self._flat(0, self._covered)

    @lazy
    def _outside(self) -> _Flat:
        return self._flat(self._covered, len(self.keys))

    @property
    def _covered(self) -> int:
        return 0 if self.base is None else self.base.size

    def _flat(self, begin: int, end: int) -> _Flat:
        slots = np.arange(begin, end)
        if self.alive is None or self.alive[begin:end].all():
            return _Flat(slots, self.keys[begin:end])
        slots = slots[self.alive[begin:end]]
        return _Flat(slots, self.keys[slots])


@dataclass(frozen=True)
class _Flat:
    """Keys that are compared one by one, and their slots."""

    slots: Slots
    keys: Floats

    def search(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        rows, cosines = nearest(queries, self.keys, k)
        return self.slots[rows], cosines


def nearest(queries: Floats, keys: Floats, k: int) -> tuple[Slots, Floats]:
    """Exact search: rows of ``keys`` (M, D) most similar to each query, at most ``k`` of them."""
    width = min(k, len(keys))
    if not width or not len(queries):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    cosines, rows = faiss.knn(queries, keys, width, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, cosines


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
