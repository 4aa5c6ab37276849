"""Ends training when it does not get better any more."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from aesg.callbacks.base import Callback, Logs
from aesg.callbacks.following import Following
from aesg.callbacks.monitor import Monitor
from aesg.callbacks.snapshot import Snapshot
from aesg.checkpoint.protocol import Copyable
from aesg.errors import AESGTrainingError
from aesg.trainable import check_count

#: The state before the first epoch.
_NEW: Mapping[str, Any] = {
    "best": None,
    "best_epoch": None,
    "best_at": None,
    "waited": 0,
    "snapshot": {},
}

_log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Stops training when a number of the logs has not become better for some epochs.

    A `fit` behind the one that it stopped waits for as many epochs again, and one of another
    trainer begins anew.

    Parameters
    ----------
    patience : int
        Epochs in a row without a better number that end training, at least 1.
    monitor : str
        Which number of the epoch's logs; with validation data ``"val_loss"`` for instance. NaN is
        never better.
    mode : {"auto", "min", "max"}
        Whether smaller or greater is better; "auto" goes by the name.
    min_delta : float
        What a number must differ by to be better, at least 0.
    restore_best : bool
        Whether the model gets the weights of the best epoch when training ends, also at its last
        epoch or by an interrupt, but not by an error; and the memory what it held then. Weights
        are kept in main memory and a copy of the memory beside its directory meanwhile, and both
        are part of checkpoints. The optimizer stays as it is.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described.
    """

    def __init__(
        self,
        patience: int = 5,
        monitor: str = "loss",
        mode: str = "auto",
        min_delta: float = 0.0,
        restore_best: bool = False,
    ) -> None:
        check_count("patience", patience)
        if not isinstance(restore_best, bool):
            raise AESGTrainingError(f"restore_best: expected True or False, got {restore_best!r}")
        self.patience = patience
        self.restore_best = restore_best
        self._monitor = Monitor(monitor, mode, min_delta)
        self._best: float | None = None
        self._best_epoch: int | None = None
        self._best_at: int | None = None  # completed epochs when model and memory were the best
        self._waited = 0
        self._snapshot: Snapshot | None = None  # while `fit` runs
        self._held: Mapping[str, Any] = {}  # of a snapshot, until `fit` runs
        self._following = Following()

    @property
    def best(self) -> float | None:
        """The best number so far; None before the first epoch."""
        return self._best

    @property
    def best_epoch(self) -> int | None:
        """Its epoch, counted from 0."""
        return self._best_epoch

    def on_train_start(self, logs: Logs) -> None:
        """Begin to wait, or go on with it."""
        self._monitor.require(logs)
        trainer = self.trainer
        done = 0 if trainer is None else trainer.epoch
        if trainer is not None and not self._following.goes_on(trainer):
            self._adopt(_NEW)
        self._go_on(done)
        if not self.restore_best or trainer is None:
            return
        if trainer.memory is not None and not isinstance(trainer.memory, Copyable):
            warnings.warn(
                f"restore_best: only weights go back to the best epoch, as "
                f"{type(trainer.memory).__name__} has no copy(destination) and restore(source)",
                stacklevel=2,
            )
        self._snapshot = Snapshot(trainer.model, trainer.memory)
        self._snapshot.open()
        if self._held:
            self._snapshot.load_state_dict(self._held)
            self._held = {}
        elif self._best_at == done:
            self._snapshot.take()
        else:
            self._best_at = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare, and stop the trainer when it is enough."""
        value = self._monitor.value(logs)
        if self._monitor.improves(value, self._best):
            if self._snapshot is not None:
                self._snapshot.take()
            self._best, self._best_epoch, self._waited = value, epoch, 0
            self._best_at = epoch + 1
            return
        self._waited += 1
        if self._waited >= self.patience and self.trainer is not None:
            self.trainer.stop(self._reason())

    def on_train_end(self, logs: Logs) -> None:
        """Bring the best epoch back."""
        trainer, snapshot = self.trainer, self._snapshot
        if trainer is None or snapshot is None or self._best_epoch is None:
            return
        if not snapshot.is_taken:
            _log.warning(
                "restore_best: epoch %d was best, before this training began: nothing is restored",
                self._best_epoch + 1,
            )
        elif logs["interrupted"] or self._best_at != trainer.epoch:
            snapshot.put_back()
            self._best_at = trainer.epoch
            _log.info(
                "weights and memory are those of epoch %d again, with %s %.6g",
                self._best_epoch + 1,
                self._monitor.name,
                self._best,
            )

    def teardown(self, error: BaseException | None) -> None:
        """Remove the copy of the memory."""
        if self._snapshot is not None:
            self._snapshot.clear()
            self._snapshot = None
        if error is not None:
            self._best_at = None  # part of another epoch may have been learned

    def state_dict(self) -> dict[str, Any]:
        """Return the best number, how long it was waited since, and the best weights and memory."""
        snapshot = self._held if self._snapshot is None else self._snapshot.state_dict()
        return {
            "best": self._best,
            "best_epoch": self._best_epoch,
            "best_at": self._best_at,
            "waited": self._waited,
            "snapshot": dict(snapshot),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._adopt(state)
        self._following.resume()

    def _adopt(self, state: Mapping[str, Any]) -> None:
        self._best, self._best_epoch = state["best"], state["best_epoch"]
        self._best_at, self._waited = state["best_at"], state["waited"]
        self._held = state["snapshot"] if self.restore_best else {}

    def _go_on(self, done: int) -> None:
        """Forget what belongs to another training, or to epochs that were given up by `load`."""
        if done <= (self._best_epoch or 0):
            self._adopt(_NEW)
        since = done if self._best_epoch is None else done - self._best_epoch - 1
        self._waited = min(self._waited, since)
        if self._waited >= self.patience:
            self._waited = 0

    def _reason(self) -> str:
        name, best = self._monitor.name, self._best
        since = (
            f"not better than {best:.6g} in epoch {self._best_epoch + 1}"
            if best is not None and self._best_epoch is not None
            else "never a number"
        )
        return f"{name} was {since}, for {self._waited} epochs"
