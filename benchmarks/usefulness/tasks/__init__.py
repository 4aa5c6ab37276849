"""The tasks: each module holds one as ``TASK``."""

from __future__ import annotations

from importlib import import_module

from benchmarks.usefulness.harness import Task

#: In the order of the report.
NAMES = (
    "language",
    "facts",
    "few_shot",
    "continual",
    "two_hops",
    "colorization",
    "anomaly",
)


def load(name: str) -> Task:
    """Return the task of a module of this package."""
    task: Task = import_module(f"{__name__}.{name}").TASK
    return task
