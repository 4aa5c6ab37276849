"""Kills writers at moments of chance."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.torture.figures import Tally
from tests.torture.judge import Verdict
from tests.torture.workers import Work, Workers

_ENDLESS = 10**9
#: Kills after which a new memory is begun, so that the history stays short.
_KILLS_FOR_EACH = 50
#: Lines of a writer that are waited for before it is killed, and seconds after the last of them.
_MOST_LINES, _MOST_SECONDS = 12, 0.003


def kill_often(
    forks: Workers, folder: Path, program: str, durability: str, kills: int, seed: int = 0
) -> Tally:
    """Kill a writer again and again, and examine what it leaves.

    Parameters
    ----------
    forks : Workers
    folder : Path
        Where to put the memories.
    program : str
        The writer, of `programs.PROGRAMS`.
    durability : {"full", "normal"}
    kills : int
    seed : int
        Decides the moments.
    """
    chance, tally = random.Random(seed), Tally()
    for number in range(kills):
        memory = folder / f"{program}-{durability}-{number // _KILLS_FOR_EACH}"
        writer = forks.begin(program, memory, durability, _ENDLESS)
        said = _watch(writer, chance)
        acknowledged = acknowledged_in(said)
        verdict = _in_step(forks.judge(memory, ahead=acknowledged + 2), acknowledged)
        if writer.status != -signal.SIGKILL:
            verdict = Verdict("died", detail=f"the writer ended by itself: {writer.status}")
        tally.acknowledged += sum(line.startswith("commit ") for line in said)
        tally.add(verdict, f"kill {number} after {said[-1:]}", acknowledged)
    return tally


def _watch(writer: Work, chance: random.Random) -> list[str]:
    """Kill a writer at some moment; return what it said."""
    lines = [writer.line() for _ in range(chance.randint(1, _MOST_LINES))]
    time.sleep(chance.random() * _MOST_SECONDS)
    writer.kill()
    return [line for line in [*lines, *writer.rest()] if line is not None]


def _in_step(verdict: Verdict, acknowledged: int) -> Verdict:
    """Call a memory wrong that has more commits than one which nobody had heard of yet."""
    if verdict.outcome == "right" and acknowledged and verdict.generation > acknowledged + 1:
        return Verdict("wrong", verdict.generation, detail="commits that nobody made")
    return verdict


def acknowledged_in(said: list[str]) -> int:
    """Return the last generation that a writer said was durable; 0 where there is none."""
    commits = [int(line.split()[1]) for line in said if line.startswith("commit ")]
    return commits[-1] if commits else 0
