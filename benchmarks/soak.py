"""Whether a memory that lives long stays as quick and as small as it was.

One process lets concepts be born, used, merged and pruned without end, in a memory that is full
from early on. Its last thousand retrievals are compared with the first thousand of a memory that
has just become full in the same way; the two take turns, so that both meet the same machine.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks._soak import Life, resident
from benchmarks.suite import Ratio, Result, Settings, Spent, TableOf, Timings, benchmark, turns

CONCEPTS = 4_000
BIRTHS, BIRTHS_QUICK = 200_000, 12_000
QUERIES = 1_000
_TURNS = 20
_WHAT = "a retrieve of the last thousand, against the first of a memory just filled"
_HEADER = ("births", "concepts", "edges", "files KiB", "anonymous MiB")


def row_of(life: Life) -> tuple[int, ...]:
    storage = life.memory.storage
    return (
        life.births,
        storage.node_count,
        storage.edge_count,
        storage.file_bytes >> 10,
        resident() >> 20,
    )


def live(life: Life, births: int) -> list[tuple[int, ...]]:
    """Let a memory live until so many ids were given; return a row for each eighth of the way."""
    begun, rows = life.births, []
    for part in range(1, 9):
        while life.births < begun + part * (births - begun) / 8:
            life.step()
        rows.append(row_of(life))
    return rows


def compared(young: Life, old: Life) -> Timings:
    """Return what retrievals cost in both, in turns."""
    return turns({"young": lambda _: _retrieving(young), "old": lambda _: _retrieving(old)}, _TURNS)


def _retrieving(life: Life) -> Spent:
    """Return the median cost of some retrievals."""
    seconds = float(np.median(life.retrievals(QUERIES // _TURNS))) / 1e9
    return Spent(cpu=seconds, wall=seconds)


@benchmark("soak", "a long life of births, touches, merges and prunes", minutes=6, group="more")
def run(settings: Settings) -> Result:
    life = Life(settings.scratch / "old", CONCEPTS).full()
    rows = live(life, BIRTHS_QUICK if settings.quick else BIRTHS)
    young = Life(settings.scratch / "young", CONCEPTS).full()
    found = compared(young, life)
    events = Counter(event["type"] for event in life.memory.logger.get_history())
    problems = life.memory.storage.verify() or "no problem"
    life.memory.close()
    young.memory.close()
    old, new = (found.median(each) * 1e6 for each in ("old", "young"))
    ratio = Ratio(None, _WHAT, *found.ratio("old", "young"), ours=old, theirs=new, unit="us")
    note = f"The last {events.total():,} events: {dict(events)}; `verify()` finds {problems}."
    table = TableOf("a long life in one process", _HEADER, rows)
    return Result("soak", "A long life", ratios=(ratio,), tables=(table,), notes=(note,))
