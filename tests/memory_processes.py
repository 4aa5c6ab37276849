"""Runs programs, of `memory_children` and its like, in processes of their own.

Importing torch takes seconds, so a server process imports it once and forks a child each time.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import memory_children

_ROOT = str(Path(__file__).parents[1])
_SECONDS = 60
_context = multiprocessing.get_context("forkserver")
# The second has an optimizer made, for which torch imports much that it does not need before.
_context.set_forkserver_preload([memory_children.__name__, "tests.checkpoint_children"])


class Child:
    """A running program.

    Parameters
    ----------
    program : callable
        A function of a module; it gets a connection, and then the arguments.
    arguments
        Of the program, after its connection.
    """

    def __init__(self, program: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.connection, theirs = _context.Pipe()
        self.process = _context.Process(
            target=memory_children.main, args=(theirs, program, arguments)
        )
        _start(self.process)
        theirs.close()

    def next(self) -> Any:
        """Return what the program says next; None where it ended."""
        assert self.connection.poll(_SECONDS), "the program says nothing"
        try:
            said = self.connection.recv()
        except EOFError:
            return None
        if isinstance(said, BaseException):
            raise said
        return said

    def said(self) -> list[Any]:
        """Return all that the program says until it ends."""
        return list(iter(self.next, None))

    def tell(self, word: object) -> None:
        """Send the program something."""
        self.connection.send(word)

    def kill(self) -> list[Any]:
        """Kill the program with SIGKILL; return what it had said."""
        self.process.kill()
        self.process.join()
        said = []
        while self.connection.poll():
            try:
                said.append(self.connection.recv())
            except (EOFError, OSError):  # the end, or a word cut short
                break
        return said


@contextmanager
def child(program: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """Run a program beside the block, and kill it at the end."""
    running = Child(program, arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.join()
        running.process.close()
        running.connection.close()


def run_child(program: Callable[..., None], *arguments: Any) -> list[Any]:
    """Run a program to its end, which must be a good one; return what it said."""
    with child(program, *arguments) as running:
        said = running.said()
        running.process.join(_SECONDS)
        assert running.process.exitcode == 0
        return said


def _start(process: BaseProcess) -> None:
    """Start a process, from a server that finds the tests and not the script that runs them."""
    script = vars(sys.modules["__main__"])
    with patch.dict(script), patch.dict(os.environ, PYTHONPATH=_ROOT):
        script.pop("__file__", None)
        process.start()
