"""Reads a memory of the scripted history whole and says whether it is right.

It runs in a process of its own: what it reads may be damaged in any way, and a signal is one of
the answers that must not come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from storage_backends.engine import Engine
from storage_backends.errors import StoreError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.protocol import Store
from storage_backends.recovery import snapshot_problems
from storage_backends.types import Problem
from storage_backends.view import View
from tests.storage.history import batch_of
from tests.storage.picture import Picture, picture
from tests.storage.shown import shown
from tests.torture.truth import Truth, differences

#: Concepts above which the memories of this folder have a graph and a snapshot.
LARGE = 16

_ROUNDING = 1e-4
_LEAST_RECALL = 0.9
_MOST_GENERATIONS = 100_000

Outcome = Literal["right", "wrong", "refused", "died"]


@dataclass(frozen=True)
class Verdict:
    """What came of reading a memory.

    Parameters
    ----------
    outcome : {"right", "wrong", "refused", "died"}
        Whether all that was read is what the history says, or something is not, or a
        `StoreError` said that it cannot be read, or reading ended with a signal or with an
        exception of another kind.
    generation : int
        The generation that was read; -1 where none was.
    problems : int
        How many problems `verify` listed.
    detail : str
        What is wrong, or the words of the refusal.
    """

    outcome: Outcome
    generation: int = -1
    problems: int = 0
    detail: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing at all is wrong."""
        return self.outcome == "right" and not self.problems

    def encode(self) -> str:
        """Return the verdict as one line."""
        return json.dumps(asdict(self))

    @staticmethod
    def decode(line: str) -> Verdict:
        """Return the verdict that `encode` made a line of."""
        return Verdict(**json.loads(line))


def judge(directory: Path, uuid: str, truth: Truth, *, read_only: bool) -> Verdict:
    """Open a memory, read everything, and compare it with the history.

    Parameters
    ----------
    directory : Path
        The memory.
    uuid : str
        Its identity; empty where any will do.
    truth : Truth
        The history.
    read_only : bool
        Open it beside a writer. A writer also commits what comes next, and reads that too.
        If the memory has a snapshot, it is read through an engine.
    """
    try:
        with LMDBStore.open(directory, read_only=read_only) as store:
            if store.manifest() is None:
                return _judge_opened(store, uuid, truth)
            # Before an engine is there, which would make the snapshot anew.
            problems = snapshot_problems(store)
            with closing(Engine(store, exact_below=LARGE)) as engine:
                return _judge_opened(engine, uuid, truth, problems)
    except StoreError as error:
        return Verdict("refused", detail=f"{type(error).__name__} {error}")


def _judge_opened(
    opened: LMDBStore | Engine, uuid: str, truth: Truth, known: Sequence[Problem] = ()
) -> Verdict:
    store = opened.store if isinstance(opened, Engine) else opened
    verdict = _examine(opened, store, uuid, truth, known)
    if store.read_only or not verdict.sound:
        return verdict
    opened.commit(batch_of(verdict.generation + 1))
    after = _examine(opened, store, uuid, truth)
    return verdict if after.sound else after


def _examine(
    opened: LMDBStore | Engine,
    store: Store,
    uuid: str,
    truth: Truth,
    known: Sequence[Problem] = (),
) -> Verdict:
    seen = picture(store)
    wrong = _wrong_records(seen, uuid, truth)
    if isinstance(opened, Engine):
        wrong += _wrong_view(opened.view(), View.of(store.load()))
    problems = [*known, *opened.verify()]
    listed = "; ".join(map(str, problems[:3]))
    return Verdict(
        outcome="wrong" if wrong else "right",
        generation=seen["generation"],
        problems=len(problems),
        detail=f"wrong: {', '.join(wrong)}; {listed}" if wrong else listed,
    )


def _wrong_records(seen: Picture, uuid: str, truth: Truth) -> list[str]:
    if not 0 <= seen["generation"] <= _MOST_GENERATIONS:
        return ["generation"]
    wrong = differences(seen, truth.at(seen["generation"]))
    return wrong if uuid in ("", seen["uuid"]) else [*wrong, "uuid"]


def _wrong_view(view: View, stored: View) -> list[str]:
    """Compare what a retrieval would read with what is stored."""
    wrong = [] if _show_the_same(view, stored) else ["view"]
    live = np.flatnonzero(view.alive.whole() & (view.norms.whole() > 0))
    if not len(live):
        return wrong
    keys = view.keys[live]
    slots, cosines = view.index.search(keys, 2)
    found = slots >= 0
    rows, found_slots = np.nonzero(found)[0], slots[found]
    expected = np.einsum("nd,nd->n", keys[rows], view.keys[found_slots])
    if not np.allclose(cosines[found], expected, atol=_ROUNDING):
        wrong.append("cosines")
    if not view.alive[found_slots].all():
        wrong.append("tombstones among the answers")
    if (cosines[:, 0] > 1 - _ROUNDING).mean() < _LEAST_RECALL:
        wrong.append("concepts that their own keys do not find")
    return wrong


def _show_the_same(view: View, stored: View) -> bool:
    try:
        return shown(view) == shown(stored)
    except AssertionError:  # `shown` also checks that a view agrees with itself
        return False
