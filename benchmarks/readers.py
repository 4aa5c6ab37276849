"""What readers in other processes notice of a model that trains on their memory.

Each reader asks at a steady rate, whether or not its last answer was late; a time runs from when a
query was due. One reader by itself, while the writer rests, takes turns with four beside a writer
that trains as fast as it can. Wall-clock time, one thread in each process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from aesg import AESGMemory
from aesg.demo.train import Batches
from benchmarks._steps import trainer
from benchmarks._text_models import GRU, trained
from benchmarks.suite import Ratio, Result, Settings, TableOf, benchmark

READERS, RATE = 4, 40  # and queries a second of each
_SECONDS, _SECONDS_QUICK = 8, 2
_TURNS, _TURNS_QUICK = 5, 1
_WARM_UP = 200
_SOON = 0.1  # seconds from an order to its first query
_PATIENCE = 120.0  # seconds for a process to begin, or to answer
_GOAL = 2.0

_GIVEN = "given.pt"
_NAMES = {"late": "from when it was due", "called": "the call alone"}


@dataclass(frozen=True)
class Heard:
    """What readers met in one turn.

    Parameters
    ----------
    late : (N,) array
        Milliseconds from when queries were due to their answers.
    called : (N,) array
        Milliseconds of the calls themselves.
    generation : int
        Of the memory, at the end.
    """

    late: NDArray[np.float64]
    called: NDArray[np.float64]
    generation: int


def read(orders: Connection, directory: Path, queries: Tensor) -> None:
    """Ask from the moment on that an order names, and send back what was met."""
    torch.set_num_threads(1)
    with AESGMemory.open(directory) as memory:
        for query in queries[:_WARM_UP]:
            memory.retrieve(query)
        orders.send("ready")
        while order := orders.recv():
            begin, count = order
            memory.retrieve(queries[0])  # takes in what was written before
            times = [
                _asked(memory, queries[each % len(queries)], begin + each / RATE)
                for each in range(count)
            ]
            late, called = np.array(times).T * 1e3
            orders.send(Heard(late, called, memory.storage.generation))


def _asked(memory: AESGMemory, query: Tensor, due: float) -> tuple[float, float]:
    """Ask when it is due; return the seconds from then and those of the call."""
    time.sleep(max(due - time.perf_counter(), 0))
    begin = time.perf_counter()
    memory.retrieve(query)
    answered = time.perf_counter()
    return answered - due, answered - begin


class _Wanted(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches, again and again, from each "go" to the next other order, until it is "end"."""

    def __init__(self, batches: Batches, orders: Connection) -> None:
        self._batches, self._orders = batches, orders

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        steps = 0
        while self._orders.recv() == "go":
            while not self._orders.poll():
                yield self._batches[steps % len(self._batches)]
                steps += 1
            self._orders.recv()
            self._orders.send(steps)


def write(orders: Connection, directory: Path, folder: Path) -> None:
    """Train on the memory whenever it is wanted."""
    torch.set_num_threads(1)
    given = torch.load(folder / _GIVEN)
    with AESGMemory.open(directory, mode="TRAIN") as memory:
        model = GRU.make(GRU.pieces, memory, 1)
        model.load_state_dict(given["weights"])
        orders.send("ready")
        wanted: Any = _Wanted(given["batches"], orders)
        trainer(model).fit(DataLoader(wanted, batch_size=None))


@contextmanager
def process(
    work: Callable[[Connection, Path, Any], None], directory: Path, given: Any, end: str | None
) -> Iterator[Connection]:
    """Start a process, and give the way to order it about."""
    context = get_context("spawn")
    orders, theirs = context.Pipe()
    started = context.Process(target=work, args=(theirs, directory, given), daemon=True)
    started.start()
    theirs.close()
    try:
        answer(orders)
        yield orders
        orders.send(end)
        started.join(_PATIENCE)
    finally:
        started.terminate()
        orders.close()


def answer(orders: Connection) -> Any:
    """Return what a process says.

    Raises
    ------
    TimeoutError
        If it says nothing for long.
    """
    if not orders.poll(_PATIENCE):
        raise TimeoutError(f"expected an answer within {_PATIENCE:.0f} s, got none")
    return orders.recv()


