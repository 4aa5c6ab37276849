"""Compact a memory: drop what was removed, build the snapshot anew, give the space back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from storage_backends.compaction import CompactReport, Figures, expect
from storage_backends.compaction import compact as run_compact
from storage_backends.errors import StoreLockedError
from tools._command import (
    EXIT_STATUSES,
    FINE,
    NOT_DONE,
    progress,
    run,
    say_json,
    say_problems,
    say_table,
    size,
)


@click.command(epilog=EXIT_STATUSES)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what is expected, and change nothing.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for a writer to close the memory. Default: 0.",
)
@click.option("--verify", is_flag=True, help="Examine every record of the result before using it.")
@click.option(
    "--max-events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the last N events. Default: as many as the memory is set to keep.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def compact(
    directory: Path,
    dry_run: bool,
    wait: float,
    verify: bool,
    max_events: int | None,
    as_json: bool,
) -> int:
    """Compact the memory in DIRECTORY.

    Readers may go on reading; a writer must have closed it. A crash at any instant leaves the
    memory as it was, or compacted.
    """
    if dry_run:
        report = expect(directory, most_events=max_events)
    else:
        with progress() as bars, _telling(wait):
            report = run_compact(
                directory, wait=wait, verify=verify, most_events=max_events, progress=bars
            )
    if as_json:
        say_json(report)
    else:
        _say(report)
    return FINE if report.done else NOT_DONE


@contextmanager
def _telling(wait: float) -> Iterator[None]:
    """Let a refusal say how long the command waited."""
    try:
        yield
    except StoreLockedError as error:
        waited = f" (waited {wait:g} s)" if wait else ""
        raise StoreLockedError(f"{error}{waited}") from error


def _say(report: CompactReport) -> None:
    if report.problems:
        say_problems(report.directory, report.problems)
    if not report.done:
        click.echo(f"{report.directory}: not compacted: {report.reason}")
        if not report.dry_run:
            return
    if report.removed:
        click.echo(f"removed what was left of an interrupted run: {', '.join(report.removed)}")
    after = "expected" if report.dry_run else "after"
    say_table(["", "before", after], list(_rows(report.before, report.after)))
    if report.dry_run:
        needed, free = size(report.needed_bytes), size(report.available_bytes)
        click.echo(f"room needed meanwhile: {needed} of {free}; nothing was changed")
    else:
        verified = ", verified" if report.verified else ""
        click.echo(f"{report.directory}: compacted in {report.seconds:.1f} s{verified}")


def _rows(before: Figures, after: Figures) -> list[list[str]]:
    rows = [
        [label, size(getattr(before, name)), size(getattr(after, name))]
        for label, name in (
            ("data", "data_bytes"),
            ("snapshot", "snapshot_bytes"),
            ("total on disk", "total_bytes"),
        )
    ]
    for name in ("concepts", "tombstones", "edges", "aliases", "events"):
        rows.append([name, f"{getattr(before, name):,}", f"{getattr(after, name):,}"])
    rows.append(["log entries", f"{before.log_entries:,}", f"{after.log_entries:,}"])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(compact, argv)


if __name__ == "__main__":
    sys.exit(main())
