"""Examination: every part of a memory is looked at, whoever is at work beside."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb.verify as lmdb_verify
import pytest

from storage_backends import examination, folders
from storage_backends.codec import LogEntry, encode_log
from storage_backends.compaction import compact
from storage_backends.copying import copy
from storage_backends.description import describe
from storage_backends.engine import Engine
from storage_backends.examination import examine, snapshot_trouble
from storage_backends.lmdb_store import LMDBStore
from storage_backends.repair import repair
from storage_backends.types import Problem, WriteBatch
from tests.storage import maintenance_children as children
from tests.storage.build import concepts, ids
from tests.storage.damage import flip, key_of, make, overwrite, replace_record
from tests.storage.engines import LARGE, large_batch
from tests.storage.history import batch_of
from tests.storage.processes import child, line
from tests.tool_runs import command


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a memory with a snapshot of its last generation but one."""
    with closing(Engine(LMDBStore.open(tmp_path / "memory"), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(9)))
    return tmp_path / "memory"


def test_every_bad_record_is_named(tmp_path: Path) -> None:
    make(tmp_path, WriteBatch(concepts=concepts(range(1, 101), values="mixed")))
    for table, number in (("key", 3), ("key", 77), ("value", 50), ("meta", 100)):
        flip(tmp_path, table, key_of(number))
    found = examine(tmp_path).problems
    assert [(each.table, each.key) for each in found] == [
        ("key", "3"),
        ("key", "77"),
        ("value", "50"),
        ("meta", "100"),
    ]


def test_bytes_changed_under_a_file_at_rest_are_named_too(tmp_path: Path) -> None:
    path = make(tmp_path, WriteBatch(concepts=concepts(range(1, 101), values="mixed")))
    flip(tmp_path, "key", key_of(3))
    flip(tmp_path, "meta", key_of(4))
    (path.parent / "STAMP").unlink()  # so that no store opens it
    assert {(each.table, each.key) for each in examine(tmp_path).problems} == {
        ("key", "3"),
        ("meta", "4"),
    }


