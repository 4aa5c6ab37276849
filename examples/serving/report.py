"""Judging what the readers answered against what the trainer had acknowledged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.table import Table

from examples.serving.editions import ROWS
from examples.serving.load import NEWEST, Client, Reply

#: Share of the keys that the seed index, which is approximate, may fail to find.
MOST_MISSED = 0.01
#: Rows of one edition that it may fail to find. It misses each by itself, so hardly ever three.
MOST_ROWS_MISSED = 2


@dataclass(frozen=True)
class Acknowledged:
    """Editions in ascending order, and when each was acknowledged on the monotonic clock."""

    editions: Sequence[int]
    moments: Sequence[float]

    @classmethod
    def read(cls, files: Sequence[Path]) -> Acknowledged:
        """Read what trainers printed, one after the other."""
        lines = [line.split() for file in files for line in file.read_text().splitlines()]
        return cls([int(edition) for edition, _ in lines], [float(moment) for _, moment in lines])

    @staticmethod
    def last_in(file: Path) -> int:
        """Return the last edition that a trainer has printed so far; 0 if none."""
        lines = file.read_bytes().rpartition(b"\n")[0]  # the last may not be complete
        words = lines.rpartition(b"\n")[2].split()
        return int(words[0]) if words else 0

    def newest_at(self, moment: float) -> int:
        """Return the newest edition that was acknowledged by then; 0 if none was."""
        known = bisect_right(self.moments, moment)
        return self.editions[known - 1] if known else 0

    def staleness(self, edition: int, moment: float) -> float:
        """Return for how long, at a moment, an answer that shows an edition had been out of date.

        That is the time since the first newer edition was acknowledged, in seconds; 0 if none was.
        """
        following = bisect_right(self.editions, edition)
        if following == len(self.editions):
            return 0.0
        return max(0.0, moment - self.moments[following])


@dataclass(frozen=True)
class Verdict:
    """What one reader did.

    Parameters
    ----------
    requests : int
    errors : sequence of str
        Of requests that failed.
    torn : sequence of str
        Of each answer that showed a part of a commit, or a commit and not one before it.
    late : sequence of str
        Of each answer without an edition that had been acknowledged when the request was sent.
    backwards : int
        Answers older than the one before to the same client.
    checked, missed : int
        Keys of the editions that the other answers showed, and those of them that the seed index
        did not find.
    latency : sequence of float
        Seconds from request to answer.
    staleness : sequence of float
        Seconds for which each answer, when it arrived, had been out of date.
    """

    requests: int
    errors: Sequence[str]
    torn: Sequence[str]
    late: Sequence[str]
    backwards: int
    checked: int
    missed: int
    latency: Sequence[float]
    staleness: Sequence[float]

    @property
    def complaints(self) -> list[str]:
        """What was wrong, a line each; empty if the reader answered, and always rightly."""
        if not self.requests:
            return ["no requests"]
        found = {"errors": self.errors, "answers torn": self.torn, "answers late": self.late}
        lines = [f"{len(each)} {what}, first {each[0]}" for what, each in found.items() if each]
        if self.backwards:
            lines.append(f"{self.backwards} answers older than the last")
        if self.missed > MOST_MISSED * self.checked:
            lines.append(f"{self.missed} of {self.checked} keys not found")
        return lines


def judge(clients: Sequence[Sequence[Reply]], known: Acknowledged) -> Verdict:
    """Judge the replies of one reader.

    Parameters
    ----------
    clients : sequence of sequences of Reply
        For each client what it got, in order.
    known : Acknowledged
    """
    replies = [reply for client in clients for reply in client]
    good = [reply for reply in replies if not reply.error]
    torn = [_torn(reply, known) for reply in good]
    sound = [reply for reply, why in zip(good, torn, strict=True) if not why]
    shown = [rows for reply in sound for rows in reply.shown.values() if rows]
    second = [reply.again for reply in good if reply.again is not None]
    return Verdict(
        requests=len(replies),
        errors=[reply.error for reply in (*replies, *second) if reply.error],
        torn=[why for why in torn if why],
        late=[why for reply in good if (why := _late(reply, known))],
        backwards=sum(_steps_back(client) for client in clients),
        checked=ROWS * len(shown),
        missed=sum(ROWS - len(rows) for rows in shown),
        latency=[reply.received - reply.sent for reply in good],
        staleness=[known.staleness(reply.newest, reply.received) for reply in good],
    )


def verdicts(clients: Sequence[Client], known: Acknowledged) -> dict[int, Verdict]:
    """Judge every reader, by its number."""
    readers = sorted({client.reader for client in clients})
    return {
        reader: judge([each.replies for each in clients if each.reader == reader], known)
        for reader in readers
    }


def table_of(judged: Mapping[int, Verdict], mapped: Mapping[int, int]) -> Table:
    """Return a column of figures for each reader.

    Parameters
    ----------
    judged : mapping
    mapped : mapping
        How many snapshots each reader used, where that is known.
    """
    columns = [_figures(verdict, mapped.get(reader)) for reader, verdict in judged.items()]
    names = [f"reader {reader}" for reader in judged]
    table = Table("", *names)
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _figures(verdict: Verdict, snapshots: int | None) -> dict[str, str]:
    missed = "-"
    if verdict.checked:
        missed = f"{verdict.missed} ({verdict.missed / verdict.checked:.3%})"
    return {
        "requests": str(verdict.requests),
        "errors": str(len(verdict.errors)),
        "torn": str(len(verdict.torn)),
        "late": str(len(verdict.late)),
        "backwards": str(verdict.backwards),
        "keys checked": str(verdict.checked),
        "missed by the index": missed,
        "snapshots mapped": "-" if snapshots is None else str(snapshots),
        **_percentiles("latency", verdict.latency),
        **_percentiles("staleness", verdict.staleness),
    }


def _percentiles(what: str, seconds: Sequence[float]) -> dict[str, str]:
    names = {f"{what} p50, ms": 50, f"{what} p99, ms": 99, f"{what} most, ms": 100}
    if not seconds:
        return dict.fromkeys(names, "-")
    return {name: f"{1000 * np.percentile(seconds, at):.1f}" for name, at in names.items()}


def _torn(reply: Reply, known: Acknowledged) -> str:
    """Return how an answer mixes generations; empty if it does not.

    An edition that is found in part may be there in part, or the seed index may not find the rest.
    The index misses a row here and there, and goes on missing it, while half a commit is whole a
    moment later. Beneath an older edition the index may have been replaced between two answers.
    """
    newest = sorted(reply.shown)[-NEWEST:]
    for edition, rows in reply.shown.items():
        after = rows
        if reply.again is not None and not reply.again.error:
            after = reply.again.shown[edition]
        many = 0 < len(rows) < ROWS - MOST_ROWS_MISSED
        if many or (edition in reply.partial and edition in newest and after != rows):
            seen = f"rows {sorted(rows)}, right after {sorted(after)}"
            return f"edition {edition}: {seen} ({_when(reply, edition, known)})"
        if not rows and known.newest_at(reply.sent) < edition < reply.newest:
            return f"edition {reply.newest} without {edition} ({_when(reply, edition, known)})"
    return ""


def _late(reply: Reply, known: Acknowledged) -> str:
    """Return which acknowledged edition an answer lacks; empty if none."""
    newest = known.newest_at(reply.sent)
    for edition, rows in reply.shown.items():
        if edition <= newest and not rows:
            return f"without edition {edition} ({_when(reply, edition, known)})"
    return ""


def _when(reply: Reply, edition: int, known: Acknowledged) -> str:
    age = known.staleness(edition - 1, reply.sent)
    took = reply.received - reply.sent
    return f"acknowledged {age:.3f} s before the request was sent, which took {took:.3f} s"


def _steps_back(replies: Sequence[Reply]) -> int:
    shown = [reply.newest for reply in replies if not reply.error]
    return sum(after < before for before, after in pairwise(shown))
