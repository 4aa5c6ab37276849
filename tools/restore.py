"""Give a memory the content of a copy of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from storage_backends.replacement import RestoreReport
from storage_backends.replacement import restore as run_restore
from tools._command import EXIT_STATUSES, FINE, progress, run, say_json, say_table

_SIZES = ("generation", "concepts", "edges", "payloads", "aliases", "events")


@click.command(epilog=EXIT_STATUSES)
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what is expected, and change nothing.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for a writer to close the memory. Default: 0.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def restore(snapshot: Path, directory: Path, dry_run: bool, wait: float, as_json: bool) -> int:
    """Give the memory in DIRECTORY the content of the copy in SNAPSHOT.

    What the memory has learned since is gone then. Readers may go on reading; a writer must have
    closed it. The copy is examined first and stays as it is. A crash at any instant leaves the
    memory as it was, or restored.
    """
    with progress() as bars:
        report = run_restore(snapshot, directory, wait=wait, dry_run=dry_run, progress=bars)
    if as_json:
        say_json(report)
    else:
        _say(report)
    return FINE


def _say(report: RestoreReport) -> None:
    after = "expected" if report.dry_run else "after"
    rows = [
        [name, f"{getattr(report.before, name):,}", f"{getattr(report.after, name):,}"]
        for name in _SIZES
        if name != "generation" or not report.dry_run
    ]
    say_table(["", "before", after], rows)
    if not report.is_same_memory:
        click.echo(f"{report.source}: a copy of another memory than {report.directory}")
    if report.dry_run:
        click.echo("nothing was changed")
    else:
        click.echo(f"{report.directory}: restored from {report.source} in {report.seconds:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(restore, argv)


if __name__ == "__main__":
    sys.exit(main())
