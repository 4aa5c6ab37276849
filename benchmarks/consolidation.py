"""What a consolidation pass costs, by the size of the memory: worked out when read, or eagerly.

In each pass the same number of concepts and edges falls due, whatever the size; the others grow
older. CPU time of one thread, medians, the sizes taking turns.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from aesg.graph import consolidation
from aesg.graph.clock import Clock
from aesg.graph.decay import epochs_until
from aesg.graph.edges import EDGE_DECAY
from aesg.graph.fading import Fading, Thresholds
from benchmarks.suite import Result, Settings, TableOf, benchmark
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EDGE, STATS, Concepts, EdgeKind, Floats, Records, WriteBatch
from storage_backends.view import View

SIZES = (10_000, 100_000, 1_000_000)
QUICK = (10_000, 40_000)
WIDTH = 8
#: More than ten for each concept, so that the memory stands on a snapshot though it has no graph.
EDGES = 11
#: What falls due in each pass: so many concepts, and one edge of each of so many others.
DUE = 100
PASSES = 24
EPOCH = 1_000

THRESHOLDS: Thresholds = (0.05, 5, 0.1)
_WEAK = 0.3
_BATCH = 20_000


def born(first: int, count: int) -> WriteBatch:
    """Return a batch of concepts: the first hundreds fall due, a hundred in each pass."""
    ids = np.arange(first, first + count, dtype=np.uint64)
    stats = np.zeros(count, STATS)
    stats["relevance"] = stats["frequency"] = 1
    stats["epoch"] = stats["edge_epoch"] = EPOCH
    rank = (ids.astype(np.int64) - 1) // DUE  # pass in which a concept falls due, then an edge
    lasts = epochs_until(np.ones(1, np.float32), consolidation.RELEVANCE_DECAY, THRESHOLDS[0])[0]
    fades = rank < PASSES
    stats["epoch"][fades] = EPOCH + 1 + rank[fades] - lasts
    weakens = (rank >= PASSES) & (rank < 2 * PASSES)
    holds = epochs_until(np.full(1, _WEAK, np.float32), EDGE_DECAY, THRESHOLDS[2])[0]
    stats["edge_epoch"][weakens] = EPOCH + 1 + rank[weakens] - PASSES - holds
    keys = np.random.default_rng(first).standard_normal((count, WIDTH), np.float32)
    nothing = np.zeros(count, np.int64)
    kinds = nothing.astype(np.uint8)
    return WriteBatch(concepts=Concepts(ids, keys, kinds, nothing, None, stats))


def linked(first: int, count: int, size: int) -> WriteBatch:
    """Return a batch of edges: strong ones, but for one of each concept that is to lose one."""
    rng = np.random.default_rng(first)
    sources = np.arange(first, first + count)
    fading = 2 * PASSES * DUE  # none of them leads to another, so that each lasts its time
    away = np.sort(fading + rng.permutation(size - 2 * fading)[:EDGES])
    targets = (sources[:, None] - 1 + away) % size + 1
    edges = np.zeros((count, EDGES), EDGE)
    edges["target"], edges["weight"], edges["confidence"] = targets, 0.5, 1
    edges["kind"] = EdgeKind.COACTIVATION
    rank = (sources - 1) // DUE
    edges["confidence"][(rank >= PASSES) & (rank < 2 * PASSES), 0] = _WEAK
    return WriteBatch(edges=dict(zip(sources.tolist(), edges, strict=True)))


@dataclass
class Memory:
    """A memory of some size, and how long what was done to it took."""

    engine: Engine
    fading: Fading
    clock: Clock
    took: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def timed(self, what: str, run: Callable[[], object]) -> None:
        """Run something and note its time."""
        begin = time.thread_time()
        run()
        self.took[what].append(time.thread_time() - begin)


def filled(folder: Path, size: int) -> Memory:
    """Return a memory of ``size`` concepts that stands on a snapshot."""
    engine = Engine(LMDBStore.open(folder, durability="normal"), exact_below=size)
    for first in range(1, size + 1, _BATCH):
        engine.store.commit(born(first, min(_BATCH, size - first + 1)))
    for first in range(1, size + 1, _BATCH):
        engine.store.commit(linked(first, min(_BATCH, size - first + 1), size))
    engine.refresh()
    engine.rebuild()
    memory = Memory(engine, Fading(engine.view(), THRESHOLDS), Clock(size + 1, EPOCH))
    memory.timed("first look", lambda: Fading(engine.view(), THRESHOLDS))
    return memory


def one_pass(memory: Memory) -> None:
    """Let one epoch go by."""
    memory.clock.epoch += 1
    begin, view, clock = time.thread_time(), memory.engine.view(), memory.clock
    concepts, rows = memory.fading.due(view, clock)
    sources = view.ids[rows]
    pruning = consolidation.prune(view, concepts, clock, *THRESHOLDS[:2])
    found = time.thread_time() - begin
    committed = commit(memory, pruning)
    begin, view = time.thread_time(), memory.engine.view()
    dropping = consolidation.drop_edges(view, view.slots(sources), clock, THRESHOLDS[2])
    memory.took["find"].append(found + time.thread_time() - begin)
    memory.took["commit"].append(committed + commit(memory, dropping))
    memory.fading.due(memory.engine.view(), clock)  # has gone by now
    memory.timed("nothing due", lambda: memory.fading.due(memory.engine.view(), clock))


def commit(memory: Memory, batch: WriteBatch | None) -> float:
    """Commit what removes as much as it is to, and return the seconds that it took."""
    removed = 0 if batch is None else len(batch.events)
    if batch is None or removed != DUE:
        raise RuntimeError(f"expected {DUE} concepts or edges to fall due, got {removed}")
    begin = time.thread_time()
    view = memory.engine.commit(batch)
    memory.fading.settled(view, batch)
    return time.thread_time() - begin


def eager_pass(view: View, stats: Records, confidences: Floats) -> int:
    """Age everything, and return how much is to be pruned."""
    relevance, frequency, confidence = THRESHOLDS
    stats["epoch"] += 1
    stats["relevance"] *= np.float32(consolidation.RELEVANCE_DECAY)
    confidences *= np.float32(EDGE_DECAY)
    weak = (stats["relevance"] < relevance) & (stats["frequency"] < frequency)
    gone = weak & (stats["epoch"] >= consolidation.PRUNING_AGE) & view.alive.whole()
    return int(np.count_nonzero(gone)) + int(np.count_nonzero(confidences < confidence))


def measure(folder: Path, sizes: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Return the median seconds of each step, by size."""
    memories = {size: filled(folder / str(size), size) for size in sizes}
    for _ in range(PASSES):
        for memory in memories.values():
            one_pass(memory)
    for memory in memories.values():
        view = memory.engine.view()
        stats = view.stats.whole().copy()
        _, edges = view.adjacency.expand(np.flatnonzero(view.alive.whole()))
        held = edges["confidence"].copy()
        for _ in range(3):
            memory.timed("eager", partial(eager_pass, view, stats, held))
        memory.engine.close()
    return {
        size: {what: float(np.median(took)) for what, took in memory.took.items()}
        for size, memory in memories.items()
    }


#: What is measured, and how it is told.
_STEPS = {
    "nothing due": "nothing due, us",
    "find": f"find {DUE} concepts and {DUE} edges, us",
    "commit": "commit their removal, us",
    "eager": "eager pass, us",
    "first look": "first look of a process, us",
}


@benchmark("consolidation", "a consolidation, by the size of the memory", minutes=5, group="more")
def run(settings: Settings) -> Result:
    sizes = QUICK if settings.quick else SIZES
    found = measure(settings.scratch, sizes)
    rows = [
        (f"{size:,}", *(f"{took[name] * 1e6:,.0f}" for name in _STEPS))
        for size, took in found.items()
    ]
    first, last = found[sizes[0]], found[sizes[-1]]
    growth = ("growth", *(f"{last[name] / first[name]:.2f}" for name in _STEPS))
    table = TableOf("CPU time of a pass", ("concepts", *_STEPS.values()), [*rows, growth])
    return Result("consolidation", "What a consolidation costs", tables=(table,))
