"""The conformance suite: what every `Store` does, whatever its medium.

A store passes if a subclass of `StoreContract` that opens it passes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.contract_aliases import AliasContract
from tests.storage.contract_changes import ChangesContract
from tests.storage.contract_handles import HandleContract
from tests.storage.contract_reads import ReadContract
from tests.storage.contract_refusals import RefusalContract
from tests.storage.contract_snapshots import SnapshotContract
from tests.storage.contract_writes import WriteContract
from tests.storage.place import Opener, Place, first_batch


class StoreContract(
    WriteContract,
    RefusalContract,
    ReadContract,
    AliasContract,
    ChangesContract,
    HandleContract,
    SnapshotContract,
):
    """Subclass this, name the subclass ``Test...`` and define `opener`."""

    @abstractmethod
    def opener(self, folder: Path) -> Opener:
        """Return a function that opens the memory at ``folder``, and makes it at its first call."""

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Iterator[Place]:
        """A memory just made; it must verify at the end of the test."""
        place = Place(self.opener(tmp_path / "memory"))
        yield place
        assert list(place.reopen().verify()) == []
        place.finish()

    @pytest.fixture
    def place(self, empty: Place) -> Place:
        """A memory that holds `first_batch` as generation 1."""
        assert empty.store.commit(first_batch()) == 1
        return empty
