"""One run of one task, in this process: the child of the harness."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import click
import torch

from benchmarks.usefulness import tasks
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.harness import MEMORY, Task, Values

_PATH = click.Path(path_type=Path)


def checked(task: Task, values: Values) -> Values:
    """Return what a task reported.

    Raises
    ------
    ValueError
        If the memory's arm is missing, a measure is unknown or a figure is not finite.
    """
    if MEMORY not in values:
        raise ValueError(f"{task.name}: expected an arm {MEMORY!r}, got {list(values)}")
    known = {measure.name for measure in task.measures}
    for arm, measured in values.items():
        if unknown := sorted(set(measured) - known):
            raise ValueError(f"{task.name}, {arm}: expected measures of {known}, got {unknown}")
        if wrong := [name for name, value in measured.items() if not math.isfinite(value)]:
            raise ValueError(f"{task.name}, {arm}: expected finite figures, {wrong[0]} is not")
    return values


@click.command()
@click.argument("name")
@click.argument("seed", type=int)
@click.argument("quick", type=bool)
@click.argument("scratch", type=_PATH)
@click.argument("data", type=_PATH)
@click.argument("result", type=_PATH)
def main(name: str, seed: int, quick: bool, scratch: Path, data: Path, result: Path) -> None:
    """Run the task NAME and write what it came to into the file RESULT."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = tasks.load(name)
    values = checked(task, task.run(seed, quick, scratch, Data(data)))
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    floats = {
        arm: {key: float(value) for key, value in each.items()} for arm, each in values.items()
    }
    result.write_text(json.dumps({"values": floats, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main()
