"""Drops aliases that lead nowhere, a few with each commit that may have left some.

When a concept is deleted, the aliases at whose end it was lead nowhere, but nothing says which they
are. So a writer goes round the table and looks at a few more of them for each id that is gone: that
keeps those that lead nowhere to a small part of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import lmdb

from storage_backends import codec
from storage_backends.opening import Tables, Transaction
from storage_backends.soundness import Entry, unsound_records

#: Looks for each id that is gone. With n of them, about one alias in 2n leads nowhere.
_LOOKS = 4
#: Steps along a chain. A longer one is left until what is at its end has been dropped; a circle,
#: which damage may have made, for ever.
_LONGEST = 64
#: Odd, near the golden section of all ids: its multiples are spread evenly.
_STRIDE = 0x9E3779B97F4A7C15


class AliasSweep:
    """The way of one writer round its table of aliases."""

    def __init__(self) -> None:
        self._next: bytes | None = None

    def run(self, transaction: Transaction, tables: Tables, gone: int, generation: int) -> None:
        """Look at some further aliases, and drop those that lead nowhere.

        Parameters
        ----------
        transaction : Transaction
            An open write transaction, whose other changes are made.
        tables : Tables
        gone : int
            How many ids the commit has deleted, or given an alias.
        generation : int
            That of the commit: where to begin. A writer that is soon closed begins somewhere else
            the next time, and so gets round as well.
        """
        held = transaction.stat(tables.alias)["entries"] if gone and tables.alias else 0
        if not held:
            return
        cursor = transaction.cursor(db=tables.alias)
        start = self._next or codec.encode_number(generation * _STRIDE % _end_of(cursor))
        seen = list(islice(_round(cursor, start), min(_LOOKS * gone, held)))
        self._next = seen[-1][0] + b"\0"  # sorts behind that key, and before all others
        lost = [entry for entry in seen if _leads_nowhere(transaction, tables, entry[1])]
        unsound = {key for key, _ in unsound_records(codec.ALIAS, lost, width=0)}
        for key, _ in lost:
            if key not in unsound:  # which `verify` is to find
                transaction.delete(key, db=tables.alias)


def _end_of(cursor: lmdb.Cursor[bytes]) -> int:
    """Return the number after the last id."""
    cursor.last()
    return codec.decode_number(cursor.key()) + 1


def _round(cursor: lmdb.Cursor[bytes], start: bytes) -> Iterator[Entry]:
    """Yield the records from a key on, and then from the first one."""
    if cursor.set_range(start):
        yield from cursor.iternext()
    cursor.first()
    yield from cursor.iternext()


def _leads_nowhere(transaction: Transaction, tables: Tables, record: bytes | None) -> bool:
    """Return whether the chain that begins with a record ends where there is no concept."""
    for _ in range(_LONGEST):
        if record is None:
            return True
        key = codec.alias_key(record)
        if transaction.get(key, db=tables.value) is not None:
            return False
        record = transaction.get(key, db=tables.alias)
    return False
