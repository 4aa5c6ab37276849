"""Whether a memory that lives long stays as quick and as small as it was.

One process lets concepts be born, used, merged and pruned without end, in a memory that is full
from early on. Its last thousand retrievals are compared with the first thousand of a memory that
has just become full in the same way; the two take turns, so that both meet the same machine.

    python benchmarks/soak.py [--quick] [--births 200000] [--concepts 4000]
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click
import numpy as np
from _soak import Life, resident
from rich.console import Console
from rich.table import Table

QUERIES = 1_000
_TURNS = 20
QUICK_BIRTHS = 20_000


def row_of(life: Life) -> tuple[int, ...]:
    storage = life.memory.storage
    return (
        life.births,
        storage.node_count,
        storage.edge_count,
        storage.file_bytes >> 10,
        resident() >> 20,
    )


def live(life: Life, births: int, table: Table) -> None:
    """Let a memory live until so many ids were given, with a row for each eighth of the way."""
    begun = life.births
    for part in range(1, 9):
        while life.births < begun + part * (births - begun) / 8:
            life.step()
        table.add_row(*(f"{each:,}" for each in row_of(life)))


def latencies(lives: tuple[Life, Life]) -> tuple[float, float]:
    """Return the median CPU time of a retrieval in each of two memories, in microseconds."""
    spent: tuple[list[int], list[int]] = [], []
    for _ in range(_TURNS):
        for life, found in zip(lives, spent, strict=True):
            found += life.retrievals(QUERIES // _TURNS)
    return float(np.median(spent[0])) / 1000, float(np.median(spent[1])) / 1000


@click.command()
@click.option("--births", default=200_000, show_default=True, help="Concept ids to be given.")
@click.option("--concepts", default=4_000, show_default=True, help="Concepts held at most.")
@click.option("--quick", is_flag=True, help="A tenth of the births.")
def main(births: int, concepts: int, quick: bool) -> None:
    """Print what a long life costs, and how the last retrievals compare with the first."""
    births = QUICK_BIRTHS if quick else births
    table = Table(title="A long life in one process")
    for heading in ("births", "concepts", "edges", "files KiB", "anonymous MiB"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder, "old"), concepts).full()
        live(life, births, table)
        young = Life(Path(folder, "young"), concepts).full()
        first, last = latencies((young, life))
        events = Counter(event["type"] for event in life.memory.logger.get_history())
        problems = life.memory.storage.verify()
        life.memory.close()
        young.memory.close()
    console = Console()
    console.print(table)
    console.print(f"the last {events.total():,} events: {dict(events)}; problems: {problems}")
    console.print(
        f"median CPU time of a retrieval: of the first {QUERIES:,} {first:.0f} us, "
        f"of the last {QUERIES:,} {last:.0f} us, {last / first:.2f}x"
    )


if __name__ == "__main__":
    main()
