"""Readers that stay or die make the file grow only while they are there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from storage_backends.lmdb_store import LMDBStore
from tests.storage.history import batch_of
from tests.torture.workers import COMMAND, ROOT, environment

#: After so many generations a writer looks for readers that died.
_LOOKS_EVERY = 256
_COMMITS = 60


@contextmanager
def _reader(memory: Path, program: str = "read_on") -> Iterator[subprocess.Popen[str]]:
    """Run a process that is in the middle of reading a memory, and kill it at the end."""
    command = [*COMMAND, program, str(memory)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            yield process
        finally:
            process.kill()


def _growth(store: LMDBStore, commits: int = _COMMITS) -> int:
    """Return by how many bytes the file grows in some commits."""
    before = store.stats().file_bytes
    for _ in range(commits):
        store.commit(batch_of(store.generation() + 1))
    return store.stats().file_bytes - before


def test_a_long_reader_makes_the_file_grow_and_its_end_lets_the_room_be_used_again(
    tmp_path: Path,
) -> None:
    with LMDBStore.open(tmp_path, durability="normal", log_length=16) as store:
        _growth(store)
        usual = _growth(store)
        with _reader(tmp_path):
            held = _growth(store)
            assert held > 4 * usual + 100_000
        _growth(store, _LOOKS_EVERY)  # by now the death of the reader has been noticed
        freed = store.stats().file_bytes
        assert _growth(store) <= usual
        assert store.stats().file_bytes <= freed + usual
        assert store.verify() == []


def test_a_killed_reader_is_noticed_at_the_next_open(tmp_path: Path) -> None:
    with LMDBStore.open(tmp_path, durability="normal", log_length=16) as store:
        _growth(store)
        usual = _growth(store)
        # Somebody else keeps the memory open, or LMDB would begin with an empty list of readers.
        with _reader(tmp_path, "stay"):
            with _reader(tmp_path):
                held = _growth(store)
            store.close()
            with LMDBStore.open(tmp_path, durability="normal", log_length=16) as again:
                _growth(again)
                assert _growth(again) <= usual < held


def test_many_readers_may_die_at_once(tmp_path: Path) -> None:
    with LMDBStore.open(tmp_path, log_length=16) as store:
        store.commit(batch_of(1))
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(_reader(tmp_path))
        with LMDBStore.open(tmp_path, read_only=True) as reader:
            assert reader.generation() == 1
        assert store.commit(batch_of(2)) == 2
