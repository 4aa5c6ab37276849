"""The trainer's parameters, checked, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from aesg.errors import AESGTrainingError
from aesg.training.passes import PRECISIONS

MakesScheduler: TypeAlias = Callable[[Optimizer], LRScheduler]

_STEPS = ("epoch", "batch")


def check_norm(norm: float | None) -> float | None:
    """Return ``max_grad_norm`` if it is None or a number above 0."""
    good = isinstance(norm, (int, float)) and not isinstance(norm, bool) and 0 < norm < math.inf
    if norm is None or good:
        return norm
    raise AESGTrainingError(f"max_grad_norm: expected a finite number > 0, got {norm!r}")


def check_seed(seed: int | None) -> int | None:
    """Return a seed if it is None or one that python, numpy and torch take."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise AESGTrainingError(f"seed: expected an integer in [0, 2**32), got {seed!r}")
    return seed


def check_precision(precision: str, device: torch.device) -> str:
    """Return a precision if torch has it on the device."""
    if precision not in PRECISIONS:
        names = ", ".join(map(repr, PRECISIONS))
        raise AESGTrainingError(f"precision: expected one of {names}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if dtype is None:
        return precision
    try:
        with torch.autocast(device.type, dtype=dtype):
            one = torch.ones(1, 1, device=device)
            computed = (one @ one).dtype
    except RuntimeError as error:
        raise AESGTrainingError(
            f"precision: expected one that {device} has, got {precision!r}: {error}"
        ) from error
    if computed != dtype:
        raise AESGTrainingError(
            f"precision: expected one that {device} has, got {precision!r}, in which torch "
            f"computes as {computed}"
        )
    return precision


def scaler_for(precision: str, device: torch.device) -> GradScaler | None:
    """Return what scales the loss, where the precision needs it."""
    return GradScaler(device.type) if precision == "fp16" else None


def scheduler_for(
    scheduler: LRScheduler | MakesScheduler | None, optimizer: Optimizer, step: str
) -> LRScheduler | None:
    """Return a scheduler of the optimizer, made where a callable is to make it."""
    if step not in _STEPS:
        raise AESGTrainingError(f"scheduler_step: expected 'epoch' or 'batch', got {step!r}")
    if scheduler is None:
        return None
    made = scheduler
    if callable(scheduler) and not isinstance(scheduler, LRScheduler):
        made = _made(scheduler, optimizer)
    if not isinstance(made, LRScheduler):
        got = type(made).__name__
        raise AESGTrainingError(
            "scheduler: expected an LRScheduler, or a callable that makes one of the optimizer, "
            f"got {got if made is scheduler else f'a callable that returned {got}'}"
        )
    if made.optimizer is not optimizer:
        raise AESGTrainingError(
            "scheduler: expected one of the trainer's optimizer, got one of another; give the "
            "optimizer, too, or a callable: lambda optimizer: StepLR(optimizer, 10)"
        )
    if step == "batch" and isinstance(made, ReduceLROnPlateau):
        raise AESGTrainingError(
            "scheduler_step: expected 'epoch' for ReduceLROnPlateau, got 'batch'"
        )
    return made


def _made(scheduler: MakesScheduler, optimizer: Optimizer) -> LRScheduler:
    try:
        return scheduler(optimizer)
    except TypeError as error:
        raise AESGTrainingError(
            "scheduler: expected a callable that makes one of the optimizer alone, got "
            f"{type(scheduler).__name__}, which could not make one: {error}; for instance "
            "lambda optimizer: StepLR(optimizer, 10)"
        ) from error


def schedule(scheduler: LRScheduler | None, loss: float) -> None:
    """Let a scheduler go on; ReduceLROnPlateau by the loss.

    Raises
    ------
    AESGTrainingError
        If it cannot, such as one that was made for fewer steps.
    """
    try:
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(loss)
        elif scheduler is not None:
            scheduler.step()
    except ValueError as error:
        raise AESGTrainingError(
            f"scheduler: expected one for all steps, got {type(scheduler).__name__}: {error}"
        ) from error


def check_state(name: str, own: object | None, state: object) -> None:
    """Raise `AESGTrainingError` where only one of trainer and state has a part; None: no state."""
    if state is None or bool(state) == (own is not None):
        return
    has, lacks = ("state", "trainer") if state else ("trainer", "state")
    raise AESGTrainingError(
        f"{name}: expected both or neither of trainer and state to have one, got one in the {has} "
        f"and none in the {lacks}; make the trainer with the parameters that it was saved with"
    )
