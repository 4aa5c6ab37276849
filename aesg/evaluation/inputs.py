"""What is compared, checked."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesg.errors import AESGTrainingError

#: What can be gone through, but is no list: a text, or without an order.
_NO_LISTS = (str, bytes, Mapping, Set)

_log = logging.getLogger(__name__)

_hinted: set[str] = set()


def hint(message: str) -> None:
    """Log a warning, once in a process."""
    if message not in _hinted:
        _hinted.add(message)
        _log.warning("%s", message)


def check_list(name: str, values: Any) -> None:
    """Raise `AESGTrainingError` where values that belong together by their order have none."""
    if isinstance(values, (Mapping, Set)):
        raise AESGTrainingError(f"{name}: expected a list, got {type(values).__name__}")


def as_tensor(name: str, value: Any, *, least: int = 1) -> Tensor:
    """Return a tensor without gradient, of a tensor or whatever torch takes for one.

    Parameters
    ----------
    name : str
        For messages.
    value : tensor, array, number or sequence of numbers
        Of any shape.
    least : int
        How many elements it has at least.

    Raises
    ------
    AESGTrainingError
        If it is not numbers, or there are too few.
    """
    if isinstance(value, np.ndarray) and (
        not value.flags.writeable or min(value.strides, default=0) < 0
    ):
        value = value.copy()  # torch takes neither
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AESGTrainingError(
            f"{name}: expected a tensor, got {type(value).__name__}: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error
    if tensor.is_nested or tensor.is_meta or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else "meta" if tensor.is_meta else tensor.layout
        raise AESGTrainingError(f"{name}: expected a dense tensor with values, got a {kind} one")
    if tensor.is_complex() or tensor.is_quantized:
        raise AESGTrainingError(f"{name}: expected real numbers, got {tensor.dtype}")
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # torch cannot calculate with eight bits
    if tensor.numel() < least:
        raise AESGTrainingError(
            f"{name}: expected at least {least} element, got shape {tuple(tensor.shape)}"
        )
    return tensor


def as_strings(name: str, values: Any) -> list[str]:
    """Return a list of strings.

    Raises
    ------
    AESGTrainingError
        If it is a single string, or anything in it is no string.
    """
    if isinstance(values, _NO_LISTS) or not isinstance(values, Iterable):
        raise AESGTrainingError(f"{name}: expected a list of strings, got {type(values).__name__}")
    strings = list(values)
    for index, each in enumerate(strings):
        if not isinstance(each, str):
            raise AESGTrainingError(
                f"{name}[{index}]: expected a string, got {type(each).__name__}"
            )
    return strings


def check_lengths(predictions: int, targets: int) -> None:
    """Raise `AESGTrainingError` unless there are as many predictions as targets, and any."""
    if predictions != targets:
        raise AESGTrainingError(
            f"predictions: expected as many as there are targets, {targets}, got {predictions}"
        )
    if not predictions:
        raise AESGTrainingError("predictions: expected at least one, got none")


def check_scores(scores: Tensor) -> None:
    """Raise `AESGTrainingError` where a model's scores hold NaN or positive infinity.

    Negative infinity is what a class or token has that cannot be.
    """
    highest = float(scores.amax())  # NaN where any is
    if not highest < math.inf:
        bad = (scores.isnan() | scores.isposinf()).nonzero()[0].tolist()
        raise AESGTrainingError(
            f"predictions: expected numbers, got {highest} at {bad} of shape {tuple(scores.shape)}"
        )
