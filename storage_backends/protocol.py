"""The contract between the memory and what keeps it.

A store holds records, knows nothing of activation or torch, and promises four things:

1. `Store.commit` applies a `WriteBatch` whole or not at all, and returns only when it is durable.
2. Every reading method answers from one generation.
3. A failed commit leaves the last generation readable, by this handle or by the next one.
4. `Store.verify` finds what breaks these promises and returns it as a list.

``tests/storage/contract.py`` holds every implementation to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from storage_backends.types import Contents, Ids, Problem, Records, StoreStats, WriteBatch


class Store(Protocol):
    """Persistent records of one memory.

    All methods raise `StoreClosedError` after `close`, and a subclass of `StoreError` where the
    medium fails.
    """

    @property
    def read_only(self) -> bool:
        """Whether `commit` is refused."""
        ...

    @property
    def uuid(self) -> str:
        """Identity of the memory, 32 hexadecimal digits, given at creation."""
        ...

    def is_current(self) -> bool:
        """Return whether the path that was opened still leads to these records.

        False where they were moved, deleted or replaced, and after `close`; never an error.
        """
        ...

    def generation(self) -> int:
        """Return the number of the last commit that readers can see; 0 for a new store."""
        ...

    def commit(self, batch: WriteBatch) -> int:
        """Apply a batch in one transaction and return the new generation.

        An empty batch is legal and makes a generation too.

        Raises
        ------
        StoreUsageError
            If the batch breaks a rule that `WriteBatch` states: repeated or zero ids, deletion or
            statistics or payload or edges of a concept that does not exist, a target that does not
            exist, an edge to oneself, repeated targets, arrays of unequal length, a key width
            that differs from the concepts already held, or a non-finite key or value.
        StoreReadOnlyError
            If the handle is read-only.
        StoreFullError
            If there is no room; the earlier generation stays.
        """
        ...

    def load(self) -> Contents:
        """Read all live concepts and edges of one generation."""
        ...

    def changes(self, since: int) -> Contents | None:
        """Read what changed after generation ``since``, or None if the log no longer says."""
        ...

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each id; None where there is none."""
        ...

    def events(self, start: int = 0, limit: int | None = None) -> Records:
        """Return events ``start`` and later, oldest first, at most ``limit`` of them."""
        ...

    def shortterm(self) -> Mapping[str, bytes]:
        """Return the short-term table as last written."""
        ...

    def stats(self) -> StoreStats:
        """Return the sizes of the store."""
        ...

    def verify(self) -> Sequence[Problem]:
        """Examine every record of one generation; an empty list means that all is well."""
        ...

    def close(self) -> None:
        """Release the store; a second call does nothing."""
        ...
