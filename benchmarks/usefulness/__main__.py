"""Run the tasks, print what they came to and write it down.

    python -m benchmarks.usefulness [--quick] [--task NAME ...] [--seeds 5] [--jobs 2]

Exits with 1 if a run failed or a task had to be skipped; a goal that is missed is a result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Shown

from benchmarks.usefulness import report, tasks
from benchmarks.usefulness.harness import Outcome, run_all

_QUICK_SEEDS, _SEEDS = 2, 5

_console = Console(highlight=False, markup=False, soft_wrap=True)


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help=f"Small models, little data, {_QUICK_SEEDS} seeds.")
@click.option("--task", "names", multiple=True, type=click.Choice(tasks.NAMES), help="Default: all")
@click.option(
    "--seeds", type=click.IntRange(min=1), help=f"Runs of each task.  [default: {_SEEDS}]"
)
@click.option("--first-seed", default=0, type=click.IntRange(min=0), help="They count from here.")
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Processes at a time.")
@click.option(
    "--out", default="build/usefulness", type=click.Path(path_type=Path), help="For all files."
)
def main(
    quick: bool, names: Sequence[str], seeds: int | None, first_seed: int, jobs: int, out: Path
) -> None:
    """Measure on real data whether the memory helps, against twins and controls."""
    started = time.monotonic()
    count = seeds or (_QUICK_SEEDS if quick else _SEEDS)
    chosen = range(first_seed, first_seed + count)
    loaded = [tasks.load(name) for name in tasks.NAMES if name in (names or tasks.NAMES)]
    outcomes = run_all(loaded, chosen, out, quick=quick, jobs=jobs, say=_console.print)
    _write(outcomes, chosen, quick, out)
    _console.print(f"{time.monotonic() - started:.0f} seconds in all; report, figures in {out}")
    sys.exit(1 if any(each.skipped or each.failures for each in outcomes) else 0)


def _write(outcomes: Sequence[Outcome], seeds: Sequence[int], quick: bool, out: Path) -> None:
    report.write(outcomes, seeds, quick, out)
    for outcome in outcomes:
        _console.rule(outcome.task.title, align="left")
        if outcome.skipped:
            _console.print(f"SKIPPED: {outcome.skipped}")
        for seed in sorted(outcome.failures):
            _console.print(f"FAILED with seed {seed}:\n{outcome.failures[seed]}")
        if outcome.values:
            _show(outcome, out)


def _show(outcome: Outcome, out: Path) -> None:
    from benchmarks.usefulness import plots  # matplotlib takes a second to load

    plots.draw(outcome, out)
    shown = [report.means(outcome), report.comparisons(outcome), report.goals(outcome)]
    for table in filter(lambda each: each.rows, shown):
        on_screen = Shown(*table.head)
        for row in table.rows:
            on_screen.add_row(*row)
        _console.print(on_screen)


if __name__ == "__main__":
    main()
