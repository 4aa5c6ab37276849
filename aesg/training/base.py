"""A trainer's parameters and counts, and how they are kept for later."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from aesg.callbacks import Callback, Callbacks
from aesg.checkpoint import load_checkpoint, save_checkpoint
from aesg.config import AESGConfig
from aesg.data import Batches, adapt_data
from aesg.errors import AESGTrainingError
from aesg.evaluation.domains import checked_domain
from aesg.losses import Criterion
from aesg.trainable import adam, check_count, check_criterion, check_optimizer, device_of, memory_of
from aesg.training.passes import Passes, dtype_of
from aesg.training.randomness import LoaderGenerators
from aesg.training.refreshing import Keys
from aesg.training.settings import (
    MakesScheduler,
    check_norm,
    check_precision,
    check_seed,
    check_state,
    scaler_for,
    scheduler_for,
)

#: Of a model without a memory, whose configuration would say otherwise.
_DEFAULTS = AESGConfig()


class TrainerState:
    """What `AESGTrainer` is made with, and what it keeps of its training."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        criterion: Criterion | None = None,
        callbacks: Iterable[Callback] | None = None,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        learning_rate: float | None = None,
        *,
        refresh_keys: bool = True,
        progress: bool | None = None,
        max_grad_norm: float | None = None,
        accumulate: int = 1,
        precision: str = "fp32",
        scheduler: LRScheduler | MakesScheduler | None = None,
        scheduler_step: str = "epoch",
        seed: int | None = None,
        domain: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise AESGTrainingError(
                f"model: expected a torch.nn.Module, got {type(model).__name__}"
            )
        self.memory = memory_of(model)
        config = _DEFAULTS if self.memory is None else self.memory.config
        self.device = device_of(device)
        check_criterion(criterion)  # it may hold weights of classes
        self.criterion = (
            criterion.to(self.device) if isinstance(criterion, nn.Module) else criterion
        )
        self.callbacks = callbacks
        self.batch_size = config.batch_size if batch_size is None else batch_size
        check_count("batch_size", self.batch_size)
        check_count("accumulate", accumulate)
        self.accumulate = accumulate
        self.max_grad_norm = check_norm(max_grad_norm)
        self.precision = check_precision(precision, self.device)
        self.seed = check_seed(seed)
        self.domain = None if domain is None else checked_domain(domain)
        self.progress = progress
        self.refresh_keys = refresh_keys
        self.model = model.to(self.device)
        rate = config.learning_rate if learning_rate is None else learning_rate
        self.optimizer = adam(model, rate) if optimizer is None else optimizer
        check_optimizer(self.optimizer, model)
        self.scheduler = scheduler_for(scheduler, self.optimizer, scheduler_step)
        self.scheduler_step = scheduler_step
        self.scaler = scaler_for(precision, self.device)
        self.epoch = self.global_step = 0
        self.best_loss = math.inf
        self.history: list[dict[str, Any]] = []
        # The order of samples follows torch.manual_seed without drawing from its generator.
        self._order = torch.Generator().manual_seed(torch.initial_seed())
        self._loader = LoaderGenerators()
        self._keys = Keys(self.memory)
        self._is_seeded = False
        self._reason: str | None = None  # of an early stop
        self._doing = ""  # what an interrupt cuts off
        self._rate = self.learning_rate  # of the last step
        self._fits = False

    @property
    def callbacks(self) -> Callbacks:
        """What follows `fit`, in order; any iterable of callbacks can be assigned."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Iterable[Callback] | None) -> None:
        self._callbacks = Callbacks(callbacks)

    @property
    def learning_rate(self) -> float:
        """That of the optimizer's first group of parameters now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a checkpoint: weights, optimizer, memory and what `resume` needs.

        See `aesg.checkpoint.save_checkpoint` for the files and the errors.
        """
        return save_checkpoint(self, path)

    def load(self, path: str | os.PathLike[str], *, optimizer: bool = True) -> None:
        """Take over weights, optimizer, memory and counts of a checkpoint.

        One that was written while `fit` ran is best read from after `refresh`.

        Parameters
        ----------
        path : str or path
        optimizer : bool
            Whether the optimizer comes back. If not, it and its learning rates stay, and it may be
            another one than was saved. Where the trainer has a scheduler, only its moments come
            back; learning rates and what else the scheduler has set up stay.

        See `aesg.checkpoint.load_checkpoint` for the errors; after one, nothing has changed.
        """
        load_checkpoint(self, path, optimizer=optimizer)

    def resume(self, path: str | os.PathLike[str]) -> int:
        """Go on from a checkpoint as if training had not stopped.

        Beside what `load` takes over, that is random numbers, the order of samples, scheduler,
        loss scale and callbacks.

        Returns
        -------
        int
            The epoch to go on from: as many are complete.
        """
        return load_checkpoint(self, path, resume=True).epoch

    def state_dict(self) -> dict[str, Any]:
        """Return what going on needs beside weights, optimizer, memory and random numbers.

        Returns
        -------
        dict
            Of tensors, numbers, text and containers: ``epoch``, ``global_step``, ``best_loss``,
            ``history``, ``seeded``, ``order``, ``loader`` (generators of a DataLoader),
            ``scheduler``, ``scaler``, ``keys`` (those that a refresh replaced) and ``callbacks``.
        """
        return {
            "epoch": self.epoch,
            "global_step": self.global_step,
            "best_loss": self.best_loss,
            "history": [dict(logs) for logs in self.history],
            "seeded": self._is_seeded,
            "order": self._order.get_state(),
            "loader": self._loader.state_dict(),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
            "keys": self._keys.state_dict(),
            "callbacks": self.callbacks.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; what is absent stays as it is.

        Raises
        ------
        AESGTrainingError
            If the trainer has no scheduler or loss scale and the state has one, or the other way
            round; nothing has changed.
        """
        for name, own in (("scheduler", self.scheduler), ("scaler", self.scaler)):
            check_state(name, own, state.get(name))
        for name in ("epoch", "global_step", "best_loss"):
            setattr(self, name, state.get(name, getattr(self, name)))
        self.history = [dict(logs) for logs in state.get("history", self.history)]
        self._is_seeded = state.get("seeded", self._is_seeded)
        if "order" in state:
            self._order.set_state(state["order"])
        owners = {
            "loader": self._loader,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "keys": self._keys,
            "callbacks": self.callbacks,
        }
        for name, owner in owners.items():
            if owner is not None and name in state:
                owner.load_state_dict(state[name])

    @property
    def _passes(self) -> Passes:
        return Passes(
            self.model,
            self.memory,
            self.criterion,
            self.device,
            self.precision,
            dtype_of(self.model),
        )

    def _batches(self, data: Any, epochs: int = 1, *, shuffle: bool = False) -> Batches:
        order = self._order if shuffle else None
        return adapt_data(data, self.batch_size, shuffle=shuffle, generator=order, epochs=epochs)
