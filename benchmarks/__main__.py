"""Runs the benchmarks and tells what they came to.

    python -m benchmarks [NAME ...] [--list] [--quick] [--all] [--no-peers]

Without names, all that state a goal. Exits with 1 if one of them failed or lacks a library; a goal
that is missed and a peer that cannot be installed are results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.suite import docs, machine, plots, report
from benchmarks.suite.registry import Benchmark, all_benchmarks
from benchmarks.suite.result import Cell, TableOf
from benchmarks.suite.run import Kept, run, write

_OUT = Path("build/benchmarks")
#: Has a command of its own: it fetches data and runs its tasks side by side.
_USEFULNESS = (
    "usefulness",
    "what the memory is good for, on real data: python -m benchmarks.usefulness",
    "",
    "alone",
    240,
)
_console = Console(highlight=False, markup=False, soft_wrap=True)


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Tell what there is; run nothing.")
@click.option("--quick", is_flag=True, help="Small and short: to see that all works.")
@click.option("--all", "everything", is_flag=True, help="Those that state no goal, too.")
@click.option("--peers/--no-peers", "with_peers", default=True, help="Beside what others offer.")
@click.option(
    "--json", "file", type=click.Path(path_type=Path), help="Write the figures here, too."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help=f"For all files.  [default: {_OUT}[-quick]]"
)
@click.option("--write-docs", is_flag=True, help="Put the figures into docs/benchmarks.md.")
def main(
    names: Sequence[str],
    listing: bool,
    quick: bool,
    everything: bool,
    with_peers: bool,
    file: Path | None,
    out: Path | None,
    write_docs: bool,
) -> None:
    """Measure what the memory costs, beside what a user would pick instead."""
    known, unavailable = all_benchmarks()
    for what in unavailable:
        _console.print(f"UNAVAILABLE: {what}")
    chosen = _chosen(known, names, everything)
    if listing:
        _show(_listed(known.values()))
        return
    if quick and write_docs:
        raise click.UsageError("quick runs claim nothing: --write-docs takes full ones")
    folder = out or (_OUT.with_name(f"{_OUT.name}-quick") if quick else _OUT)
    started = time.monotonic()
    if machine.is_busy():
        _console.print("others use this machine: wall-clock figures will show it")
    results, failed = run(
        chosen, folder.absolute(), quick=quick, with_peers=with_peers, say=_console.print
    )
    _tell(results, chosen, failed, folder)
    if file is not None:
        write(results, file)
    _console.print(f"{time.monotonic() - started:.0f} seconds in all; report, figures in {folder}")
    if write_docs:
        _write_docs(known, results, failed)
    sys.exit(1 if failed or unavailable else 0)


def _chosen(known: Mapping[str, Benchmark], names: Sequence[str], everything: bool) -> list[str]:
    """Return the names to run, in the order of all.

    Raises
    ------
    UsageError
        If there is none of a name.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise click.UsageError(f"expected names among {', '.join(known)}, got {', '.join(unknown)}")
    wanted = names or [name for name in known if everything or known[name].group == "goals"]
    return [name for name in known if name in wanted]


def _listed(known: Iterable[Benchmark]) -> TableOf:
    rows: list[tuple[Cell, ...]] = [
        (each.name, each.title, ", ".join(each.peers), each.group, each.minutes) for each in known
    ]
    return TableOf("", ("name", "what", "peers", "group", "minutes"), [*rows, _USEFULNESS])


def _tell(
    results: Mapping[str, Kept], chosen: Sequence[str], failed: Sequence[str], folder: Path
) -> None:
    """Write the report and the plots, and show what this run came to."""
    (folder / "report.md").write_text(report.page(results, failed))
    fresh = [results[name] for name in chosen if name not in failed]
    for kept in fresh:
        list(plots.draw(kept.result, folder))
        _show(report.ratios(kept))
        for table in kept.result.tables:
            _show(table)
    for kept in fresh:
        for what in kept.result.skipped:
            _console.print(f"SKIPPED by {kept.result.name}: {what}")
    for name in failed:
        _console.print(f"FAILED: {name}")


def _show(table: TableOf) -> None:
    if table.rows:
        shown = Table(*table.header, title=table.title or None, title_justify="left")
        for row in table.rows:
            shown.add_row(*(report.cell(each).replace("**", "") for each in row))
        _console.print(shown)


def _write_docs(
    known: Mapping[str, Benchmark], results: Mapping[str, Kept], failed: Sequence[str]
) -> None:
    needed = [name for name, each in known.items() if each.group == "goals"]
    why = f"failed: {', '.join(failed)}" if failed else docs.refused(results, needed)
    if why:
        raise click.ClickException(f"docs/benchmarks.md stays as it is: {why}")
    docs.write(results, needed)


if __name__ == "__main__":
    main()
