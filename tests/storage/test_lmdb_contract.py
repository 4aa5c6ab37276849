"""The LMDB store keeps the contract."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from storage_backends.lmdb_store import LMDBStore
from tests.storage.contract import StoreContract
from tests.storage.place import Opener


class TestLMDBStore(StoreContract):
    def opener(self, folder: Path) -> Opener:
        return partial(LMDBStore.open, folder)


class TestLMDBStoreWithoutMetasync(StoreContract):
    def opener(self, folder: Path) -> Opener:
        return partial(LMDBStore.open, folder, durability="normal")
