"""A progress bar for training, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from aesg.callbacks.base import Callback, Logs

#: Seconds between two drawings.
_INTERVAL = 0.1


class ProgressBar(Callback):
    """Shows epoch, loss, concepts and edges on stderr.

    Nothing is ever written where it is off, and a terminal that goes away does not stop training.
    The loss is the average of the epoch so far, and the validation loss that of the last one.
    `AESGTrainer` has one by itself, unless one is among its callbacks or ``progress=False``.

    Parameters
    ----------
    enabled : bool, optional
        None shows it where stderr is a terminal.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = enabled
        self._bar: Progress | None = None

    def on_train_start(self, logs: Logs) -> None:
        """Show the bar."""
        self._drawn = 0.0
        self._counts = _counter_of(None if self.trainer is None else self.trainer.memory)
        before = 0 if self.trainer is None else self.trainer.epoch
        self._last = before + logs["epochs"]
        self._judged: float | None = None
        self._bar = _bar() if _is_wanted(self.enabled) else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=logs.get("batches"), status="")
            with suppress(OSError):
                self._bar.start()

    def on_epoch_start(self, epoch: int, logs: Logs) -> None:
        """Begin anew."""
        self._sum, self._samples = 0.0, 0
        if self._bar is not None:
            with suppress(OSError):
                self._bar.reset(self._task, description=f"epoch {epoch + 1}/{self._last}")

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Count one batch."""
        if self._bar is None:
            return
        if "loss" in logs:
            self._sum += logs["loss"] * logs["samples"]
            self._samples += logs["samples"]
        # Batches of which nobody hears, since all their targets are ignored, count as well.
        self._bar.update(self._task, completed=batch + 1)
        if time.monotonic() - self._drawn >= _INTERVAL or self._bar.finished:
            self._draw(self._bar)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Show the validation loss."""
        self._judged = logs.get("val_loss")
        if self._bar is not None:
            self._draw(self._bar)

    def teardown(self, error: BaseException | None) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
            self._bar = None

    def _draw(self, bar: Progress) -> None:
        self._drawn = time.monotonic()
        bar.update(self._task, status=self._status())
        with suppress(OSError):
            bar.refresh()

    def _status(self) -> str:
        parts = [f"loss {self._sum / self._samples:.4f}"] if self._samples else []
        if self._judged is not None:
            parts.append(f"val_loss {self._judged:.4f}")
        if self._counts is not None:
            concepts, edges = self._counts()
            parts += [f"concepts {concepts:,}", f"edges {edges:,}"]
        return "  ".join(parts)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise what `ProgressBar` passes over, where rich would end the program."""
        raise BrokenPipeError


def _counter_of(memory: Any) -> Callable[[], tuple[int, int]] | None:
    """Return what counts the concepts and edges of a memory."""
    if memory is None:
        return None
    storage = memory.storage
    return lambda: (storage.node_count, storage.edge_count)


def _is_wanted(enabled: bool | None) -> bool:
    if enabled is None:
        return sys.stderr is not None and sys.stderr.isatty()
    return enabled


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=_Console(stderr=True),
        # No thread of its own: a DataLoader that forks would copy its locks in any state.
        auto_refresh=False,
        # Else output that is piped elsewhere would go to the terminal.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )
