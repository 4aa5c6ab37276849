"""One memory under test, and all the handles on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from storage_backends.errors import StoreClosedError, StoreUsageError
from storage_backends.protocol import Store
from storage_backends.types import Concepts, WriteBatch
from tests.storage.build import concepts, edges, events
from tests.storage.picture import Picture, picture


class Opener(Protocol):
    """Opens a handle on the same memory each time."""

    def __call__(self, *, read_only: bool) -> Store: ...


class Place:
    """A memory with one writer, `store`, and readers on demand.

    Parameters
    ----------
    opener : Opener
        Makes the memory at its first call.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._handles: list[Store] = []
        self.store = self._open(read_only=False)

    def reader(self) -> Store:
        """Return a second handle, read-only, that `finish` closes."""
        return self._open(read_only=True)

    def reopen(self) -> Store:
        """Close all handles and open a new writer."""
        self.finish()
        self.store = self._open(read_only=False)
        return self.store

    def replace_writer(self) -> Store:
        """Close the writer, and nothing else, and open a new one."""
        self.store.close()
        self.store = self._open(read_only=False)
        return self.store

    def commit(self, batch: WriteBatch) -> Picture:
        """Commit and return what is then `seen`."""
        self.store.commit(batch)
        return self.seen()

    def seen(self) -> Picture:
        """Return what the writer answers, checked to be what a reader and a reopened one answer."""
        own = picture(self.store)
        reader = self.reader()
        assert picture(reader) == own, "a second handle sees something else"
        assert picture(self.reopen()) == own, "the reopened store holds something else"
        return own

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check that the block changes nothing."""
        before = self.seen()
        yield
        self.expect(before)

    def expect(self, before: Picture) -> None:
        """Check that a failed commit left ``before``, for this handle, another, and the next."""
        try:
            assert picture(self.store) == before, "the handle sees a change"
        except StoreClosedError:
            self.reopen()  # a handle may be lost to a failed write, its records may not
        assert self.seen() == before

    def refuses(self, batch: WriteBatch) -> str:
        """Check that the batch is refused and leaves no trace; return the message."""
        with self.unchanged(), pytest.raises(StoreUsageError) as caught:
            self.store.commit(batch)
        return str(caught.value)

    def finish(self) -> None:
        """Close all handles."""
        while self._handles:
            self._handles.pop().close()

    def _open(self, *, read_only: bool) -> Store:
        store = self._opener(read_only=read_only)
        self._handles.append(store)
        return store


def first_batch() -> WriteBatch:
    """Return a batch that fills every table: concepts 1 to 5 and what belongs to them."""
    return WriteBatch(
        concepts=first_concepts(),
        payloads={1: b"one", 2: b"two"},
        edges={1: edges(2, 3), 2: edges(1), 5: edges(1)},
        events=events([1, 2, 3]),
        shortterm={"keys": b"ring", "clock": b"7"},
        settings={"config": b"{}", "epoch": b"1"},
    )


def first_concepts() -> Concepts:
    """Return the concepts of `first_batch`."""
    return concepts([1, 2, 3, 4, 5], values="mixed")
