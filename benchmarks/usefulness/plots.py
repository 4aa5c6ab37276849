"""One figure for each task: every seed a point, every arm a line of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.usefulness.harness import MEMORY, Measure, Outcome

_COLUMNS = 2
_WIDTH, _ROW_HEIGHT, _FRAME_HEIGHT = 5.5, 0.28, 1.1


def draw(outcome: Outcome, folder: Path) -> Path:
    """Write the figure of a task; return its file.

    Parameters
    ----------
    outcome : Outcome
        With at least one run.
    folder : Path
    """
    measures = outcome.task.measures
    columns = min(_COLUMNS, len(measures))
    rows = -(-len(measures) // columns)
    height = _FRAME_HEIGHT + _ROW_HEIGHT * len(outcome.arms)
    figure, axes = plt.subplots(
        rows, columns, figsize=(_WIDTH * columns, height * rows), squeeze=False, sharey=True
    )
    for place, panel in enumerate(axes.flat):
        if place < len(measures):
            _draw_measure(panel, outcome, measures[place])
        else:
            panel.set_visible(False)
    figure.suptitle(outcome.task.title)
    figure.tight_layout()
    file = folder / f"{outcome.task.name}.png"
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return file


def _draw_measure(panel: Axes, outcome: Outcome, measure: Measure) -> None:
    for place, arm in enumerate(outcome.arms):
        values = list(outcome.column(arm, measure.name).values())
        if values:
            color = "tab:red" if arm == MEMORY else "tab:gray"
            panel.plot(values, [place] * len(values), "o", color=color, alpha=0.6)
            panel.plot(sum(values) / len(values), place, "|", color=color, markersize=16)
    panel.set_yticks(range(len(outcome.arms)), outcome.arms)
    panel.set_ylim(len(outcome.arms) - 0.5, -0.5)
    panel.set_xlabel(f"{measure.name} ({measure.better} is better)")
    panel.grid(axis="x", alpha=0.3)
