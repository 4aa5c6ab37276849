"""Bring a memory or a pack of release 3.0 over to this release."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from aesg._tables import counted, printable
from aesg.errors import AESGStorageError
from aesg.migration import MigrationReport
from aesg.migration import migrate as run_migrate
from tools._command import EXIT_STATUSES, FINE, progress, run, say_json


@click.command(epilog=EXIT_STATUSES)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path())  # as text: a Path would lose a slash at its end
@click.option("--dry-run", is_flag=True, help="Read everything, and write nothing.")
@click.option(
    "--unsaved",
    is_flag=True,
    help="Bring over what was written after the last save, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def migrate(old: Path, new: str, dry_run: bool, unsaved: bool, as_json: bool) -> int:
    """Bring OLD, which release 3.0 wrote, over to NEW.

    OLD is a memory directory, and NEW a directory that is empty or missing; or OLD is a pack and
    NEW a file that is missing. OLD is only read, and no process may be writing to it. NEW appears
    whole or not at all.
    """
    with progress() as bars:
        report = run_migrate(old, new, unsaved=unsaved, dry_run=dry_run, progress=bars)
    if as_json:
        say_json(report)
    else:
        _say(report)
    return FINE


def _say(report: MigrationReport) -> None:
    for verb, counts in (("left out", report.left_out), ("changed", report.changed)):
        for what, count in counts.items():
            click.echo(f"{verb}: {count:,} {what}")
    if report.unsaved_concepts or report.unsaved_edges:
        verb = "brought over too" if report.unsaved else "left out (--unsaved brings them over)"
        click.echo(
            f"{verb}: {counted(report.unsaved_concepts, 'concept')} and "
            f"{counted(report.unsaved_edges, 'edge')} that were written after the last save"
        )
    click.echo(
        f"{counted(report.concepts, 'concept')} of width {report.vector_dim:,}, "
        f"{counted(report.edges, 'edge')} and {counted(report.events, 'event')}"
    )
    if report.dry_run:
        click.echo("nothing was written")
    else:
        click.echo(f"{printable(report.destination)}: brought over in {report.seconds:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(migrate, argv, (AESGStorageError,))


if __name__ == "__main__":
    sys.exit(main())
