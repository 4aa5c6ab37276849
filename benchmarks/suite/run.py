"""Runs benchmarks, each in a process of its own, and keeps what they came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.suite.machine import record
from benchmarks.suite.one import RESULT
from benchmarks.suite.result import Result

_ROOT = Path(__file__).parents[2]
_THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Kept:
    """A result with what it was taken on.

    Parameters
    ----------
    result : Result
    machine : dict
        As of `machine.record`.
    quick : bool
    seconds : float
        That it took, by the wall clock.
    """

    result: Result
    machine: Mapping[str, str]
    quick: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return what JSON takes."""
        return {**vars(self), "result": self.result.as_json()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Kept:
        """Return what `as_json` told of."""
        return cls(**{**told, "result": Result.from_json(told["result"])})


def read(file: Path) -> dict[str, Kept]:
    """Return the results of earlier runs; none if there is no file."""
    if not file.exists():
        return {}
    return {name: Kept.from_json(told) for name, told in json.loads(file.read_text()).items()}


def write(results: Mapping[str, Kept], file: Path) -> None:
    """Write results down, whole."""
    told = {name: each.as_json() for name, each in results.items()}
    scratch = file.with_name(f"{file.name}.new")
    scratch.write_text(json.dumps(told, indent=1) + "\n")
    scratch.replace(file)


def run(
    names: Sequence[str],
    folder: Path,
    *,
    quick: bool,
    with_peers: bool,
    say: Callable[[str], None],
) -> tuple[dict[str, Kept], list[str]]:
    """Run benchmarks one behind the other.

    Parameters
    ----------
    names : sequence of str
    folder : Path
        For ``results.json``, which keeps what earlier runs of other names came to, and for scratch.
    quick, with_peers : bool
    say : callable

    Returns
    -------
    results : dict of str to Kept
        Of this run and of earlier ones.
    failed : list of str
        Names of benchmarks that ended with an error; they said which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    results, failed = read(file), list[str]()
    for name in names:
        say(name)
        kept = _run_one(name, folder, quick, with_peers)
        if kept is None:
            failed.append(name)
        else:
            results[name] = kept
            say(f"  {kept.seconds:.0f} s")
            write(results, file)
    return results, failed


def _run_one(name: str, folder: Path, quick: bool, with_peers: bool) -> Kept | None:
    options = [*(["--quick"] if quick else []), *([] if with_peers else ["--no-peers"])]
    machine, began = record(), time.monotonic()
    # Beside the results, so that what is durable is on a disk and not in memory.
    with TemporaryDirectory(prefix="scratch-", dir=folder) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.suite.one", name, scratch, *options],
            cwd=_ROOT,
            env=os.environ | dict.fromkeys(_THREADS, "1"),
        )
        if done.returncode:
            return None
        told = json.loads(Path(scratch, RESULT).read_text())
    return Kept(Result.from_json(told), machine, quick, time.monotonic() - began)
