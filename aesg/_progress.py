"""Bars that long work shows on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from storage_backends.progress import Progress as Report
from storage_backends.progress import silent

#: Work that is done sooner shows nothing.
_DELAY_SECONDS = 2.0


@contextmanager
def reporting(wanted: bool | Report | None, delay: float = _DELAY_SECONDS) -> Iterator[Report]:
    """Return what work is to tell how far it is, for as long as the block runs.

    Parameters
    ----------
    wanted : bool or callable, optional
        A callable is told itself. True shows bars on standard error, None does where that is a
        terminal, False does not.
    delay : float
        Seconds from which there are bars.
    """
    if callable(wanted):
        yield wanted
        return
    console = Console(stderr=True)
    if wanted is False or (wanted is None and not console.is_terminal):
        yield silent
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    bars = Progress(*columns, console=console, transient=True)
    tasks: dict[str, TaskID] = {}
    began = time.monotonic()

    def report(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(step)
        bars.update(tasks[step], completed=done, total=total or None)
        if time.monotonic() - began >= delay:
            bars.start()  # a second call does nothing

    try:
        yield report
    finally:
        bars.stop()
