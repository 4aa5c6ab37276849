"""The processes of the demonstration: how they start, say that they are ready, and end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import click

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0


class Program:
    """A Python module that runs beside the block, in a process that does not outlive it.

    Parameters
    ----------
    name : str
        What it is called here.
    folder : Path
        Where its output goes: to ``name.out`` and ``name.log``.
    arguments : str
        What follows ``python -m``.
    environment : mapping, optional
        Variables that it gets besides those of this process.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=out,
                stderr=log,
                cwd=_ROOT,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def process_id(self) -> int:
        """Number of the process."""
        return self._process.pid

    def wait_for(self, pattern: str, file: Path) -> re.Match[str]:
        """Wait until a pattern stands in one of its files, and return where.

        Raises
        ------
        click.ClickException
            If it ends before, or takes minutes.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = self._process.poll() is not None  # looked at first: its last words count
            if found := re.search(pattern, file.read_text()):
                return found
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else "says nothing"
                raise click.ClickException(f"{self.name} {what}\n{self.log.read_text()}")
            time.sleep(0.05)

    def end(self) -> int:
        """Ask it to end with SIGTERM, wait, and return its exit status."""
        self._process.terminate()
        return self._process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        self._process.kill()
        self._process.wait()


def run_module(*arguments: str) -> tuple[int, str]:
    """Run a module to its end; return its exit status, and all that it printed."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=_ROOT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout.rstrip()
