"""Large memories for benchmarks, and what a process uses when it opens one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from aesg import AESGConfig, AESGMemory
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import (
    EDGE,
    EVENT,
    STATS,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Records,
    WriteBatch,
)

_BATCH = 20_000
CLUSTER = 100
_NOISE = 0.3
QUERIES = 16  # in one call


def vectors(first: int, count: int, dim: int) -> Floats:
    """Return keys that lie in clusters of a hundred, as those of a model do."""
    cluster = np.arange(first, first + count) // CLUSTER
    rows = np.empty((count, dim), np.float32)
    for each in np.unique(cluster).tolist():
        rng = np.random.default_rng(each)
        centre = rng.standard_normal(dim, np.float32)
        members = centre + _NOISE * rng.standard_normal((CLUSTER, dim), np.float32)
        mine = np.flatnonzero(cluster == each)
        rows[mine] = members[(first + mine) % CLUSTER]
    return rows


def fill(directory: Path, concepts: int, dim: int, edges: int) -> None:
    """Make a memory of clustered concepts with ``edges`` out-edges each, and its snapshot."""
    config = AESGConfig(vector_dim=dim, max_concepts=max(concepts, 1))
    AESGMemory(directory, config).close()
    with closing(Engine(LMDBStore.open(directory, create=False))) as engine:
        settings = {"next_id": str(concepts + 1).encode()}
        for first in range(0, concepts, _BATCH):
            count = min(_BATCH, concepts - first)
            concepts_now, events = _concepts(first, count, dim), _births(first, count)
            batch = WriteBatch(concepts=concepts_now, events=events, settings=settings)
            engine.store.commit(batch)
        for first in range(0, concepts if edges else 0, _BATCH):
            count = min(_BATCH, concepts - first)
            engine.store.commit(WriteBatch(edges=_edges(first, count, concepts, edges)))
        engine.refresh()
        engine.rebuild()


def _concepts(first: int, count: int, dim: int) -> Concepts:
    stats = np.zeros(count, STATS)
    stats["created"] = stats["modified"] = time.time_ns() // 1000
    stats["frequency"] = stats["relevance"] = stats["stability"] = 1
    nothing = np.zeros(count, np.int64)
    ids = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    keys = vectors(first, count, dim)
    return Concepts(ids, keys, nothing.astype(np.uint8), nothing, None, stats)


def _births(first: int, count: int) -> Records:
    events = np.zeros(count, EVENT)
    events["timestamp"], events["type"] = time.time(), EventType.CREATE
    events["id1"] = np.arange(first + 1, first + count + 1)
    return events


def _edges(first: int, count: int, concepts: int, each: int) -> dict[int, Records]:
    """Return edges, half of them within the cluster and half to anywhere."""
    rng = np.random.default_rng(first)
    sources = np.arange(first, first + count)[:, None]
    near = sources // CLUSTER * CLUSTER + rng.integers(0, CLUSTER, (count, each))
    far = rng.integers(0, concepts, (count, each))
    targets = np.where(np.arange(each) % 2 == 0, np.minimum(near, concepts - 1), far)
    rows = {}
    for source, row in zip(sources[:, 0].tolist(), targets, strict=True):
        others = np.unique(row[row != source])
        edges = np.zeros(len(others), EDGE)
        edges["target"], edges["weight"] = others + 1, 0.5
        edges["confidence"], edges["kind"] = 0.5, EdgeKind.COACTIVATION
        rows[source + 1] = edges
    return rows


def queries(turn: int, concepts: int, dim: int) -> torch.Tensor:
    """Return queries near concepts that lie anywhere, ``(QUERIES, dim)``."""
    rng = np.random.default_rng(turn)
    chosen = rng.integers(0, concepts, QUERIES)
    near = np.concatenate([vectors(each, 1, dim) for each in chosen.tolist()])
    noise = _NOISE / 2 * rng.standard_normal(near.shape, np.float32)
    return torch.from_numpy(near + noise)


@dataclass(frozen=True)
class Used:
    """What the kernel counts for a process, in bytes."""

    resident: int
    proportional: int
    anonymous: int

    def __sub__(self, other: Used) -> Used:
        return Used(
            self.resident - other.resident,
            self.proportional - other.proportional,
            self.anonymous - other.anonymous,
        )


def memory_used() -> Used:
    """Return what this process uses now."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Used(sizes["Rss"], sizes["Pss"], sizes["Anonymous"])


def warm_up(dim: int) -> None:
    """Use everything once on a small memory, so that only a large one's own cost is left."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        with AESGMemory(scratch, AESGConfig(vector_dim=dim)) as memory:
            memory.remember(vectors(0, 500, dim))
        with AESGMemory.open(scratch) as memory:
            memory.retrieve(queries(0, 500, dim))


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Give fresh processes, which import everything for themselves."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield pool


def files_of(directory: Path) -> dict[str, int]:
    """Return the bytes on disk of each kind of file in a memory directory."""
    kinds = {"data": "data.mdb", "columns": "columns-*", "graph": "index-*"}
    return {
        kind: sum(file.stat().st_blocks * 512 for file in directory.glob(f"gen-*/{pattern}"))
        for kind, pattern in kinds.items()
    }


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
