"""What learning from a batch costs, by the number of concepts.

CPU time of `AESGMemory.update_topology` after a retrieval of 256 queries, nine of ten of them near
concepts and the others anywhere, in TRAIN, one thread. A turn is as many updates as there are from
one commit to the next, and consolidations come in between, so that the figure is what an update
costs on average. Regions are detected more seldom than that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from aesg import AESGMemory
from benchmarks._memories import DIM, EDGES, copied, memory_of, queries_near
from benchmarks.suite import (
    Ratio,
    Result,
    Series,
    Settings,
    Spent,
    TableOf,
    Timings,
    benchmark,
    turns,
)

BATCH, UPDATES = 256, 32
_NOVEL = 26  # queries of a batch
_GOAL = 1.2


class Learner:
    """A memory that learns.

    Parameters
    ----------
    directory : Path
        Is written to.
    concepts : int
        Of the memory.
    count : int
        Turns that there are queries for.
    """

    def __init__(self, directory: Path, concepts: int, count: int) -> None:
        self.memory = AESGMemory.open(directory, mode="TRAIN")
        torch.manual_seed(concepts)
        near = queries_near(concepts, count * UPDATES * (BATCH - _NOVEL))
        self._near = near.view(count, UPDATES, BATCH - _NOVEL, DIM)
        self._novel = torch.randn(count, UPDATES, _NOVEL, DIM)

    def turn(self, number: int) -> Spent:
        """Learn from some batches; return what the updates took."""
        cpu = wall = 0.0
        with self.memory.counted_commits():
            for near, novel in zip(self._near[number], self._novel[number], strict=True):
                self.memory.defer(self.memory.recall(torch.cat([near, novel])))
                begin = time.process_time(), time.perf_counter()
                self.memory.update_topology()
                cpu += time.process_time() - begin[0]
                wall += time.perf_counter() - begin[1]
        return Spent(cpu, wall)


def measured(settings: Settings, sizes: Sequence[int]) -> Timings:
    """Return what turns of updates take in memories of these sizes."""
    with ExitStack() as stack:
        calls = {}
        for size in sizes:
            directory = copied(memory_of(size, settings), settings, f"learning-{size}")
            learner = Learner(directory, size, settings.turns + 1)
            stack.enter_context(learner.memory)
            calls[f"{size:,}"] = learner.turn
        return turns(calls, settings.turns)


@benchmark("learning", "learning from a batch, by the number of concepts", minutes=2)
def run(settings: Settings) -> Result:
    torch.set_num_threads(1)
    sizes = (500, 2_000) if settings.quick else (10_000, 100_000, 1_000_000)
    spent = measured(settings, sizes)
    names = list(spent.seconds)
    milliseconds = {name: spent.median(name) / UPDATES * 1e3 for name in names}
    grown = Ratio(
        7,
        f"update_topology: {names[-1]} concepts against {names[0]}",
        *spent.ratio(names[-1], names[0]),
        bound=_GOAL,
        ours=milliseconds[names[-1]],
        theirs=milliseconds[names[0]],
        unit="ms",
    )
    rows = [
        (name, f"{milliseconds[name]:.1f}", f"{spent.ratio(name, names[0])[0]:.2f}")
        for name in names
    ]
    title = f"update_topology after {BATCH} queries, {EDGES} edges each"
    table = TableOf(title, ("concepts", "ms of CPU", "growth"), rows)
    line = list(zip(sizes, milliseconds.values(), strict=True))
    plot = Series(title, "concepts", "ms of CPU", {"update_topology": line}, log_x=True)
    return Result(
        "learning", "Learning from a batch", ratios=(grown,), tables=(table,), series=(plot,)
    )
