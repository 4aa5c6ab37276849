"""What a commit costs in both durability modes, by the number of concepts in it.

Only the disk differs between the modes, so this measures the disk that `--out` lies on.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.suite import Result, Settings, TableOf, benchmark
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import STATS, Concepts, ValueKind, WriteBatch

WIDTH = 64
BATCHES = (1, 32, 1000)
ROUNDS = 3
SECONDS, SECONDS_QUICK = 2.0, 0.2


def batch_of(first: int, count: int, rng: np.random.Generator) -> WriteBatch:
    """Return a batch of new concepts, with ids from ``first`` on."""
    return WriteBatch(
        concepts=Concepts(
            ids=np.arange(first, first + count, dtype=np.uint64),
            keys=rng.standard_normal((count, WIDTH), np.float32),
            value_kinds=np.full(count, ValueKind.KEY, np.uint8),
            value_ids=np.zeros(count, np.int64),
            value_vectors=None,
            stats=np.zeros(count, STATS),
        )
    )


def commits_a_second(folder: Path, durability: str, count: int, seconds: float) -> float:
    """Return how many batches of ``count`` concepts a new memory takes in a second."""
    rng = np.random.default_rng(0)
    with LMDBStore.open(folder, durability=durability) as store:
        store.commit(batch_of(1, count, rng))
        commits, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            store.commit(batch_of(1 + count * (commits + 1), count, rng))
            commits += 1
        return commits / (time.perf_counter() - begin)


def measure(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Return the median of some rounds for each mode; the modes take turns."""
    rates: dict[str, list[float]] = {"full": [], "normal": []}
    for _ in range(ROUNDS):
        for durability, found in rates.items():
            with tempfile.TemporaryDirectory(dir=folder) as memory:
                found.append(commits_a_second(Path(memory), durability, count, seconds))
    return {durability: float(np.median(found)) for durability, found in rates.items()}


@benchmark("durability", "commits in both durability modes", minutes=1, group="more")
def run(settings: Settings) -> Result:
    rows: list[tuple[str | float, ...]] = []
    for count in BATCHES:
        seconds = SECONDS_QUICK if settings.quick else SECONDS
        rates = measure(settings.scratch, count, seconds)
        for durability, rate in rates.items():
            ratio = f"{rates['normal'] / rates['full']:.1f}" if durability == "normal" else ""
            rows.append((f"{count:,}", durability, f"{rate:,.0f}", f"{rate * count:,.0f}", ratio))
    header = ("concepts a commit", "mode", "commits/s", "concepts/s", "normal to full")
    table = TableOf(f"commits of new concepts of width {WIDTH}, wall clock", header, rows)
    return Result("durability", "What durability costs", tables=(table,))
