"""Ctrl-C between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeAlias, cast

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class Interrupts:
    """Hold a KeyboardInterrupt back while a step is under way.

    An optimizer step or a memory update that stops half-way leaves weights or memory that belong
    to no batch. Inside `step` the first SIGINT therefore waits for the end of the step; a second
    one does not wait, and outside `step` none does. Inside `whole` all wait. A handler that the
    program installed itself is left alone, and so are threads other than the main one, which
    Python never interrupts. One object within another gives to the outer one what it has held.
    """

    def __init__(self) -> None:
        self._holding = False
        self._pending = False
        self._patient = False
        self._outer: Handler | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            present = signal.getsignal(signal.SIGINT)
            owner = getattr(present, "__self__", None)
            if present is signal.default_int_handler or isinstance(owner, Interrupts):
                self._outer = cast(Handler, present)
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outer is not None:
            signal.signal(signal.SIGINT, self._outer)
            self._outer = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a block whole; raise the KeyboardInterrupt that came during it at its end."""
        self._holding = True
        try:
            yield
        except KeyboardInterrupt:
            self._pending = False  # the one that did not wait stands for both
            raise
        finally:
            self._holding = False
        if self._pending:
            self._pending = False
            self._pass_on(signal.SIGINT, None)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Run a block as `step` does, however many interrupts come; it must be short."""
        self._patient = True
        try:
            with self.step():
                yield
        finally:
            self._patient = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding and (self._patient or not self._pending):
            self._pending = True
            return
        self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._outer or signal.default_int_handler
        handler(number, frame)
