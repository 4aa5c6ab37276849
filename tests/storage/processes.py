"""Runs programs, such as those of `children`, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SECONDS = 60


def run_child(program: Callable[..., None], *arguments: object, under: Sequence[str] = ()) -> str:
    """Run a program to its end, which must be a good one; return what it printed.

    ``under`` is the command of another program that runs this one.
    """
    done = subprocess.run(
        [*under, *_command(program, arguments)],
        cwd=_ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def child(program: Callable[..., None], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside the block, and kill it at the end."""
    process = subprocess.Popen(
        _command(program, arguments),
        cwd=_ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a child prints; empty where it ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _command(program: Callable[..., None], arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", program.__module__, program.__name__, *map(str, arguments)]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
