"""Figures on their way into a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.suite import plots, report
from benchmarks.suite.run import Kept

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def marks(what: str) -> tuple[str, str]:
    """Return what stands before and behind the figures in the page."""
    return f"<!-- figures: {what} -->", f"<!-- end: {what} -->"


def fill_in(page: str, what: str, text: str) -> str:
    """Return a page with a text between marks.

    Raises
    ------
    ValueError
        If the page has no such marks.
    """
    begin, end = marks(what)
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"expected {begin} and {end} in the page, got none")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def refused(results: Mapping[str, Kept], needed: Sequence[str]) -> str | None:
    """Return why results do not go into the documentation; None if they may."""
    quick = [name for name, kept in results.items() if kept.quick]
    if quick:
        return f"quick runs claim nothing: {', '.join(quick)}"
    missing = [name for name in needed if name not in results]
    if missing:
        return f"not every benchmark that states a goal has run: {', '.join(missing)}"
    return None


def write(results: Mapping[str, Kept], needed: Sequence[str], page: Path = PAGE) -> None:
    """Put the goals, what they were measured on and each benchmark's figures into the page.

    Parameters
    ----------
    results : dict of str to Kept
    needed : sequence of str
        Names that the page must have a place for; others go in where it has one.
    page : Path
        Its plots go to the folder ``figures`` beside it.
    """
    text = page.read_text()
    text = fill_in(text, "machine", "\n\n".join(report.machines(results)))
    text = fill_in(text, "goals", report.markdown(report.goals(results, link="")))
    figures = page.parent / "figures"
    for name, kept in results.items():
        if name in needed or marks(name)[0] in text:
            text = fill_in(text, name, "\n\n".join(report.section(kept, f"{figures.name}/")))
            figures.mkdir(exist_ok=True)
            list(plots.draw(kept.result, figures, endings=("svg",)))
    page.write_text(text)
