"""Kuzu and its fork ladybug: a graph in Cypher, with a vector index where there is one.

A hop begins at the concepts of a list (``WHERE s.id IN $ids``), and the sums are made in Python:
one statement for all (`stated`) costs kuzu thirty times as much, as it goes through all edges. An
edge holds the id of its target once more, which spares a look at the target.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Heard = dict[int, float]
Keys = NDArray[np.float32]

_INDEXED = "CALL QUERY_VECTOR_INDEX('Concept', 'seeds', $query, {0}, efs := 200)"
_NEAREST = f"{_INDEXED} RETURN node.id, 1 - distance ORDER BY distance"
_COMPARED = """
    MATCH (c:Concept)
    RETURN c.id, array_inner_product(c.key, CAST($query AS FLOAT[{1}])) AS heard
    ORDER BY heard DESC LIMIT {0}
"""
_HOP = "MATCH (s:Concept)-[e:Edge]->() WHERE s.id IN $ids RETURN s.id, e.target, e.share"
_STATED = f"""
    {_INDEXED.format(10)} WITH node AS s, 1 - distance AS heard
    MATCH (s)-[e:Edge]->(m:Concept) WHERE heard * 0.8 * e.share >= 0.001
    WITH m, sum(heard * 0.8 * e.share) AS first
    MATCH (m)-[f:Edge]->(t:Concept) WHERE first * 0.8 * f.share >= 0.001
    RETURN t.id, sum(first * 0.8 * f.share)
"""
_INSERT = "UNWIND $rows AS row CREATE (:Concept {{id: row.id, key: CAST(row.key AS FLOAT[{0}])}})"


class Cypher:
    """A database of one of the two.

    Parameters
    ----------
    library : module
        kuzu or ladybug.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._connection: Any = None
        self._dim = 0
        self._indexed = False

    def begin(self, folder: str, dim: int) -> None:
        """Make an empty database with an index."""
        self._open(folder, dim)
        self._index()

    def insert(self, ids: NDArray[np.int64], keys: Keys) -> None:
        """Insert vectors in one transaction."""
        columns = zip(ids.tolist(), keys.tolist(), strict=True)
        rows = [{"id": each, "key": key} for each, key in columns]
        self._told(_INSERT.format(self._dim), {"rows": rows})

    def finish(self) -> None:
        """Let what is in the log become part of the file."""
        self._told("CHECKPOINT")

    def fill(self, keys: Keys, edges: NDArray[np.void], folder: str) -> None:
        """Insert vectors and edges into a new database, then make the index."""
        importlib.import_module("importlib.util")  # which they use without importing it
        arrow = importlib.import_module("pyarrow")
        self._open(folder, keys.shape[1])
        files = [str(Path(folder) / name) for name in ("ids.npy", "keys.npy")]
        np.save(files[0], np.arange(1, len(keys) + 1))
        np.save(files[1], keys)
        self._told(f"COPY Concept FROM ({', '.join(map(repr, files))}) BY COLUMN")
        places = {"a": edges["source"].copy(), "b": edges["target"].copy()}
        held = {"c": edges["target"].copy(), "d": edges["share"].copy()}
        edges_ = arrow.table({**places, **held})
        self._connection.execute("COPY Edge FROM $rows", {"rows": edges_})
        self._connection.set_max_threads_for_exec(2)
        self._index()
        self._connection.set_max_threads_for_exec(1)

    def nearest(self, queries: Keys, count: int) -> list[list[int]]:
        """Return the nearest of each query."""
        return [list(self._seeds(query, count)) for query in queries]

    def best(self, queries: Keys) -> list[list[int]]:
        """Return the ten of the highest score of each query."""
        return [self._best(query) for query in queries]

    def stated(self, queries: Keys) -> list[int]:
        """Let one statement search and go two hops; return how many it reached."""
        return [len(self._told(_STATED, {"query": query.tolist()})) for query in queries]

    def _best(self, query: Keys) -> list[int]:
        arrived = self._seeds(query, 10)
        score = defaultdict(float, arrived)
        for _ in range(2):
            arrived = self._sent(arrived)
            for each, heard in arrived.items():
                score[each] += heard
        return sorted(score, key=lambda each: (-score[each], each))[:10]

    def _seeds(self, query: Keys, count: int) -> Heard:
        text = (_NEAREST if self._indexed else _COMPARED).format(count, self._dim)
        return {row[0]: max(row[1], 0) for row in self._told(text, {"query": query.tolist()})}

    def _sent(self, arrived: Heard) -> Heard:
        sent: Heard = defaultdict(float)
        for source, target, share in self._told(_HOP, {"ids": list(arrived)}):
            heard = arrived[source] * 0.8 * share
            if heard >= 0.001:
                sent[target] += heard
        return sent

    def _open(self, folder: str, dim: int) -> None:
        database = self._library.Database(str(Path(folder) / "graph"), max_num_threads=2)
        self._connection = self._library.Connection(database, num_threads=1)
        self._dim = dim
        self._told(f"CREATE NODE TABLE Concept(id INT64 PRIMARY KEY, key FLOAT[{dim}])")
        self._told("CREATE REL TABLE Edge(FROM Concept TO Concept, target INT64, share DOUBLE)")

    def _index(self) -> None:
        try:
            self._told("CALL CREATE_VECTOR_INDEX('Concept', 'seeds', 'key', metric := 'cosine')")
        except RuntimeError as error:  # the extension is a download where it is not built in
            if "VECTOR extension" not in str(error):
                raise
        else:
            self._indexed = True

    def _told(self, text: str, arguments: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = self._connection.execute(text, arguments or {}).get_all()
        return found
