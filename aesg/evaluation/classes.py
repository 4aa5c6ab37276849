"""How often classes are right: accuracy, precision, recall and F1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aesg.errors import AESGTrainingError
from aesg.evaluation.inputs import as_tensor, check_scores, hint
from aesg.losses import as_cases, check_classes
from aesg.memory_inputs import is_integer
from aesg.outcomes import UNKNOWN

NAMES = ("accuracy", "precision", "recall", "f1")

#: More classes than these are not counted one by one: they are identifiers of something.
_MOST = 1_000_000

#: How far rounding may bring a sum of probabilities from 1.
_ROUNDING = 1e-2


class ClassSums:
    """Metrics of classes, over batches of any size.

    Precision, recall and F1 are means over the classes that occur, among predictions or targets
    (macro averages). A class that is never predicted has precision 0, one that is predicted and
    never right recall 0.

    Targets of -100 are passed over.

    Parameters
    ----------
    probabilities : bool
        Whether scores are probabilities: those of the shape (N, 1), or that of the targets, are
        then of class 1 of two, and more than 0.5 means that class.
    """

    def __init__(self, probabilities: bool = False) -> None:
        self._are_probabilities = probabilities
        self._least, self._most, self._are_whole = math.inf, -math.inf, True  # of single scores
        # Of each class: predicted rightly, predicted wrongly, missed.
        self._counts = torch.zeros(0, 3, dtype=torch.long, device="cpu")

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch.

        Parameters
        ----------
        predictions : (N, C) or (..., C) or (B, C, ...) floating, or the shape of targets, integer
            Scores of the classes, for instance logits, or the classes themselves. Scores of the
            shape (N, 1), or that of the targets, are logits of class 1 of two, or its
            probabilities.
        targets : (N,) or (...) integer, or (N, C) floating
            The right classes, or their probabilities.

        Raises
        ------
        AESGTrainingError
            If shapes do not belong together, a score is NaN, or a class is out of range.
        """
        scores = as_tensor("predictions", predictions)
        wanted = as_tensor("targets", targets).to(scores.device)
        classes, wanted, count = self._classes(scores, wanted)
        known = wanted != UNKNOWN
        if bool(known.any()):
            self._add(classes[known], wanted[known], count)

    def compute(self) -> dict[str, float]:
        """Return accuracy, precision, recall and F1, all in [0, 1]; NaN without a known target."""
        self._hint()
        right, wrong, missed = self._counts.double().unbind(1)
        cases = float((right + missed).sum())
        if not cases:
            return dict.fromkeys(NAMES, math.nan)
        occurs = right + wrong + missed > 0

        def mean(part: Tensor, of: Tensor) -> float:
            return float((part / of.clamp(min=1))[occurs].mean())

        return {
            "accuracy": float(right.sum()) / cases,
            "precision": mean(right, right + wrong),
            "recall": mean(right, right + missed),
            "f1": mean(2 * right, 2 * right + wrong + missed),
        }

    def _classes(self, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return predicted and wanted classes (N,), and how many classes there are."""
        if is_integer(scores) or scores.dtype is torch.bool:
            return _given(scores, wanted)
        check_scores(scores)
        if self._are_probabilities:
            _check_probabilities(scores)
        if scores.shape == wanted.shape and scores.ndim > 1 and scores.shape[-1] > 1:
            wanted = _most_probable(wanted)
        if scores.shape == wanted.shape:
            scores = scores[..., None]
        cases, wanted = as_cases(scores, _whole(wanted), "metrics")
        if cases.shape[-1] == 1:
            cases = self._two(cases)
        check_classes(wanted, cases.shape[-1], UNKNOWN, "metrics")
        _check_possible(cases, wanted)
        return cases.argmax(-1), wanted, cases.shape[-1]

    def _two(self, scores: Tensor) -> Tensor:
        """Return scores (N, 2) of two classes, of one score (N, 1)."""
        if self._are_probabilities:
            return torch.cat([1 - scores, scores], 1)
        self._least = min(self._least, float(scores.min()))
        self._most = max(self._most, float(scores.max()))
        self._are_whole &= bool((scores == scores.round()).all())
        return torch.cat([torch.zeros_like(scores), scores], 1)

    def _hint(self) -> None:
        """Say where single scores look as if they were no logits."""
        if 0 <= self._least <= self._most and (self._most <= 1 or self._are_whole):
            hint(
                "floating predictions (N,) or (N, 1) are taken for logits of class 1 of two, but "
                "look like something else, as none is below 0 and all are at most 1 or whole: for "
                "probabilities give compute_classification_metrics probabilities=True, classes "
                "give as integers"
            )

    def _add(self, classes: Tensor, wanted: Tensor, count: int) -> None:
        # Torchmetrics counts pairs of classes: 10,000 of them take 0.8 GB and half a second.
        hits = classes == wanted
        batch = torch.stack(
            [
                torch.bincount(some, minlength=count)
                for some in (classes[hits], classes[~hits], wanted[~hits])
            ],
            dim=1,
        ).cpu()
        total = batch.new_zeros(max(len(batch), len(self._counts)), 3)
        total[: len(self._counts)] += self._counts
        total[: len(batch)] += batch
        self._counts = total


def _check_probabilities(scores: Tensor) -> None:
    low, high = (float(each) for each in scores.aminmax())
    if low < 0 or high > 1 + _ROUNDING:
        raise AESGTrainingError(
            f"predictions: expected probabilities in [0, 1], got [{low:g}, {high:g}]"
        )


def _check_possible(cases: Tensor, wanted: Tensor) -> None:
    """Raise `AESGTrainingError` where no class can be, and one came."""
    bad = (cases.amax(-1) == -math.inf) & (wanted != UNKNOWN)
    if bool(bad.any()):
        raise AESGTrainingError(
            f"predictions: expected a class above -inf for every target, got none for that of "
            f"index {int(bad.nonzero()[0])}"
        )


def _most_probable(shares: Tensor) -> Tensor:
    """Return the class that has the greatest probability among targets (..., C)."""
    sums = shares.sum(-1, dtype=torch.float)
    if not bool((sums - 1).abs().max() < _ROUNDING) or bool((shares < 0).any()):
        raise AESGTrainingError(
            "targets: expected classes (N,), or probabilities (N, C) that sum to 1, got shape "
            f"{tuple(shares.shape)} with sums from {float(sums.min()):g} to {float(sums.max()):g}"
        )
    return shares.argmax(-1)


def _given(classes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, int]:
    if classes.shape != wanted.shape:
        raise AESGTrainingError(
            f"predictions: expected classes of the targets' shape {tuple(wanted.shape)}, or scores "
            f"(..., classes) that are floating, got {classes.dtype} of shape "
            f"{tuple(classes.shape)}"
        )
    classes = classes.reshape(-1).long()
    wanted = _whole(wanted.reshape(-1))
    known = wanted != UNKNOWN
    both = torch.cat([classes[known], wanted[known]])
    if bool((both < 0).any()):
        raise AESGTrainingError(f"metrics: expected classes >= 0, got {int(both.min())}")
    if bool((both >= _MOST).any()):
        raise AESGTrainingError(f"metrics: expected classes < {_MOST}, got {int(both.max())}")
    return classes, wanted, 1 + int(both.max()) if len(both) else 0


def _whole(wanted: Tensor) -> Tensor:
    """Return target classes as integers."""
    whole = wanted.long()
    if wanted.is_floating_point() and not bool((whole == wanted).all()):
        raise AESGTrainingError(
            f"targets: expected classes, whole numbers, got {wanted.dtype} with others"
        )
    return whole
