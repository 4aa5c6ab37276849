"""The loss of one batch: which function, in which shape, and what cannot be judged at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from aesg.errors import AESGTrainingError
from aesg.memory_inputs import is_integer
from aesg.outcomes import UNKNOWN

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def batch_loss(
    criterion: Criterion | None,
    output: Any,
    targets: Tensor,
    where: str,
    name_of: Callable[[int], str] | None = None,
) -> Tensor:
    """Judge what a model gave for a batch.

    Integer targets are classes: of ``output`` (..., C) with ``targets`` (...), for instance logits
    (B, T, V) and tokens (B, T), every position is one case. Targets (B, ...) with ``output``
    (B, C, ...), the order of torch, are taken where the first reading does not fit.

    Parameters
    ----------
    criterion : callable, optional
        None takes cross-entropy for integer targets and the mean squared error for floating ones.
        `CrossEntropyLoss` and `NLLLoss` are given the shapes that they need; any other criterion
        gets output and targets as they are.
    output : (..., C) or (B, C, ...) or the shape of targets, floating
        What the model returned.
    targets : integer or floating
        What it should have returned.
    where : str
        The batch, for messages.
    name_of : callable, optional
        Returns what to call a sample, given its row in the batch.

    Returns
    -------
    () floating
        The loss.

    Raises
    ------
    AESGTrainingError
        If the output is no tensor, shapes do not belong together, a class is out of range, or the
        criterion returns anything but one number.
    """
    if not isinstance(output, Tensor):
        raise AESGTrainingError(
            f"{where}: expected the model to return a tensor, got {type(output).__name__}"
        )
    if criterion is None:
        criterion = _default(targets, where)
    if isinstance(criterion, _CLASSES) and is_integer(targets):
        shape = targets.shape
        output, targets = as_cases(output, targets, where)
        count, ignored = output.shape[-1], criterion.ignore_index
        check_classes(targets.view(shape), count, ignored, where, name_of)
    elif isinstance(criterion, _ELEMENTWISE) and output.shape != targets.shape:
        # Torch would stretch one to the other, with a warning, and train on that.
        raise AESGTrainingError(
            f"{where}: expected targets of the output's shape {tuple(output.shape)}, got "
            f"{tuple(targets.shape)}"
        )
    loss = criterion(output, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AESGTrainingError(
            f"{where}: expected the criterion to return a tensor of one number, got {got}"
        )
    return loss


def asks_of_targets(criterion: Criterion | None, targets: Tensor) -> bool:
    """Tell whether a criterion asks a model for nothing but the log-probabilities of targets.

    `CrossEntropyLoss` and `NLLLoss` do, of integer targets, where all classes count the same, no
    label is smoothed and one number is asked for; and so does the default.
    """
    if not is_integer(targets):
        return False
    return criterion is None or (
        isinstance(criterion, _CLASSES)
        and type(criterion) in _CLASSES
        and criterion.reduction in ("mean", "sum")
        and criterion.weight is None
        and not getattr(criterion, "label_smoothing", 0.0)
        and not criterion._forward_hooks
        and not criterion._forward_pre_hooks
    )


def loss_of_targets(criterion: Criterion | None, log_probs: Tensor, targets: Tensor) -> Tensor:
    """Return what `batch_loss` does, given the log-probabilities of the targets alone.

    Parameters
    ----------
    criterion : callable, optional
        One that `asks_of_targets`.
    log_probs : (...) floating
        0 where there is no target.
    targets : (...) int64
        As `known_targets` returns them.

    Returns
    -------
    () floating
        The loss.
    """
    total = -log_probs.sum()
    return total if _adds_up(criterion) else total / (targets != UNKNOWN).sum()


def check_targets(
    criterion: Criterion | None,
    targets: Tensor,
    count: int,
    where: str,
    name_of: Callable[[int], str] | None = None,
) -> None:
    """Raise `AESGTrainingError` where `batch_loss` does of targets among ``count`` classes."""
    ignored = _ignored(criterion, targets)
    if ignored is not None:
        check_classes(targets, count, ignored, where, name_of)


def known_targets(criterion: Criterion | None, targets: Tensor) -> Tensor:
    """Return targets with -100, "not known", where the criterion ignores them.

    That is what a memory takes. Only of `CrossEntropyLoss`, `NLLLoss` and the default is it known
    what they ignore, in integer targets.
    """
    ignored = _ignored(criterion, targets)
    if ignored in (None, UNKNOWN):
        return targets
    return targets.long().masked_fill(targets == ignored, UNKNOWN)


def all_ignored(criterion: Criterion | None, targets: Tensor) -> bool:
    """Tell whether a batch has nothing that could be judged; see `known_targets`."""
    ignored = _ignored(criterion, targets)
    return ignored is not None and targets.numel() > 0 and bool((targets == ignored).all())


def share_of(criterion: Criterion | None, targets: Tensor) -> float | None:
    """Return what a batch weighs where the loss of several is to be that of one larger batch.

    Parameters
    ----------
    criterion : callable, optional
        As for `batch_loss`.
    targets : integer or floating

    Returns
    -------
    float or None
        What the criterion divides by: the targets that `CrossEntropyLoss`, `NLLLoss` and the
        default do not ignore, with the weights of their classes; else the samples. None where the
        criterion adds up, by ``reduction="sum"``.
    """
    if _adds_up(criterion):
        return None
    ignored = _ignored(criterion, targets)
    if ignored is None:
        return float(len(targets) if targets.ndim else 1)
    known = targets[targets != ignored]
    weight = getattr(criterion, "weight", None)
    return float(known.numel() if weight is None else weight[known.long()].sum())


def _adds_up(criterion: Criterion | None) -> bool:
    return getattr(criterion, "reduction", "mean") == "sum"


def _ignored(criterion: Criterion | None, targets: Tensor) -> int | None:
    if not is_integer(targets):
        return None
    if criterion is None:
        return UNKNOWN
    return criterion.ignore_index if isinstance(criterion, _CLASSES) else None


def trainable_value(loss: Tensor, where: str, cause: Callable[[], str] | None = None) -> float:
    """Return the number that a loss holds, if a step can follow from it.

    Parameters
    ----------
    loss : () floating
        The loss of a batch.
    where : str
        The batch, for messages.
    cause : callable, optional
        Returns what is known of why a loss is not finite, a clause.

    Returns
    -------
    float
        Finite.

    Raises
    ------
    AESGTrainingError
        If the loss is not finite, or no trainable parameter has a part in it.
    """
    value = float(loss.item())
    if not math.isfinite(value):
        known = "" if cause is None else f": {cause()}"
        raise AESGTrainingError(
            f"{where}: expected a finite loss, got {value}{known}; neither weights nor memory "
            "learned from this batch. A lower learning_rate, max_grad_norm, inputs without NaN, or "
            "a criterion that is finite where all targets are ignored may help"
        )
    if not loss.requires_grad:
        raise AESGTrainingError(
            f"{where}: expected a loss that depends on a trainable parameter, got one without "
            "gradient; all parameters may be frozen, the model may detach its output, or this is "
            "within torch.no_grad()"
        )
    return value


def first_not_finite(tensor: Tensor) -> tuple[int, float] | None:
    """Return the first row of a batch that holds NaN or infinity, and which of them it is."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    rows = tensor.reshape(len(tensor) if tensor.ndim else 1, -1)
    wrong = (~rows.isfinite()).nonzero()
    if not len(wrong):
        return None
    row, column = wrong[0].tolist()
    number = rows[row, column]
    return row, math.nan if bool(number.isnan()) else math.inf