def asked(readers: Sequence[Connection], count: int) -> Heard:
    """Let readers ask at their rate, one a little behind the other; return what all met."""
    begin = time.perf_counter() + _SOON
    for number, reader in enumerate(readers):
        reader.send((begin + number / (RATE * READERS), count))
    heard = [answer(reader) for reader in readers]
    late, called = (
        np.concatenate([getattr(each, name) for each in heard]) for name in ("late", "called")
    )
    return Heard(late, called, max(each.generation for each in heard))


@dataclass(frozen=True)
class Turn:
    """A lone reader and then readers beside a writer, who made so many steps."""

    alone: Heard
    beside: Heard
    steps: int


def turns_of(
    readers: Sequence[Connection], writer: Connection, turns: int, count: int
) -> Iterator[Turn]:
    """Yield what happens in each turn; the first warms up."""
    before = 0
    for turn in range(turns + 1):
        alone = asked(readers[:1], count)
        writer.send("go")
        beside = asked(readers, count)
        writer.send("rest")
        steps = answer(writer)
        if turn:
            yield Turn(alone, beside, steps - before)
        before = steps


def prepared(settings: Settings) -> tuple[Path, Tensor]:
    """Return a memory of a language model, and queries as it makes them; keep what trains on."""
    with trained(GRU, settings, 1) as given:
        torch.save({"weights": given.weights, "batches": given.new}, settings.scratch / _GIVEN)
        with torch.no_grad():
            queries = given.model().eval().queries(given.new[0][0])
        return given.memory.directory, queries.flatten(0, 1)


def measured(settings: Settings) -> list[Turn]:
    """Return the turns of one reader and of all."""
    torch.set_num_threads(1)
    directory, queries = prepared(settings)
    quick = settings.quick
    count = RATE * (_SECONDS_QUICK if quick else _SECONDS)
    with ExitStack() as stack:
        writer = stack.enter_context(process(write, directory, settings.scratch, "end"))
        readers = [
            stack.enter_context(process(read, directory, queries, None)) for _ in range(READERS)
        ]
        return list(turns_of(readers, writer, _TURNS_QUICK if quick else _TURNS, count))


@benchmark("readers", "readers in other processes, beside a model that trains", minutes=3)
def run(settings: Settings) -> Result:
    turns = measured(settings)
    seconds = len(turns) * len(turns[0].alone.late) / RATE
    steps = sum(turn.steps for turn in turns)
    commits = turns[-1].beside.generation - turns[0].alone.generation
    note = f"the writer: {steps / seconds:.1f} steps and {commits / seconds:.1f} commits a second"
    ratios, tables = (_ratio(turns),), (_table(turns),)
    return Result("readers", "Readers beside a writer", ratios=ratios, tables=tables, notes=(note,))


def _ratio(turns: Sequence[Turn]) -> Ratio:
    late = np.array([(_p99(turn.beside.late), _p99(turn.alone.late)) for turn in turns])
    ours, theirs = (float(each) for each in np.median(late, axis=0))
    shares = np.percentile(late[:, 0] / late[:, 1], (50, 25, 75))
    value, low, high = (float(each) for each in shares)
    what = f"p99 of {READERS} readers beside a training writer, against a lone one"
    return Ratio(10, what, value, low, high, bound=_GOAL, ours=ours, theirs=theirs, unit="ms")


def _table(turns: Sequence[Turn]) -> TableOf:
    rows = []
    for name, what in _NAMES.items():
        alone = [getattr(turn.alone, name) for turn in turns]
        beside = [getattr(turn.beside, name) for turn in turns]
        rows.append(_row(f"one reader, {what}", alone))
        rows.append(_row(f"{READERS} and a writer, {what}", beside))
    title = f"ms of a query, {RATE} a second of each reader"
    return TableOf(title, ("", "median", "p99", "worst"), rows)


def _row(name: str, turns: Sequence[NDArray[np.float64]]) -> tuple[str, ...]:
    """Return a row of medians over the turns, and the worst of all."""
    median, p99 = (
        float(np.median([np.percentile(each, share) for each in turns])) for share in (50, 99)
    )
    return (name, f"{median:.2f}", f"{p99:.2f}", f"{max(each.max() for each in turns):.2f}")


def _p99(times: NDArray[np.float64]) -> float:
    return float(np.percentile(times, 99))
