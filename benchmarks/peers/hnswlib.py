"""hnswlib: an HNSW index in memory, M 32 like ours."""

from __future__ import annotations

import importlib
from importlib.metadata import version as installed
from typing import Any

import numpy as np
from numpy.typing import NDArray

hnswlib: Any = importlib.import_module("hnswlib")

_MOST = 1_000_000
_index: Any = None


def version() -> str:
    """Return what runs here."""
    return installed("hnswlib")


def begin(folder: str, dim: int) -> None:
    """Make an empty index."""
    global _index
    _index = hnswlib.Index("cosine", dim)
    _index.init_index(_MOST, M=32, ef_construction=120)
    _index.set_num_threads(1)


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Add vectors."""
    _index.add_items(keys, ids, num_threads=1)


def finish() -> None:
    """Do nothing."""


def nearest(queries: NDArray[np.float32], count: int, effort: int = 64) -> NDArray[np.uint64]:
    """Return the nearest of a batch of queries."""
    _index.set_ef(effort)
    found: NDArray[np.uint64] = _index.knn_query(queries, k=count, num_threads=1)[0]
    return found
