"""Reads a checkpoint back, wholly or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from aesg._seam import storage_errors
from aesg.checkpoint import contents
from aesg.checkpoint.description import plain_name
from aesg.checkpoint.folders import standing
from aesg.checkpoint.matching import (
    check_memory,
    check_optimizer,
    check_scheduler,
    check_weights,
    warn_of_frozen,
)
from aesg.checkpoint.protocol import Copyable, Trainer
from aesg.checkpoint.randomness import random_state, set_random_state
from aesg.checkpoint.saving import check_apart, resolved_place, state_of
from aesg.checkpoint.undoing import undone
from aesg.errors import AESGError, AESGStorageError
from aesg.interrupts import Interrupts
from storage_backends.errors import StoreError


@dataclass(frozen=True)
class CheckpointState:
    """How far the training of a checkpoint had come.

    Parameters
    ----------
    path : Path
        Its folder.
    epoch : int
        Completed epochs: the number, from 0, of the one to go on with.
    global_step : int
        Optimizer steps.
    best_loss : float
        Infinite before the first epoch.
    history : list of dict
        Logs of each epoch.
    """

    path: Path
    epoch: int
    global_step: int
    best_loss: float
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Content:
    """What a trainer takes over of a checkpoint; None where it keeps what it has."""

    state: CheckpointState
    weights: dict[str, Any]
    optimizer: dict[str, Any] | None
    training: dict[str, Any]
    criterion: dict[str, Any] | None
    random: dict[str, Any] | None
    memory: Path | None


def load_checkpoint(
    trainer: Trainer,
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    optimizer: bool = True,
) -> CheckpointState:
    """Bring a trainer's model, optimizer, memory and counters back as they were saved.

    All of it is read and judged first: an error leaves everything as it was, the memory too.
    Ctrl-C waits while it is taken over.

    Parameters
    ----------
    trainer : AESGTrainer
        Its model and optimizer are like those that were saved.
    path : str or path
        A checkpoint.
    resume : bool
        Whether to bring back also what makes training go on as if it had never ended: random
        numbers, order of samples, scheduler, scaler, callbacks, the state of the loss.
    optimizer : bool
        Whether the optimizer comes back; if not, it and its learning rates stay, and it may be
        another one. Where the trainer has a scheduler and does not resume, only the moments come
        back: the scheduler has set up the rest.

    Returns
    -------
    CheckpointState

    Raises
    ------
    AESGStorageError
        If there is no checkpoint, it is damaged or of another model or optimizer, or the memory
        cannot be written.
    AESGConfigError
        If its memory has another ``vector_dim``.
    AESGMemoryError
        If the model's memory is only read.
    """
    place = resolved_place(path)
    check_apart(place, trainer.memory)
    with storage_errors(f"load checkpoint '{place}'"), Interrupts() as interrupts:
        while True:
            folder = standing(place)
            identity = _identity_of(folder)
            try:
                content = _read(folder, trainer, resume, optimizer)
                with interrupts.whole(), _or_as_before(trainer):
                    _apply(content, trainer)
                    _require_same(folder, identity)
                return content.state
            except (AESGError, OSError, StoreError):
                if _identity_of(standing(place)) == identity:
                    raise  # else another process has put a new checkpoint there meanwhile


def _identity_of(folder: Path) -> bytes | None:
    """Return what tells a checkpoint from every other; None where there is none."""
    try:
        return (folder / contents.MANIFEST).read_bytes()
    except OSError:
        return None


def _require_same(folder: Path, identity: bytes | None) -> None:
    """Raise `AESGStorageError` where a folder has been replaced while it was read."""
    if _identity_of(folder) != identity:
        raise AESGStorageError(f"Checkpoint '{folder}': replaced while it was read")


def _read(folder: Path, trainer: Trainer, resume: bool, with_optimizer: bool) -> _Content:
    """Read a checkpoint and judge whether it fits."""
    contents.check_files(folder)
    config = contents.read_json(folder, contents.CONFIG)
    check_memory(folder, config, trainer)
    weights = contents.read_tensors(folder, contents.WEIGHTS)
    check_weights(folder, config, weights, trainer)
    optimizer = _optimizer_of(folder, config, trainer, resume) if with_optimizer else None
    if resume:
        check_scheduler(folder, config, trainer)
        warn_of_frozen(folder, config, trainer)
    state, all_of_it = _state_of(folder), _resuming(folder, resume)
    if resume:
        _require_same_counts(state, all_of_it["trainer"])
    memory = folder / contents.MEMORY
    return _Content(
        state,
        weights,
        optimizer,
        all_of_it["trainer"] if resume else _counters(state, all_of_it),
        all_of_it["criterion"] if resume else None,
        all_of_it["random"] if resume else None,
        memory if memory.exists() else None,
    )


def _optimizer_of(
    folder: Path, config: dict[str, Any], trainer: Trainer, resume: bool
) -> dict[str, Any]:
    """Return the state that the optimizer is to have."""
    state = contents.read_tensors(folder, contents.OPTIMIZER)
    check_optimizer(folder, config, state, trainer)
    if resume or trainer.scheduler is None:
        return state
    own = trainer.optimizer.state_dict()["param_groups"]
    groups = [
        {**present, "params": saved["params"]}
        for present, saved in zip(own, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}


def _resuming(folder: Path, needed: bool) -> dict[str, Any]:
    """Return what is there beside weights, optimizer, memory and counters."""
    path = folder / contents.TRAINER
    if not path.exists():
        if needed:
            raise AESGStorageError(
                f"Checkpoint '{folder}': expected {contents.TRAINER} to resume from, found none: "
                "`load` takes over weights, optimizer, memory and counters without it"
            )
        return {"trainer": {}}
    found = contents.read_tensors(folder, contents.TRAINER)
    for name in ("trainer", "criterion", "random"):
        if not isinstance(found.get(name), dict):
            raise AESGStorageError(
                f"Checkpoint file '{path}': expected the state of {name!r}, got {found.get(name)!r}"
            )
    return found


def _require_same_counts(state: CheckpointState, training: dict[str, Any]) -> None:
    """Check that two files are of one training."""
    for name in ("epoch", "global_step"):
        expected, got = getattr(state, name), training.get(name)
        if expected != got:
            raise AESGStorageError(
                f"Checkpoint file '{state.path / contents.TRAINER}': expected {name} {expected}, "
                f"as {contents.STATE} has it, got {got!r}"
            )


def _counters(state: CheckpointState, all_of_it: dict[str, Any]) -> dict[str, Any]:
    """Return what a trainer takes over that does not resume.

    Keys of the memory that were replaced when training ended belong to the memory, and go with it.
    """
    return {
        "epoch": state.epoch,
        "global_step": state.global_step,
        "best_loss": state.best_loss,
        "history": state.history,
        "keys": all_of_it["trainer"].get("keys", {}),
    }


def _state_of(folder: Path) -> CheckpointState:
    """Return what ``training_state.json`` says; null there stands for what is not finite."""
    found = contents.read_json(folder, contents.STATE)
    best = found.get("best_loss")
    try:
        history = [
            {name: math.nan if value is None else value for name, value in logs.items()}
            for logs in found.get("history", [])
        ]
        return CheckpointState(
            folder,
            _count(found["epoch"]),
            _count(found["global_step"]),
            math.inf if best is None else float(best),
            history,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Checkpoint file '{folder / contents.STATE}' is damaged: expected epoch, global_step "
            f"and best_loss, got {str(found)[:100]}"
        ) from error


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected an integer >= 0, got {value!r}")
    return value


def _apply(content: _Content, trainer: Trainer) -> None:
    """Take a checkpoint over, the memory last: that is one step, and cannot be taken back."""
    try:
        _load_weights(trainer.model, content.weights)
        if content.optimizer is not None:
            trainer.optimizer.load_state_dict(content.optimizer)
        trainer.load_state_dict(content.training)
        if content.criterion is not None and isinstance(trainer.criterion, nn.Module):
            trainer.criterion.load_state_dict(content.criterion)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Checkpoint '{content.state.path}' cannot be taken over: {error}"
        ) from error
    if content.random is not None:
        set_random_state(content.random)
    if content.memory is not None and isinstance(trainer.memory, Copyable):
        trainer.memory.restore(content.memory)


def _load_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    names = {plain_name(name): name for name in model.state_dict()}
    model.load_state_dict({names[name]: each for name, each in weights.items()})


@contextmanager
def _or_as_before(trainer: Trainer) -> Iterator[None]:
    """Bring everything but the memory back as it was if the block fails before that is restored."""
    model, optimizer, criterion = trainer.model, trainer.optimizer, trainer.criterion
    weights, moments = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())
    own, loss, chance = deepcopy((trainer.state_dict(), state_of(criterion), random_state()))

    def undo() -> None:
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        if isinstance(criterion, nn.Module):
            criterion.load_state_dict(loss)
        set_random_state(chance)
        with suppress(AESGError):  # a callback that fails again: the first error is the one to tell
            trainer.load_state_dict(own)

    with undone(undo, trainer.memory):
        yield
