"""A progress bar for training, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

#: Seconds between two drawings.
_INTERVAL = 0.1


class TrainingProgress:
    """Shows epoch, loss, concepts and edges on stderr while a ``with`` block runs.

    Nothing is ever written where it is off, and a terminal that goes away does not stop training.

    Parameters
    ----------
    enabled : bool, optional
        None shows it where stderr is a terminal.
    epochs : int
        Epochs to come.
    total : int, optional
        Batches of one epoch; None where unknown.
    counts : callable, optional
        Returns the numbers of concepts and edges. None where there is no memory.
    """

    def __init__(
        self,
        enabled: bool | None,
        epochs: int,
        total: int | None,
        counts: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._epochs = epochs
        self._counts = counts
        self._drawn = 0.0
        self._bar = _bar() if _is_wanted(enabled) else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, status="")

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()

    def start_epoch(self, epoch: int) -> None:
        """Begin the bar anew for epoch ``epoch``, the first being 1."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.reset(self._task, description=f"epoch {epoch}/{self._epochs}")

    def advance(self, loss: float) -> None:
        """Count one batch; ``loss`` is the epoch's average so far."""
        if self._bar is None:
            return
        self._bar.advance(self._task)
        now = time.monotonic()
        if now - self._drawn >= _INTERVAL or self._bar.finished:
            self._drawn = now
            self._bar.update(self._task, status=self._status(loss))
            with suppress(OSError):
                self._bar.refresh()

    def _status(self, loss: float) -> str:
        if self._counts is None:
            return f"loss {loss:.4f}"
        concepts, edges = self._counts()
        return f"loss {loss:.4f}  concepts {concepts:,}  edges {edges:,}"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise what `TrainingProgress` passes over, where rich would end the program."""
        raise BrokenPipeError


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
