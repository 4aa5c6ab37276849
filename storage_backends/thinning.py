"""What compaction leaves out of the tables: events beyond a limit, aliases that lead nowhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from storage_backends import codec
from storage_backends.aliases import ends_of
from storage_backends.lmdb_read import read_aliases
from storage_backends.lmdb_write import drop_events
from storage_backends.opening import Tables, Transaction
from storage_backends.types import Ids


class Surplus(NamedTuple):
    """How many records are left out.

    Parameters
    ----------
    events, aliases : int
    """

    events: int
    aliases: int


def surplus_of(transaction: Transaction, tables: Tables, most_events: int | None) -> Surplus:
    """Return how many records `thin` would remove."""
    held = transaction.stat(tables.evolution)["entries"]
    events = 0 if most_events is None else max(held - most_events, 0)
    return Surplus(events, len(_lost_aliases(transaction, tables)))


def thin(transaction: Transaction, tables: Tables, most_events: int | None) -> None:
    """Remove the oldest events but for so many, and aliases without a concept at their end."""
    for key in codec.encode_ids(_lost_aliases(transaction, tables)):
        transaction.delete(key, db=tables.alias)
    if most_events is not None:
        drop_events(transaction, tables, most_events)


def _lost_aliases(transaction: Transaction, tables: Tables) -> Ids:
    ids, targets = read_aliases(transaction, tables)
    if not ids.size:
        return ids
    concepts = codec.decode_ids(transaction.cursor(db=tables.value).iternext(values=False))
    return ids[~np.isin(ends_of(ids, targets), concepts)]
