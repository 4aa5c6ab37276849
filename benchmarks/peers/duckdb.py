"""DuckDB with vss: an HNSW index, edges in a table with an index on their source.

An index scan was seen only where the query is a literal and the distance is no column beside it;
both are done here, and without them it takes ten times as long. The index can be kept on disk by an
option that its documentation calls experimental.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

duckdb: Any = importlib.import_module("duckdb")
pyarrow: Any = importlib.import_module("pyarrow")
extensions: Any = importlib.import_module("duckdb_extensions")

_NEAREST = """
    select id, greatest(1 - array_cosine_distance(key, {0}), 0) as heard
    from (select id, key from concept order by array_cosine_distance(key, {0}) limit {1})
    order by heard desc
"""
_BEST: str = importlib.import_module("_sql").best(_NEAREST)

_connection: Any = None


def version() -> str:
    """Return what runs here."""
    return str(duckdb.__version__)


def begin(folder: str, dim: int) -> None:
    """Make an empty database with an index."""
    _open(folder, dim)
    _index()


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Insert vectors in one transaction."""
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(keys.ravel()), keys.shape[1])
    _connection.register("batch", pyarrow.table({"id": ids, "key": flat}))
    _connection.execute("insert into concept select * from batch")


def finish() -> None:
    """Let what is in the log become part of the file."""
    _connection.execute("checkpoint")


def fill(keys: NDArray[np.float32], edges: NDArray[np.void], folder: str) -> None:
    """Insert vectors and edges into a new database, then make the indices."""
    _open(folder, keys.shape[1])
    insert(np.arange(1, len(keys) + 1), keys)
    columns = {name: edges[name].copy() for name in ("source", "target", "share")}
    _connection.register("edges", pyarrow.table(columns))
    _connection.execute("create table edge as select * from edges order by source")
    _connection.execute("create index by_source on edge(source); set threads = 2")
    _index()
    _connection.execute("set threads = 1; checkpoint")


def nearest(queries: NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the nearest of each query."""
    return list(_asked(_NEAREST, queries, count))


def best(queries: NDArray[np.float32]) -> list[list[int]]:
    """Return the ten of the highest score of each query."""
    return list(_asked(_BEST, queries, 10))


def _open(folder: str, dim: int) -> None:
    global _connection
    _connection = duckdb.connect(str(Path(folder) / "duck.db"), config={"threads": 1})
    extensions.import_extension("vss", con=_connection)
    _connection.execute("load vss; set hnsw_enable_experimental_persistence = true")
    _connection.execute("set hnsw_ef_search = 64")
    _connection.execute("set disabled_optimizers = 'late_materialization'")
    _connection.execute(f"create table concept(id bigint primary key, key float[{dim}])")


def _index() -> None:
    _connection.execute("create index seeds on concept using hnsw (key) with (metric = 'cosine')")


def _asked(text: str, queries: NDArray[np.float32], count: int) -> Iterator[list[int]]:
    for query in queries:
        literal = f"[{','.join(map(repr, query.tolist()))}]::float[{len(query)}]"
        rows = _connection.execute(text.format(literal, count)).fetchall()
        yield [row[0] for row in rows]
