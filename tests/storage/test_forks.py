"""What a forked child may do, and that the parent does not notice."""

from __future__ import annotations

from pathlib import Path

from storage_backends.lmdb_store import LMDBStore
from tests.storage import children
from tests.storage.history import batch_of
from tests.storage.processes import run_child


def test_children_open_their_own_while_the_parent_goes_on(tmp_path: Path) -> None:
    with LMDBStore.open(tmp_path) as store:
        store.commit(batch_of(1))
    assert run_child(children.fork_while_busy, tmp_path) == "fine\n"


def test_a_child_computes_what_a_thread_of_the_parent_was_computing() -> None:
    assert run_child(children.fork_while_computing) == "fine\n"


def test_a_child_may_write_once_the_parent_has_closed(tmp_path: Path) -> None:
    assert run_child(children.fork_and_write, tmp_path) == "fine\n"
