"""What the benchmarks are made of: how they are named, timed, judged and told.

A benchmark is a function of `Settings` that returns a `Result`, under a name that `benchmark` gives
it. Whatever it compares takes turns in one run (`turns`), and what it states is ratios.
"""

from __future__ import annotations

from benchmarks.suite.environments import NoPeerError
from benchmarks.suite.peers import Peer, Peers
from benchmarks.suite.registry import Benchmark, Settings, benchmark
from benchmarks.suite.result import Ratio, Result, Series, TableOf
from benchmarks.suite.timing import Spent, Timings, turns

__all__ = [
    "Benchmark",
    "NoPeerError",
    "Peer",
    "Peers",
    "Ratio",
    "Result",
    "Series",
    "Settings",
    "Spent",
    "TableOf",
    "Timings",
    "benchmark",
    "turns",
]
