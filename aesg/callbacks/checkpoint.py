"""Checkpoints while training runs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aesg._seam import storage_errors
from aesg.callbacks.base import Callback, Logs, Trainer
from aesg.callbacks.following import Following
from aesg.callbacks.monitor import Monitor
from aesg.callbacks.paths import absolute, check_alone
from aesg.checkpoint.contents import STATE, require_replaceable
from aesg.checkpoint.folders import discard, sweep, try_out
from aesg.checkpoint.saving import check_apart, resolved_place
from aesg.errors import AESGStorageError, AESGTrainingError
from aesg.trainable import check_count
from storage_backends.errors import StoreError
from storage_backends.layout import sync_folder

_BEST = "best"
_NAME = re.compile(r"epoch_(\d+)")

_log = logging.getLogger(__name__)


class Checkpoint(Callback):
    """Saves the trainer at the end of epochs, in folders ``epoch_1``, ``epoch_2`` and so on.

    It is called behind all other callbacks, wherever it stands among them, so that a checkpoint
    has what they know of the epoch. Only folders that it wrote itself are ever removed: those that
    it wrote before `AESGTrainer.resume` too, but none that were in ``path`` before the first epoch,
    and none in which there is something else by now. With another trainer it begins anew.

    Parameters
    ----------
    save_every : int
        Epochs from one checkpoint to the next, at least 1.
    path : str or path
        The folder that they are in; it is made.
    keep_last : int, optional
        How many of these stay, at least 1; older ones are removed. Default: all.
    keep_best : bool
        Whether the best epoch so far is saved and stays as well, whatever ``save_every`` and
        ``keep_last`` are. The link ``best`` in the folder leads to it.
    monitor : str, optional
        What of the epoch's logs says which is best. Default: "loss".
    mode : {"auto", "min", "max"}
        Whether smaller or greater is better; "auto" goes by the name.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described.
    """

    runs_last = True

    def __init__(
        self,
        save_every: int = 1,
        path: str | os.PathLike[str] = "./checkpoints",
        *,
        keep_last: int | None = None,
        keep_best: bool = False,
        monitor: str | None = None,
        mode: str = "auto",
    ) -> None:
        check_count("save_every", save_every)
        if not isinstance(keep_best, bool):
            raise AESGTrainingError(f"keep_best: expected True or False, got {keep_best!r}")
        if monitor is not None and not keep_best:
            raise AESGTrainingError(
                f"monitor: expected keep_best=True beside monitor={monitor!r}, got {keep_best!r}: "
                "nothing else asks which epoch is best"
            )
        if keep_last is not None:
            check_count("keep_last", keep_last)
        self.save_every = save_every
        self.path = absolute(path)
        self.keep_last = keep_last
        self._monitor = Monitor(monitor or "loss", mode) if keep_best else None
        self._written: list[int] = []  # completed epochs, oldest first
        self._best: int | None = None
        self._best_value: float | None = None
        self._following = Following()

    @staticmethod
    def newest(path: str | os.PathLike[str] = "./checkpoints") -> Path | None:
        """Return the checkpoint that was written last, for `AESGTrainer.resume`.

        Parameters
        ----------
        path : str or path
            As given to `Checkpoint`.

        Returns
        -------
        Path or None
            None where there is none yet.
        """
        folder = absolute(path)
        sweep(folder)  # a save that was cut off may have to be completed
        found = [each for each in _checkpoints_in(folder) if (each / STATE).exists()]
        return max(found, key=_age_of, default=None)

    @property
    def best_path(self) -> Path | None:
        """The checkpoint of the best epoch, with ``keep_best`` and after the first."""
        return None if self._best is None else self._folder(self._best)

    def on_train_start(self, logs: Logs) -> None:
        """Make sure that checkpoints can be written, and tell of those of an earlier training."""
        check_alone(self, Checkpoint)
        if self._monitor is not None:
            self._monitor.require(logs)
        if self.trainer is not None:
            self._begin(self.trainer)
        with storage_errors(f"write checkpoints into '{self.path}'"):
            try_out(self.path / _BEST)
        if self._best is not None and self._folder(self._best).exists():
            self._link(self._best)  # it may lead to an epoch that came after the one resumed from

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Save, link and remove."""
        done = epoch + 1
        before = self.state_dict()
        better = self._is_best(done, logs)
        if self.trainer is None or not (better or done % self.save_every == 0):
            return
        self._written = [*(each for each in self._written if each != done), done]
        try:
            self.trainer.save(self._folder(done))
        except BaseException:
            self._adopt(before)
            raise
        if better:
            self._link(done)
        for each in self._superfluous():
            self._discard(each)

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoints it wrote, and which is best."""
        return {
            "path": str(self.path),
            "written": list(self._written),
            "best": self._best,
            "best_value": self._best_value,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these; with another path, none of them is touched."""
        self._adopt(state)
        self._following.resume()

    def _begin(self, trainer: Trainer) -> None:
        """See that checkpoints to come are apart from the memory, and forget another training."""
        to_come = [each for each in _checkpoints_in(self.path) if _epoch_of(each) > trainer.epoch]
        for each in (self._folder(trainer.epoch + 1), *to_come):
            check_apart(resolved_place(each), trainer.memory)
        if self._following.goes_on(trainer) and trainer.epoch:
            return
        self._written, self._best, self._best_value = [], None, None
        if to_come:
            _log.warning(
                "'%s' holds checkpoints of an earlier training, from epoch_%d on: those of the "
                "same epochs are replaced",
                self.path,
                min(map(_epoch_of, to_come)),
            )

    def _adopt(self, state: Mapping[str, Any]) -> None:
        same = state["path"] == str(self.path)
        self._written = list(state["written"]) if same else []
        self._best = state["best"] if same else None
        self._best_value = state["best_value"]

    def _is_best(self, done: int, logs: Logs) -> bool:
        if self._monitor is None:
            return False
        value = self._monitor.value(logs)
        if not self._monitor.improves(value, self._best_value):
            return False
        self._best, self._best_value = done, value
        return True

    def _superfluous(self) -> list[int]:
        """Return the checkpoints that need not stay; the one just written always does."""
        regular = [each for each in self._written if each % self.save_every == 0]
        kept = {*regular[-(self.keep_last or len(regular)) :], self._best, self._written[-1]}
        return [each for each in self._written if each not in kept]

    def _discard(self, done: int) -> None:
        self._written.remove(done)
        folder = self._folder(done)
        if folder.is_symlink() or not (folder / STATE).exists():
            return  # it is gone, or something else has taken its place
        try:
            require_replaceable(folder)
            discard(folder)
        except (AESGStorageError, StoreError) as error:
            _log.warning("checkpoint '%s' stays: %s", folder, error)

    def _link(self, done: int) -> None:
        """Let the link ``best`` lead to a checkpoint; the path can be moved as a whole."""
        link = self.path / _BEST
        made = link.with_name(f".{_BEST}.new")
        if link.exists() and not link.is_symlink():
            raise AESGStorageError(f"Checkpoint '{link}': expected a link or nothing, found a file")
        with storage_errors(f"link checkpoint '{link}'"):
            made.unlink(missing_ok=True)
            made.symlink_to(self._folder(done).name)
            made.replace(link)
            sync_folder(self.path)

    def _folder(self, done: int) -> Path:
        return self.path / f"epoch_{done}"


def _checkpoints_in(path: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [each for each in path.iterdir() if _NAME.fullmatch(each.name)]
    return []


def _age_of(folder: Path) -> tuple[int, int]:
    """Return when a checkpoint was written, and its epoch."""
    return (folder / STATE).stat().st_mtime_ns, _epoch_of(folder)


def _epoch_of(folder: Path) -> int:
    return int(folder.name.removeprefix("epoch_"))
