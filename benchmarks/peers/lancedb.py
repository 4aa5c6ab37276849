"""LanceDB: each commit writes a file of its own; what is not in the index yet is compared.

The index is made once, at the end, as its documentation advises: IVF with HNSW and scalar
quantisation, the vectors themselves deciding in the end.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

lancedb: Any = importlib.import_module("lancedb")
pyarrow: Any = importlib.import_module("pyarrow")

_table: Any = None


def version() -> str:
    """Return what runs here."""
    return str(lancedb.__version__)


def begin(folder: str, dim: int) -> None:
    """Make an empty table."""
    global _table
    columns = {"id": pyarrow.int64(), "key": pyarrow.list_(pyarrow.float32(), dim)}
    _table = lancedb.connect(folder).create_table("concepts", schema=pyarrow.schema(columns))


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Add vectors."""
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(keys.ravel()), keys.shape[1])
    _table.add(pyarrow.table({"id": ids, "key": flat}, schema=_table.schema))


def finish() -> None:
    """Make the index."""
    _table.create_index(metric="cosine", vector_column_name="key", index_type="IVF_HNSW_SQ")
    _table.optimize()


def nearest(queries: NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the nearest of each query."""
    return [_nearest(query, count) for query in queries]


def _nearest(query: NDArray[np.float32], count: int) -> list[int]:
    search = _table.search(query).distance_type("cosine").nprobes(20).ef(64).refine_factor(4)
    ids: list[int] = search.limit(count).select(["id", "_distance"]).to_arrow()["id"].to_pylist()
    return ids
