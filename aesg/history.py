"""The evolution log as users read it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from os import PathLike
from typing import Any, TypeAlias

import numpy as np

from aesg._files import write_whole
from aesg.errors import AESGMemoryError
from aesg.growth import Growth, growth_of
from storage_backends.protocol import Store
from storage_backends.types import EVENT, EventType, Records

#: A type of event by name, or several.
Types: TypeAlias = str | EventType | Iterable[str | EventType]

#: Unix seconds, or a time; one without a zone is local time.
Moment: TypeAlias = float | np.number[Any] | datetime

#: A count, also as numpy has it.
Count: TypeAlias = int | np.integer[Any]

#: Spans of time that `EvolutionLog.growth` counts by.
_MOST_BINS = 100_000


@dataclass(frozen=True)
class Kept:
    """What the log holds as of one commit.

    Parameters
    ----------
    records : (N,) EVENT
        The newest events that were asked for, oldest first.
    forgotten : int
        Events of the memory's life that the log no longer holds.
    concepts : int
        Born concepts after the last event.
    """

    records: Records
    forgotten: int
    concepts: int


def kept(store: Store, newest: int | None = None) -> Kept:
    """Read the newest events of a store, all where ``newest`` is None."""
    while True:
        held = store.stats()
        count = held.events if newest is None else min(held.events, newest)
        start = held.first_event + held.events - count
        records = store.events(start, count)
        if store.stats().first_event <= start:  # nothing that was asked for went meanwhile
            return Kept(records, held.first_event, held.concepts)


class EvolutionLog:
    """Reads the events that a memory wrote in the same transactions as its changes.

    The log holds the newest ``max_events`` of them.

    Parameters
    ----------
    read : callable
        Returns the newest committed events, as many as it is told, or all for None.
    """

    def __init__(self, read: Callable[[int | None], Kept]) -> None:
        self._read = read

    @property
    def forgotten(self) -> int:
        """Number of events that the log no longer holds, all older than those that it does."""
        return self._read(0).forgotten

    def get_history(
        self,
        types: Types | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Count | None = None,
    ) -> list[dict[str, Any]]:
        """Return committed events, oldest first.

        Parameters
        ----------
        types : str, or iterable of str, optional
            CREATE, MERGE, SPLIT, PRUNE, CONSOLIDATE, RESTRUCTURE. Default: all.
        since, until : float or datetime, optional
            Unix seconds, or a time (one without a zone is local): events at ``since`` or later and
            before ``until``. Events tell their time in whole seconds; one counts where any part of
            its second lies between the two.
        limit : int, optional
            Of what fits, the newest so many.

        Returns
        -------
        list of dict
            ``timestamp`` (Unix seconds), ``type``, ``id1``, ``id2`` and ``val``; what the last
            three say depends on the type.

        Raises
        ------
        AESGMemoryError
            If there is no such type, a time is none, ``since`` is later than ``until``, or the
            limit is not 0 or more.
        """
        return [
            {
                "timestamp": timestamp,
                "type": EventType(kind).name,
                "id1": id1,
                "id2": id2,
                "val": value,
            }
            for timestamp, kind, id1, id2, value in self.records(
                types, since, until, limit
            ).tolist()
        ]

    def records(
        self,
        types: Types | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Count | None = None,
    ) -> Records:
        """Return committed events as a structured array, for what needs them by the million.

        Parameters
        ----------
        types, since, until, limit
            As for `get_history`.

        Returns
        -------
        (N,) structured array
            32 bytes each: ``timestamp`` uint64, ``type`` uint8 (0 CREATE to 5 RESTRUCTURE), ``id1``
            and ``id2`` uint64, ``val`` float32.

        Raises
        ------
        AESGMemoryError
            As `get_history`.
        """
        most = None if limit is None else _count("limit", limit, 0)
        wanted = None if types is None else _types(types)
        begin, end = _span(since, until)
        unfiltered = wanted is None and begin is None and end is None
        events = self._read(most if unfiltered else None).records
        chosen = np.ones(len(events), np.bool_)
        if wanted is not None:
            chosen &= np.isin(events["type"], wanted)
        if begin is not None:
            chosen &= events["timestamp"] >= np.floor(begin)
        if end is not None:
            chosen &= events["timestamp"] < end
        places = np.flatnonzero(chosen)
        return events[places if most is None else places[max(len(places) - most, 0) :]]

    def export(self, path: str | PathLike[str]) -> int:
        """Write every event that the log holds into a file, and return how many these are.

        The file is the documented binary log: 32 bytes for each event, little-endian, in the
        layout ``Q B 3x Q Q f`` of `struct`, and nothing else. It appears whole or not at all, in
        place of a file of that name. A link is followed, and stays.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        int

        Raises
        ------
        AESGStorageError
            If it is no path of a file, or cannot be written; a file of that name stays as it was.
        """
        events = self._read(None).records
        records = np.zeros(len(events), EVENT)  # so that the three bytes between are zero
        for name in EVENT.names or ():
            records[name] = events[name]
        write_whole(path, records.tobytes(), "export the evolution log")
        return len(records)

    def growth(self, bins: Count = 10) -> Growth:
        """Return how the memory grew and shrank over the time that the log tells of.

        Parameters
        ----------
        bins : int
            Equal spans of time, 1 to 100,000; fewer where the log tells of fewer seconds.

        Returns
        -------
        Growth
            ``print`` shows it as a table.

        Raises
        ------
        AESGMemoryError
            If ``bins`` is not such an integer.
        """
        most = _count("bins", bins, 1, _MOST_BINS)
        log = self._read(None)
        return growth_of(log.records, log.concepts, log.forgotten, most)


def _types(types: Types) -> list[int]:
    several: Iterable[str | EventType] = [types] if isinstance(types, str | EventType) else types
    try:
        return [int(_type(each)) for each in several]
    except TypeError:
        raise _no_type(types) from None


def _type(name: str | EventType) -> EventType:
    if isinstance(name, EventType):
        return name
    try:
        return EventType[name]
    except KeyError:
        raise _no_type(name) from None


def _no_type(got: object) -> AESGMemoryError:
    names = [each.name for each in EventType]
    return AESGMemoryError(f"Type of event: expected one of {names}, got {got!r}")


def _span(since: Moment | None, until: Moment | None) -> tuple[float | None, float | None]:
    begin, end = _seconds("since", since), _seconds("until", until)
    if begin is not None and end is not None and begin > end:
        raise AESGMemoryError(
            f"since: expected a time that is not later than until, got {since!r} and {until!r}"
        )
    return begin, end


def _seconds(name: str, moment: Moment | None) -> float | None:
    if moment is None:
        return None
    try:
        number: Any = moment.timestamp() if isinstance(moment, datetime) else moment
        real = isinstance(number, Real) and not isinstance(number, bool)
        seconds = float(number) if real else math.nan
    except (ValueError, OverflowError, OSError) as error:
        raise AESGMemoryError(f"{name}: expected a time in range, got {moment!r}") from error
    if math.isnan(seconds):
        raise AESGMemoryError(f"{name}: expected Unix seconds or a datetime, got {moment!r}")
    return seconds


def _count(name: str, count: Count, least: int, most: int | None = None) -> int:
    number = -1
    if isinstance(count, int | np.integer) and not isinstance(count, bool):
        number = operator.index(count)
    if number < least or (most is not None and number > most):
        bound = f">= {least}" if most is None else f"from {least} to {most}"
        raise AESGMemoryError(f"{name}: expected an integer {bound}, got {count!r}")
    return number
