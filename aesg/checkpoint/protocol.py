"""What a checkpoint needs of a trainer and of its memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer


@runtime_checkable
class Copyable(Protocol):
    """A memory that can be copied into a checkpoint, and take its content from one."""

    @property
    def directory(self) -> Path:
        """Where the memory is."""
        ...

    @property
    def vector_dim(self) -> int:
        """Width of its concepts."""
        ...

    def copy(self, destination: str | os.PathLike[str]) -> None:
        """Make a consistent copy in a new directory, durable when the call returns."""
        ...

    def restore(self, source: str | os.PathLike[str]) -> None:
        """Take the content of a copy in place of the present one, wholly or not at all."""
        ...


class Trainer(Protocol):
    """What is written of a trainer, and read back into it."""

    model: nn.Module
    optimizer: Optimizer
    epoch: int
    global_step: int
    best_loss: float
    history: list[dict[str, Any]]

    @property
    def memory(self) -> object | None:
        """The model's memory."""
        ...

    @property
    def criterion(self) -> object | None:
        """The loss, which may have a state of its own."""
        ...

    @property
    def scheduler(self) -> object | None:
        """What moves the optimizer's learning rates."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of the default optimizer."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside weights, optimizer and memory."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...
