"""What processes share of a large pack.

Fresh read-only processes load one pack and attach it to an empty memory: the first, which decodes
it and builds its seed index, and those after it; then the memory of one reader and of four at once,
each after 200 calls of sixteen queries. The cache folder is made for this, and removed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory
from aesg.packs import Provenance, write_pack
from aesg.packs.columns import COLUMNS, OPTIONAL
from benchmarks._large import memory_used, processes, vectors, warm_up
from benchmarks._sharing import sharing
from benchmarks.suite import Result, Settings, TableOf, benchmark

CONCEPTS, CONCEPTS_QUICK = 300_000, 20_000
DIM, EDGES = 64, 10
TURNS, TURNS_QUICK = 200, 5
_MB = 1e6


@dataclass(frozen=True)
class Attached:
    """Seconds of wall and processor time to load and to attach, and peak memory in bytes."""

    loading: float
    loading_cpu: float
    attaching: float
    attaching_cpu: float
    peak_anonymous: int


def make_pack(path: Path, concepts: int, dim: int, edges: int) -> None:
    """Write a pack of clustered concepts with ``edges`` out-edges each."""
    keys = vectors(0, concepts, dim)
    norms = np.linalg.norm(keys, axis=1).astype(np.float32)
    steps = np.random.default_rng(0).integers(1, concepts - edges, (concepts, edges))
    steps.sort(axis=1)
    targets = (np.arange(concepts)[:, None] + steps + np.arange(edges)) % concepts
    columns: dict[str, NDArray[Any]] = {
        "ids": np.arange(1, concepts + 1, dtype=np.uint64),
        "keys": keys / norms[:, None],
        "norms": norms,
        "edge_targets": np.sort(targets, axis=1).ravel().astype(np.uint32),
        "payloads": np.empty(0, np.uint8),
    }
    same = {"edge_counts": edges, "edge_kinds": 1, "edge_weights": 0.5, "edge_confidences": 0.5}
    same |= {"relevance": 1, "stability": 1, "created": 1, "modified": 1}
    for name, kind in COLUMNS.items():
        if name not in columns and name != OPTIONAL:
            columns[name] = np.array([same.get(name, 0)], kind.dtype)
    origin = Provenance("", 0, 0, "")
    write_pack(path, columns, name="large", vector_dim=dim, provenance=origin)


def attach_once(directory: Path, path: Path, dim: int) -> Attached:
    """Load and attach the pack in this fresh process."""
    warm_up(dim)
    with AESGMemory.open(directory) as memory:
        before = memory_used().anonymous
        begin, cpu = time.perf_counter(), time.process_time()
        pack = memory.load_pack(path)
        loaded, loaded_cpu = time.perf_counter(), time.process_time()
        memory.attach_pack(pack)
        end, end_cpu = time.perf_counter(), time.process_time()
        peak = memory_used().anonymous - before
    return Attached(loaded - begin, loaded_cpu - cpu, end - loaded, end_cpu - loaded_cpu, peak)


def attaching(directory: Path, path: Path) -> TableOf:
    """Return how fresh processes load and attach the pack."""
    rows = []
    for which in ("the first", "those after it"):
        with processes(1) as pool:
            run = pool.submit(attach_once, directory, path, DIM).result()
        loading = f"{run.loading:.2f} ({run.loading_cpu:.2f})"
        attached = f"{run.attaching:.2f} ({run.attaching_cpu:.2f})"
        rows.append((which, loading, attached, f"{run.peak_anonymous / _MB:.0f}"))
    header = ("a fresh process", "load, s (CPU)", "attach, s (CPU)", "anonymous afterwards, MB")
    return TableOf("loading and attaching", header, rows)


@benchmark("pack-sharing", "what processes share of a large pack", minutes=4, group="more")
def run(settings: Settings) -> Result:
    concepts = CONCEPTS_QUICK if settings.quick else CONCEPTS
    turns = TURNS_QUICK if settings.quick else TURNS
    directory, path = settings.scratch / "memory", settings.scratch / "large.aesgpack"
    cache = os.environ["AESG_CACHE"] = str(settings.scratch / "cache")
    AESGMemory(directory, AESGConfig(vector_dim=DIM)).close()
    settings.say(f"making a pack of {concepts:,} concepts")
    with processes(1) as pool:
        pool.submit(make_pack, path, concepts, DIM, EDGES).result()
    tables = [attaching(directory, path)]
    files = [path, *sorted(Path(cache).glob("packs/*/*.*"))]
    sizes = ", ".join(f"{file.name} {file.stat().st_size / _MB:.0f} MB" for file in files)
    tables.append(sharing(directory, concepts, DIM, turns, pack=path))
    note = f"The pack, and what lies in the cache: {sizes}."
    return Result("pack-sharing", "Readers of one pack", tables=tables, notes=(note,))
