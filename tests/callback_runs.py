"""Drives callbacks as `AESGTrainer.fit` does, without training."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from aesg.callbacks import Callback, Callbacks, Checkpoint, EarlyStopping
from aesg.checkpoint.contents import REQUIRED, STATE
from aesg.config import AESGConfig
from aesg.memory import AESGMemory
from storage_backends.folders import remove


class Run:
    """A trainer that only counts epochs; its model's one weight is the number of the epoch."""

    def __init__(
        self, *callbacks: Callback, epoch: int = 0, memory: Any = None, validated: bool = True
    ) -> None:
        self.callbacks = Callbacks(callbacks)
        self.model = nn.Linear(1, 1, bias=False)
        self.memory = memory
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.epoch = epoch
        self.validated = validated
        self.global_step = 0
        self.reasons: list[str] = []

    @property
    def weight(self) -> float:
        return self.model.weight.item()

    def stop(self, reason: str = "") -> None:
        self.reasons.append(reason)

    def save(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name in REQUIRED:
            (folder / name).touch()
        (folder / STATE).write_text(json.dumps({"epoch": self.epoch}))

    def fit(
        self,
        epochs: Iterable[dict[str, Any]],
        *,
        batches: Sequence[dict[str, Any]] = (),
        interrupted: bool = False,
    ) -> int:
        """Go through epochs with these logs; return how many were begun in all."""
        epochs = list(epochs)
        self.reasons = []
        with self.callbacks.attached(self):
            plan = {"epochs": len(epochs), "batches": len(batches), "validation": self.validated}
            self.callbacks.on_train_start(plan)
            for logs in epochs:
                self._epoch(dict(logs), batches)
                if self.reasons:
                    break
            self.callbacks.on_train_end({"interrupted": interrupted, "stopped": bool(self.reasons)})
        return self.epoch

    def _epoch(self, logs: dict[str, Any], batches: Sequence[dict[str, Any]]) -> None:
        epoch = self.epoch
        self.callbacks.on_epoch_start(epoch, {})
        for number, each in enumerate(batches):
            self.callbacks.on_batch_start(number, {})
            self.callbacks.on_batch_end(number, dict(each))
        nn.init.constant_(self.model.weight, epoch + 1)
        self.epoch += 1
        self.callbacks.on_epoch_end(epoch, {**logs, "epoch": self.epoch})


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"loss": value} for value in values]


def small_memory(path: str | Path) -> AESGMemory:
    memory = AESGMemory(path, AESGConfig(vector_dim=4))
    memory.set_mode("TRAIN")
    return memory


def keep_best(say: Connection, path: str) -> None:
    """Train until a best epoch is kept, and wait to be killed."""

    class Waiting(Callback):
        runs_last = True

        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            say.send("kept")
            say.recv()

    Run(EarlyStopping(restore_best=True), Waiting(), memory=small_memory(path)).fit(losses(1.0))


def remove_until_killed(say: Connection, path: str) -> None:
    """Save checkpoints until one is to be removed, and wait to be killed when it has moved."""

    def wait(folder: Path) -> None:
        if (folder / "training_state.json").exists():
            say.send("moved")
            say.recv()
        remove(folder)

    with patch("aesg.checkpoint.folders.remove", wait):
        Run(Checkpoint(path=path, keep_last=1)).fit(losses(1.0, 1.0))
