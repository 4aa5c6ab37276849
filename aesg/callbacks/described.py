"""The training that a callback follows, and what it was started with."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from aesg.callbacks.base import Callback, Logs, Trainer
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory

#: The group of each entry of an epoch's logs that is not the training's own loss or metric.
_GROUPS = {
    "concepts": "memory",
    "edges": "memory",
    "provisional": "memory",
    "births": "memory",
    "prunes": "memory",
    "retrieval_ms": "memory",
    "epoch": "progress",
    "learning_rate": "progress",
    "seconds": "progress",
}
_VALIDATION = "val_"


def trainer_of(callback: Callback) -> Trainer:
    """Return the trainer whose `fit` runs.

    Raises
    ------
    AESGTrainingError
        If a hook is called while none does.
    """
    if callback.trainer is None:
        raise AESGTrainingError(
            f"{type(callback).__name__}: expected to be called by AESGTrainer.fit, got a call "
            "while no training runs"
        )
    return callback.trainer


def described(trainer: Trainer) -> dict[str, Any]:
    """Return the settings of a trainer and of its memory.

    Parameters
    ----------
    trainer : AESGTrainer

    Returns
    -------
    dict
        Names to numbers, text, True, False or None; those of the memory's configuration begin with
        ``"memory."``.
    """
    model, group = trainer.model, trainer.optimizer.param_groups[0]
    said = {
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": type(trainer.optimizer).__name__,
        "learning_rate": float(group["lr"]),
    }
    for name in ("batch_size", "device", "accumulate", "max_grad_norm", "precision", "seed"):
        value = getattr(trainer, name, None)
        said[name] = value if isinstance(value, int | float | str) or value is None else str(value)
    memory = trainer.memory
    if isinstance(memory, AESGMemory):
        config = dataclasses.asdict(memory.config)
        said |= {f"memory.{name}": value for name, value in config.items()}
    return said


def charts_of(logs: Logs) -> dict[tuple[str, str], float]:
    """Return what an epoch's logs say in numbers, by the chart that shows it.

    Parameters
    ----------
    logs : dict
        As `Callback.on_epoch_end` gets them.

    Returns
    -------
    dict
        From group and name to the number. The groups are ``"train"`` and ``"validation"``, for
        losses and metrics, ``"memory"`` and ``"progress"``.
    """
    charts = {}
    for name, value in logs.items():
        if isinstance(value, numbers.Real) and name not in ("global_step", "samples"):
            plain = name.removeprefix(_VALIDATION)
            group = "train" if plain == name else "validation"
            charts[_GROUPS.get(name, group), plain] = float(value)
    if logs["seconds"] > 0:
        charts["progress", "samples_per_second"] = logs["samples"] / logs["seconds"]
    return charts
