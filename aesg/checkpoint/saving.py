"""Writes a checkpoint."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from aesg._seam import storage_errors
from aesg.checkpoint import contents
from aesg.checkpoint.description import describe, plain_name
from aesg.checkpoint.folders import replaced
from aesg.checkpoint.plain import plain
from aesg.checkpoint.protocol import Copyable, Trainer
from aesg.checkpoint.randomness import random_state
from aesg.errors import AESGStorageError


def save_checkpoint(trainer: Trainer, path: str | os.PathLike[str]) -> Path:
    """Write a trainer's model, optimizer, memory and state into a folder.

    The folder is made beside its place and put there when all of it is on the disk: whatever
    happens, there is the new checkpoint or what was there before. A checkpoint that is there is
    replaced. The memory is copied as it is now, beside whoever reads it.

    Parameters
    ----------
    trainer : AESGTrainer
    path : str or path
        Missing, an empty folder, or a checkpoint. Folders above it are made.

    Returns
    -------
    Path
        The folder, as an absolute path without links.

    Raises
    ------
    AESGStorageError
        If there is something else in the place, the memory is inside it or it inside the memory,
        somebody writes to the memory of the checkpoint that is there, or the new one cannot be
        written.
    AESGTrainingError
        If part of the state is more than tensors, numbers, texts and containers of these.
    """
    place = resolved_place(path)
    memory = trainer.memory
    check_apart(place, memory)
    files = _files_of(trainer)
    accept = contents.require_replaceable
    with storage_errors(f"save checkpoint '{place}'"), replaced(place, accept) as folder:
        records = [contents.write_tensors(folder / name, state) for name, state in files.items()]
        records.append(contents.write_json(folder / contents.CONFIG, describe(trainer)))
        records.append(contents.write_json(folder / contents.STATE, _progress(trainer)))
        if isinstance(memory, Copyable):
            memory.copy(folder / contents.MEMORY)
        elif memory is not None:
            warnings.warn(
                f"checkpoint '{place}' is without the memory: {type(memory).__name__} has no "
                "copy(destination) and restore(source)",
                stacklevel=3,
            )
        contents.write_manifest(folder, records, isinstance(memory, Copyable))
    return place


def resolved_place(path: str | os.PathLike[str]) -> Path:
    """Return the one path of a folder, however it is written.

    Raises
    ------
    AESGStorageError
        If it is no path.
    """
    try:
        given = os.fspath(path)
        if not isinstance(given, str) or not given:
            raise ValueError("it is empty" if not given else "a path is text")
        return Path(os.path.realpath(given))
    except (OSError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Checkpoint: expected the path of a folder, got {path!r} ({error})"
        ) from error


def check_apart(place: Path, memory: object | None) -> None:
    """Raise `AESGStorageError` where a checkpoint and the memory in use would share a folder."""
    if not isinstance(memory, Copyable):
        return
    if memory.directory.is_relative_to(place) or place.is_relative_to(memory.directory):
        raise AESGStorageError(
            f"Checkpoint '{place}': expected a folder apart from the memory that the model uses, "
            f"which is in '{memory.directory}'"
        )


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return a model's state by the names that its parts have when it is not compiled."""
    return {plain_name(name): each for name, each in model.state_dict().items()}


def _files_of(trainer: Trainer) -> dict[str, Any]:
    """Return the content of each file of tensors, judged before anything is written."""
    resuming = {
        "random": random_state(),
        "trainer": trainer.state_dict(),
        "criterion": state_of(trainer.criterion),
    }
    return {
        contents.WEIGHTS: plain(model_state(trainer.model), "model"),
        contents.OPTIMIZER: plain(trainer.optimizer.state_dict(), "optimizer"),
        contents.TRAINER: plain(resuming, "trainer"),
    }


def state_of(criterion: object | None) -> dict[str, Any]:
    """Return the state of a loss that is a module."""
    return dict(criterion.state_dict()) if isinstance(criterion, nn.Module) else {}


def _progress(trainer: Trainer) -> dict[str, Any]:
    """Return what ``training_state.json`` holds."""
    return {
        "epoch": trainer.epoch,
        "global_step": trainer.global_step,
        "best_loss": trainer.best_loss,
        "history": [dict(logs) for logs in trainer.history],
    }
