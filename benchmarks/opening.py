"""Opening a large memory, and what readers of it share.

Fresh processes open the same directory read-only: time to open, time of the first answer
(medians of five), with the files in the page cache and with nothing of them there, against reading
all records; then the memory of one reader and of four at once, each after ``--turns`` calls of
sixteen queries.

    python benchmarks/opening.py [--concepts 1000000] [--dim 64] [--edges 10] [--folder DIR]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
from _large import files_of, fill, processes, queries, seconds, warm_up
from _sharing import show_sharing
from rich.console import Console
from rich.table import Table

from aesg import AESGMemory
from storage_backends.lmdb_store import LMDBStore
from storage_backends.view import View

REPEATS = 5
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


def show_opening(console: Console, directory: Path, concepts: int, dim: int) -> None:
    """Measure and print how a fresh process opens the memory."""
    table = Table("a fresh process", "open, ms", "first answer, ms", "an answer later, ms")
    for state in ("files in the page cache", "nothing in the page cache"):
        prepare = forget if state.startswith("nothing") else read_files
        runs = []
        for _ in range(REPEATS):
            prepare(directory)
            with processes(1) as pool:
                runs.append(pool.submit(open_once, directory, concepts, dim).result())
        table.add_row(state, *(f"{each * 1e3:.1f}" for each in medians(runs)))
    with processes(1) as pool:
        table.add_row(
            "reading all records", f"{pool.submit(read_all, directory).result() * 1e3:,.0f}"
        )
    console.print(table)


@click.command()
@click.option("--concepts", default=1_000_000, show_default=True)
@click.option("--dim", default=64, show_default=True)
@click.option("--edges", default=10, show_default=True, help="Out-edges of each concept.")
@click.option("--turns", default=200, show_default=True, help="Calls of 16 queries per reader.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the memory here; used again.")
def main(concepts: int, dim: int, edges: int, turns: int, folder: Path | None) -> None:
    """Open a large memory in fresh processes."""
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        directory = folder or Path(scratch) / "memory"
        if not (directory / "CURRENT").exists():
            console.print(f"making {concepts:,} concepts with {edges} edges each")
            console.print(f"made in {seconds(lambda: fill(directory, concepts, dim, edges)):.0f} s")
        sizes = ", ".join(
            f"{kind} {size / _MB:.0f} MB" for kind, size in files_of(directory).items()
        )
        console.print(f"{concepts:,} concepts, {dim} wide, {edges} edges each: {sizes}")
        show_opening(console, directory, concepts, dim)
        show_sharing(console, directory, concepts, dim, turns)


if __name__ == "__main__":
    main()
