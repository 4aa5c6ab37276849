"""Trains a model's weights and its memory in one loop."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from aesg.config import AESGConfig
from aesg.data import Batch, Batches, adapt_data, adapt_inputs
from aesg.errors import AESGTrainingError
from aesg.interrupts import Interrupts
from aesg.losses import Criterion, batch_loss, trainable_value
from aesg.modes import MemoryMode
from aesg.progress import TrainingProgress

#: Of a model without a memory, whose configuration would say otherwise.
_DEFAULTS = AESGConfig()

_log = logging.getLogger(__name__)


class _Sizes(Protocol):
    @property
    def node_count(self) -> int: ...

    @property
    def edge_count(self) -> int: ...


class _Config(Protocol):
    @property
    def batch_size(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...


@runtime_checkable
class Memory(Protocol):
    """What the trainer needs of a model's memory."""

    @property
    def config(self) -> _Config:
        """Default batch size and learning rate."""
        ...

    @property
    def mode(self) -> MemoryMode:
        """The present mode."""
        ...

    @property
    def storage(self) -> _Sizes:
        """How many concepts and edges there are."""
        ...

    def set_mode(self, mode: MemoryMode) -> None:
        """Change the mode."""
        ...

    def reset_state(self) -> None:
        """Forget navigation state and what the last forward pass queued."""
        ...

    def update_topology(self) -> object:
        """Take in what the last forward pass brought."""
        ...

    def save(self) -> object:
        """Return when everything is on disk."""
        ...


class _Average:
    """The mean loss of some batches, each with the weight of its samples."""

    def __init__(self) -> None:
        self.samples = 0
        self._sum = 0.0

    def add(self, loss: float, batch: Batch) -> None:
        targets = batch[1]
        samples = len(targets) if targets.ndim else 1
        self._sum += loss * samples
        self.samples += samples

    @property
    def value(self) -> float:
        return self._sum / self.samples if self.samples else math.nan


