"""zvec: a collection on disk with an HNSW index, m 32 like ours; `flush` makes it durable."""

from __future__ import annotations

import importlib
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

zvec: Any = importlib.import_module("zvec")

_collection: Any = None


def version() -> str:
    """Return what runs here."""
    return installed("zvec")


def begin(folder: str, dim: int) -> None:
    """Make an empty collection."""
    global _collection
    zvec.init(query_threads=1, optimize_threads=1)
    index = zvec.HnswIndexParam(metric_type=zvec.MetricType.COSINE, m=32, ef_construction=120)
    key = zvec.VectorSchema("key", zvec.DataType.VECTOR_FP32, dim, index_param=index)
    schema = zvec.CollectionSchema("concepts", vectors=[key])
    _collection = zvec.create_and_open(str(Path(folder) / "zvec"), schema)


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Insert vectors."""
    rows = zip(ids.tolist(), keys.tolist(), strict=True)
    _collection.insert([zvec.Doc(id=str(each), vectors={"key": key}) for each, key in rows])
    _collection.flush()


def finish() -> None:
    """Let the index take in what came."""
    _collection.optimize()


def nearest(queries: NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the nearest of each query."""
    return [_nearest(query, count) for query in queries]


def _nearest(query: NDArray[np.float32], count: int) -> list[int]:
    how = zvec.HnswQueryParam(ef=64)
    asked = zvec.Query(field_name="key", vector=query.tolist(), param=how)
    return [int(each.id) for each in _collection.query(asked, topk=count)]
