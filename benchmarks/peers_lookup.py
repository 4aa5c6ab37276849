"""The search for the nearest alone, beside other indices: time and recall by effort.

Batches of 256, the same keys, the graphs of 32 neighbours and effort 120 in construction. More
effort in a search finds more and takes longer: an index is better where its line lies lower at the
same recall.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import faiss
import numpy as np

from benchmarks._world import DIM, TOP, World, each, of_each, shared, world
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Ratio,
    Result,
    Series,
    Settings,
    Spent,
    TableOf,
    benchmark,
    turns,
)
from benchmarks.suite.result import Cell
from storage_backends import hnsw
from storage_backends.columns import Column
from storage_backends.faiss_index import one_thread
from storage_backends.hnsw import HnswBase
from storage_backends.types import Floats

OURS, FAISS = "ours", "FAISS"
PEERS = ("hnswlib", "usearch")
EFFORTS = (16, 32, 64, 128)
_BATCH = 256

#: Answers queries with an effort; what one of them cost, with the ids that were found.
Search = Callable[[Floats, int], Spent]


def of_ours(base: HnswBase) -> Search:
    """Return the search that a memory uses where its keys are in the graph."""

    def search(queries: Floats, effort: int) -> Spent:
        with patch.object(hnsw, "effort", return_value=effort):
            return each(len(queries), lambda: (base.search(queries, TOP)[0] + 1).tolist())

    return search


def of_faiss(base: HnswBase) -> Search:
    """Return the search of FAISS in the same graph."""

    def search(queries: Floats, effort: int) -> Spent:
        how = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
        return each(
            len(queries), lambda: (base.graph.search(queries, TOP, params=how)[1] + 1).tolist()
        )

    return search


def of_peer(peer: Peer, made: World) -> Search:
    """Return the search of a peer, filled here."""
    peer("begin", "", DIM)
    peer("insert", np.arange(1, len(made.keys) + 1), made.keys)
    return lambda queries, effort: of_each(
        len(queries), peer.timed("nearest", queries, TOP, effort)
    )


def measured(
    searches: dict[str, Search], made: World, settings: Settings
) -> tuple[list[Ratio], TableOf, Series]:
    """Search with each effort, in turns."""
    probes = made.queries(_BATCH, seed=10**6)
    right = made.nearest(probes)
    rows: list[list[Cell]] = []
    ratios = []
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    for effort in EFFORTS:
        calls = {name: partial(_asked, search, made, effort) for name, search in searches.items()}
        timings = turns(calls, settings.turns)
        for name, search in searches.items():
            spent = timings.median(name) * 1e6
            recall = shared(search(probes, effort).answer, right)
            times = timings.ratio(name, OURS)
            rows.append([name, effort, spent, times[0], f"{recall:.4f}"])
            lines[name].append((recall, spent))
            if name != OURS:
                what = f"search, effort {effort}: {name} against ours"
                note = f"recall@{TOP} {recall:.4f}"
                ratios.append(Ratio(None, what, *times, at_most=False, note=note))
    title = f"the ten nearest of {len(made.keys):,}, batches of {_BATCH}"
    header = ("", "effort", "us of CPU a query", "times ours", f"recall@{TOP}")
    plot = Series(title, f"recall@{TOP}", "us of CPU a query", lines, log_y=True)
    return ratios, TableOf(title, header, rows), plot


def _asked(search: Search, made: World, effort: int, turn: int) -> Spent:
    return search(made.queries(_BATCH, seed=turn), effort)


@benchmark("peers-lookup", "the search beside other indices", minutes=2, group="more", peers=PEERS)
def run(settings: Settings) -> Result:
    """Measure the search by effort."""
    made = world(5_000 if settings.quick else 100_000)
    skipped = []
    settings.say(f"building graphs of {len(made.keys):,} keys")
    with one_thread():
        base = HnswBase.build(Column.over(made.keys))
        if base is None:
            raise RuntimeError("expected a graph, got none")
        searches = {OURS: of_ours(base), FAISS: of_faiss(base)}
        for name in PEERS if settings.peers is not None else ():
            try:
                searches[name] = of_peer(_got(settings, name), made)
            except NoPeerError as error:
                skipped.append(str(error))
        ratios, table, plot = measured(searches, made, settings)
    return Result(
        "peers-lookup", "The search beside other indices", ratios, [table], [plot], skipped
    )


def _got(settings: Settings, name: str) -> Peer:
    if settings.peers is None:
        raise NoPeerError(f"{name}: not wanted")
    return settings.peers.get(name)
