"""Nothing acknowledged is lost: interrupted makers, failing calls and full disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage_backends.lmdb_store import LMDBStore
from tests.storage import children
from tests.storage.history import Oracle, batch_of
from tests.storage.limits import disk_of
from tests.storage.picture import picture
from tests.storage.processes import child, line, run_child


def test_a_process_killed_while_it_makes_a_memory_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    states = []
    for step in range(1, 100):
        directory = tmp_path / str(step)
        with child(children.die_making, directory, step) as maker:
            made = line(maker)
        if made:
            break
        states.append(sorted(str(path.relative_to(directory)) for path in directory.rglob("*")))
        with LMDBStore.open(directory) as store:
            assert store.verify() == []
            assert store.commit(batch_of(1)) == 1
            assert picture(store) == Oracle(store.uuid).at(1)
    assert made == "made"
    assert [] in states
    assert any("gen-000001" in state and "CURRENT" not in state for state in states)


def test_a_file_size_limit_stops_a_write_and_nothing_else(tmp_path: Path) -> None:
    with LMDBStore.open(tmp_path) as store:
        store.commit(batch_of(1))
    _fill_and_check(tmp_path, 200_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", "400k") as disk:
        yield disk


def test_a_full_disk_stops_a_write_and_nothing_else(small_disk: Path) -> None:
    directory = small_disk / "memory"
    with LMDBStore.open(directory) as store:
        store.commit(batch_of(1))
    _fill_and_check(directory, 0)


@pytest.mark.parametrize(
    ("call", "error", "number", "expected"),
    [
        ("fdatasync", "EIO", 3, "StoreError"),
        ("writev", "EIO", 4, "StoreError"),
        ("writev", "ENOSPC", 2, "StoreFullError"),
        ("pwrite64", "EDQUOT", 5, "StoreFullError"),
        ("pwrite64", "EIO", 6, "StoreError"),  # the meta page, or a single page, by turns
        ("pwrite64", "EIO", 7, "StoreError"),
        ("pwrite64", "EIO", 8, "StoreError"),
    ],
)
def test_a_failed_system_call_ends_the_handle_and_nothing_else(
    tmp_path: Path, call: str, error: str, number: int, expected: str
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("NOT TESTED: needs strace")
    LMDBStore.open(tmp_path).close()
    oracle = _oracle_of(tmp_path)
    fault = f"inject={call}:error={error}:when={number}"
    under = [strace, "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", fault]
    generation, failure, *_ = run_child(children.fill, tmp_path, 0, under=under).splitlines()
    assert failure.startswith(f"{expected} {tmp_path}")
    assert _check(tmp_path, oracle, int(generation)) == int(generation)


@pytest.mark.parametrize("read_only", ["", "read-only"])
def test_a_disk_without_room_to_open_a_memory_is_an_error_and_no_signal(
    small_disk: Path, read_only: str
) -> None:
    directory = small_disk / "memory"
    said = run_child(children.open_with_little_room, directory, read_only).splitlines()
    killed = [text for text in said if "exit status" in text and not text.endswith("status 0")]
    assert not killed
    answers = [text for text in said if "exit status" not in text]
    assert {answer.split()[0] for answer in answers} == {"StoreFullError", "opened"}
    assert (answers[0].split()[0], answers[-1]) == ("StoreFullError", "opened")


def _oracle_of(directory: Path) -> Oracle:
    with LMDBStore.open(directory, read_only=True) as store:
        return Oracle(store.uuid)


def _check(directory: Path, oracle: Oracle, acknowledged: int) -> int:
    with LMDBStore.open(directory) as store:
        assert store.verify() == []
        generation = store.generation()
        assert acknowledged <= generation <= acknowledged + 1
        assert picture(store) == oracle.at(generation)
    return generation


def _fill_and_check(directory: Path, room: int) -> None:
    oracle = _oracle_of(directory)
    generation, full, *refusals = run_child(children.fill, directory, room).splitlines()
    assert int(generation) > 1
    assert "data.mdb" in full
    assert "earlier commits are intact" in full
    assert all("open the directory again" in refusal for refusal in refusals)
    assert len(refusals) > 5
    with LMDBStore.open(directory, read_only=True) as store:
        assert store.verify() == []
        assert picture(store) == oracle.at(int(generation))
    if room:
        with LMDBStore.open(directory) as store:
            store.commit(batch_of(int(generation) + 1))
            assert picture(store) == oracle.at(int(generation) + 1)
