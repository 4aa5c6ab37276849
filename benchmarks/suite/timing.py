"""Costs of calls that take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], float]
#: Does the work of a turn; 0 is the one that warms up.
Call = Callable[[int], object]


@dataclass(frozen=True)
class Spent:
    """What a call cost another process; as a call's return value it counts in place of the clock.

    Parameters
    ----------
    cpu, wall : float
        Seconds.
    answer : object
        What the call returned there.
    """

    cpu: float
    wall: float
    answer: Any = None


@dataclass(frozen=True)
class Timings:
    """Seconds of calls in turns.

    Parameters
    ----------
    seconds : dict of str to (turns,) arrays
        Of each call, turn by turn.
    """

    seconds: Mapping[str, NDArray[np.float64]] = field(repr=False)

    def median(self, name: str) -> float:
        """Return the median of a call's seconds."""
        return self.percentile(name, 50)

    def quartiles(self, name: str) -> tuple[float, float]:
        """Return the quartiles of a call's seconds."""
        return self.percentile(name, 25), self.percentile(name, 75)

    def percentile(self, name: str, share: float) -> float:
        """Return a percentile of a call's seconds, ``share`` in [0, 100]."""
        return float(np.percentile(self.seconds[name], share))

    def ratio(self, a: str, b: str) -> tuple[float, float, float]:
        """Return the median of ``a / b`` over the turns, and its quartiles."""
        low, value, high = np.percentile(self.seconds[a] / self.seconds[b], (25, 50, 75))
        return float(value), float(low), float(high)


def turns(
    calls: Mapping[str, Call],
    count: int,
    *,
    clock: Clock = time.process_time,
    each: int = 1,
) -> Timings:
    """Time calls that take turns, each turn in another order.

    Parameters
    ----------
    calls : dict of str to callable
        The turn, from 0, is its argument. The first turn warms up and is dropped.
    count : int
        Turns that count.
    clock : callable
        Of the processor by default. Where a call returns `Spent`, the wall clock's seconds of that
        count for `time.perf_counter`, the processor's for any other clock.
    each : int
        Calls behind one another that make one figure, their mean.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _without_collections():
        for turn in range(count + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                seconds[name].append(_mean(calls[name], turn, clock, each))
    return Timings({name: np.array(found[1:]) for name, found in seconds.items()})


def _mean(call: Call, turn: int, clock: Clock, each: int) -> float:
    began = clock()
    found = [call(turn) for _ in range(each)]
    passed = clock() - began
    if all(isinstance(one, Spent) for one in found):
        passed = sum(_of(one, clock) for one in found if isinstance(one, Spent))
    return passed / each


def _of(spent: Spent, clock: Clock) -> float:
    return spent.wall if clock is time.perf_counter else spent.cpu


@contextmanager
def _without_collections() -> Iterator[None]:
    """Keep garbage collection out of the figures; it is called for between them."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
