"""Plots of what benchmarks came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.suite.result import Result, Series

_SIZE = (6.4, 4.0)
_MARKS = "os^Dv*PX"


def file_of(name: str, number: int) -> str:
    """Return the name of a benchmark's plot, without its ending."""
    return f"{name}-{number + 1}"


def draw(result: Result, folder: Path, endings: Sequence[str] = ("svg", "png")) -> Iterator[Path]:
    """Write each plot of a result, a file for each ending, and yield the files."""
    for number, series in enumerate(result.series):
        yield from _draw(series, folder / file_of(result.name, number), endings)


def _draw(series: Series, stem: Path, endings: Sequence[str]) -> Iterator[Path]:
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = stem.name
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for mark, (name, points) in zip(_marks(), series.lines.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker=mark, label=name)
    axes.set(title=series.title, xlabel=series.x, ylabel=series.y)
    axes.set_xscale("log" if series.log_x else "linear")
    axes.set_yscale("log" if series.log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    for ending in endings:
        file = stem.with_name(f"{stem.name}.{ending}")
        figure.savefig(file, metadata={"Date": None} if ending == "svg" else None)
        yield file
    plt.close(figure)


def _marks() -> Iterator[str]:
    while True:
        yield from _MARKS
