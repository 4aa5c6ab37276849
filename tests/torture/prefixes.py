"""Rebuilds the disk as it was after each system call of a writer, and examines it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.torture.disk import Disk, Tree, digest, lay_out
from tests.torture.figures import Tally
from tests.torture.judge import Verdict
from tests.torture.kills import acknowledged_in
from tests.torture.trace import Call
from tests.torture.workers import Workers

#: What is left of the writes that were not synced: all, none, or some.
KINDS = ("written", "synced", "torn")


class Replay:
    """Examines every state that a writer's memory went through; each state only once.

    Parameters
    ----------
    forks : Workers
    folder : Path
        Where to rebuild the states.
    """

    def __init__(self, forks: Workers, folder: Path) -> None:
        self._forks = forks
        self._state = folder / "state"
        self._verdicts: dict[str, Verdict] = {}

    def run(self, calls: Iterable[Call], memory: Path, every: int = 1) -> dict[str, Tally]:
        """Return what came of the states, for each of `KINDS`.

        Parameters
        ----------
        calls : iterable of Call
            Of a writer that began with an empty folder.
        memory : Path
            Where its memory was.
        every : int
            Examine one state of so many, and not the others.
        """
        tallies = {kind: Tally() for kind in KINDS}
        for number, (kind, tree, acknowledged) in enumerate(_states(calls, memory)):
            if number % every:
                continue
            key = f"{acknowledged} {kind} {digest(tree)}"
            if key in self._verdicts:
                continue  # the call changed nothing on the disk
            self._verdicts[key] = verdict = self._examine(tree, acknowledged)
            tallies[kind].add(verdict, f"state {number}, {kind}", acknowledged)
            tallies[kind].acknowledged = acknowledged
        return tallies

    def _examine(self, tree: Tree, acknowledged: int) -> Verdict:
        key = digest(tree)
        if key not in self._verdicts:
            lay_out(tree, self._state)
            self._verdicts[key] = self._forks.judge(self._state, ahead=acknowledged + 3)
            shutil.rmtree(self._state)
        return self._verdicts[key]


def _states(calls: Iterable[Call], memory: Path) -> Iterator[tuple[str, Tree, int]]:
    disk, chance = Disk(memory), random.Random(0)
    acknowledged = 0
    for call in calls:
        before = acknowledged
        acknowledged = max(acknowledged, acknowledged_in([call.said() or ""]))
        if not disk.apply(call) and acknowledged == before:
            continue
        yield "written", disk.written(), acknowledged
        yield "synced", disk.synced(), acknowledged
        yield "torn", disk.torn(chance), acknowledged
