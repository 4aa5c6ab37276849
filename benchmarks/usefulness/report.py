"""Tables, verdicts and files of what the tasks came to."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Outcome
from benchmarks.usefulness.statistics import Interval, compare, interval, paired

_LIBRARIES = ("aesg", "faiss-cpu", "numpy", "scipy", "torch")


@dataclass(frozen=True)
class Table:
    """A table, for the terminal and for the report.

    Parameters
    ----------
    head : tuple of str
    rows : tuple of tuple of str
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def means(outcome: Outcome) -> Table:
    """Return the mean and interval of every measure of every arm."""
    measures = outcome.task.measures
    rows = [
        (arm, *(_cell(outcome.column(arm, each.name), each) for each in measures))
        for arm in outcome.arms
    ]
    return Table(("arm", *(_titled(each) for each in measures)), tuple(rows))


def comparisons(outcome: Outcome) -> Table:
    """Return what the memory is ahead of every other arm by, in every measure that both have."""
    rows = [
        row
        for measure in outcome.task.measures
        for arm in outcome.arms
        if arm != MEMORY and (row := _compared(outcome, arm, measure))
    ]
    head = ("measure", "memory less", "difference", "95 % interval", "p", "memory is")
    return Table(head, tuple(rows))


def goals(outcome: Outcome) -> Table:
    """Return each goal with what was measured."""
    rows = [_judged(outcome, goal) for goal in outcome.task.goals]
    return Table(("goal", "wanted", "measured", ""), tuple(rows))


def results(outcomes: Sequence[Outcome], seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    """Return everything that was measured, as JSON takes it."""
    return {
        "environment": _environment(),
        "quick": quick,
        "seeds": list(seeds),
        "tasks": {
            each.task.name: {
                "title": each.task.title,
                "skipped": each.skipped,
                "failures": each.failures,
                "cpu_seconds": each.cpu_seconds,
                "values": each.values,
            }
            for each in outcomes
        },
    }


def write(outcomes: Sequence[Outcome], seeds: Sequence[int], quick: bool, folder: Path) -> None:
    """Write ``results.json`` and ``report.md``."""
    found = results(outcomes, seeds, quick)
    (folder / "results.json").write_text(json.dumps(found, indent=1))
    parts = [_title(found), *(part for each in outcomes for part in _section(each))]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")


def _title(found: dict[str, Any]) -> str:
    form = "the quick form: small models, little data" if found["quick"] else "full size"
    environment = ", ".join(f"{name} {what}" for name, what in found["environment"].items())
    return (
        f"# What the memory is good for\n\n{len(found['seeds'])} seeds, {form}. {environment}.\n\n"
        "Means over the seeds with 95 % t-intervals; differences are paired by seed, p is of the "
        "paired t-test. *Ahead* and *behind* say that zero lies outside of the interval."
    )


def _section(outcome: Outcome) -> Iterator[str]:
    task = outcome.task
    yield f"## {task.title}"
    if task.notes:
        yield task.notes
    if outcome.skipped:
        yield f"**Skipped**: {outcome.skipped}."
    for seed, said in sorted(outcome.failures.items()):
        yield f"**Failed** with seed {seed}:\n\n```\n{said}\n```"
    if not outcome.values:
        return
    yield means(outcome).markdown()
    yield comparisons(outcome).markdown()
    if task.goals:
        yield goals(outcome).markdown()
    yield f"![{task.title}]({task.name}.png)"
    seconds = interval(list(outcome.cpu_seconds.values()))
    yield f"{seconds.mean:.0f} s of CPU time for a seed."


def _environment() -> dict[str, str]:
    libraries = {name: version(name) for name in _LIBRARIES}
    machine = {"on": f"{platform.system()} {platform.machine()}", "cores": str(os.cpu_count())}
    return {"Python": sys.version.split()[0], **libraries, **machine}


def _titled(measure: Measure) -> str:
    return f"{measure.name} ({measure.better} is better)"


def _cell(column: dict[int, float], measure: Measure) -> str:
    return _spread(interval(list(column.values())), measure.digits) if column else ""


def _spread(found: Interval, digits: int) -> str:
    half = "?" if math.isinf(found.half) else f"{found.half:.{digits}f}"
    return f"{found.mean:.{digits}f} +- {half}"


def _range(found: Interval, digits: int) -> str:
    return f"{found.low:+.{digits}f} to {found.high:+.{digits}f}"


def _compared(outcome: Outcome, arm: str, measure: Measure) -> tuple[str, ...] | None:
    found = compare(outcome.column(MEMORY, measure.name), outcome.column(arm, measure.name))
    if found is None:
        return None
    difference, digits = found.difference, measure.digits
    return (
        measure.name,
        arm,
        f"{difference.mean:+.{digits}f}",
        "?" if math.isinf(difference.half) else _range(difference, digits),
        "" if math.isnan(found.p) else f"{found.p:.2g}",
        found.verdict(measure.better),
    )


def _judged(outcome: Outcome, goal: Goal) -> tuple[str, ...]:
    digits = outcome.task.measure(goal.measure).digits
    values = judged_values(outcome, goal)
    style = "+.1%" if goal.relative else f"+.{digits}f" if goal.against else f".{digits}f"

    def show(value: float) -> str:
        return format(value, style)

    what = f"{goal.arm}, {goal.measure}" + (f", against {goal.against}" if goal.against else "")
    bounds = [("at least", goal.at_least), ("at most", goal.at_most)]
    wanted = ", ".join(f"{word} {show(bound)}" for word, bound in bounds if bound is not None)
    if not values:
        return (what, wanted, "not measured", "**missed**")
    found = interval(values)
    half = "" if math.isinf(found.half) else f" +- {show(found.half).lstrip('+')}"
    met = is_met(goal, found.mean)
    return (what, wanted, show(found.mean) + half, "met" if met else "**missed**")


def judged_values(outcome: Outcome, goal: Goal) -> list[float]:
    """Return what a goal looks at, a value for each seed."""
    ours = outcome.column(goal.arm, goal.measure)
    if goal.against is None:
        return list(ours.values())
    return paired(ours, outcome.column(goal.against, goal.measure), relative=goal.relative)


def is_met(goal: Goal, mean: float) -> bool:
    """Tell whether a mean is within the bounds of a goal."""
    low = -math.inf if goal.at_least is None else goal.at_least
    high = math.inf if goal.at_most is None else goal.at_most
    return low <= mean <= high
