"""What came of all seeds: means, spreads and comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aesg.benchmark.judging import Scores
from aesg.benchmark.statistics import Interval, interval
from aesg.benchmark.trial import ABLATED, AESG, ARMS, BASELINE, GRAY, Arm, Trial

Question = Literal["unseen", "seen"]
Measure = Literal["psnr", "ssim"]

#: In place of a column: AESG itself, before its memory was shown the pictures.
UNSHOWN = "unshown"
QUESTIONS: tuple[Question, ...] = ("unseen", "seen")
MEASURES: tuple[Measure, ...] = ("psnr", "ssim")


@dataclass(frozen=True)
class ModelResult:
    """What one model reached: means over the seeds of the means over the pictures.

    Parameters
    ----------
    psnr : float
        In dB, of pictures that the model had not seen.
    ssim : float
        In [-1, 1].
    seen_psnr, seen_ssim : float
        Of other views of pictures that the memory was shown once after training.
    unshown_psnr, unshown_ssim : float or None
        Of the same views before that; None where it makes no difference.
    psnr_sd, ssim_sd, seen_psnr_sd, ... : float or None
        Standard deviation over the seeds; None for one seed.
    memory_nodes, memory_edges : int
        Concepts and edges after training, rounded means over the seeds; 0 without a memory.
    parameters : int
        Numbers that are trained.
    seconds : float
        Of training, mean over the seeds.
    losses : list of list of float
        Of each epoch, for each seed.
    """

    psnr: float
    ssim: float
    seen_psnr: float
    seen_ssim: float
    psnr_sd: float | None
    ssim_sd: float | None
    seen_psnr_sd: float | None
    seen_ssim_sd: float | None
    memory_nodes: int
    memory_edges: int
    parameters: int
    seconds: float
    losses: list[list[float]]
    unshown_psnr: float | None = None
    unshown_ssim: float | None = None
    unshown_psnr_sd: float | None = None
    unshown_ssim_sd: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One model less another, in pairs.

    Parameters
    ----------
    question : {"unseen", "seen"}
    measure : {"psnr", "ssim"}
    against : str
        The other column, or "unshown".
    difference : Interval
    over : {"seeds", "pictures"}
        What the pairs are: means of two or more seeds, or the pictures of a single one.
    model : {"aesg", "baseline"}
    """

    question: Question
    measure: Measure
    against: str
    difference: Interval
    over: Literal["seeds", "pictures"]
    model: str = AESG

    def is_of(self, question: Question, against: str, model: str = AESG) -> bool:
        """Tell whether this is how a model compares with another column at a question."""
        return (self.question, self.against, self.model) == (question, against, model)

    def described(self) -> dict[str, Any]:
        """Return the comparison as JSON holds it; the ends of an interval without any are None."""
        found = self.difference
        known = math.isfinite(found.half)
        return {
            "question": self.question,
            "measure": self.measure,
            "model": self.model,
            "against": self.against,
            "mean": found.mean,
            "low": found.low if known else None,
            "high": found.high if known else None,
            "over": self.over,
            "count": found.count,
        }


def model_results(trials: Mapping[int, Trial]) -> dict[str, ModelResult]:
    """Return the result of each of `ARMS`, given the trial of each seed."""
    return {name: _model_result([trial[name] for trial in trials.values()]) for name in ARMS}


def comparisons(trials: Mapping[int, Trial]) -> list[Comparison]:
    """Return how AESG compares with the baseline, and with itself without memory or less of it.

    And how both models compare with the gray pictures.
    """
    pairs: dict[Question, tuple[tuple[str, str], ...]] = {
        "unseen": ((AESG, BASELINE), (AESG, ABLATED), (AESG, GRAY), (BASELINE, GRAY)),
        "seen": ((AESG, BASELINE), (AESG, ABLATED), (AESG, UNSHOWN)),
    }
    return [
        _compared(list(trials.values()), question, measure, against, model)
        for question, names in pairs.items()
        for model, against in names
        for measure in MEASURES
    ]


def _model_result(arms: Sequence[Arm]) -> ModelResult:
    def means(question: str, measure: Measure) -> list[float]:
        marks = [marks_of(arm, question, measure) for arm in arms]
        return [statistics.fmean(each) for each in marks if each]

    psnr, ssim = means("unseen", "psnr"), means("unseen", "ssim")
    seen_psnr, seen_ssim = means("seen", "psnr"), means("seen", "ssim")
    unshown_psnr, unshown_ssim = means(UNSHOWN, "psnr"), means(UNSHOWN, "ssim")
    return ModelResult(
        psnr=statistics.fmean(psnr),
        ssim=statistics.fmean(ssim),
        seen_psnr=statistics.fmean(seen_psnr),
        seen_ssim=statistics.fmean(seen_ssim),
        psnr_sd=_spread(psnr),
        ssim_sd=_spread(ssim),
        seen_psnr_sd=_spread(seen_psnr),
        seen_ssim_sd=_spread(seen_ssim),
        memory_nodes=round(statistics.fmean(arm.memory_nodes for arm in arms)),
        memory_edges=round(statistics.fmean(arm.memory_edges for arm in arms)),
        parameters=arms[0].parameters,
        seconds=statistics.fmean(arm.seconds for arm in arms),
        losses=[arm.losses for arm in arms],
        unshown_psnr=_mean(unshown_psnr),
        unshown_ssim=_mean(unshown_ssim),
        unshown_psnr_sd=_spread(unshown_psnr),
        unshown_ssim_sd=_spread(unshown_ssim),
    )


def _compared(
    trials: Sequence[Trial], question: Question, measure: Measure, against: str, model: str
) -> Comparison:
    ours = [marks_of(trial[model], question, measure) for trial in trials]
    theirs = [
        marks_of(trial[AESG], UNSHOWN, measure)
        if against == UNSHOWN
        else marks_of(trial[against], question, measure)
        for trial in trials
    ]
    if len(trials) == 1:
        pairs = zip(ours[0], theirs[0], strict=True)
        found = interval([mine - other for mine, other in pairs])
        return Comparison(question, measure, against, found, "pictures", model)
    means = zip(map(statistics.fmean, ours), map(statistics.fmean, theirs), strict=True)
    found = interval([mine - other for mine, other in means])
    return Comparison(question, measure, against, found, "seeds", model)


def marks_of(arm: Arm, question: str, measure: Measure) -> list[float]:
    """Return the marks of each picture; none where a column has none.

    Parameters
    ----------
    arm : Arm
    question : {"unseen", "seen", "unshown"}
    measure : {"psnr", "ssim"}
    """
    scores: Scores | None = getattr(arm, question)
    return [] if scores is None else getattr(scores, measure)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
