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
from pathlib import Path
from typing import Protocol

from storage_backends.types import Contents, Floats, Ids, Problem, Records, StoreStats, WriteBatch


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
            that differs from the concepts already held, a non-finite key or value, an alias of a
            concept that exists or for one that does not, or ``most_events`` below 1.
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

    def keys(self, ids: Ids) -> Floats:
        """Return the keys of concepts as they were put, ``(N, D)`` float32.

        Raises
        ------
        StoreCorruptError
            If there is no such concept.
        """
        ...

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each id; None where there is none."""
        ...

    def resolved_payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of the concept that each id stands for; None where there is none.

        Both are of one generation: a merge, which takes the payload along, cannot come between.
        """
        ...

    def resolve(self, ids: Ids) -> Ids:
        """Return the concept that each id stands for now, (N,) uint64 in the order of the ids.

        That is the id itself where the concept exists, else the one at the end of its aliases, and
        0 where there is none.
        """
        ...

    def events(self, start: int = 0, limit: int | None = None) -> Records:
        """Return events ``start`` and later, oldest first, at most ``limit`` of them.

        Events are numbered from 0, and keep their number. Those before `StoreStats.first_event`
        are gone, and passed over.
        """
        ...

    def shortterm(self) -> Mapping[str, bytes]:
        """Return the short-term table as last written."""
        ...

    def stats(self) -> StoreStats:
        """Return the sizes of the store."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where files derived from the records belong; None for a store without a place on disk."""
        ...

    def publish(self, manifest: bytes, generation: int) -> int:
        """Put a manifest in the place of the present one and return its number.

        Numbers count on from 1 and are never used again. No generation is made. The log keeps all
        that changed after ``generation``, so that `changes` can tell it, up to a limit of the
        store's.

        Parameters
        ----------
        manifest : bytes
            What describes the derived files; ``b""`` for none.
        generation : int
            The generation that they show, at most the present one.

        Raises
        ------
        StoreUsageError
            If the generation has not been.
        StoreReadOnlyError, StoreFullError
            As for `commit`.
        """
        ...

    def manifest(self) -> tuple[int, bytes] | None:
        """Return the number and the bytes of the manifest, None where there is none."""
        ...

    def manifest_seq(self) -> int:
        """Return the greatest number that a manifest has had, 0 for none; as cheap as `generation`.

        It changes with every `publish`.
        """
        ...

    def hold_log(self, generation: int | None) -> None:
        """Let the log keep what changes after a generation, while derived files are being made.

        The last call counts; None ends it, and so does `close`.

        Raises
        ------
        StoreReadOnlyError
            If the handle is read-only.
        """
        ...

    def follow(self) -> bool:
        """Move a read-only handle to the records that the path that was opened leads to now.

        Returns
        -------
        bool
            Whether they are others than before; their generation may be the same. Always False
            for a handle that may write: while it is open nobody may put others in their place.
        """
        ...

    def verify(self) -> Sequence[Problem]:
        """Examine every record of one generation; an empty list means that all is well."""
        ...

    def close(self) -> None:
        """Release the store; a second call does nothing."""
        ...
