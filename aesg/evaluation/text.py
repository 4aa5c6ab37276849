"""How near texts come to others: BLEU, ROUGE, accuracy and perplexity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aesg.errors import AESGTrainingError
from aesg.evaluation.inputs import (
    as_strings,
    as_tensor,
    check_lengths,
    check_list,
    check_scores,
    hint,
)
from aesg.evaluation.overlap import Overlap, spaced
from aesg.losses import as_cases, check_classes
from aesg.memory_inputs import is_integer
from aesg.outcomes import UNKNOWN


class TextSums:
    """Metrics of texts, over batches of any size.

    BLEU and ROUGE are those of `Overlap`; how often something is right, and the perplexity, depend
    on what is compared.

    Strings, and rows of tokens that a model generated: accuracy is the share of rows that equal
    their reference. Perplexity is that of the reference's characters, or tokens, where each has
    the share that it has of its prediction, add-one smoothed over those of both.

    Scores of tokens, as a model gives them for known ones before: accuracy is the share of tokens
    that have the highest score. Perplexity is the model's. Targets of -100 are passed over.
    """

    def __init__(self) -> None:
        self._overlap = Overlap()
        self._right = 0
        self._cases = 0
        self._surprise = 0.0
        self._symbols = 0

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch.

        Parameters
        ----------
        predictions : list of str, or (..., V) or (B, V, ...) floating, or rows of integers
            Texts; scores of tokens; or generated tokens, as a tensor (B, T) or rows of any length.
        targets : list of str, or (...) integer, or rows of integers
            What they should have been.

        Raises
        ------
        AESGTrainingError
            If there are not as many of one as of the other, a score is NaN, or a token is out of
            range.
        """
        predictions, targets = _plain("predictions", predictions), _plain("targets", targets)
        if isinstance(predictions, Tensor) and predictions.is_floating_point():
            self._scores(predictions, targets)
        elif _is_text(predictions) or _is_text(targets):
            self._texts(as_strings("predictions", predictions), as_strings("targets", targets))
        else:
            self._tokens(predictions, targets)

    def compute(self) -> dict[str, float]:
        """Return ``"bleu"``, ``"rouge"``, ``"accuracy"`` and ``"perplexity"``.

        The first three in [0, 1], the last from 1: 1 where no reference has a character. NaN before
        the first case.
        """
        if not self._cases:
            return dict.fromkeys(("bleu", "rouge", "accuracy", "perplexity"), math.nan)
        return self._overlap.compute() | {
            "accuracy": self._right / self._cases,
            "perplexity": _exponential(self._surprise / max(self._symbols, 1)),
        }

    def _texts(self, predictions: list[str], references: list[str]) -> None:
        check_lengths(len(predictions), len(references))
        self._overlap.update(
            [spaced(each) for each in predictions], [spaced(each) for each in references]
        )
        self._rows(predictions, references)

    def _tokens(self, predictions: Any, targets: Any) -> None:
        made, wanted = _tokens_of("predictions", predictions), _tokens_of("targets", targets)
        check_lengths(len(made), len(wanted))
        pairs = [_known(*pair) for pair in zip(made, wanted, strict=True)]
        made, wanted = [row for row, _ in pairs], [row for _, row in pairs]
        self._overlap.update([_words(row) for row in made], [_words(row) for row in wanted])
        self._rows(made, wanted)

    def _rows(
        self, predictions: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]
    ) -> None:
        for made, wanted in zip(predictions, references, strict=True):
            self._right += made == wanted
            self._surprise += _surprise_of(made, wanted)
            self._symbols += len(wanted)
        self._cases += len(references)

    def _scores(self, scores: Tensor, targets: Any) -> None:
        cases, classes = _judged(scores, targets)
        if scores.ndim == 2 and len(scores) > 1:
            hint(
                "predictions (N, C) with targets (N,) are taken for scores of tokens; where they "
                "are scores of classes, say domain='classification'"
            )
        length = (as_tensor("targets", targets).shape or (1,))[-1]
        chosen, known = cases.argmax(-1), classes != UNKNOWN
        self._surprise += _total_surprise(cases, classes)
        self._symbols += int(known.sum())
        self._right += int((chosen == classes)[known].sum())
        self._cases += int(known.sum())
        self._overlap.update(_rows_of(chosen, classes, length), _rows_of(classes, classes, length))


