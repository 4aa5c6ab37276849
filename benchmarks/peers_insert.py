"""Durable inserts with the index kept up, beside an index in memory and beside databases.

Commits of a thousand; what one holds is found from then on. CPU time of the whole process counts,
with what goes on behind the commits: the memory is waited for until it has nothing left to do.
Everybody runs alone. Others get a limited time: inserting into a larger index costs more, so that
what they do not get to would not make their figure smaller.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch

from aesg import AESGConfig, AESGMemory
from benchmarks._world import DIM, TOP, Answers, World, shared, world
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Ratio,
    Result,
    Settings,
    TableOf,
    Timings,
    benchmark,
)
from benchmarks.suite.result import Cell
from storage_backends.faiss_index import one_thread
from storage_backends.types import Floats

ROW = 4
OURS, FAISS = "AESGMemory.remember", "FAISS, in memory"
#: Least ratio of each to ours.
GOALS = {FAISS: 0.9, "kuzu": 3.0, "duckdb": 3.0}
OTHERS = ("kuzu", "duckdb", "chromadb", "zvec", "lancedb", "sqlite-vec", "hnswlib", "usearch")
_COMMIT = 1_000
_TURNS = 2  # of ours and FAISS: each takes a minute
_SECONDS, _SECONDS_QUICK = 20.0, 1.0  # of CPU that others get
_PROBES = 200
_PATIENCE = 300.0
_NEIGHBOURS, _EFFORT = 32, 120  # of our index and of every other that takes them


@dataclass(frozen=True)
class Inserted:
    """What inserts came to.

    Parameters
    ----------
    count : int
    cpu, wall : float
        Seconds.
    recall : float
        Share of the ten nearest that is found afterwards.
    version : str
    """

    count: int
    cpu: float
    wall: float
    recall: float
    version: str = ""

    @property
    def each(self) -> float:
        """Seconds of CPU of one insert."""
        return self.cpu / self.count


def into_memory(made: World, folder: Path) -> Inserted:
    """Remember all, wait for the background, close; the recall is that of the memory before."""
    cpu, wall = time.process_time(), time.perf_counter()
    with AESGMemory(folder, AESGConfig(vector_dim=DIM)) as memory:
        for _, keys in _commits(made):
            memory.remember(keys)
        _wait_for_background()
        between = time.process_time(), time.perf_counter()
        recall = _recall(made, len(made.keys), lambda queries: _retrieved(memory, queries))
        cpu += time.process_time() - between[0]
        wall += time.perf_counter() - between[1]
    spent = time.process_time() - cpu, time.perf_counter() - wall
    shutil.rmtree(folder)
    return Inserted(len(made.keys), *spent, recall)


def into_faiss(made: World) -> Inserted:
    """Add all to an HNSW graph that is nowhere but in memory."""
    cpu, wall = time.process_time(), time.perf_counter()
    index = faiss.IndexHNSWFlat(DIM, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EFFORT
    for _, keys in _commits(made):
        index.add(keys)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    index.hnsw.efSearch = 64
    recall = _recall(made, len(made.keys), lambda queries: _found(index, queries))
    return Inserted(len(made.keys), *spent, recall)


def _found(index: faiss.IndexHNSWFlat, queries: Floats) -> Answers:
    ids: Answers = (index.search(queries, TOP)[1] + 1).tolist()
    return ids


def into_peer(peer: Peer, made: World, folder: Path, seconds: float) -> Inserted:
    """Insert as much as the time allows, then let the index take in what it left for later."""
    folder.mkdir()
    spent = peer.timed("begin", folder, DIM)
    count, cpu, wall = 0, spent.cpu, spent.wall
    for ids, keys in _commits(made):
        spent = peer.timed("insert", ids, keys)
        count, cpu, wall = count + len(ids), cpu + spent.cpu, wall + spent.wall
        if cpu > seconds:
            break
    spent = peer.timed("finish")
    recall = _recall(made, count, lambda queries: peer("nearest", queries, TOP))
    return Inserted(count, cpu + spent.cpu, wall + spent.wall, recall, peer("version"))


def _commits(made: World) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Floats]]:
    for first in range(0, len(made.keys), _COMMIT):
        keys = made.keys[first : first + _COMMIT]
        yield np.arange(first + 1, first + len(keys) + 1), keys


def _recall(made: World, count: int, nearest: Callable[[Floats], Answers]) -> float:
    there = World(made.keys[:count], made.links, made.edges)
    queries = there.queries(_PROBES)
    return shared(nearest(queries), there.nearest(queries))


def _retrieved(memory: AESGMemory, queries: Floats) -> Answers:
    found: Answers = memory.recall(torch.from_numpy(queries), top_k=TOP).concept_ids.tolist()
    return found


def _wait_for_background() -> None:
    """Wait until the thread that builds graphs and writes snapshots has nothing left to do."""
    until = time.monotonic() + _PATIENCE
    while any(thread.name == "aesg-housekeeping" for thread in threading.enumerate()):
        if time.monotonic() > until:
            raise TimeoutError(f"expected the memory to come to rest within {_PATIENCE:.0f} s")
        time.sleep(0.1)


def beside_faiss(made: World, settings: Settings) -> tuple[Timings, Inserted, Inserted]:
    """Insert into ours and into FAISS, in turns."""
    seconds: dict[str, list[float]] = {OURS: [], FAISS: []}
    for turn in range(1 if settings.quick else _TURNS):
        settings.say(f"inserting {len(made.keys):,} concepts, turn {turn + 1}")
        ours = into_memory(made, settings.scratch / "insert")
        faiss_ = into_faiss(made)
        seconds[OURS].append(ours.each)
        seconds[FAISS].append(faiss_.each)
    return Timings({name: np.array(each) for name, each in seconds.items()}), ours, faiss_


def beside_others(made: World, settings: Settings, skipped: list[str]) -> dict[str, Inserted]:
    """Insert into what others offer, and note what could not be done."""
    found = {}
    seconds = _SECONDS_QUICK if settings.quick else _SECONDS
    for name in OTHERS if settings.peers else ():
        assert settings.peers is not None
        settings.say(f"inserting into {name}")
        try:
            peer = settings.peers.get(name)
            found[name] = into_peer(peer, made, settings.scratch / f"insert-{name}", seconds)
        except NoPeerError as error:
            skipped.append(str(error))
    return found


def ratios_of(timings: Timings, found: dict[str, Inserted]) -> list[Ratio]:
    """Return how much longer each takes than we do."""
    ours = timings.median(OURS)
    value, low, high = timings.ratio(FAISS, OURS)
    ratios = [_ratio(FAISS, value, low, high, ours, found[FAISS])]
    for name in OTHERS:
        if name in found:
            value = found[name].each / ours
            ratios.append(_ratio(name, value, value, value, ours, found[name]))
    return ratios


def _ratio(
    name: str, value: float, low: float, high: float, ours: float, theirs: Inserted
) -> Ratio:
    return Ratio(
        ROW if name in GOALS else None,
        f"durable insert, commits of {_COMMIT:,}: {name} against {OURS}",
        value, low, high, GOALS.get(name), at_most=False,
        note=f"recall@{TOP} {theirs.recall:.3f} after {theirs.count:,}",
        ours=ours * 1e6, theirs=theirs.each * 1e6, unit="us of CPU an insert",
    )  # fmt: skip


@benchmark("peers-insert", "durable inserts with the index kept up", minutes=6, peers=OTHERS)
def run(settings: Settings) -> Result:
    """Measure inserts into ours, into FAISS and into what others offer."""
    torch.set_num_threads(1)
    made = world(20_000 if settings.quick else 100_000)
    skipped: list[str] = []
    with one_thread():
        timings, ours, faiss_ = beside_faiss(made, settings)
    found = {OURS: ours, FAISS: faiss_, **beside_others(made, settings, skipped)}
    rows: list[list[Cell]] = [
        [
            f"{name} {each.version}".strip(), f"{each.count:,}", each.each * 1e6,
            each.wall / each.count * 1e6, each.each / ours.each, f"{each.recall:.3f}",
        ]
        for name, each in found.items()
    ]  # fmt: skip
    header = ("", "inserted", "us of CPU each", "us of wall time", "times ours", "recall@10 after")
    table = TableOf(f"durable inserts of width {DIM} in commits of {_COMMIT:,}", header, rows)
    return Result(
        "peers-insert",
        "Durable inserts with the index kept up",
        ratios_of(timings, found),
        [table],
        skipped=skipped,
        notes=_NOTES,
    )


_NOTES = (
    "FAISS, hnswlib and usearch keep nothing: their index is lost with the process. Where an "
    f"index takes them, it has {_NEIGHBOURS} neighbours and effort {_EFFORT} in construction, as "
    "ours.",
    "sqlite-vec has no index to keep up. LanceDB makes its index at the end, which counts; until "
    "then it compares all vectors.",
    f"Others stop after {_SECONDS:.0f} seconds of CPU time.",
)
