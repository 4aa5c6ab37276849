"""What a memory held before a repair and holds after it, and so what was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from storage_backends import codec
from storage_backends.opening import Tables, Transaction
from storage_backends.sifting import oldest_event

#: Names of the counts, with the tables that have a record for each.
_TABLE_OF = {"concepts": "key", "payloads": "payload", "events": "evolution"}
_NAMES = ("concepts", "edges", "payloads", "aliases", "events")


@dataclass(frozen=True)
class Counts:
    """How much a memory holds; None where nothing tells.

    Parameters
    ----------
    concepts, edges, payloads, aliases, events : int or None
    """

    concepts: int | None
    edges: int | None
    payloads: int | None
    aliases: int | None
    events: int | None


def count(transaction: Transaction, tables: Tables) -> Counts:
    """Count what the tables hold or, by what belongs to it, once held."""
    parts = [_numbers_in(transaction, tables, table) for table in ("key", "value", "meta")]
    events = sorted(_numbers_in(transaction, tables, "evolution"))
    first = oldest_event(transaction, tables, events)
    records = transaction.cursor(db=tables.adjacency).iternext(keys=False)
    return Counts(
        concepts=len(set().union(*parts)),
        edges=sum(max(codec.count_edges(record), 0) for record in records),
        payloads=transaction.stat(tables.payload)["entries"],
        aliases=0 if tables.alias is None else transaction.stat(tables.alias)["entries"],
        events=max(len(events), events[-1] + 1 - first) if events else 0,
    )


def _numbers_in(transaction: Transaction, tables: Tables, table: str) -> set[int]:
    keys = transaction.cursor(db=getattr(tables, table)).iternext(values=False)
    joined = b"".join(key for key in keys if len(key) == 8)
    return set(np.frombuffer(joined, ">u8").tolist())


def estimate(
    entries: Mapping[str, int], edges: int | None, concepts: int | None, shown_edges: int | None
) -> Counts:
    """Say what a damaged file held.

    Parameters
    ----------
    entries : mapping of str to int
        Numbers of records, of the tables of which the file still says it.
    edges : int or None
        The count of edges, if it could be read.
    concepts, shown_edges : int or None
        What its snapshot shows, if there is one.
    """
    known = {name: entries.get(table) for name, table in _TABLE_OF.items()}
    return Counts(
        concepts=concepts if known["concepts"] is None else known["concepts"],
        edges=shown_edges if edges is None else edges,
        payloads=known["payloads"],
        aliases=_aliases_in(entries),
        events=known["events"],
    )


def _aliases_in(entries: Mapping[str, int]) -> int | None:
    # A memory of an earlier release has every table but this one.
    others = set(codec.TABLES) - {codec.ALIAS}
    return entries.get(codec.ALIAS, 0 if set(entries) == others else None)


def losses(before: Counts, after: Counts) -> Iterator[str]:
    """Yield what is less after than before, or may be."""
    unknown = []
    for name in _NAMES:
        had, has = getattr(before, name), getattr(after, name)
        if had is None:
            unknown.append(name)
        elif has < had:
            yield f"{had - has:,} of {had:,} {name}"
    if unknown:
        yield f"an unknown number of {', '.join(unknown)}: nothing tells how many there were"
