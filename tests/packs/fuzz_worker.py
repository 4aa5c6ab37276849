"""A process of its own in which packs are judged, with little memory and little time for each."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_ROOT = Path(__file__).parents[2]

#: What the process may use beyond what it has when the first pack comes.
ROOM = 512 << 20
SECONDS = 30


@dataclass(frozen=True)
class Verdict:
    """What came of a file.

    Parameters
    ----------
    outcome : {"refused", "loaded", "wrong", "died"}
    seconds : float
        Processor time.
    bytes : int
        Most memory that the process used since the first file of the kind, beyond what it had.
    note : str
        Of one that is not as it should be.
    """

    outcome: str
    seconds: float = 0.0
    bytes: int = 0
    note: str = ""


class Worker:
    """Runs the process, and another one after it died.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._process: subprocess.Popen[str] | None = None

    def judge(self, kind: str, seed: int) -> Verdict:
        """Judge the mutant of a kind and a seed."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([kind, seed]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return Verdict(**json.loads(answer))
        self.stop()
        return Verdict("died", note=f"exit status {process.returncode}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        folder = self._folder / f"worker-{self._started}"
        folder.mkdir(parents=True)
        self._started += 1
        return subprocess.Popen(
            [sys.executable, "-m", "tests.packs.fuzz_worker", str(folder)],
            cwd=_ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "AESG_CACHE": str(folder / "cache")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


@contextmanager
def worker(folder: Path) -> Iterator[Worker]:
    """Give a worker, and end its process after the block."""
    found = Worker(folder)
    try:
        yield found
    finally:
        found.stop()


def main(folder: Path) -> None:
    """Judge what standard input names until it ends."""
    import torch

    from tests.packs import fuzz_migration
    from tests.packs.fuzz_judge import Judge, mutant, sources

    torch.set_num_threads(1)
    logging.disable()
    os.chdir(folder)
    packs, judge = sources(folder / "sound"), Judge(folder)
    files = fuzz_migration.sound(folder / "earlier")

    def outcome(kind: str, seed: int) -> Callable[[], str]:
        if kind in fuzz_migration.KINDS:
            return partial(fuzz_migration.outcome, kind, seed, files, folder)
        return partial(judge.outcome, mutant(kind, seed, packs))

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ROOM, hard))
    last, before = "", 0
    for line in sys.stdin:
        kind, seed = json.loads(line)
        if kind != last:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            last, before = kind, _status("VmHWM")
        print(json.dumps(_measured(outcome(kind, seed), before)), flush=True)
    judge.close()


def _measured(outcome: Callable[[], str], before: int) -> dict[str, object]:
    began = time.process_time()
    signal.alarm(SECONDS)
    note = ""
    try:
        found = outcome()
    except AssertionError as error:
        found, note = "wrong", str(error)
    except Exception as error:
        found, note = "died", repr(error)
    signal.alarm(0)
    seconds = time.process_time() - began
    used = max(0, _status("VmHWM") - before)
    return {"outcome": found, "seconds": seconds, "bytes": used, "note": note[:300]}


def _status(name: str) -> int:
    """Return a size that the kernel knows of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
