"""What a user could pick instead, each a process in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from benchmarks.suite.environments import RECIPES, NoPeerError, installed
from benchmarks.suite.timing import Spent

#: Environments that runs share, and the programs that run in them.
FOLDER = Path(__file__).parents[2] / "build" / "peers"
PROGRAMS = Path(__file__).parents[1] / "peers"
_SIDE = Path(__file__).with_name("_side.py")
_ANSWER_SECONDS = 900
_ONE_THREAD = dict.fromkeys(
    ("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
     "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS"),
    "1",
)  # fmt: skip


class Peer:
    """A process in a peer's environment that does what it is told.

    Its program, ``benchmarks/peers/<name>.py`` with ``_`` for ``-`` and ``.``, imports nothing of
    ours; what it is told by name are its functions, with arguments that JSON or `numpy.save` takes.

    Parameters
    ----------
    name : str
    python : Path
        The interpreter of the environment.
    scratch : Path
        For the arrays that go to and fro.
    program : Path, optional
    """

    def __init__(self, name: str, python: Path, scratch: Path, program: Path | None = None) -> None:
        self.name = name
        self._scratch = scratch
        self._arrays = 0
        self._errors = (scratch / f"{name}.log").open("w+")
        program = program or PROGRAMS / f"{name.replace('-', '_').replace('.', '_')}.py"
        # Isolated, so that no PYTHONPATH leads out of the environment.
        self._process = subprocess.Popen(
            [python, "-I", "-W", "ignore", _SIDE, program, scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | _ONE_THREAD,
        )

    def __call__(self, what: str, *arguments: Any) -> Any:
        """Call a function of the program and return its answer."""
        return self.timed(what, *arguments).answer

    def timed(self, what: str, *arguments: Any) -> Spent:
        """Call a function of the program; return its answer and what it cost there."""
        line = self._tell(json.dumps([what, [self._sent(each) for each in arguments]]))
        if not line:
            raise NoPeerError(
                f"{self.name}: expected an answer to {what}, it ended: {self._said()}"
            )
        told = json.loads(line)
        if "error" in told:
            raise NoPeerError(f"{self.name}: {what} failed: {told['error']}")
        return Spent(told["cpu"], told["wall"], self._received(told["answer"]))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):  # of what an ended process was told in vain
                _there(stream).close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _tell(self, line: str) -> str:
        timer = threading.Timer(_ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            print(line, file=_there(self._process.stdin), flush=True)
            return _there(self._process.stdout).readline()
        except BrokenPipeError:
            return ""
        finally:
            timer.cancel()

    def _sent(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return str(value) if isinstance(value, Path) else value
        self._arrays += 1
        path = self._scratch / f"{self.name}-{self._arrays}.npy"
        np.save(path, value)
        return {"npy": str(path)}

    def _received(self, value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"npy"}:
            return np.load(value["npy"])
        return value

    def _said(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read().strip()[-300:]


class Peers:
    """Peers by name: installed where they are not, and started.

    Parameters
    ----------
    scratch : Path
        Of this run.
    folder : Path
        Of the environments.
    """

    def __init__(self, scratch: Path, folder: Path = FOLDER) -> None:
        self._scratch = scratch
        self._folder = folder
        self._running: dict[str, Peer] = {}

    def get(self, name: str) -> Peer:
        """Return the process of a peer, the same until `close`.

        Raises
        ------
        NoPeerError
            If it cannot be installed here.
        """
        if name not in self._running:
            python = installed(RECIPES[name], self._folder / name)
            self._scratch.mkdir(parents=True, exist_ok=True)
            self._running[name] = Peer(name, python, self._scratch)
        return self._running[name]

    def close(self) -> None:
        """End all processes."""
        while self._running:
            self._running.popitem()[1].close()


def _there(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("expected a process with pipes, got one without")
    return stream
