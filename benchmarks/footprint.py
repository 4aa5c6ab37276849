"""Memory and disk that concepts of width 16 take, beside the documented table.

python benchmarks/footprint.py [--dim 16] [--largest 1000000]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from _large import Used, files_of, fill, memory_used, processes, queries, warm_up
from rich.console import Console
from rich.table import Table

from aesg import AESGMemory

#: Concepts: documented megabytes in memory and on disk.
DOCUMENTED = {10_000: (2, 3), 100_000: (17, 32), 500_000: (80, 151), 1_000_000: (173, 314)}
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


def measure(concepts: int, dim: int) -> tuple[dict[str, int], Used, Used]:
    """Make a memory of some size and return what it takes on disk and in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "memory"
        with processes(1) as pool:
            pool.submit(fill, directory, concepts, dim, 0).result()
        with processes(1) as pool:
            opened, asked = pool.submit(open_and_ask, directory, concepts, dim).result()
        return files_of(directory), opened, asked


@click.command()
@click.option("--dim", default=16, show_default=True)
@click.option("--largest", default=1_000_000, show_default=True)
def main(dim: int, largest: int) -> None:
    """Print one row for each documented size."""
    table = Table(
        "concepts",
        "documented",
        "opened, MB",
        "after 1,024 queries, MB",
        "of it anonymous",
        "records on disk, MB",
        "derived on disk, MB",
    )
    for concepts, (memory, disk) in DOCUMENTED.items():
        if concepts > largest:
            break
        files, opened, asked = measure(concepts, dim)
        sizes = (opened.resident, asked.resident, asked.anonymous)
        derived = files["columns"] + files["graph"]
        table.add_row(
            f"{concepts:,}",
            f"{memory} MB, {disk} MB on disk",
            *(f"{size / _MB:.0f}" for size in (*sizes, files["data"], derived)),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
