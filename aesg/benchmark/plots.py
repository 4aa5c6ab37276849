"""The plots of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesg.benchmark.output import MARK
from aesg.benchmark.results import QUESTIONS, Question, marks_of
from aesg.benchmark.trial import ABLATED, AESG, BASELINE, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {AESG: "tab:blue", BASELINE: "tab:orange", ABLATED: "tab:gray"}
_TITLES: dict[Question, str] = {"unseen": "pictures never seen", "seen": "seen once, other views"}


#: Losses that agree lie on one another: the baseline's marks are large, those of AESG lie on top.
_LOSSES: dict[str, dict[str, Any]] = {
    BASELINE: {"marker": "s", "markersize": 10, "linewidth": 4, "alpha": 0.5},
    AESG: {"marker": "o", "markersize": 5, "linewidth": 1.5},
}
#: Where both are the same a dot stands in a ring.
_DOTS: dict[str, dict[str, Any]] = {
    BASELINE: {"marker": "$\\circ$", "s": 36, "alpha": 0.8, "linewidth": 0.2},
    ABLATED: {"marker": "o", "s": 6, "alpha": 0.8},
}


def write_plots(file: Path, trials: Mapping[int, Trial]) -> bool:
    """Draw the losses, and AESG against the baseline picture by picture.

    Parameters
    ----------
    file : Path
    trials : mapping
        The trial of each seed.

    Returns
    -------
    bool
        Whether they were drawn: not where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    losses, *scatters = figure.subplots(1, 1 + len(QUESTIONS))
    _draw_losses(losses, trials)
    for axes, question in zip(scatters, QUESTIONS, strict=True):
        _draw_pictures(axes, trials, question)
    figure.savefig(file, dpi=100, metadata={"Software": MARK})
    return True


def _draw_losses(axes: Axes, trials: Mapping[int, Trial]) -> None:
    for name, style in _LOSSES.items():
        for number, trial in enumerate(trials.values()):
            losses = trial[name].losses
            axes.plot(
                range(1, len(losses) + 1),
                losses,
                color=_COLOURS[name],
                label=name if not number else None,
                **style,
            )
    axes.set(title="training", xlabel="epoch", ylabel="mean squared error")
    axes.locator_params(axis="x", integer=True)
    _legend(axes)


def _draw_pictures(axes: Axes, trials: Mapping[int, Trial], question: Question) -> None:
    """Draw the PSNR of each picture, with memory upwards and by the baseline to the right."""
    ours = [each for trial in trials.values() for each in marks_of(trial[AESG], question, "psnr")]
    for other in (BASELINE, ABLATED):
        arms = [trial[other] for trial in trials.values()]
        theirs = [each for arm in arms for each in marks_of(arm, question, "psnr")]
        axes.scatter(theirs, ours, color=_COLOURS[other], label=other, **_DOTS[other])
    axes.axline((ours[0], ours[0]), slope=1, color="black", linewidth=0.8)
    axes.set(title=_TITLES[question], xlabel="PSNR without memory, dB", ylabel="PSNR of AESG, dB")
    _legend(axes, "above the line: AESG is better")


def _legend(axes: Axes, title: str = "") -> None:
    """Put the legend below the axes, where it covers nothing."""
    axes.legend(title=title, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