@pytest.mark.parametrize("pattern", ["*.aesg", "*.faiss"])
def test_a_damaged_snapshot_is_found_and_made_anew(
    large: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine(large).problems == ()
    (file,) = large.glob(f"gen-*/{pattern}")
    overwrite(file, file.stat().st_size // 2, b"\xff" * 64)
    assert [each.table for each in examine(large).problems] == ["snapshot"]
    monkeypatch.setattr("storage_backends.repair.Engine", lambda store: Engine(store, LARGE))
    report = repair(large)
    assert (report.rebuilt, report.moved, report.problems) == (("the snapshot",), (), ())
    with closing(Engine(LMDBStore.open(large, read_only=True), LARGE)) as engine:
        assert engine.shown.footing is not None
        assert engine.view().node_count == 59
        assert engine.store.generation() == 2  # the records were sound: readers replay as ever


def test_a_manifest_that_does_not_decode_is_found_and_replaced(large: Path) -> None:
    replace_record(large, "snapshot", key_of(1), b"nothing of the kind")
    assert "snapshot" in [each.table for each in examine(large).problems]
    report = repair(large)
    assert "the snapshot" in report.rebuilt
    assert report.problems == ()


def test_a_snapshot_of_other_records_is_found(large: Path, tmp_path: Path) -> None:
    with closing(LMDBStore.open(large)) as store:
        store.commit(WriteBatch(concepts=concepts([3], seed=5)))
        generation = store.generation()
    replace_record(large, "log", key_of(generation), _empty_entry(generation))
    assert {each.table for each in examine(large).problems} == {"view"}
    assert repair(large).problems == ()


def _empty_entry(generation: int) -> bytes:
    return encode_log(generation, LogEntry(ids(), ids(), ids(), ids(), ids()))


def test_it_finds_nothing_beside_a_writer_at_work(tmp_path: Path) -> None:
    make(tmp_path, *map(batch_of, range(1, 10)))
    with child(children.hold, tmp_path) as writer:
        line(writer)
        assert writer.stdin is not None
        for _ in range(5):
            print(file=writer.stdin, flush=True)
            line(writer)
            assert examine(tmp_path).problems == ()


class Hurried(io.FileIO):
    """A file that others write to while one asks how long it is."""

    def __init__(self, path: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(path)
        self._meanwhile = meanwhile

    def tell(self) -> int:
        size = super().tell()
        self._meanwhile()
        return size


def test_commits_while_it_begins_to_examine_the_pages_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, *map(batch_of, range(1, 10)))
    with child(children.hold, tmp_path) as writer:
        line(writer)
        hurried, real, found = iter([True]), lmdb_verify.verify, list[list[str]]()

        def commit() -> None:
            for _ in range(50 * next(hurried, False)):
                print(file=writer.stdin, flush=True)
                line(writer)

        def verify(path: str) -> list[str]:
            found.append(real(path))  # type: ignore[no-untyped-call]
            return found[-1]

        monkeypatch.setattr(
            lmdb_verify, "open", lambda path, _: Hurried(path, commit), raising=False
        )
        monkeypatch.setattr(lmdb_verify, "verify", verify)
        assert examine(tmp_path).problems == ()
        assert [bool(each) for each in found] == [True, False]


def test_damage_is_found_beside_a_writer_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, batch_of(1))
    with child(children.hold, tmp_path) as writer:
        line(writer)

        def verify(_: str) -> list[str]:
            print(file=writer.stdin, flush=True)
            line(writer)
            return ["damage"]

        monkeypatch.setattr(lmdb_verify, "verify", verify)
        assert [each.message for each in examine(tmp_path).problems] == ["damage"]


def test_a_compaction_while_it_looks_is_no_damage(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[int]()

    def look(store: LMDBStore) -> list[Problem]:
        if not done:
            done.append(command("compact", large).returncode)
        return snapshot_trouble(store)

    monkeypatch.setattr(examination, "snapshot_trouble", look)
    assert examine(large).problems == ()
    assert done == [0]


def test_a_folder_is_removed_while_a_reader_makes_a_file_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, late, real = tmp_path / "gen-000001", iter([True]), os.rmdir
    folder.mkdir()

    def rmdir(path: str, **options: int | None) -> None:
        if next(late, False):
            (folder / "lock.mdb").touch()
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    folders.remove(folder)
    assert not folder.exists()
    assert not list(late)


def test_others_are_not_disturbed_by_compactions(tmp_path: Path) -> None:
    make(tmp_path / "memory", *map(batch_of, range(1, 10)))
    with child(children.compact_forever, tmp_path / "memory") as compactor:
        for number in range(8):
            line(compactor)
            assert examine(tmp_path / "memory").problems == ()
            assert describe(tmp_path / "memory").sizes.generation == 9
            report = copy(tmp_path / "memory", tmp_path / f"copy{number}", verify=True)
            assert report.problems == ()
            assert compactor.poll() is None


def test_a_folder_that_goes_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, batch_of(1))
    (tmp_path / "gen-000099").mkdir()
    scan = os.scandir

    def scanned(path: Any) -> Any:
        if Path(path).name == "gen-000099":
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)
    assert describe(tmp_path).sizes.generation == 1
    assert not (tmp_path / "gen-000099").exists()


def test_two_compactions_at_once_take_turns(tmp_path: Path) -> None:
    make(tmp_path, *map(batch_of, range(1, 10)))
    with child(children.compact_forever, tmp_path) as compactor:
        line(compactor)
        done = [compact(tmp_path, wait=30).done for _ in range(3)]
        assert done == [True] * 3
    assert examine(tmp_path).problems == ()


def test_what_a_compactor_is_making_is_no_leftover(tmp_path: Path) -> None:
    make(tmp_path, batch_of(1))
    with closing(LMDBStore.open(tmp_path)):
        (tmp_path / "next").mkdir()
        assert examine(tmp_path).leftovers == ()
    assert examine(tmp_path).leftovers == ("next",)
