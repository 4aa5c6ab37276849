"""How long a fresh process takes: to import the library, and to open a million concepts.

Wall-clock time. The import is timed behind that of torch, which is most of it and not ours. Opening
is timed to the first answer, with the memory's files in the page cache and with nothing of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._memories import DIM, EDGES, memory_of
from benchmarks.opening import forget, read_files
from benchmarks.suite import Ratio, Result, Settings, TableOf, benchmark

_IMPORT = """
import json, time
import torch
torch.set_num_threads(1)
begin = time.perf_counter()
import aesg
print(json.dumps({"import aesg": time.perf_counter() - begin}))
"""
_OPEN = """
import json, sys, time
import torch
torch.set_num_threads(1)
from aesg import AESGMemory
query = torch.ones(int(sys.argv[2]))
begin = time.perf_counter()
memory = AESGMemory.open(sys.argv[1])
opened = time.perf_counter()
memory.retrieve(query)
answered = time.perf_counter()
found = {"open": opened - begin, "first answer": answered - opened, "both": answered - begin}
print(json.dumps(found))
"""
_IMPORT_GOAL, _OPEN_GOAL = 0.3, 1.0
_LEAST = 5

Times = Mapping[str, NDArray[np.float64]]


def fresh(program: str, *arguments: str) -> dict[str, float]:
    """Return the seconds that a program prints, in a process of its own, with byte code kept."""
    others = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**others, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def repeated(
    count: int, program: str, *arguments: str, prepare: Callable[[], object] = lambda: None
) -> Times:
    """Return what fresh processes print, one behind the other; the first warms up."""
    runs = []
    for _ in range(count + 1):
        prepare()
        runs.append(fresh(program, *arguments))
    return {name: np.array([run[name] for run in runs[1:]]) for name in runs[0]}


def of_seconds(what: str, seconds: NDArray[np.float64], goal: float) -> Ratio:
    """Return a time in seconds; its goal is one, too."""
    low, value, high = (float(each) for each in np.percentile(seconds, (25, 50, 75)))
    return Ratio(11, what, value, low, high, bound=goal, ours=value, unit="s")


def opening(directory: Path, count: int) -> dict[str, Times]:
    """Return what opening a memory takes, by where its files are."""
    states = {"in the page cache": read_files, "on disk only": forget}
    return {
        state: repeated(count, _OPEN, str(directory), str(DIM), prepare=partial(prepare, directory))
        for state, prepare in states.items()
    }


@benchmark("start", "importing the library, and opening a million concepts", minutes=1)
def run(settings: Settings) -> Result:
    count = 1 if settings.quick else max(settings.turns, _LEAST)
    concepts = 5_000 if settings.quick else 1_000_000
    imported = repeated(count, _IMPORT)["import aesg"]
    opened = opening(memory_of(concepts, settings), count)
    ratios = [of_seconds("import aesg, torch excluded", imported, _IMPORT_GOAL)]
    rows = [_row("import aesg, torch excluded", imported)]
    for state, times in opened.items():
        what = f"open {concepts:,} concepts to the first answer, files {state}"
        ratios.append(of_seconds(what, times["both"], _OPEN_GOAL))
        rows += [_row(f"{name}, files {state}", each) for name, each in times.items()]
    title = f"ms of a fresh process, {count} of them; {concepts:,} concepts, {EDGES} edges each"
    table = TableOf(title, ("", "median", "least", "most"), rows)
    return Result("start", "Starting", ratios=ratios, tables=(table,))


def _row(name: str, seconds: NDArray[np.float64]) -> tuple[str, ...]:
    return (name, *(f"{each * 1e3:.0f}" for each in np.percentile(seconds, (50, 0, 100))))
