"""Training steps of a model with a memory, each beside the same step of its twin without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg import AESGConfig, AESGMemory
from aesg.callbacks import Callback
from aesg.demo.train import Batches, loader
from aesg.losses import Criterion
from aesg.models.base import AESGModel
from aesg.trainer import AESGTrainer
from benchmarks.suite import Ratio
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EDGE, EdgeKind, Ids, Records, WriteBatch

#: Steps of a turn, and which of them run without the memory: as many as a model draws by default.
TURN = 10
_WITHOUT = (2, 5, 8)
#: Steps before the first turn.
WARM_UP = 5
#: Out-edges of a concept: to those that follow it in the text, and to some anywhere.
_NEAR, _FAR = 6, 5
_COMMIT = 20_000

#: Of the table that `Steps.as_row` fills.
HEADER = (
    "ms of CPU a step",
    "asking",
    "without asking",
    "7 : 3",
    "twin",
    "ratio",
    "novel queries",
)

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """CPU seconds of training steps, in their order.

    Parameters
    ----------
    memory, twin : (N,) arrays
        Of the model with a memory, whether or not it asked, and of its twin.
    novel : float
        Share of the queries that became provisional concepts.
    """

    memory: Seconds
    twin: Seconds
    novel: float

    @property
    def ratio(self) -> float:
        """Of all steps together: a commit comes every few steps only, or every few dozen."""
        return float(self.memory.sum() / self.twin.sum())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Of the turns' ratios."""
        memory, twin = (each.reshape(-1, TURN).sum(1) for each in (self.memory, self.twin))
        low, high = np.quantile(memory / twin, (0.25, 0.75))
        return float(low), float(high)

    def as_ratio(self, row: int | None, what: str, goal: float | None) -> Ratio:
        """Return what is stated of the steps, at most ``goal`` if there is one."""
        ours, theirs = (float(each.mean()) * 1e3 for each in (self.memory, self.twin))
        return Ratio(
            row,
            what,
            self.ratio,
            *self.quartiles,
            bound=goal,
            note=f"{self.novel:.0%} of the queries were new to the memory",
            ours=ours,
            theirs=theirs,
            unit="ms",
        )

    def as_row(self, what: str) -> tuple[str | float, ...]:
        """Return a row of a table under `HEADER`."""
        without = np.isin(np.arange(len(self.memory)) % TURN, _WITHOUT)
        asking, resting = (self.memory[each].mean() * 1e3 for each in (~without, without))
        times = (asking, resting, self.memory.mean() * 1e3, self.twin.mean() * 1e3)
        cells = (f"{each:.1f}" for each in times)
        return (what, *cells, f"{self.ratio:.2f}", f"{self.novel:.0%}")


@dataclass
class _Clock(Callback):
    """Counts the CPU time of each step of a trainer, and of nothing else that `fit` does."""

    spent: list[float] = field(default_factory=list)
    _began: float = 0.0

    def on_batch_start(self, batch: int, logs: object) -> None:
        self._began = time.process_time()

    def on_batch_end(self, batch: int, logs: object) -> None:
        self.spent.append(time.process_time() - self._began)


class _Beside(_Clock):
    """Has a twin make each step too, before or behind it by turns.

    Three steps of ten run without the memory, not by chance.
    """

    def __init__(self, model: AESGModel, step: Callable[[int], None]) -> None:
        super().__init__()
        self._model, self._step = model, step

    def on_batch_start(self, batch: int, logs: object) -> None:
        self._model.memory_dropout = float((batch - WARM_UP) % TURN in _WITHOUT)
        if batch % 2:
            self._step(batch)
        super().on_batch_start(batch, logs)

    def on_batch_end(self, batch: int, logs: object) -> None:
        super().on_batch_end(batch, logs)
        if batch % 2 == 0:
            self._step(batch)


def trainer(
    model: AESGModel, clock: Callback | None = None, criterion: Criterion | None = None
) -> AESGTrainer:
    """Return a trainer that makes no pass behind the last step."""
    called = [] if clock is None else [clock]
    return AESGTrainer(
        model, criterion=criterion, callbacks=called, refresh_keys=False, progress=False
    )


def paired_steps(
    model: AESGModel, twin: AESGModel, batches: Batches, criterion: Criterion | None = None
) -> Steps:
    """Train a model and its twin on the same batches, step by step; the first ones warm up.

    Parameters
    ----------
    model : AESGModel
        With a filled memory.
    twin : AESGModel
        With a memory of its own, which it does not use.
    batches : list of (inputs, targets)
        `WARM_UP` and a multiple of `TURN`.
    criterion : callable, optional
        As for `AESGTrainer`.
    """
    alone = _Clock()
    others = trainer(twin, alone, criterion)

    def step(number: int) -> None:
        with twin.without_memory():
            others.fit(loader(batches[number : number + 1]))

    beside, before = _Beside(model, step), replace(model.memory.rates)
    trainer(model, beside, criterion).fit(loader(batches))
    after = model.memory.rates
    novel = (after.provisional - before.provisional) / max(after.queries - before.queries, 1)
    return Steps(np.array(beside.spent[WARM_UP:]), np.array(alone.spent[WARM_UP:]), novel)


def filled(directory: Path, keys: Tensor, values: Tensor) -> AESGMemory:
    """Return a memory of what a model asked, one concept behind the other, with its seed index.

    Parameters
    ----------
    keys : (N, D) tensor
        Queries in the order of the text.
    values : (N,) integer or (N, D) float tensor
        What came.
    """
    count, dim = keys.shape
    with AESGMemory(directory, AESGConfig(vector_dim=dim, max_concepts=2 * count)) as memory:
        ids = memory.remember(keys, values)
    with closing(Engine(LMDBStore.open(directory, create=False))) as engine:
        for first in range(0, count, _COMMIT):
            engine.commit(WriteBatch(edges=_edges(ids, first, min(first + _COMMIT, count))))
        engine.rebuild()
    return AESGMemory.open(directory)


def _edges(ids: Ids, first: int, end: int) -> dict[int, Records]:
    """Return the edges of some concepts: each is followed by the next and lies near others."""
    dice = np.random.default_rng(first)
    sources = np.arange(first, end)[:, None]
    far = dice.integers(0, len(ids), (end - first, _FAR))
    places = np.concatenate([sources + np.arange(1, _NEAR + 1), far], axis=1) % len(ids)
    places[places == sources] += 1
    rows = {}
    for source, row in zip(range(first, end), places % len(ids), strict=True):
        edges = np.zeros(_NEAR + _FAR, EDGE)
        edges["target"], edges["weight"] = ids[row], 0.5
        edges["confidence"] = dice.uniform(0.2, 0.9, len(row))
        edges["kind"] = np.where(row == source + 1, EdgeKind.SUCCESSOR, EdgeKind.COACTIVATION)
        _, once = np.unique(edges["target"], return_index=True)
        rows[int(ids[source])] = edges[once]
    return rows


@torch.no_grad()
def asked(queries: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Return what a model in eval mode asks an empty memory, ``(N, D)``, batch by batch."""
    return torch.cat([queries(each).flatten(0, -2) for each in inputs])
