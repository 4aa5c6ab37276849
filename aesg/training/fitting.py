"""The loop over epochs and batches."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

from aesg.callbacks import Callbacks, ProgressBar
from aesg.data import Batches
from aesg.errors import AESGTrainingError
from aesg.evaluation import domain_of
from aesg.interrupts import Interrupts
from aesg.losses import all_ignored
from aesg.modes import MemoryMode
from aesg.trainable import check_count
from aesg.training.base import TrainerState
from aesg.training.judging import Validation
from aesg.training.randomness import seed_all, undisturbed
from aesg.training.refreshing import counted_commits, keys_move, refresh, sums_of
from aesg.training.reports import Average, MemoryReport
from aesg.training.settings import schedule
from aesg.training.stepping import Stepper

_log = logging.getLogger("aesg.trainer")


class Fitting(TrainerState):
    """What `AESGTrainer` does in `fit`."""

    def fit(
        self,
        train_data: Any,
        epochs: int = 1,
        validation_data: Any = None,
        *,
        validation_metrics: bool = True,
    ) -> list[float]:
        """Train weights and memory; the memory is in TRAIN mode meanwhile.

        For every batch: reset the memory's navigation state, forward, loss,
        ``model.observe(targets)``, backward, optimizer step, ``memory.update_topology()``. After
        every epoch, and again behind its callbacks, ``memory.save()``. At the end, with
        ``refresh_keys``, one pass lets concepts that know their sample have the keys of the trained
        network. Modes are restored at the end, also after an error.

        A KeyboardInterrupt waits for the end of the step under way, of the callbacks of an epoch or
        of the last hooks, saves the memory and ends the training without an error; `refresh` gives
        the keys that are missing then. A second one does not wait, and is raised where training
        ends already. An epoch whose steps or validation were cut off does not count.

        A batch whose targets are all ignored (-100, or the criterion's ``ignore_index``) is passed
        over: neither weights nor memory learn from it, no callback hears of it, and it does not
        count in the average.

        Parameters
        ----------
        train_data : DataLoader, Dataset, or list of (input, target) pairs
            See `aesg.data.adapt_data`. Lists and map-style Datasets are shuffled.
        epochs : int
            Passes over the data, at least 1. Their numbers go on behind those of an earlier call.
        validation_data : DataLoader, Dataset, or list of (input, target) pairs, optional
            Judged behind each epoch, as by `evaluate`.
        validation_metrics : bool
            Whether the metrics of the model's domain belong to it, where the domain is known:
            ``domain``, or else by the name of the model's class.

        Returns
        -------
        list of float
            Average loss of each completed epoch, weighted by samples.

        Raises
        ------
        AESGTrainingError
            If the data cannot be trained on, all its targets are ignored, or a loss is not finite:
            the step that gave it has changed neither weights nor memory.
        """
        self._require_idle("fit")
        _check_epochs(epochs)
        batches = self._batches(train_data, epochs, shuffle=True)
        validation = self._validation(validation_data, epochs, metrics=validation_metrics)
        self._begin(train_data)
        called = self._called()
        losses: list[float] = []
        with self._busy(), called.attached(self), self._training(), Interrupts() as interrupts:
            interrupted = False
            try:
                called.on_train_start(_plan(epochs, batches.total, validation))
                self._train(batches, epochs, losses, called, validation, interrupts)
                self._follow(train_data, interrupts)
            except KeyboardInterrupt:
                interrupted = True
                self._keep_interrupted()
            logs = self._last_logs(interrupted=interrupted, trained=bool(losses))
            try:
                self._finish(train_data, called, logs, interrupts)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                self._keep_interrupted()
        return losses

    def refresh(self, data: Any) -> int:
        """Let the memory's keys follow the network, as `fit` does at its end.

        A checkpoint that was written while `fit` ran has the keys that training goes on with.
        After `load`, to read from it, this gives those that are best to read with. The others are
        kept, as `fit` keeps them: a later `fit` goes on as if nothing had been refreshed.

        One pass over the data without gradient, in eval mode; nothing is learned and no random
        numbers are drawn. Nothing happens where the keys do not follow the network: without a
        memory, with a frozen trunk or a model that says ``keys_drift = False``, and without
        concepts that know their sample.

        Parameters
        ----------
        data : DataLoader, Dataset, or list of (input, target) pairs
            What the concepts were learned from: only where a sample comes again is it known which
            of them are its own.

        Returns
        -------
        int
            Concepts, provisional ones too, that have other keys now than those that training goes
            on with.

        Raises
        ------
        AESGTrainingError
            If `fit` is under way, or the data cannot be trained on.
        AESGMemoryError, AESGStorageError
            If the memory cannot be written.
        """
        self._require_idle("refresh")
        self._batches(data)  # judged before anything changes
        with self._busy(), self._training(), Interrupts() as interrupts:
            self._refresh(data, interrupts)
        return len(self._keys)

    def stop(self, reason: str = "") -> None:
        """End `fit` after the epoch under way; for callbacks.

        Parameters
        ----------
        reason : str
            Is logged, and ``logs["reason"]`` in `on_train_end`. Without a `fit` under way the call
            does nothing.
        """
        self._reason = reason

    def _begin(self, train_data: Any) -> None:
        """Seed what is to be seeded, and go on with the order of samples where it was left."""
        if self.seed is not None and not self._is_seeded:
            seed_all(self.seed)
            self._order.manual_seed(self.seed)
        self._is_seeded, self._reason = True, None
        self._doing = "before the first epoch"
        self._loader.of(train_data)

    def _require_idle(self, method: str) -> None:
        if self._fits:
            raise AESGTrainingError(
                f"{method}: expected to be called when fit has returned, got a call within it"
            )

    def _called(self) -> Callbacks:
        """Return the callbacks, with a progress bar behind them unless there is one."""
        if self.progress is False or any(isinstance(each, ProgressBar) for each in self.callbacks):
            return self.callbacks
        return Callbacks([*self.callbacks, ProgressBar(self.progress)])

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Let no other `fit` or `refresh` begin within a block."""
        self._fits = True
        try:
            yield
        finally:
            self._fits = False

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Let model and memory train for a block."""
        with (
            self._passes.in_mode(MemoryMode.TRAIN, training=True),
            counted_commits(self.memory),
            self._keys.of_training(),
        ):
            yield

    def _validation(self, data: Any, epochs: int, *, metrics: bool) -> Validation | None:
        if data is None:
            return None
        try:
            batches = self._batches(data, epochs)
        except AESGTrainingError as error:
            raise AESGTrainingError(f"validation_data: {error.message}") from error
        return Validation(batches, (self.domain or domain_of(self.model)) if metrics else None)

    def _train(
        self,
        batches: Batches,
        epochs: int,
        losses: list[float],
        called: Callbacks,
        validation: Validation | None,
        interrupts: Interrupts,
    ) -> None:
        stepper = self._stepper(batches)
        for number in range(1, epochs + 1):
            if self._reason is not None:
                reason = self._reason or "asked to"
                _log.warning("training stopped after epoch %d: %s", self.epoch, reason)
                return
            self._doing = f"in epoch {number} of {epochs}"
            began, report = time.perf_counter(), MemoryReport(self.memory)
            self._rate = self.learning_rate
            called.on_epoch_start(self.epoch, {})
            average = self._train_epoch(batches, stepper, called, interrupts)
            done = report.logs()
            if number == 1 and report.has_learned_nothing:
                _log.warning(
                    "the memory was asked in epoch %d and learned nothing: it is at rest, or this "
                    "process only reads it (a data worker, or forked from the one that writes)",
                    self.epoch + 1,
                )
            judged = {} if validation is None else validation.logs(self._passes)
            with interrupts.step():  # an epoch that counts is one that all callbacks have seen
                seconds = time.perf_counter() - began
                logs = self._count_epoch(average, {**judged, **done, "seconds": seconds})
                losses.append(average.value)
                self._doing = f"behind epoch {number} of {epochs}"
                called.on_epoch_end(self.epoch - 1, logs)
                if logs.pop("stop_training", False):
                    self.stop("logs['stop_training'] was set")
                self._save_memory()

    def _train_epoch(
        self,
        batches: Batches,
        stepper: Stepper,
        called: Callbacks,
        interrupts: Interrupts,
    ) -> Average:
        """Learn from each batch, and save the memory: validation reads what a checkpoint holds."""
        passes, where, average = self._passes, f"epoch {self.epoch + 1}", Average()
        for number, batch in enumerate(batches):
            if all_ignored(self.criterion, batch[1]):
                continue
            called.on_batch_start(number, {})
            with interrupts.step():
                moved = passes.moved(batch)
                loss = stepper.take(moved, f"{where}, batch {number + 1}")
                samples = average.add(loss, moved[1])
            logs = {"loss": loss, "samples": samples, "global_step": self.global_step}
            called.on_batch_end(number, logs)
        if not average.samples:
            raise AESGTrainingError(
                f"{where}: expected targets to learn from, got none that is not ignored (-100, or "
                "the criterion's ignore_index)"
            )
        with interrupts.step():
            stepper.finish(f"{where}, its end")
            self._save_memory()
        return average

    def _count_epoch(self, average: Average, found: dict[str, Any]) -> dict[str, Any]:
        """Count an epoch and let the scheduler go on; return its logs, with what was found."""
        monitored = found.get("val_loss", average.value)
        if self.scheduler_step == "epoch":
            schedule(self.scheduler, monitored)
        self.epoch += 1
        self.best_loss = min(self.best_loss, monitored)
        logs = {
            "loss": average.value,
            "epoch": self.epoch,
            "global_step": self.global_step,
            "learning_rate": self._rate,
            "samples": average.samples,
            **found,
        }
        self.history.append(logs)
        return logs

    def _stepper(self, batches: Batches) -> Stepper:
        return Stepper(
            self._passes,
            self.optimizer,
            self.scaler,
            self.accumulate,
            self.max_grad_norm,
            self._count_step,
            batches.name_of,
        )

    def _count_step(self) -> None:
        self.global_step += 1
        self._rate = self.learning_rate
        if self.scheduler_step == "batch":
            schedule(self.scheduler, math.nan)

    def _last_logs(self, *, interrupted: bool, trained: bool) -> dict[str, Any]:
        """Return what the last hooks are told."""
        stopped = self._reason is not None
        logs = {"interrupted": interrupted, "stopped": stopped}
        why = {"reason": self._reason} if stopped else {}
        return {**(self.history[-1] if trained else {}), **logs, **why}

    def _finish(
        self, train_data: Any, called: Callbacks, logs: dict[str, Any], interrupts: Interrupts
    ) -> None:
        """Call the last hooks; where they put other weights in, let the keys follow those too.

        They come behind a refresh, since they may export the memory as it is read from now on.
        """
        before = sums_of(self.model)
        self._doing = "in the last hooks"
        with interrupts.step():  # weights and memory of the best epoch come back together
            called.on_train_end(logs)
        if not logs["interrupted"] and sums_of(self.model) != before:
            self._follow(train_data, interrupts)

    def _follow(self, train_data: Any, interrupts: Interrupts) -> None:
        """Refresh the keys at the end of `fit`, where that is wanted."""
        if self.refresh_keys and not isinstance(train_data, Iterator):  # that allows one pass
            self._doing = "while the memory's keys were refreshed (`refresh` does that later, too)"
            self._refresh(train_data, interrupts)

    def _refresh(self, data: Any, interrupts: Interrupts) -> None:
        """Let the memory's keys follow the network, which stays as it is from here on."""
        if not keys_move(self.model, self.memory):
            return
        with undisturbed(data, self.device), self._keys.refreshed(interrupts):
            refresh(self._passes, self._batches(data), interrupts)

    def _keep_interrupted(self) -> None:
        if self.memory is not None:
            self.memory.reset_state()
        self._save_memory()
        _log.warning("training interrupted %s; what was learned so far is kept", self._doing)

    def _save_memory(self) -> None:
        if self.memory is not None:
            self.memory.save()


def _check_epochs(epochs: object) -> None:
    """Raise `AESGTrainingError` unless epochs are counted; targets may stand in their place."""
    if isinstance(epochs, Sized) and not isinstance(epochs, str):
        raise AESGTrainingError(
            f"epochs: expected an integer >= 1, got a {type(epochs).__name__}: inputs and targets "
            "go in together, as pairs or as TensorDataset(inputs, targets)"
        )
    check_count("epochs", epochs)


def _plan(epochs: int, batches: int | None, validation: Validation | None) -> dict[str, Any]:
    """Return what is told at the start of training."""
    known = {} if batches is None else {"batches": batches}
    return {"epochs": epochs, **known, "validation": validation is not None}
