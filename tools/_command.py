"""What the commands share: exit statuses, errors in one line, sizes, JSON, progress bars."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from aesg._tables import printable
from storage_backends.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
)
from storage_backends.progress import Progress as Report
from storage_backends.progress import silent
from storage_backends.types import Problem

#: Exit statuses of every command.
FINE, NOT_DONE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

EXIT_STATUSES = (
    "Exit status: 0 done, and nothing is wrong or lost; 1 problems were found, something was lost "
    "in a repair, or a writer has the memory open; 2 it could not be done; 130 interrupted; "
    "143 terminated."
)

_AS_IT_WAS = "the memory is as it was, or as it was to be"
_ADVICE = "run `python -m tools.verify DIR --repair` on the memory, or restore a copy"

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Terminated(BaseException):
    """SIGTERM has come: what is on its way is cleaned up, as after Ctrl-C."""


def run(
    command: click.Command,
    arguments: Sequence[str] | None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Run a command and return its exit status; every error of its user's is one line.

    Parameters
    ----------
    command : click.Command
        Its callback returns the exit status.
    arguments : sequence of str, optional
        Those of the process where None.
    errors : tuple of exception types
        What else than the store's errors is said in one line.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    known: tuple[type[Exception], ...] = (StoreError, OSError, MemoryError, UnicodeError, *errors)
    try:
        with _terminable():
            name = f"python -m tools.{command.name}"
            status = command.main(args=given, prog_name=name, standalone_mode=False)
            return int(status or FINE)
    except click.ClickException as error:
        error.show()
        kind, reason, status = type(error).__name__, error.format_message(), FAILED
    except (click.Abort, Terminated) as error:
        kind, reason, status = "Interrupted", f"interrupted; {_AS_IT_WAS}", INTERRUPTED
        if isinstance(error, Terminated):
            kind, reason, status = "Terminated", f"terminated; {_AS_IT_WAS}", TERMINATED
        _complain(reason)
    except known as error:
        kind, reason = type(error).__name__, _reason_of(error)
        is_locked = any(isinstance(each, StoreLockedError) for each in (error, error.__cause__))
        status = NOT_DONE if is_locked else FAILED
        _complain(reason)
    if "--json" in given:
        with suppress(OSError):  # of which the reason may tell
            click.echo(json.dumps({"done": False, "reason": reason, "error": kind}, indent=2))
    return status


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block by an exception; only the main thread may ask for signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason_of(error: Exception) -> str:
    """Return what an error says, in one line, with what to do about it."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory (RAM)"
    if isinstance(error, StoreCorruptError) and not any(
        word in text for word in ("--repair", "restore")
    ):
        return f"{text}; {_ADVICE}"
    is_full = "room for" in text or "No space left" in text or "room left" in text
    is_full = is_full and isinstance(error, (StoreFullError, OSError))
    return f"disk full: {text}" if is_full else text


def _complain(reason: str) -> None:
    click.echo(f"Error: {printable(reason)}", err=True)


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
