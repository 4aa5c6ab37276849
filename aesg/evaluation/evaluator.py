"""Metrics of predictions, by what a model is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesg.errors import AESGTrainingError
from aesg.evaluation.classes import ClassSums
from aesg.evaluation.domains import checked_domain, domain_of, recognised
from aesg.evaluation.images import ImageSums
from aesg.evaluation.inputs import as_tensor, check_lengths, check_list
from aesg.evaluation.metrics import DomainMetrics, MetricSums
from aesg.evaluation.text import TextSums, model_perplexity
from aesg.outcomes import UNKNOWN


class Evaluator:
    """Computes the metrics that fit a model, or a kind of predictions.

    Metrics are floats. Tensors may be of any floating type and on any device. Everything is
    refused with an `AESGTrainingError` that cannot be judged: nothing at all, NaN, shapes and
    lengths that do not belong together, another type.

    Examples
    --------
    >>> Evaluator.compute_text_metrics(["hello world"], ["hello world"])["accuracy"]
    1.0
    """

    @staticmethod
    def compute_text_metrics(predictions: Any, references: Any) -> dict[str, float]:
        """Compare texts.

        Parameters
        ----------
        predictions, references : list of str
            As many of one as of the other.

        Returns
        -------
        dict
            ``"bleu"``, in [0, 1]: BLEU of the corpus, from n-grams of one to four words between
            spaces, without smoothing: 0 where no four words in a row are right. Where no prediction
            has four words, only the n-grams count that the longest has. ``"rouge"``, in [0, 1]: the
            recall of ROUGE-1, which part of a reference's words its prediction has, without upper
            case and punctuation, on average over the references that have words; of a reference
            without letters and digits, each symbol is a word. Characters of Chinese and Japanese
            are words of their own in both. ``"accuracy"``, in [0, 1]: the
            share of predictions that equal their reference. ``"perplexity"``, from 1: that of the
            reference's characters where each has the share that it has of its prediction, add-one
            smoothed over the characters of both. It does not see their order; for a model's own
            perplexity see `compute_model_perplexity`.

        Raises
        ------
        AESGTrainingError
            If they are no lists of strings, of different lengths, or empty.
        """
        return _all_of(TextSums(), predictions, references)

    @staticmethod
    def compute_model_perplexity(
        scores: Any, targets: Any, *, ignore_index: int = UNKNOWN
    ) -> float:
        """Return how surprised a model is by what came: e to its mean cross-entropy.

        Parameters
        ----------
        scores : (..., V) or (B, V, ...) floating
            Logits or log-probabilities of each token, for instance (B, T, V).
        targets : (...) integer
            The tokens that came, for instance (B, T).
        ignore_index : int
            What stands in ``targets`` where it is not known.

        Returns
        -------
        float
            From 1; infinite where what came had probability 0.

        Raises
        ------
        AESGTrainingError
            If shapes do not belong together, a score is NaN, a token is out of range, or none is
            known.
        """
        return model_perplexity(scores, targets, ignore_index)

    @staticmethod
    def compute_image_metrics(
        predictions: Any, targets: Any, *, data_range: float | tuple[float, float] = 1.0
    ) -> dict[str, float]:
        """Compare images.

        Parameters
        ----------
        predictions, targets : (B, C, H, W) or (C, H, W) or (H, W), floating or uint8
            Targets within the range; predictions may leave it, beside uint8 targets by its width.
            Images (..., H, W, C) are refused where that shows: where the last dimension is 1, 3 or
            4, the third last is not, and the two last differ.
        data_range : float or (float, float)
            The range of floating values: from 0 to a number above it, or from one number to
            another. That of uint8 is always 0 to 255. Results are those of images brought to
            [0, 1].

        Returns
        -------
        dict
            ``"psnr"``, in dB: of the mean squared error of all images, at most 100, which equal
            images have. ``"ssim"``, in [-1, 1]: the mean over images, with a Gaussian window of 11
            by 11 pixels, or of the greatest odd width that fits. ``"mse"`` and ``"mae"``: means
            over all values.

        Raises
        ------
        AESGTrainingError
            If shapes differ, or a value is not finite or, of the targets, outside the range.
        """
        return _all_of(ImageSums(data_range), predictions, targets)

    @staticmethod
    def compute_classification_metrics(
        predictions: Any, targets: Any, *, probabilities: bool = False
    ) -> dict[str, float]:
        """Compare classes.

        Parameters
        ----------
        predictions : (N, C) floating, or (N,) integer
            Scores of the classes, for instance logits, or the classes themselves. Scores (N, 1) or
            (N,) are logits of class 1 of two, unless they are probabilities.
        targets : (N,) integer, or (N, C) floating
            The right classes, or their probabilities. -100 is passed over.
        probabilities : bool
            Whether scores are probabilities: those of the shape (N, 1) or (N,) then mean class 1
            where they are more than 0.5, not more than 0. Single scores of which none is below 0,
            and all at most 1 or whole numbers, are taken for logits with one warning in the log.

        Returns
        -------
        dict
            ``"accuracy"``, ``"precision"``, ``"recall"`` and ``"f1"``, all in [0, 1]. The last
            three are means over the classes that occur, among predictions or targets. A class that
            is never predicted has precision 0; one that is not among the targets recall 0.

        Raises
        ------
        AESGTrainingError
            If shapes do not belong together, a score is NaN, a class is out of range, or none is
            known.
        """
        return _all_of(ClassSums(probabilities), predictions, targets)

    @staticmethod
    def evaluate(
        model: object, predictions: Any, targets: Any, *, domain: str | None = None
    ) -> dict[str, float]:
        """Compute the metrics that fit a model; see `domain_of`.

        Parameters
        ----------
        model : torch.nn.Module
            Only its class is looked at.
        predictions, targets : tensors, lists of them, or lists of str
            What the model gave and should have given, or lists of batches of both. Text may be
            strings, generated tokens, or scores (B, T, V) with tokens (B, T): there accuracy is
            the share of tokens that are right, and perplexity that of the model.
        domain : {"text", "image", "classification"}, optional
            Instead of what the name of the model's class says.

        Returns
        -------
        dict
            Those of `compute_text_metrics`, `compute_image_metrics` or
            `compute_classification_metrics`.

        Raises
        ------
        AESGTrainingError
            If the class does not say a domain, or predictions and targets do not fit it.
        """
        found = domain_of(model) if domain is None else checked_domain(domain)
        if found is None:
            raise AESGTrainingError(
                f"model: expected a class whose name says its domain ({recognised()}), got "
                f"{type(model).__name__}; give evaluate its `domain`"
            )
        return _all_of(DomainMetrics(found), predictions, targets)


def _all_of(sums: MetricSums, predictions: Any, targets: Any) -> dict[str, float]:
    """Return the metrics of a batch, or of a list of batches."""
    predictions, targets = _tensors("predictions", predictions), _tensors("targets", targets)
    if _is_batches(predictions) and _is_batches(targets):
        check_lengths(len(predictions), len(targets))
        for some, of in zip(predictions, targets, strict=True):
            sums.update(some, of)
    else:
        sums.update(_joined(predictions, targets), _joined(targets, predictions))
    metrics = sums.compute()
    if any(value != value for value in metrics.values()):
        raise AESGTrainingError("targets: expected at least one that is known, got none")
    return metrics


def _tensors(name: str, values: Any) -> Any:
    """Return tensors for a list of arrays of numbers; anything else as it is."""
    check_list(name, values)
    if (
        isinstance(values, (list, tuple))
        and values
        and all(isinstance(each, np.ndarray) and each.dtype.kind in "fiub" for each in values)
    ):
        return [as_tensor(name, each, least=0) for each in values]
    return values


def _joined(values: Any, others: Any) -> Any:
    """Return one tensor of a list of batches, or of samples, where the others are one tensor."""
    if not (_is_batches(values) and isinstance(others, (Tensor, np.ndarray)) and values[0].ndim):
        return values
    if {each.shape for each in values} == {others.shape[1:]}:
        return torch.stack(list(values))
    if len({each.shape[1:] for each in values}) > 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in values[:3])
        raise AESGTrainingError(
            f"predictions and targets: expected batches beside one tensor to be of one shape, got "
            f"{shapes}"
        )
    return torch.cat(list(values))


def _is_batches(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and bool(values)
        and all(isinstance(each, Tensor) for each in values)
    )
