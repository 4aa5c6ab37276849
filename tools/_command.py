"""What the commands share: exit statuses, errors in one line, sizes, JSON, progress bars."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from storage_backends.errors import StoreError, StoreLockedError
from storage_backends.progress import Progress as Report
from storage_backends.progress import silent
from storage_backends.types import Problem

#: Exit statuses of every command.
FINE, NOT_DONE, FAILED, INTERRUPTED = 0, 1, 2, 130

EXIT_STATUSES = (
    "Exit status: 0 done; 1 problems were found, or a writer has the memory open; "
    "2 it could not be done; 130 interrupted."
)

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit status; every error of its user's is one line.

    Parameters
    ----------
    command : click.Command
        Its callback returns the exit status.
    arguments : sequence of str, optional
        Those of the process where None.
    """
    try:
        status = command.main(args=arguments, prog_name=command.name, standalone_mode=False)
        return int(status or FINE)
    except click.ClickException as error:
        error.show()
    except click.Abort:
        _complain("interrupted; the memory is as it was, or as it was to be")
        return INTERRUPTED
    except StoreLockedError as error:
        _complain(error)
        return NOT_DONE
    except (StoreError, OSError) as error:
        _complain(error)
    except MemoryError:
        _complain("not enough memory (RAM)")
    return FAILED


def _complain(error: object) -> None:
    click.echo("Error: " + " ".join(str(error).split()), err=True)


@contextmanager
def progress() -> Iterator[Report]:
    """Show bars on standard error while the block runs; nothing where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bars:

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step)
            bars.update(tasks[step], completed=done, total=total or None)

        yield report


def say_json(report: Any) -> None:
    """Print a report as one JSON object."""
    click.echo(json.dumps(dataclasses.asdict(report), indent=2, default=_plain))


def _plain(value: object) -> str | list[str]:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns: the first column to the left, all others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        click.echo("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())


def say_problems(where: Path | str, problems: Sequence[Problem]) -> None:
    """Print each problem on a line of its own, and how many there are."""
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{where}: {len(problems)} problem(s)")


def size(count: float) -> str:
    """Return a number of bytes as a reader wants it."""
    unit = 0
    while abs(count) >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:,.0f} {_UNITS[unit]}" if not unit else f"{count:,.1f} {_UNITS[unit]}"


def main(command: click.Command) -> None:
    """Run a command as the program."""
    sys.exit(run(command, None))
