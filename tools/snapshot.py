"""Copy a memory, consistently, while it is in use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from storage_backends import layout
from storage_backends.copying import CopyReport, copy
from tools._command import (
    EXIT_STATUSES,
    FINE,
    NOT_DONE,
    Terminated,
    progress,
    run,
    say_json,
    say_problems,
    size,
)


@click.command(epilog=EXIT_STATUSES)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Examine every record of the copy.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def snapshot(directory: Path, destination: Path, verify: bool, as_json: bool) -> int:
    """Copy the memory in DIRECTORY to DESTINATION, which must be empty or not exist.

    A writer and readers may be at work: the copy is the last commit when it began. Until it is
    complete it does not open as a memory.
    """
    try:
        with progress() as bars:
            report = copy(directory, destination, verify=verify, progress=bars)
    except (KeyboardInterrupt, Terminated):
        # A copy that is not complete is removed, CURRENT first of all.
        if layout.current_name(destination) is not None:
            click.echo(f"{destination}: the copy is complete, but not verified", err=True)
        raise
    if as_json:
        say_json(report)
    else:
        _say(report)
    return NOT_DONE if report.problems else FINE


def _say(report: CopyReport) -> None:
    if report.problems:
        say_problems(report.destination, report.problems)
    sizes = report.sizes
    packs = f", {_packs(report)}" if report.packs else ""
    kind = "with its snapshot" if report.has_snapshot else "without a snapshot"
    verified = ", verified" if report.verified and not report.problems else ""
    click.echo(
        f"{report.destination}: generation {sizes.generation:,} with {sizes.concepts:,} concepts "
        f"and {sizes.edges:,} edges{packs}, {kind}, {size(sum(report.files.values()))} in "
        f"{report.seconds:.1f} s{verified}"
    )


def _packs(report: CopyReport) -> str:
    """Say how many packs the memory keeps, and which of their files are not in the copy."""
    text = f"{len(report.packs)} kept {'pack' if len(report.packs) == 1 else 'packs'}"
    if report.missing_packs:
        return f"{text} (missing: {', '.join(report.missing_packs)})"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(snapshot, argv)


if __name__ == "__main__":
    sys.exit(main())
