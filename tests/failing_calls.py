"""Lets one call of the operating system fail, or the process die in it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

#: What changes files, or waits for them.
_CALLS = ("mkdir", "rename", "replace", "fsync", "write", "unlink", "rmdir")


class Calls:
    """Counts calls; at one of them something happens first."""

    def __init__(self, number: int | None, act: Callable[[], object]) -> None:
        self.names: list[str] = []
        self._number = number
        self._act = act

    def counted(self, name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            self.names.append(name)
            if len(self.names) - 1 == self._number:
                self._act()
            return call(*arguments, **options)

        return counting


@contextmanager
def at_call(number: int | None, act: Callable[[], object] = lambda: None) -> Iterator[Calls]:
    """Do something before the ``number``-th call, from 0, that the block makes."""
    calls = Calls(number, act)
    with ExitStack() as stack:
        for name in _CALLS:
            stack.enter_context(patch.object(os, name, calls.counted(name)))
        yield calls


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_broken() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupted() -> None:
    raise KeyboardInterrupt
