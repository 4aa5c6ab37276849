"""The benchmarks by their names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import benchmarks
from benchmarks.suite.peers import Peers
from benchmarks.suite.result import Result

Group = Literal["goals", "more"]


@dataclass(frozen=True)
class Settings:
    """How a benchmark is to run.

    Parameters
    ----------
    quick : bool
        Small: to see that it runs. Nothing is claimed of such figures.
    turns : int
        Turns of whatever is compared, one to warm up not among them.
    scratch : Path
        A folder of this run, removed at its end.
    peers : Peers or None
        What others offer, installed on demand; None to measure without them.
    say : callable
        Tells the user what goes on.
    """

    quick: bool
    turns: int
    scratch: Path
    peers: Peers | None = None
    say: Callable[[str], None] = print


Run = Callable[[Settings], Result]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark and what there is to know before it runs.

    Parameters
    ----------
    name, title : str
    run : callable
    minutes : float
        About so long does it take, on two quiet cores.
    group : str
        ``"goals"`` states goals and runs by default, ``"more"`` by its name.
    peers : tuple of str
        That it is compared with.
    """

    name: str
    title: str
    run: Run
    minutes: float
    group: Group
    peers: tuple[str, ...]


_known: dict[str, Benchmark] = {}


def benchmark(
    name: str,
    title: str,
    *,
    minutes: float,
    group: Group = "goals",
    peers: Sequence[str] = (),
) -> Callable[[Run], Run]:
    """Return a decorator that makes a function known as a benchmark."""

    def known(run: Run) -> Run:
        made = Benchmark(name, title, run, minutes, group, tuple(peers))
        earlier = _known.setdefault(name, made)
        if earlier.run.__module__ != run.__module__:
            raise ValueError(f"expected one benchmark {name}, got a second in {run.__module__}")
        _known[name] = made
        return run

    return known


def all_benchmarks() -> tuple[Mapping[str, Benchmark], Sequence[str]]:
    """Return every benchmark of this package by its name, and which modules lack a library."""
    unavailable = []
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if not module.name.startswith("_") and not module.ispkg:
            try:
                importlib.import_module(f"benchmarks.{module.name}")
            except ImportError as error:
                unavailable.append(f"{module.name}: {error}")
    return dict(sorted(_known.items())), unavailable
