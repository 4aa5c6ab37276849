"""usearch: an HNSW index in memory, connectivity 32 like ours, in float32."""

from __future__ import annotations

import importlib
from importlib.metadata import version as installed
from typing import Any

import numpy as np
from numpy.typing import NDArray

usearch: Any = importlib.import_module("usearch.index")

_index: Any = None


def version() -> str:
    """Return what runs here."""
    return installed("usearch")


def begin(folder: str, dim: int) -> None:
    """Make an empty index."""
    global _index
    _index = usearch.Index(ndim=dim, metric="cos", dtype="f32", connectivity=32, expansion_add=120)


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Add vectors."""
    _index.add(ids, keys, threads=1)


def finish() -> None:
    """Do nothing."""


def nearest(queries: NDArray[np.float32], count: int, effort: int = 64) -> NDArray[np.uint64]:
    """Return the nearest of a batch of queries."""
    _index.expansion_search = effort
    found: NDArray[np.uint64] = _index.search(queries, count, threads=1).keys
    return found.reshape(len(queries), -1)
