"""What a task is, and how its runs are started: one process for each task and seed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.usefulness.data import Data

#: What each arm of a run came to: ``{arm: {measure: value}}``.
Values = dict[str, dict[str, float]]

#: The arm that is compared with all others.
MEMORY = "memory"

#: Where the package `benchmarks` is.
_ROOT = Path(__file__).parents[2]
#: Runs one task; the arguments of `benchmarks.usefulness.run_one` follow.
_RUN_ONE = (sys.executable, "-m", "benchmarks.usefulness.run_one")
#: A run that takes longer hangs.
_LONGEST_RUN_S = 3600
#: Lines of a failed run's output that are shown at once.
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Measure:
    """Something that every run reports.

    Parameters
    ----------
    name : str
        With its unit, where it has one.
    better : {"higher", "lower"}
    digits : int
        Decimals to print.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    digits: int = 3


@dataclass(frozen=True)
class Goal:
    """What the mean over the seeds should come to.

    Parameters
    ----------
    arm, measure : str
        What is judged.
    at_least, at_most : float, optional
        Bounds, one of them at least.
    against : str, optional
        Another arm. What is judged is then the difference from it, seed by seed.
    relative : bool
        Whether the difference is a share of the other arm's value.
    """

    arm: str
    measure: str
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        """Refuse a goal that says nothing."""
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"goal for {self.arm}, {self.measure}: expected a bound, got none")
        if self.relative and self.against is None:
            raise ValueError(f"goal for {self.arm}, {self.measure}: relative to which arm?")


@dataclass(frozen=True)
class Task:
    """A question that memory should help with.

    Parameters
    ----------
    name : str
        As for ``--task``.
    title : str
        As in the report.
    measures : tuple of Measure
        The first is the one that matters most. A run may leave a measure out for an arm to which
        it does not apply.
    goals : tuple of Goal
    needs : tuple of str
        Data that is fetched before; see `benchmarks.usefulness.data.SOURCES`.
    run : callable
        ``run(seed, quick, scratch, data) -> {arm: {measure: value}}``; called in a process of its
        own with one thread, ``torch.manual_seed(seed)`` done and an empty ``scratch`` folder. The
        arm ``"memory"`` has to be there.
    notes : str
        What a reader of the figures should know: the arms, and how leaks are kept out.
    """

    name: str
    title: str
    measures: tuple[Measure, ...]
    goals: tuple[Goal, ...]
    needs: tuple[str, ...]
    run: Callable[[int, bool, Path, Data], Values]
    notes: str = ""

    def measure(self, name: str) -> Measure:
        """Return a measure by name.

        Raises
        ------
        KeyError
            If the task has none of that name.
        """
        return {measure.name: measure for measure in self.measures}[name]


@dataclass
class Outcome:
    """What came of a task.

    Parameters
    ----------
    task : Task
    values : dict
        ``{seed: {arm: {measure: value}}}`` of the runs that ended well.
    cpu_seconds : dict
        Of each of those.
    failures : dict
        Of the others: the end of what they said.
    skipped : str
        Why none was run; empty where they were.
    """

    task: Task
    values: dict[int, Values] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    skipped: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, in the order in which the runs name them."""
        named = (arm for seed in sorted(self.values) for arm in self.values[seed])
        return tuple(dict.fromkeys(named))

    def column(self, arm: str, measure: str) -> dict[int, float]:
        """Return one measure of one arm, ``{seed: value}``, where it was reported."""
        return {
            seed: values[arm][measure]
            for seed, values in sorted(self.values.items())
            if measure in values.get(arm, {})
        }


def run_all(
    tasks: Sequence[Task],
    seeds: Sequence[int],
    folder: Path,
    *,
    quick: bool,
    jobs: int,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Fetch what the tasks need and run each for every seed, a process each.

    Parameters
    ----------
    tasks : sequence of Task
        Of the package `benchmarks.usefulness.tasks`.
    seeds : sequence of int
    folder : Path
        Data goes to ``data``, the runs' results and output to ``runs``.
    quick : bool
    jobs : int
        Processes at a time.
    say : callable
        Takes a line of report.

    Returns
    -------
    list of Outcome
        One for each task, in their order. A run that fails does not stop the others.
    """
    data = Data(folder / "data")
    outcomes = [Outcome(task, skipped=_missing(task, data, say)) for task in tasks]
    wanted = [(each, seed) for each in outcomes if not each.skipped for seed in seeds]
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        pending = {
            pool.submit(_run, each.task.name, seed, folder, quick): (each, seed)
            for each, seed in wanted
        }
        for done in as_completed(pending):
            each, seed = pending[done]
            say(_take_in(each, seed, done.result()))
    return outcomes


def child_environment() -> dict[str, str]:
    """Return the environment of a run: one thread for every library."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1")}


def _missing(task: Task, data: Data, say: Callable[[str], None]) -> str:
    reasons = [reason for need in task.needs if (reason := data.fetch(need, say))]
    if reasons:
        say(f"SKIPPED: {task.name}: {'; '.join(reasons)}")
    return "; ".join(reasons)


def _run(name: str, seed: int, folder: Path, quick: bool) -> Path:
    """Run one task with one seed in a process of its own; return where its files begin."""
    stem = folder.absolute() / "runs" / f"{name}-{seed}"
    scratch = stem.with_suffix(".scratch")
    result = stem.with_suffix(".json")
    result.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    data = folder.absolute() / "data"
    command = [*_RUN_ONE, name, str(seed), str(int(quick)), *map(str, (scratch, data, result))]
    with stem.with_suffix(".log").open("w") as log:
        try:
            subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=child_environment(),
                timeout=_LONGEST_RUN_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            log.write(f"\nstopped after {_LONGEST_RUN_S} s\n")
    shutil.rmtree(scratch, ignore_errors=True)
    return stem


def _take_in(outcome: Outcome, seed: int, stem: Path) -> str:
    """Read what a run left; return a line that tells of it."""
    name, result = outcome.task.name, stem.with_suffix(".json")
    if not result.exists():
        lines = stem.with_suffix(".log").read_text().strip().splitlines()
        outcome.failures[seed] = "\n".join(lines[-_SHOWN_LINES:])
        return f"FAILED: {name}, seed {seed}; see {stem}.log\n{outcome.failures[seed]}"
    found = json.loads(result.read_text())
    outcome.values[seed] = found["values"]
    outcome.cpu_seconds[seed] = found["cpu_seconds"]
    main = outcome.task.measures[0]
    shown = ", ".join(_shown(found["values"], main))
    return f"{name}, seed {seed}, {found['cpu_seconds']:.0f} s CPU, {main.name}: {shown}"


def _shown(values: Mapping[str, Mapping[str, float]], measure: Measure) -> Iterator[str]:
    for arm, measured in values.items():
        if measure.name in measured:
            yield f"{arm} {measured[measure.name]:.{measure.digits}f}"
