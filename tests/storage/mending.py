"""A memory before and after its repair."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.repair import RepairReport, repair
from tests.storage.picture import Picture, picture


def seen(directory: Path) -> Picture:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        assert store.verify() == []
        return picture(store)


def repaired(directory: Path) -> RepairReport:
    """Repair a memory that `examine` finds problems in; it must have none afterwards."""
    assert examine(directory).problems
    report = repair(directory)
    assert report.problems == ()
    assert examine(directory).problems == ()
    assert repair(directory).rebuilt == ()  # there is nothing left to do
    return report
