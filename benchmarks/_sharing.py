"""What reader processes of one memory use together, with a pack attached or without."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

from aesg import AESGMemory
from benchmarks._large import Used, memory_used, processes, queries, warm_up
from benchmarks.suite import TableOf

READERS = 4
_MB = 1e6


def sharing(
    directory: Path, concepts: int, dim: int, turns: int, *, pack: Path | None = None
) -> TableOf:
    """Return what one reader and four readers use, each after so many calls of 16 queries."""
    rows = []
    alone = 0
    for count in (1, READERS):
        used = _readers(directory, pack, count, concepts, dim, turns)
        total = sum(each.proportional for each in used)
        alone = alone or total
        private = max(each.anonymous for each in used)
        sizes = (f"{total / _MB:.0f}", f"{private / _MB:.0f}", f"{total / alone:.2f} x")
        rows.append((str(count), *sizes))
    header = ("readers at once", "PSS in all, MB", "anonymous each, MB", "against one")
    return TableOf(f"readers of {concepts:,} concepts", header, rows)


def _readers(
    directory: Path, pack: Path | None, count: int, concepts: int, dim: int, turns: int
) -> list[Used]:
    """Return what each of some readers uses beyond a process without a memory."""
    with get_context("spawn").Manager() as manager, processes(count) as pool:
        barrier = manager.Barrier(count)
        jobs = [
            pool.submit(_read_beside, directory, pack, concepts, dim, turns, barrier, number)
            for number in range(count)
        ]
        return [job.result() for job in jobs]


def _read_beside(
    directory: Path,
    pack: Path | None,
    concepts: int,
    dim: int,
    turns: int,
    barrier: object,
    number: int,
) -> Used:
    """Open, attach, ask, and measure while all the other readers are there too."""
    warm_up(dim)
    before = memory_used()
    with AESGMemory.open(directory) as memory:
        if pack is not None:
            memory.attach_pack(memory.load_pack(pack))
        for turn in range(turns):
            memory.retrieve(queries(number * turns + turn, concepts, dim))
        barrier.wait()  # type: ignore[attr-defined]
        used = memory_used() - before
        barrier.wait()  # type: ignore[attr-defined]
    return used
