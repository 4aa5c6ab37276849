"""How long one query takes: by hops, and among ten times as many concepts.

One query at a time, read-only, one thread: to seed search and spreading, which is what release 3.0
calls navigation, and to `AESGMemory.retrieve`. By hops it is wall-clock time, as the documented
figures are; the two memories take turns in CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg import AESGConfig, AESGMemory
from aesg.memory_reading import DEFAULT_TOP_K
from benchmarks._memories import DIM, EDGES, finder, memory_of, queries_near, viewed
from benchmarks.suite import Ratio, Result, Series, Settings, TableOf, benchmark, turns
from storage_backends.spreading import Spread

_TOPS = (10, DEFAULT_TOP_K)
_HOPS = (1, 2, 3)  # of the comparison by size; 3 is the default
_IN_A_TURN, _WARM_UP, _BLOCKS = 100, 100, 8

_FINDS, _RETRIEVE = "seed search and spreading", "AESGMemory.retrieve"
_WAYS = (_FINDS, _RETRIEVE)

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Documented:
    """What the documentation of release 3.0 states of so many hops, in milliseconds."""

    hops: int
    mean: float
    p99: float


DOCUMENTED = (
    Documented(1, 1, 3),
    Documented(2, 4, 7),
    Documented(4, 9, 20),
    Documented(8, 49, 139),
)
GOAL_OF_DOCUMENTED, GOAL_BY_SIZE = 0.1, 3.0


@contextmanager
def opened(directory: Path, hops: int) -> Iterator[AESGMemory]:
    """Open a memory read-only, with so many hops."""
    with AESGMemory.open(directory) as memory:
        config = replace(memory.config, spreading_activation_steps=hops)
    with AESGMemory(directory, replace(config, memory_mode="INFERENCE")) as memory:
        yield memory


def milliseconds(call: Callable[[Tensor], object], queries: Tensor) -> Times:
    """Return the wall-clock time of each query by itself."""
    for query in queries[:_WARM_UP]:
        call(query)
    spent = []
    for query in queries:
        begin = time.perf_counter()
        call(query)
        spent.append(time.perf_counter() - begin)
    return np.array(spent) * 1e3


@contextmanager
def way(name: str, directory: Path, hops: int, top: int) -> Iterator[Callable[[Tensor], object]]:
    """Yield one of `_WAYS` to ask."""
    if name == _RETRIEVE:
        with opened(directory, hops) as memory:
            yield partial(memory.retrieve, top_k=top)
        return
    decay = AESGConfig().spreading_activation_decay
    with viewed(directory) as view:
        find = finder(view, Spread(hops=hops, decay=decay), top)
        yield lambda query: find(query.numpy()[None])


def by_hops(directory: Path, concepts: int, count: int) -> tuple[list[Ratio], TableOf, Series]:
    """Return the mean and the 99th percentile against what is documented, a table and a plot."""
    asked = queries_near(concepts, count)
    unit = asked / asked.norm(dim=1, keepdim=True)
    ratios, rows = [], []
    lines: dict[str, list[tuple[float, float]]] = {
        "documented, mean": [(each.hops, each.mean) for each in DOCUMENTED],
        "documented, p99": [(each.hops, each.p99) for each in DOCUMENTED],
    }
    for name, top in product(_WAYS, _TOPS):
        for documented in DOCUMENTED:
            with way(name, directory, documented.hops, top) as call:
                spent = milliseconds(call, unit)
            what = f"{name}, {documented.hops} hops, top {top}"
            if top == DEFAULT_TOP_K:
                ratios.append(_against(spent, np.mean, documented.mean, f"{what}: mean"))
                ratios.append(_against(spent, _p99, documented.p99, f"{what}: p99"))
                mean, p99 = float(spent.mean()), _p99(spent)
                lines.setdefault(f"{name}, mean", []).append((documented.hops, mean))
                lines.setdefault(f"{name}, p99", []).append((documented.hops, p99))
            times = float(spent.mean()), float(np.median(spent)), _p99(spent), float(spent.max())
            stated = f"{documented.mean:g}, {documented.p99:g}"
            rows.append((what, *(f"{each:.3f}" for each in times), stated))
    header = ("ms a query", "mean", "median", "p99", "worst", "documented: mean, p99")
    title = f"one query: {concepts:,} concepts, {EDGES} edges each, {count:,} queries"
    plot = Series(f"A query, top {DEFAULT_TOP_K}, by hops", "hops", "ms", lines, log_y=True)
    return ratios, TableOf(title, header, tuple(rows)), plot


def _against(
    spent: Times, statistic: Callable[[Times], float], documented: float, what: str
) -> Ratio:
    """Return a statistic of all queries against the documented one, with quartiles of blocks."""
    blocks = [float(statistic(block)) / documented for block in np.array_split(spent, _BLOCKS)]
    low, high = (float(each) for each in np.quantile(blocks, (0.25, 0.75)))
    value = float(statistic(spent)) / documented
    return Ratio(
        8,
        f"one query, {what}, against the documented",
        value,
        low,
        high,
        bound=GOAL_OF_DOCUMENTED,
        ours=value * documented,
        theirs=documented,
        unit="ms",
    )


def _p99(spent: Times) -> float:
    return float(np.percentile(spent, 99))


def by_size(settings: Settings, few: int, many: int) -> tuple[list[Ratio], TableOf]:
    """Return what a query costs among many concepts against among few, and a table."""
    count = settings.turns
    asked = {size: queries_near(size, _IN_A_TURN * (count + 1), seed=1) for size in (few, many)}
    ratios, rows = [], []
    for hops in _HOPS:
        with ExitStack() as stack:
            calls = {
                f"{size:,}": partial(
                    _ask, stack.enter_context(opened(memory_of(size, settings), hops)), asked[size]
                )
                for size in (few, many)
            }
            spent = turns(calls, count)
        base, large = calls
        ours, theirs = (spent.median(size) / _IN_A_TURN * 1e3 for size in (large, base))
        ratio = Ratio(
            9,
            f"one query, {hops} hops: {large} concepts against {base}",
            *spent.ratio(large, base),
            bound=GOAL_BY_SIZE,
            ours=ours,
            theirs=theirs,
            unit="ms",
        )
        ratios.append(ratio)
        rows.append((f"{hops} hops", f"{theirs:.3f}", f"{ours:.3f}", f"{ratio.value:.2f}"))
    title = f"retrieve of one query, top {_TOPS[0]}, {DIM}-d"
    return ratios, TableOf(title, ("ms of CPU a query", base, large, "ratio"), tuple(rows))


def _ask(memory: AESGMemory, queries: Tensor, turn: int) -> None:
    for query in queries[turn * _IN_A_TURN : (turn + 1) * _IN_A_TURN]:
        memory.retrieve(query, top_k=_TOPS[0])


@benchmark("latency", "one query: by hops, and among a million concepts", minutes=2)
def run(settings: Settings) -> Result:
    torch.set_num_threads(1)
    few, many, count = (2_000, 10_000, 100) if settings.quick else (100_000, 1_000_000, 3_000)
    documented, hops, plot = by_hops(memory_of(few, settings), few, count)
    grown, sizes = by_size(settings, few, many)
    ratios, tables = (*documented, *grown), (hops, sizes)
    return Result("latency", "One query", ratios=ratios, tables=tables, series=(plot,))
