"""Seed lookup: the concepts whose keys are most similar to a query.

Below `EXACT_BELOW` concepts the search is exact. Above, an immutable HNSW graph (Malkov and
Yashunin, 2018) answers for the slots it was built from and an exact search for those added since;
the two are merged by cosine. Nothing is ever added to a graph that is searched: FAISS crashes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np

from storage_backends.adjacency import Slots
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

    def search(self, queries: Floats, k: int, alive: np.ndarray | None) -> tuple[Slots, Floats]:
        """Return the approximately nearest ``k`` slots and their cosines, both ``(N, k)``."""
        # The stubs of FAISS lack both classes as Python sees them.
        settings = faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, k))  # type: ignore[attr-defined]
        if alive is not None:
            bitmap = np.packbits(alive[: self.size], bitorder="little")
            settings.sel = faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg, arg-type]
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
    alive: np.ndarray | None
    base: HnswBase | None

    def search(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Find the ``k`` most similar live slots of each query.

        Parameters
        ----------
        queries : (N, D) float32
            Unit vectors, contiguous.
        k : int
            At least 1.

        Returns
        -------
        slots : (N, k) int64
            Descending by cosine; -1 pads.
        cosines : (N, k) float32
            0 where padded.
        """
        exact_from = self.base.size if self.base is not None else 0
        work = len(queries) * max(len(self.keys) - exact_from, 1) * self.keys.shape[1]
        with one_thread(work < _ONE_THREAD_WORK):
            slots, cosines = self._exact(queries, k, exact_from)
            if self.base is not None:
                found = self.base.search(queries, k, self.alive)
                slots, cosines = merge_by_cosine((slots, cosines), found, k)
        return padded(slots, cosines, k)

    def _exact(self, queries: Floats, k: int, begin: int) -> tuple[Slots, Floats]:
        candidates = np.arange(begin, len(self.keys))
        if self.alive is not None:
            candidates = candidates[self.alive[begin:]]
        keys = self.keys[begin:]
        if len(candidates) < len(keys):
            keys = self.keys[candidates]
        slots, cosines = nearest(queries, keys, k)
        return np.where(slots >= 0, candidates[slots] if len(candidates) else slots, -1), cosines


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