class AESGTrainer:
    """Trains, evaluates and applies a model, with or without a memory.

    A model's memory is its attribute ``memory``. Where the model has a method ``observe(targets)``,
    `fit` calls it after each step, so that the memory learns what its queries led to.

    Parameters
    ----------
    model : torch.nn.Module
        Moved to ``device``. Without a memory a UserWarning says so and only weights are trained.
    optimizer : torch.optim.Optimizer, optional
        Default ``Adam(lr=learning_rate)`` over all parameters.
    criterion : callable, optional
        ``criterion(output, targets)`` returns the loss. Default: cross-entropy for integer
        targets, the mean squared error for floating ones; see `aesg.losses.batch_loss`.
    device : str or torch.device
        Where model and batches go, for instance ``"cuda:0"``.
    batch_size : int, optional
        Samples of a batch where the data does not come in batches, at least 1. Default: that of
        ``memory.config``; 32 without a memory.
    learning_rate : float, optional
        Of the default optimizer, above 0. Default: that of ``memory.config``; 1e-3 without a
        memory.
    progress : bool, optional
        Whether `fit` shows a progress bar on stderr. None shows one on a terminal.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described, or the device is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        criterion: Criterion | None = None,
        *,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        learning_rate: float | None = None,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise AESGTrainingError(
                f"model: expected a torch.nn.Module, got {type(model).__name__}"
            )
        self.memory = _memory(model)
        self.device = _device(device)
        self.model = model.to(self.device)
        self.criterion = criterion
        self.progress = progress
        config = _DEFAULTS if self.memory is None else self.memory.config
        self.batch_size = config.batch_size if batch_size is None else batch_size
        _check_count("batch_size", self.batch_size)
        if optimizer is None:
            optimizer = _adam(
                model, config.learning_rate if learning_rate is None else learning_rate
            )
        _check_optimizer(optimizer, model)
        self.optimizer = optimizer
        # The order of samples follows torch.manual_seed without drawing from its generator.
        self._order = torch.Generator().manual_seed(torch.initial_seed())

    def fit(self, train_data: Any, epochs: int = 1) -> list[float]:
        """Train weights and memory; the memory is in TRAIN mode meanwhile.

        For every batch: reset the memory's navigation state, forward, loss, backward, optimizer
        step, ``model.observe(targets)``, ``memory.update_topology()``. After every epoch
        ``memory.save()``. Modes are restored at the end, also after an error.

        A KeyboardInterrupt waits for the end of the step under way, saves the memory and ends the
        training without an error. A second one is raised at once.

        Parameters
        ----------
        train_data : DataLoader, Dataset, or list of (input, target) pairs
            See `aesg.data.adapt_data`. Lists and map-style Datasets are shuffled.
        epochs : int
            Passes over the data, at least 1.

        Returns
        -------
        list of float
            Average loss of each epoch, weighted by samples. After an interrupt the last entry is
            the average of the unfinished epoch, if it had a batch.

        Raises
        ------
        AESGTrainingError
            If the data cannot be trained on, or a loss is not finite: the step that gave it has
            changed neither weights nor memory.
        """
        _check_count("epochs", epochs)
        batches = adapt_data(
            train_data, self.batch_size, shuffle=True, generator=self._order, epochs=epochs
        )
        averages: list[_Average] = []
        with self._in_mode(MemoryMode.TRAIN, training=True):
            try:
                self._train(batches, epochs, averages)
            except KeyboardInterrupt:
                if self.memory is not None:
                    self.memory.reset_state()
                    self.memory.save()
                _log.warning(
                    "training interrupted in epoch %d of %d; what was learned so far is kept",
                    len(averages),
                    epochs,
                )
        return [average.value for average in averages if average.samples]

    def evaluate(
        self, test_data: Any, *, mode: MemoryMode | str = MemoryMode.INFERENCE
    ) -> dict[str, float]:
        """Return the average loss over some data; weights never change.

        The model is in eval mode and the memory in ``mode`` meanwhile; both are restored.

        Parameters
        ----------
        test_data : DataLoader, Dataset, or list of (input, target) pairs
            Read in its own order.
        mode : MemoryMode or str
            INFERENCE learns and writes nothing. ONLINE learns while it reads: the memory takes
            each batch in after its loss has been counted, and is saved at the end.

        Returns
        -------
        dict
            ``"loss"``: the average, weighted by samples; infinite or NaN where the losses are.

        Raises
        ------
        AESGTrainingError
            If the data cannot be judged.
        AESGMemoryError
            If there is no such mode.
        """
        average = _Average()
        batches = adapt_data(test_data, self.batch_size, shuffle=False)
        mode = MemoryMode.parse(mode)
        with self._in_mode(mode, training=False), torch.no_grad():
            for number, batch in enumerate(batches, 1):
                moved = self._moved(batch)
                average.add(self._loss(moved, f"batch {number}").item(), batch)
                if mode is not MemoryMode.INFERENCE:
                    self._teach(moved)
            if self.memory is not None and mode is not MemoryMode.INFERENCE:
                self.memory.save()
        return {"loss": average.value}

    @overload
    def predict(self, inputs: Tensor) -> Tensor: ...

    @overload
    def predict(self, inputs: Iterable[Tensor]) -> list[Tensor]: ...

    def predict(self, inputs: Tensor | Iterable[Tensor]) -> Tensor | list[Tensor]:
        """Return what the model gives; nothing is learned or written.

        The model is in eval mode and the memory in INFERENCE mode meanwhile; both are restored.

        Parameters
        ----------
        inputs : (B, ...) tensor, or iterable of them
            One batch, or several.

        Returns
        -------
        tensor, or list of tensors
            The output of the batch, or of each, on the trainer's device.

        Raises
        ------
        AESGTrainingError
            If an input is not a tensor.
        """
        with self._in_mode(MemoryMode.INFERENCE, training=False), torch.no_grad():
            if isinstance(inputs, Tensor):
                output: Tensor = self._forward(inputs.to(self.device))
                return output
            return [self._forward(batch.to(self.device)) for batch in adapt_inputs(inputs)]

    def _train(self, batches: Batches, epochs: int, averages: list[_Average]) -> None:
        bar = TrainingProgress(self.progress, epochs, batches.total, _counter(self.memory))
        with Interrupts() as interrupts, bar:
            for epoch in range(1, epochs + 1):
                average = _Average()
                averages.append(average)
                bar.start_epoch(epoch)
                for number, batch in enumerate(batches, 1):
                    with interrupts.step():
                        loss = self._step(self._moved(batch), f"epoch {epoch}, batch {number}")
                        average.add(loss, batch)
                    bar.advance(average.value)
                if self.memory is not None:
                    self.memory.save()

    def _step(self, batch: Batch, where: str) -> float:
        self.optimizer.zero_grad()
        loss = self._loss(batch, where)
        value = trainable_value(loss, where)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._teach(batch)
        return value

    def _teach(self, batch: Batch) -> None:
        """Tell the memory what the forward pass just made led to."""
        observe = getattr(self.model, "observe", None)
        if callable(observe):
            observe(batch[1])
        if self.memory is not None:
            self.memory.update_topology()

    def _loss(self, batch: Batch, where: str) -> Tensor:
        inputs, targets = batch
        return batch_loss(self.criterion, self._forward(inputs), targets, where)

    def _forward(self, inputs: Tensor) -> Any:
        if self.memory is not None:
            self.memory.reset_state()  # no batch depends on the one before it
        return self.model(inputs)

    def _moved(self, batch: Batch) -> Batch:
        inputs, targets = batch
        return inputs.to(self.device), targets.to(self.device)

    @contextmanager
    def _in_mode(self, mode: MemoryMode, *, training: bool) -> Iterator[None]:
        """Switch model and memory for a block, and back however the block ends."""
        flags = [(module, module.training) for module in self.model.modules()]
        before = None if self.memory is None else self.memory.mode
        try:
            self.model.train(training)
            if self.memory is not None:
                self.memory.set_mode(mode)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            if self.memory is not None and before is not None:
                self.memory.reset_state()  # drops what a step that failed has queued
                self.memory.set_mode(before)


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that CUDA is there
        reason = str(error).partition("\n")[0]
        raise AESGTrainingError(
            f"device: expected one that torch can use here, such as 'cpu', got {device!r}: {reason}"
        ) from error
    return found


def _memory(model: nn.Module) -> Memory | None:
    memory = getattr(model, "memory", None)
    if isinstance(memory, Memory):
        return memory
    warnings.warn(
        f"{type(model).__name__} has no AESG memory: neural-only mode, only weights are trained",
        stacklevel=3,
    )
    return None


def _counter(memory: Memory | None) -> Callable[[], tuple[int, int]] | None:
    if memory is None:
        return None
    storage = memory.storage
    return lambda: (storage.node_count, storage.edge_count)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AESGTrainingError(f"{name}: expected an integer >= 1, got {value!r}")


def _adam(model: nn.Module, learning_rate: float) -> Adam:
    if not 0 < learning_rate < math.inf:
        raise AESGTrainingError(
            f"learning_rate: expected a finite number > 0, got {learning_rate!r}"
        )
    parameters = list(model.parameters())
    if not parameters:
        raise AESGTrainingError(
            f"model: expected at least one parameter to train, {type(model).__name__} has none"
        )
    return Adam(parameters, lr=learning_rate)


def _check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    if not isinstance(optimizer, Optimizer):
        raise AESGTrainingError(
            f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise AESGTrainingError(
            f"optimizer: expected one that holds parameters of {type(model).__name__}, "
            f"got {len(held)} parameters of something else"
        )