def _surprise_of(made: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    """Return the cross-entropy of a reference's symbols where a prediction says their shares.

    Parameters
    ----------
    made, wanted : sequence
        Prediction and reference: the characters of a string, or tokens.

    Returns
    -------
    float
        In nats, summed over the symbols of ``wanted``. Shares are add-one smoothed over the symbols
        of both.
    """
    shares = Counter(made)
    total = len(made) + len({*made, *wanted})
    return sum(
        count * math.log(total / (shares[symbol] + 1)) for symbol, count in Counter(wanted).items()
    )


def model_perplexity(scores: Any, targets: Any, ignore_index: int = UNKNOWN) -> float:
    """Return the perplexity of a model; see `Evaluator.compute_model_perplexity`."""
    cases, classes = _judged(scores, targets, ignore_index)
    count = int((classes != UNKNOWN).sum())
    if not count:
        raise AESGTrainingError(
            f"targets: expected at least one that is not ignored ({ignore_index}), got none"
        )
    return _exponential(_total_surprise(cases, classes) / count)


def _judged(scores: Any, targets: Any, ignored: int = UNKNOWN) -> tuple[Tensor, Tensor]:
    """Return scores (N, V) and tokens (N,), -100 where not known."""
    given = as_tensor("predictions", scores)
    if not given.is_floating_point():
        raise AESGTrainingError(f"predictions: expected floating scores, got {given.dtype}")
    check_scores(given)
    wanted = as_tensor("targets", targets).to(given.device)
    if not is_integer(wanted):
        raise AESGTrainingError(f"targets: expected integer tokens, got {wanted.dtype}")
    if isinstance(ignored, bool) or not isinstance(ignored, int):
        raise AESGTrainingError(f"ignore_index: expected an integer, got {ignored!r}")
    cases, classes = as_cases(given, wanted, "metrics")
    classes = classes.masked_fill(classes == ignored, UNKNOWN)
    check_classes(classes, cases.shape[-1], UNKNOWN, "metrics")
    return cases, classes


def _total_surprise(cases: Tensor, classes: Tensor) -> float:
    """Return minus the sum of the log-probabilities of known classes."""
    # Torchmetrics takes the logarithm of a softmax, which is infinite from about 100 nats on.
    total = F.cross_entropy(
        cases.to(torch.promote_types(cases.dtype, torch.float32)),
        classes,
        ignore_index=UNKNOWN,
        reduction="sum",
    )
    if bool(total.isnan()):
        raise AESGTrainingError("predictions: expected a token above -inf at every position")
    return float(total)


def _exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _plain(name: str, values: Any) -> Any:
    """Return a tensor for an array of numbers, a list for anything else that has elements."""
    check_list(name, values)
    if isinstance(values, (Tensor, str, bytes)) or not isinstance(values, Iterable):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return as_tensor(name, values, least=0)
    return list(values)


def _is_text(values: Any) -> bool:
    if isinstance(values, list):
        return any(isinstance(each, str) for each in values)
    return isinstance(values, (str, bytes))


def _tokens_of(name: str, rows: Any) -> list[list[int]]:
    if isinstance(rows, Tensor) and rows.ndim < 2:
        rows = rows[None]
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise AESGTrainingError(
            f"{name}: expected strings, scores or tokens, got {type(rows).__name__}"
        )
    return [_row(f"{name}[{index}]", row) for index, row in enumerate(rows)]


def _row(name: str, row: Any) -> list[int]:
    tokens = as_tensor(name, row, least=0)
    if tokens.ndim != 1 or (tokens.numel() and not is_integer(tokens)):
        raise AESGTrainingError(
            f"{name}: expected a row of integer tokens, got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}"
        )
    return [int(each) for each in tokens.tolist()]


def _known(made: list[int], wanted: list[int]) -> tuple[list[int], list[int]]:
    """Return two rows without what is not known: in the same places, where lengths are the same."""
    if len(made) == len(wanted):
        made = [token for token, came in zip(made, wanted, strict=True) if came != UNKNOWN]
    return (
        [token for token in made if token != UNKNOWN],
        [token for token in wanted if token != UNKNOWN],
    )


def _rows_of(tokens: Tensor, wanted: Tensor, length: int) -> list[str]:
    """Return tokens (N,) as texts of so many, without those whose target is not known."""
    known = (wanted != UNKNOWN).reshape(-1, length).tolist()
    return [
        _words(compress(row, mask))
        for row, mask in zip(tokens.reshape(-1, length).tolist(), known, strict=True)
    ]


def _words(tokens: Iterable[int]) -> str:
    return " ".join(map(str, tokens))
