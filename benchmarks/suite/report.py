"""What benchmarks came to, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.suite.goals import GOALS
from benchmarks.suite.machine import OF_A_RUN
from benchmarks.suite.plots import file_of
from benchmarks.suite.result import Cell, Ratio, TableOf
from benchmarks.suite.run import Kept

GOALS_HEADER = ("#", "what", "goal", "measured", "quartiles", "")
RATIOS_HEADER = ("ratio", "goal", "measured", "quartiles", "ours", "theirs", "")
_DOCS = "docs/benchmarks.md"


def goals(results: Mapping[str, Kept], link: str = _DOCS) -> TableOf:
    """Return every goal with what was measured for it.

    Parameters
    ----------
    results : dict of str to Kept
    link : str
        The page that explains them; empty within that page.
    """
    rows: list[tuple[Cell, ...]] = []
    for number, goal in GOALS.items():
        rows.append((f"[{number}]({link}#{goal.section})", f"**{goal.what}**", "", "", "", ""))
        found = [
            (ratio, kept.quick)
            for kept in results.values()
            for ratio in kept.result.ratios
            if ratio.row == number
        ]
        for each, quick in found:
            judged = (measured(each), spread(each), verdict(each, quick))
            rows.append(("", each.what, bound(each), *judged))
        if not found:
            rows.append(("", goal.wanted, "", "not measured", "", ""))
    return TableOf("Goals", GOALS_HEADER, rows)


def ratios(kept: Kept) -> TableOf:
    """Return the ratios of a benchmark with the costs behind them."""
    rows = [
        (
            f"{each.what}; {each.note}" if each.note else each.what,
            bound(each),
            measured(each),
            spread(each),
            _cost(each.ours, each.unit),
            _cost(each.theirs, each.unit),
            verdict(each, kept.quick),
        )
        for each in kept.result.ratios
    ]
    return TableOf(kept.result.title, RATIOS_HEADER, rows)


def section(kept: Kept, plots: str = "") -> Iterator[str]:
    """Yield the parts of what is told of a benchmark, without its title.

    Parameters
    ----------
    kept : Kept
    plots : str
        What stands before the name of a plot's file.
    """
    result = kept.result
    if result.ratios:
        yield markdown(_without_empty(ratios(kept)))
    for table in result.tables:
        yield f"*{table.title}*\n\n{markdown(table)}"
    for number, series in enumerate(result.series):
        yield f"![{series.title}]({plots}{file_of(result.name, number)}.svg)"
    yield from result.notes
    if result.skipped:
        yield "**Skipped**: " + "; ".join(result.skipped) + "."


def page(results: Mapping[str, Kept], failed: Sequence[str]) -> str:
    """Return the report of all results."""
    parts = ["# Benchmarks", *machines(results)]
    if any(kept.quick for kept in results.values()):
        parts.append("**Quick runs are among these: they show that all works, and claim nothing.**")
    if failed:
        parts.append(f"**Failed**: {', '.join(failed)}.")
    parts.append(markdown(goals(results)))
    for name, kept in results.items():
        parts += [f"## {kept.result.title} (`{name}`)", *section(kept)]
    return "\n\n".join(parts) + "\n"


def machines(results: Mapping[str, Kept]) -> list[str]:
    """Return a sentence for each machine that results were taken on."""
    found: dict[str, list[Kept]] = {}
    for kept in results.values():
        lasting = [each for each in kept.machine.items() if each[0] not in OF_A_RUN]
        found.setdefault(", ".join(map(" ".join, lasting)), []).append(kept)
    return [f"{machine}. {_runs(each)}" for machine, each in found.items()]


def markdown(table: TableOf) -> str:
    """Return a table in Markdown."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(cell(each) for each in line)} |" for line in lines)


def cell(value: Cell) -> str:
    """Return what a cell shows: three digits of a number that is not whole."""
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if isinstance(value, int) or value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def measured(ratio: Ratio) -> str:
    """Return a ratio, or a cost by itself, as it is told."""
    return _told(ratio, ratio.value)


def spread(ratio: Ratio) -> str:
    """Return the quartiles of a ratio."""
    return f"{_told(ratio, ratio.low)} to {_told(ratio, ratio.high)}"


def bound(ratio: Ratio) -> str:
    """Return the goal of a ratio."""
    if ratio.bound is None:
        return ""
    unit = f" {ratio.unit}" if ratio.absolute else "x"
    return f"{'<=' if ratio.at_most else '>='} {ratio.bound:,g}{unit}"


def verdict(ratio: Ratio, quick: bool) -> str:
    """Tell whether a goal is met; a quick run does not say."""
    if ratio.met is None or quick:
        return ""
    return "met" if ratio.met else "**missed**"


def _told(ratio: Ratio, value: float) -> str:
    if ratio.absolute:
        return _cost(value, ratio.unit)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}x"


def _cost(value: float | None, unit: str) -> str:
    return "" if value is None else f"{cell(float(f'{value:.3g}'))} {unit}".strip()


def _runs(kept: Sequence[Kept]) -> str:
    dates = sorted({each.machine["date"] for each in kept})
    commits = sorted({each.machine["commit"] for each in kept})
    loads = [float(each.machine["load"]) for each in kept]
    return (
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, commit {', '.join(commits)}; "
        f"load before each at most {max(loads):.1f}."
    )


def _without_empty(table: TableOf) -> TableOf:
    """Return a table without the columns that no row fills."""
    filled = [at for at, _ in enumerate(table.header) if any(row[at] for row in table.rows)]
    rows = [[row[at] for at in filled] for row in table.rows]
    return TableOf(table.title, [table.header[at] for at in filled], rows)
