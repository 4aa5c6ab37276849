"""Examine every record of a memory directory and report what is wrong.

Exit status: 0 nothing wrong, 1 problems found, 2 the directory could not be examined.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import Problem, StoreStats

CLEAN, DAMAGED, NOT_EXAMINED = 0, 1, 2


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def verify(directory: Path, as_json: bool) -> int:
    """Examine every record of the memory in DIRECTORY; nothing is changed."""
    stats, problems = examine(directory)
    if as_json:
        click.echo(_as_json(directory, stats, problems))
    elif stats is None:
        _print_table(directory, problems)
    else:
        click.echo(f"{directory}: no problems in {_sizes(stats)}")
    return DAMAGED if problems else CLEAN


def examine(directory: Path) -> tuple[StoreStats | None, Sequence[Problem]]:
    """Open a memory for reading, in a process of its own, and verify it.

    Parameters
    ----------
    directory : Path
        The memory.

    Returns
    -------
    stats : StoreStats or None
        Its sizes; None where there are problems.
    problems : sequence of Problem
        What is wrong; empty where all is well.

    Raises
    ------
    StoreError
        If it is not a memory of this release, or cannot be read.
    """
    # LMDB aborts the process, or is killed by SIGBUS, on some damaged pages.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_examine_here, directory).result()
        except BrokenProcessPool:
            message = "expected readable pages, got damage that killed the process reading them"
            return None, [Problem("data.mdb", "", message)]


def _examine_here(directory: Path) -> tuple[StoreStats | None, Sequence[Problem]]:
    try:
        with closing(LMDBStore.open(directory, read_only=True, create=False)) as store:
            problems = store.verify()
            return (None if problems else store.stats()), problems
    except StoreCorruptError as error:
        return None, [Problem("data.mdb", "", str(error))]


def _as_json(directory: Path, stats: StoreStats | None, problems: Sequence[Problem]) -> str:
    report = {
        "directory": str(directory),
        "stats": None if stats is None else dataclasses.asdict(stats),
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    return json.dumps(report, indent=2)


def _print_table(directory: Path, problems: Sequence[Problem]) -> None:
    table = Table("table", "record", "problem")
    for problem in problems:
        # Text, because a message may hold square brackets, which are markup in a plain string.
        table.add_row(*(Text(cell) for cell in (problem.table, problem.key, problem.message)))
    console = Console()
    console.print(table)
    console.print(Text(f"{directory}: {len(problems)} problem(s)"))


def _sizes(stats: StoreStats) -> str:
    return (
        f"{stats.concepts:,} concepts, {stats.edges:,} edges, {stats.payloads:,} payloads and "
        f"{stats.events:,} events (generation {stats.generation:,}, {stats.file_bytes:,} bytes)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.

    Returns
    -------
    int
        The exit status.
    """
    try:
        return int(verify.main(args=argv, prog_name="verify", standalone_mode=False) or CLEAN)
    except click.ClickException as error:
        error.show()
    except (StoreError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
    return NOT_EXAMINED


if __name__ == "__main__":
    sys.exit(main())
