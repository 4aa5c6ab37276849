"""Memory and disk that concepts of width 16 take, beside the documented table."""

from __future__ import annotations

from pathlib import Path

from aesg import AESGMemory
from benchmarks._large import Used, files_of, fill, memory_used, processes, queries, warm_up
from benchmarks.suite import Result, Settings, TableOf, benchmark

#: Concepts: documented megabytes in memory and on disk.
DOCUMENTED = {10_000: (2, 3), 100_000: (17, 32), 500_000: (80, 151), 1_000_000: (173, 314)}
DIM = 16
_SMALLEST = min(DOCUMENTED)
_TURNS = 64
_MB = 1e6


def open_and_ask(directory: Path, concepts: int, dim: int) -> tuple[Used, Used]:
    """Return what a fresh process uses more when it has opened a memory, and when it has asked."""
    warm_up(dim)
    before = memory_used()
    with AESGMemory.open(directory) as memory:
        opened = memory_used() - before
        for turn in range(_TURNS):
            memory.retrieve(queries(turn, concepts, dim))
        return opened, memory_used() - before


def measure(directory: Path, concepts: int) -> tuple[str, ...]:
    """Make a memory of some size and return what it takes in memory and on disk."""
    with processes(1) as pool:
        pool.submit(fill, directory, concepts, DIM, 0).result()
    with processes(1) as pool:
        opened, asked = pool.submit(open_and_ask, directory, concepts, DIM).result()
    files = files_of(directory)
    sizes = (opened.resident, asked.resident, asked.anonymous)
    disk = (files["data"], files["columns"] + files["graph"])
    return tuple(f"{size / _MB:.0f}" for size in (*sizes, *disk))


_HEADER = (
    "concepts",
    "documented",
    "opened, MB",
    "after 1,024 queries, MB",
    "of it anonymous",
    "records on disk, MB",
    "derived on disk, MB",
)


@benchmark("footprint", "memory and disk that concepts take", minutes=10, group="more")
def run(settings: Settings) -> Result:
    rows = []
    for concepts, (memory, disk) in DOCUMENTED.items():
        if not settings.quick or concepts == _SMALLEST:
            settings.say(f"{concepts:,} concepts")
            found = measure(settings.scratch / str(concepts), concepts)
            rows.append((f"{concepts:,}", f"{memory} MB, {disk} MB on disk", *found))
    table = TableOf(f"concepts of width {DIM}, no edges", _HEADER, rows)
    return Result("footprint", "What concepts take", tables=(table,))
