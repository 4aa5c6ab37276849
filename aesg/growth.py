"""How a memory grew and shrank, from its events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from aesg._tables import as_text
from storage_backends.types import EventType, Records

Counts = NDArray[np.int64]

_SHOWN = ("births", "merges", "splits", "prunes", "net", "count")

#: Spans that are shown at each end of a table of more than twice as many.
_ENDS = 50


@dataclass(frozen=True, repr=False)
class Growth:
    """Events that added or removed concepts, counted by spans of time.

    Parameters
    ----------
    times : (bins + 1,) float64
        Unix seconds at which the spans begin, and the end of the last; empty without events.
    births, merges, splits, prunes : (bins,) int64
        Concepts that were born (remembered and abstract ones included), that went into another,
        that came out of another, and that were pruned.
    count : (bins,) int64
        Born concepts at the end of each span, counted back from the present number.
    forgotten : int
        Older events that the log no longer holds, and that are counted nowhere here.
    """

    times: NDArray[np.float64]
    births: Counts
    merges: Counts
    splits: Counts
    prunes: Counts
    count: Counts
    forgotten: int

    @property
    def net(self) -> Counts:
        """By how much the number of concepts changed in each span, ``(bins,)`` int64."""
        return self.births + self.splits - self.merges - self.prunes

    def __repr__(self) -> str:
        return f"Growth(bins={len(self.count)}, net={self.net.sum()}, forgotten={self.forgotten})"

    def __str__(self) -> str:
        """Return a table with a line for each span; of more than a hundred, the outer ones."""
        table = Table("until", box=SIMPLE, pad_edge=False)
        for name in _SHOWN:
            table.add_column(name, justify="right")
        bins = len(self.count)
        if bins <= 2 * _ENDS:
            self._add_rows(table, slice(None))
        else:
            self._add_rows(table, slice(_ENDS))
            table.add_row(f"... {bins - 2 * _ENDS:,} more")
            self._add_rows(table, slice(-_ENDS, None))
        missing = f"{self.forgotten:,} older events are no longer in the log."
        return as_text(table, *([missing] if self.forgotten else []))

    def _add_rows(self, table: Table, bins: slice) -> None:
        columns = [getattr(self, name)[bins].tolist() for name in _SHOWN]
        for end, *counts, net, count in zip(self.times[1:][bins].tolist(), *columns, strict=True):
            shown = (f"{each:,}" for each in counts)
            table.add_row(_moment(end), *shown, f"{net:+,}", f"{count:,}")


def growth_of(events: Records, concepts: int, forgotten: int, bins: int) -> Growth:
    """Count events by spans of time.

    Parameters
    ----------
    events : (N,) EVENT
        Oldest first.
    concepts : int
        Born concepts after the last of them.
    forgotten : int
        Events before the first of them.
    bins : int
        Spans of equal length, at least 1, from the first event to the second after the last;
        fewer where a span would be shorter than a second.
    """
    seconds = events["timestamp"].astype(np.float64)
    times = np.empty(0)
    if len(seconds):
        first, last = seconds.min(), seconds.max() + 1
        bins = min(bins, max(int(last - first), 1))
        times = np.linspace(first, last, bins + 1)
    else:
        bins = 0
    # The second side puts an event between two spans into the later one.
    span = np.searchsorted(times[1:-1], seconds, "right")

    def counted(kind: EventType) -> Counts:
        # A PRUNE with a second number tells of edges, and a MERGE without one of a concept of a
        # pack: they leave the number of concepts as it is.
        chosen = events["type"] == kind
        if kind in (EventType.PRUNE, EventType.MERGE):
            chosen &= (events["id2"] == 0) == (kind is EventType.PRUNE)
        return np.bincount(span[chosen], minlength=bins).astype(np.int64)

    births, merges = counted(EventType.CREATE), counted(EventType.MERGE)
    splits, prunes = counted(EventType.SPLIT), counted(EventType.PRUNE)
    net = births + splits - merges - prunes
    after = net.sum() - np.cumsum(net)  # what changed after each span
    return Growth(times, births, merges, splits, prunes, concepts - after, forgotten)


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no date: a clock that was wrong
        return f"second {seconds:.0f}"
