"""Ctrl-C between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Interrupts:
    """Hold a KeyboardInterrupt back while a step is under way.

    An optimizer step or a memory update that stops half-way leaves weights or memory that belong
    to no batch. Inside `step` the first SIGINT therefore waits for the end of the step; a second
    one does not wait, and outside `step` none does. A handler that the program installed itself is
    left alone, and so are threads other than the main one, which Python never interrupts.
    """

    def __init__(self) -> None:
        self._holding = False
        self._pending = False
        self._installed = False

    def __enter__(self) -> Interrupts:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a block whole; raise the KeyboardInterrupt that came during it at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding and not self._pending:
            self._pending = True
            return
        raise KeyboardInterrupt