def _default(targets: Tensor, where: str) -> Criterion:
    if targets.is_floating_point():
        return nn.MSELoss()
    if is_integer(targets):
        return nn.CrossEntropyLoss()
    raise AESGTrainingError(
        f"{where}: expected integer or floating targets, got {targets.dtype}; "
        "convert them, or give AESGTrainer a criterion"
    )


def as_cases(output: Tensor, targets: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Return scores (N, C) and classes (N,)."""
    if output.shape[:-1] != targets.shape and output.ndim >= 2:
        last = output.movedim(1, -1)  # (B, C, ...) -> (B, ..., C)
        output = last if last.shape[:-1] == targets.shape else output
    if output.ndim == 0 or output.shape[:-1] != targets.shape:
        raise AESGTrainingError(
            f"{where}: expected output (..., classes) and integer targets (...), got output "
            f"{tuple(output.shape)} and targets {tuple(targets.shape)}"
        )
    return output.reshape(-1, output.shape[-1]), targets.reshape(-1).long()


def check_classes(
    classes: Tensor,
    count: int,
    ignored: int,
    where: str,
    name_of: Callable[[int], str] | None = None,
) -> None:
    """Raise `AESGTrainingError` unless classes are ``ignored`` or in [0, count)."""
    bad = (classes != ignored) & ((classes < 0) | (classes >= count))
    if bool(bad.any()):
        row = int(bad.reshape(len(bad) if bad.ndim else 1, -1).any(dim=1).nonzero()[0])
        sample = "" if name_of is None else f" in {name_of(row)}"
        raise AESGTrainingError(
            f"{where}: expected target classes in [0, {count}), got {int(classes[bad][0])}{sample}"
        )
