"""sqlite-vec: vectors and edges in SQLite, which compares all vectors; the answers are exact.

Python's own sqlite3 may be built without extensions, so apsw brings its SQLite along.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

apsw: Any = importlib.import_module("apsw")
extension: Any = importlib.import_module("sqlite_vec")

_CACHE = "pragma cache_size = -1000000; pragma mmap_size = 4000000000"
_NEAREST = "select id, max(1 - distance, 0) as heard from concept where key match ? and k = ?"
_BEST: str = importlib.import_module("_sql").best(_NEAREST)

_connection: Any = None


def version() -> str:
    """Return what runs here."""
    return f"{extension.__version__}, SQLite {apsw.sqlite_lib_version()}"


def begin(folder: str, dim: int) -> None:
    """Make an empty database, in which a commit is durable when it returns."""
    global _connection
    _connection = apsw.Connection(str(Path(folder) / "sqlite.db"))
    _connection.enable_load_extension(True)
    _connection.load_extension(extension.loadable_path())
    _connection.execute(f"pragma journal_mode = wal; pragma synchronous = full; {_CACHE}")
    _connection.execute(
        "create virtual table concept using vec0("
        f"id integer primary key, key float[{dim}] distance_metric=cosine)"
    )


def insert(ids: NDArray[np.int64], keys: NDArray[np.float32]) -> None:
    """Insert vectors in one transaction."""
    rows = ((each, key.tobytes()) for each, key in zip(ids.tolist(), keys, strict=True))
    with _connection:
        _connection.executemany("insert into concept values (?, ?)", rows)


def finish() -> None:
    """Do nothing: there is no index."""


def fill(keys: NDArray[np.float32], edges: NDArray[np.void], folder: str) -> None:
    """Insert vectors and edges into a new database."""
    begin(folder, keys.shape[1])
    insert(np.arange(1, len(keys) + 1), keys)
    with _connection:
        _connection.execute(
            "create table edge(source integer, target integer, share real,"
            " primary key (source, target)) without rowid"
        )
        _connection.executemany("insert into edge values (?, ?, ?)", edges.tolist())
    _connection.execute("analyze; pragma wal_checkpoint(truncate)")


def nearest(queries: NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the nearest of each query."""
    return list(_asked(_NEAREST, queries, count))


def best(queries: NDArray[np.float32]) -> list[list[int]]:
    """Return the ten of the highest score of each query."""
    return list(_asked(_BEST, queries, 10))


def _asked(text: str, queries: NDArray[np.float32], count: int) -> Iterator[list[int]]:
    for query in queries:  # the statement is prepared once: apsw keeps it
        yield [row[0] for row in _connection.execute(text, (query.tobytes(), count))]
