"""Runs the programs of `programs` in forks of a process that has everything loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.torture.judge import Verdict

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.torture.programs")


def environment() -> dict[str, str]:
    """Return the environment of the processes under test."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error",
    }


class Work:
    """One program that was begun.

    Parameters
    ----------
    server : Popen
        The process that forks; it runs one program at a time.
    """

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server
        self.status: int | None = None
        first = self.line()
        assert first is not None and first.startswith("pid "), first
        self._pid = int(first.split()[1])

    def line(self) -> str | None:
        """Return the next line that the program says, None once it has ended."""
        if self.status is not None:
            return None
        assert self._server.stdout is not None
        text = self._server.stdout.readline()
        assert text.endswith("\n"), "the process that forks has died"
        if not text.startswith("ended "):
            return text.rstrip("\n")
        self.status = int(text.split()[1])
        return None

    def kill(self) -> None:
        """Send SIGKILL, unless the program was seen to end."""
        if self.status is None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(self._pid, signal.SIGKILL)

    def rest(self) -> list[str]:
        """Return all further lines."""
        return list(iter(self.line, None))


class Workers:
    """A process that forks to run programs, one at a time; made by `workers`."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def begin(self, program: str, *arguments: object, ahead: int = 0) -> Work:
        """Start a program.

        Parameters
        ----------
        program : str
            Its name in `programs.PROGRAMS`.
        arguments : object
            What it takes, as text.
        ahead : int
            The generation up to which the history is worked out first.
        """
        assert self._server.stdin is not None
        request = {"program": program, "arguments": list(map(str, arguments)), "ahead": ahead}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Work(self._server)

    def judge(
        self, directory: Path, uuid: str = "", *, read_only: bool = False, ahead: int = 0
    ) -> Verdict:
        """Return what `judge.judge` says, in a process of its own, of a memory."""
        flag = "read-only" if read_only else ""
        work = self.begin("examine", directory, uuid, flag, ahead=ahead)
        lines = work.rest()
        if work.status == 0 and len(lines) == 1:
            return Verdict.decode(lines[0])
        kind = "signal" if work.status is not None and work.status < 0 else "exit status"
        return Verdict("died", detail=f"{kind} {work.status}")


@contextmanager
def workers() -> Iterator[Workers]:
    """Run the process that forks beside the block."""
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Workers(process)
        finally:
            process.kill()
