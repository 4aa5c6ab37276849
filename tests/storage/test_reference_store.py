"""The reference store keeps the contract that it is the reference of."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.storage.contract import StoreContract
from tests.storage.place import Opener
from tests.storage.reference_store import Backing, ReferenceStore


class TestReferenceStore(StoreContract):
    def opener(self, folder: Path) -> Opener:
        return partial(ReferenceStore, Backing())
