"""Opening a large memory, and what readers of it share.

Fresh processes open the same directory read-only: time to open, time of the first answer
(medians of five), with the files in the page cache and with nothing of them there, against reading
all records; then the memory of one reader and of four at once, each after 200 calls of sixteen
queries.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aesg import AESGMemory
from benchmarks._large import files_of, fill, processes, queries, seconds, warm_up
from benchmarks._sharing import sharing
from benchmarks.suite import Result, Settings, TableOf, benchmark
from storage_backends.lmdb_store import LMDBStore
from storage_backends.view import View

CONCEPTS, CONCEPTS_QUICK = 1_000_000, 20_000
DIM, EDGES = 64, 10
#: Calls of 16 queries that a reader makes, and processes that open the memory.
TURNS, TURNS_QUICK = 200, 5
REPEATS, REPEATS_QUICK = 5, 1
_MB = 1e6


@dataclass(frozen=True)
class Opened:
    """Seconds to open, to the first answer after that, and of an answer once warm."""

    opening: float
    first: float
    later: float


def open_once(directory: Path, concepts: int, dim: int) -> Opened:
    """Open the memory in this fresh process and ask."""
    warm_up(dim)
    asked = [queries(turn, concepts, dim)[:1] for turn in range(101)]
    begin = time.perf_counter()
    memory = AESGMemory.open(directory)
    opening = time.perf_counter() - begin
    with memory:
        times = [seconds(lambda query=query: memory.retrieve(query)) for query in asked]
    return Opened(opening, times[0], sorted(times[1:])[50])


def read_all(directory: Path) -> float:
    """Return the seconds that it takes to build a view of all records."""
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return seconds(lambda: View.of(store.load()))


def read_files(directory: Path) -> None:
    """Bring the memory's files into the page cache."""
    for path in directory.glob("gen-*/*"):
        with open(path, "rb") as file:
            while file.read(1 << 22):
                pass


def forget(directory: Path) -> None:
    """Drop the memory's files from the page cache."""
    os.sync()
    for file in directory.glob("gen-*/*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def medians(runs: Sequence[Opened]) -> list[float]:
    """Return the median of each time."""
    rows = [(run.opening, run.first, run.later) for run in runs]
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def openings(directory: Path, concepts: int, repeats: int) -> TableOf:
    """Return how a fresh process opens the memory."""
    rows: list[tuple[str, ...]] = []
    for state in ("files in the page cache", "nothing in the page cache"):
        prepare = forget if state.startswith("nothing") else read_files
        runs = []
        for _ in range(repeats):
            prepare(directory)
            with processes(1) as pool:
                runs.append(pool.submit(open_once, directory, concepts, DIM).result())
        rows.append((state, *(f"{each * 1e3:.1f}" for each in medians(runs))))
    with processes(1) as pool:
        took = pool.submit(read_all, directory).result()
    rows.append(("reading all records", f"{took * 1e3:,.0f}", "", ""))
    header = ("a fresh process", "open, ms", "first answer, ms", "an answer later, ms")
    return TableOf(f"opening {concepts:,} concepts, wall clock", header, rows)


@benchmark("opening", "opening a large memory, what readers share", minutes=10, group="more")
def run(settings: Settings) -> Result:
    concepts = CONCEPTS_QUICK if settings.quick else CONCEPTS
    directory = settings.scratch / "memory"
    settings.say(f"making {concepts:,} concepts with {EDGES} edges each")
    with processes(1) as pool:
        pool.submit(fill, directory, concepts, DIM, EDGES).result()
    sizes = ", ".join(f"{kind} {size / _MB:.0f} MB" for kind, size in files_of(directory).items())
    settings.say("opening it")
    repeats, turns = (REPEATS_QUICK, TURNS_QUICK) if settings.quick else (REPEATS, TURNS)
    tables = (openings(directory, concepts, repeats), sharing(directory, concepts, DIM, turns))
    return Result("opening", "Opening a large memory", tables=tables, notes=(f"Files: {sizes}.",))
