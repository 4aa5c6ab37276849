"""Examine a memory: its pages, records and snapshot; repair it when asked."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import click

from storage_backends import kept_packs
from storage_backends.errors import StoreError
from storage_backends.examination import Examination, examine
from storage_backends.progress import Progress, silent
from storage_backends.repair import RepairReport, repair
from storage_backends.types import Problem, StoreStats
from tools._command import (
    EXIT_STATUSES,
    FINE,
    NOT_DONE,
    progress,
    run,
    say_json,
    say_problems,
    say_table,
)


@click.command(epilog=EXIT_STATUSES)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--repair",
    "with_repair",
    is_flag=True,
    help="Make anew what can be derived, and move what cannot be saved out of the memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def verify(directory: Path, with_repair: bool, as_json: bool) -> int:
    """Examine every record, every page and the snapshot of the memory in DIRECTORY.

    Without --repair nothing is changed, and a writer and readers may be at work. With it, a
    writer must have closed the memory.
    """
    if with_repair:
        with progress() as bars:
            report = repair(directory, progress=bars)
        say_json(report) if as_json else _say_repair(report)
        return NOT_DONE if report.problems or report.lost else FINE
    with progress() as bars:
        found = examine_apart(directory, bars)
    say_json(found) if as_json else _say(directory, found)
    return NOT_DONE if found.problems else FINE


def examine_apart(directory: Path, report: Progress = silent) -> Examination:
    """Examine a memory in a process of its own.

    Parameters
    ----------
    directory : Path
    report : callable
        Told of each step.

    Raises
    ------
    StoreError
        If it is not a memory of this release, or cannot be read.
    """
    # Beside a writer LMDB has to read the file, and is killed by a signal on some damaged pages.
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine_into, args=(sender, directory), daemon=True)
    process.start()
    sender.close()
    try:
        return _received(receiver, report)
    except EOFError as error:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            message = "expected readable pages, got damage that killed the process reading them"
            return Examination(str(directory), None, (Problem("data.mdb", "", message),), ())
        raise StoreError(f"{directory}: expected to examine it, but that failed") from error
    finally:
        process.kill()
        process.join()


def _received(receiver: Connection, report: Progress) -> Examination:
    while isinstance(message := receiver.recv(), tuple):
        report(*message)
    if isinstance(message, Exception):
        raise message
    found: Examination = message
    return found


def _examine_into(sender: Connection, directory: Path) -> None:
    """Send each step, and then what was found, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for this process ends it
    result: Examination | Exception
    with suppress(BrokenPipeError):
        try:
            result = examine(directory, progress=lambda *step: sender.send(step))
        except (StoreError, OSError, MemoryError) as error:
            result = error
        sender.send(result)


def _say(directory: Path, found: Examination) -> None:
    if found.problems:
        say_problems(directory, found.problems)
        _say_packs(found)
        if any(problem.table != kept_packs.TABLE for problem in found.problems):
            click.echo(f"run `python -m tools.verify {directory} --repair`, or restore a copy")
    elif found.stats is not None:
        click.echo(f"{directory}: no problems in {_sizes(found.stats)}{_packs(found)}")
    if found.leftovers:
        names = ", ".join(found.leftovers)
        click.echo(f"left of an interrupted run, removed by the next writer: {names}")


def _say_packs(found: Examination) -> None:
    damaged = sum(problem.table == kept_packs.TABLE for problem in found.problems)
    if found.packs and damaged:
        click.echo(f"{found.packs - damaged} of {found.packs} kept packs are whole")


def _packs(found: Examination) -> str:
    if not found.packs:
        return ""
    return f"; {found.packs} kept {'pack' if found.packs == 1 else 'packs'}, whole"


def _say_repair(report: RepairReport) -> None:
    for text in report.damage:
        click.echo(f"damaged: {text}")
    for text in report.rebuilt:
        click.echo(f"made anew: {text}")
    for moved in report.moved:
        click.echo(f"taken out: {moved.table}[{moved.key}]: {moved.reason}")
    if report.quarantine is not None:
        click.echo(f"what was taken out is in {report.directory}/{report.quarantine}")
    if report.kept is not None:
        click.echo(
            f"the damaged files are in {report.directory}/{report.kept}: remove them when they are "
            "of no more use"
        )
    if report.rebuilt or report.moved:
        say_table(["", "before", "after"], list(_counts(report)))
    for text in report.lost:
        click.echo(f"lost: {text}")
    _say_result(report)


def _say_result(report: RepairReport) -> None:
    if report.problems:
        say_problems(report.directory, report.problems)
    elif report.lost:
        click.echo(f"{report.directory}: repaired with losses, no problems left")
    elif report.rebuilt:
        click.echo(f"{report.directory}: repaired, nothing was lost, no problems left")
    else:
        click.echo(f"{report.directory}: no problems, nothing to repair")


def _counts(report: RepairReport) -> Iterator[list[str]]:
    for name in ("concepts", "edges", "payloads", "aliases", "events"):
        pair = getattr(report.before, name), getattr(report.after, name)
        yield [name, *("unknown" if number is None else f"{number:,}" for number in pair)]


def _sizes(stats: StoreStats) -> str:
    return (
        f"{stats.concepts:,} concepts, {stats.edges:,} edges, {stats.payloads:,} payloads and "
        f"{stats.events:,} events (generation {stats.generation:,}, {stats.file_bytes:,} bytes)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(verify, argv)


if __name__ == "__main__":
    sys.exit(main())
