"""Chroma: a persistent client; its HNSW index is of hnswlib, a log in SQLite goes before it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

chromadb: Any = importlib.import_module("chromadb")
config: Any = importlib.import_module("chromadb.config")

#: Like ours; it searches with as much effort as it is told when the collection is made.
_INDEX = {
    "space": "cosine",
    "max_neighbors": 32,
    "ef_construction": 120,
    "ef_search": 64,
    "num_threads": 1,
}
_collection: Any = None


def version() -> str:
    """Return what runs here."""
    return str(chromadb.__version__)


def begin(folder: str, dim: int) -> None:
    """Make an empty collection."""
    global _collection
    quiet = config.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(folder, settings=quiet)
    _collection = client.create_collection(
        "concepts", embedding_function=None, configuration={"hnsw": _INDEX}
    )


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Add vectors."""
    _collection.add(ids=list(map(str, ids.tolist())), embeddings=keys)


def finish() -> None:
    """Do nothing."""


def nearest(queries: NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the nearest of a batch of queries."""
    found = _collection.query(query_embeddings=queries, n_results=count, include=[])
    return [list(map(int, row)) for row in found["ids"]]
