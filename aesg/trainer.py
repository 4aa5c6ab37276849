"""Trains a model's weights and its memory in one loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aesg.config import AESGConfig
from aesg.data import Batch, Batches, adapt_data, adapt_inputs
from aesg.errors import AESGTrainingError
from aesg.interrupts import Interrupts
from aesg.losses import Criterion, all_ignored, batch_loss, known_targets, trainable_value
from aesg.modes import MemoryMode
from aesg.progress import TrainingProgress
from aesg.trainable import (
    Rekeyable,
    adam,
    check_count,
    check_optimizer,
    counter_of,
    device_of,
    is_compiled,
    memory_of,
    memory_parameters_of,
    tell,
)

#: Of a model without a memory, whose configuration would say otherwise.
_DEFAULTS = AESGConfig()
#: Of the loss of network and memory together, where the network has one of its own: with more, the
#: network comes to lean on the memory; with none, it makes no queries that find.
_SHARED = 0.3

_log = logging.getLogger(__name__)


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

    A model's memory is its attribute ``memory``, or else the one that its parts have. Behind each
    forward pass `fit` calls the model's ``observe(targets)``, so that the memory learns what its
    queries led to; where it has none, that of the part that has the memory, or else the memory's
    own. What `CrossEntropyLoss` or `NLLLoss` ignore, by their ``ignore_index``, is -100 there. A
    model whose attribute ``takes_targets`` is true is called with inputs and targets in `fit` and
    `evaluate` (teacher forcing), and with inputs alone in `predict`. One whose attribute
    ``asks_first`` is true makes its queries before it reads; its keys are refreshed without
    searching.

    Where it has ``own_output()``, what the network said without the memory, or None, `fit` judges
    that too: the network learns most from its own loss, and the parameters that
    ``memory_parameters()`` names from both. The loss that is reported is that of the output.

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
    refresh_keys : bool
        Whether `fit` ends with one more pass over its data, without gradient and in eval mode, in
        which the memory's concepts get the keys that the trained network asks with. A model says
        with ``keys_drift = False`` or a frozen trunk that its keys stay good.
    progress : bool, optional
        Whether `fit` shows a progress bar on stderr. None shows one on a terminal.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described, the device is not there, the model's parts have several
        memories and it has no ``memory`` itself, or a model with a memory is wrapped in
        DataParallel or DistributedDataParallel.
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
        refresh_keys: bool = True,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise AESGTrainingError(
                f"model: expected a torch.nn.Module, got {type(model).__name__}"
            )
        self.memory = memory_of(model)
        self.device = device_of(device)
        self.model = model.to(self.device)
        self.criterion = criterion
        self.progress = progress
        self.refresh_keys = refresh_keys
        config = _DEFAULTS if self.memory is None else self.memory.config
        self.batch_size = config.batch_size if batch_size is None else batch_size
        check_count("batch_size", self.batch_size)
        if optimizer is None:
            optimizer = adam(
                model, config.learning_rate if learning_rate is None else learning_rate
            )
        check_optimizer(optimizer, model)
        self.optimizer = optimizer
        # The order of samples follows torch.manual_seed without drawing from its generator.
        self._order = torch.Generator().manual_seed(torch.initial_seed())

    def fit(self, train_data: Any, epochs: int = 1) -> list[float]:
        """Train weights and memory; the memory is in TRAIN mode meanwhile.

        For every batch: reset the memory's navigation state, forward, loss,
        ``model.observe(targets)``, backward, optimizer step, ``memory.update_topology()``. After
        every epoch ``memory.save()``. At the end, with ``refresh_keys``, one pass lets concepts
        that know their sample have the keys of the trained network. Modes are restored at the end,
        also after an error.

        A KeyboardInterrupt waits for the end of the step under way, saves the memory and ends the
        training without an error. A second one is raised at once.

        A batch whose targets are all ignored (-100, or the criterion's ``ignore_index``) is passed
        over: neither weights nor memory learn from it, and it does not count in the average.

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
            If the data cannot be trained on, all its targets are ignored, or a loss is not finite:
            the step that gave it has changed neither weights nor memory.
        """
        check_count("epochs", epochs)
        batches = adapt_data(
            train_data, self.batch_size, shuffle=True, generator=self._order, epochs=epochs
        )
        averages: list[_Average] = []
        with self._in_mode(MemoryMode.TRAIN, training=True):
            try:
                self._train(batches, epochs, averages)
                self._refresh(train_data)
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
            Batches whose targets are all ignored do not count; NaN where there are no others.

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
                if all_ignored(self.criterion, batch[1]):
                    continue
                moved = self._moved(batch)
                average.add(self._loss(moved, f"batch {number}").item(), batch)
                if mode is not MemoryMode.INFERENCE:
                    self._observe(moved[1])
                    self._learn()
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
        bar = TrainingProgress(self.progress, epochs, batches.total, counter_of(self.memory))
        with Interrupts() as interrupts, bar:
            for epoch in range(1, epochs + 1):
                average = _Average()
                averages.append(average)
                bar.start_epoch(epoch)
                for number, batch in enumerate(batches, 1):
                    if all_ignored(self.criterion, batch[1]):
                        bar.advance(average.value)
                        continue
                    with interrupts.step():
                        loss = self._step(self._moved(batch), f"epoch {epoch}, batch {number}")
                        average.add(loss, batch)
                    bar.advance(average.value)
                if not average.samples:
                    raise AESGTrainingError(
                        f"epoch {epoch}: expected targets to learn from, got none that is not "
                        "ignored (-100, or the criterion's ignore_index)"
                    )
                if self.memory is not None:
                    self.memory.save()

    def _refresh(self, train_data: Any) -> None:
        """Let the memory's keys be those that the network, as it is now, asks with."""
        memory = self.memory
        model = self.model
        drift = getattr(model, "keys_drift", True) and not getattr(model, "trunk_frozen", False)
        if not (self.refresh_keys and drift) or isinstance(train_data, Iterator):
            return  # an iterator allows one pass
        if not isinstance(memory, Rekeyable) or not memory.can_rekey:
            return
        batches = adapt_data(train_data, self.batch_size, shuffle=False)
        first = getattr(model, "asks_first", False)
        with (
            self._in_mode(MemoryMode.TRAIN, training=False),
            memory.asking_only() if first else nullcontext(),
            torch.random.fork_rng(devices=[]),  # a loader may shuffle, and fit be called again
            torch.no_grad(),
            Interrupts() as interrupts,
        ):
            memory.train()  # the model is in eval mode; its memory listens
            for batch in batches:
                if all_ignored(self.criterion, batch[1]):
                    continue
                with interrupts.step():
                    inputs, targets = self._moved(batch)
                    self._forward(inputs, *self._told(targets))
                    self._observe(targets)
                    memory.update_keys()
        memory.save()

    def _step(self, batch: Batch, where: str) -> float:
        self.optimizer.zero_grad()
        loss = self._loss(batch, where)
        value = trainable_value(loss, where)
        self._observe(batch[1])  # targets that do not fit leave the weights as they are
        self._backward(loss, batch[1], where)
        self.optimizer.step()
        self._learn()
        return value

    def _learn(self) -> None:
        """Let the memory learn what the forward pass just made led to."""
        if self.memory is not None:
            self.memory.update_topology()

    def _observe(self, targets: Tensor) -> None:
        tell(self.model, self.memory, known_targets(self.criterion, targets))

    def _loss(self, batch: Batch, where: str) -> Tensor:
        inputs, targets = batch
        output = self._forward(inputs, *self._told(targets))
        return batch_loss(self.criterion, output, targets, where)

    def _backward(self, loss: Tensor, targets: Tensor, where: str) -> None:
        """Let the network learn to do without its memory, and the rest to make the best of both.

        What the memory explains leaves no gradient. Where a model tells what the network said by
        itself, the network learns from that, and little from ``loss``.
        """
        take = getattr(self.model, "own_output", None)
        own = take() if callable(take) else None
        if own is None or not own.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        own_loss = batch_loss(self.criterion, own, targets, where)
        trainable_value(own_loss, where)
        if is_compiled(self.model):  # its graph can be gone through once
            (loss + own_loss).backward()  # type: ignore[no-untyped-call]
            return
        spoken = [each for each in memory_parameters_of(self.model) if each.requires_grad]
        for_all = own_loss + _SHARED * loss
        for_all.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        if spoken:
            rest = (1 - _SHARED) * loss
            rest.backward(inputs=spoken)  # type: ignore[no-untyped-call]

    def _told(self, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what the model is given of the targets."""
        return (targets,) if getattr(self.model, "takes_targets", False) else ()

    def _forward(self, *inputs: Tensor) -> Any:
        if self.memory is not None:
            self.memory.reset_state()  # no batch depends on the one before it
        return self.model(*inputs)

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
