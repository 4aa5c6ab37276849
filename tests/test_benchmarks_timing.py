"""Costs of calls that take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.suite import Spent, Timings, turns


class Clock:
    """Stands still unless a call lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float) -> Callable[[int], None]:
        """Return a call that takes so long, turn by turn."""

        def call(turn: int) -> None:
            self.now += seconds[turn]

        return call


def test_the_first_turn_warms_up_and_does_not_count() -> None:
    clock = Clock()
    found = turns({"a": clock.taking(99, 1, 2, 3)}, 3, clock=clock)
    assert found.seconds["a"].tolist() == [1, 2, 3]
    assert found.median("a") == 2


def test_a_ratio_is_the_median_of_the_turns_ratios_with_its_quartiles() -> None:
    clock = Clock()
    calls = {"a": clock.taking(0, 2, 12, 9, 4, 5), "b": clock.taking(0, 1, 2, 3, 4, 5)}
    found = turns(calls, 5, clock=clock)
    assert found.ratio("a", "b") == (2, 1, 3)  # of 2, 6, 3, 1, 1
    assert found.median("a") / found.median("b") != 2


def test_each_turn_has_another_order() -> None:
    met: list[str] = []

    def call(name: str) -> Callable[[int], None]:
        return lambda _: met.append(name)

    turns({name: call(name) for name in "abc"}, 3)
    assert "".join(met) == "abcbcacababc"


def test_a_call_is_told_its_turn_and_repeated_within_it() -> None:
    clock, met = Clock(), list[int]()

    def call(turn: int) -> None:
        met.append(turn)
        clock.now += 1 if len(met) % 2 else 3

    found = turns({"a": call}, 2, clock=clock, each=2)
    assert met == [0, 0, 1, 1, 2, 2]
    assert found.seconds["a"].tolist() == [2, 2]


def test_what_another_process_spent_counts_by_its_own_clocks() -> None:
    clock = Clock()

    def there(_: int) -> Spent:
        clock.now += 1_000
        return Spent(cpu=3, wall=5)

    assert turns({"there": there}, 1, clock=clock).median("there") == 3
    assert turns({"there": there}, 1).median("there") == 3
    assert turns({"there": there}, 1, clock=time.perf_counter).median("there") == 5


def test_garbage_is_not_collected_meanwhile() -> None:
    found = list[bool]()
    turns({"a": lambda _: found.append(gc.isenabled())}, 1)
    assert found == [False, False]
    assert gc.isenabled()


def test_a_call_that_fails_leaves_the_collector_as_it_was() -> None:
    def fails(_: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        turns({"a": fails}, 1)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_percentiles_are_those_of_the_turns() -> None:
    found = Timings({"a": np.arange(101, dtype=np.float64)})
    assert found.percentile("a", 99) == 99
    assert found.quartiles("a") == (25, 75)


def test_the_clock_is_that_of_the_processor() -> None:
    found = turns({"idle": lambda _: time.sleep(0.05)}, 1)
    assert found.median("idle") < 0.04
