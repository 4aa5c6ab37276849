from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from storage_backends.copying import copy
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage.build import ids
from tests.storage.damage import key_of, make, replace_record
from tests.storage.place import first_batch
from tools.restore import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A memory of five concepts that has lost two since the copy beside it was made."""
    path = tmp_path / "memory"
    make(path, first_batch())
    copy(path, tmp_path / "copy")
    make(path, WriteBatch(deleted=ids(4, 5)))
    return path


def count(directory: Path) -> int:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return store.stats().concepts


def test_a_memory_is_restored_beside_its_readers(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LMDBStore.open(directory, read_only=True)) as reader:
        assert main([str(tmp_path / "copy"), str(directory)]) == 0
        assert reader.stats().concepts == 3
        assert reader.follow()
        assert reader.stats().concepts == 5
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()][:3] == [
        ["before", "after"],
        ["generation", "2", "4"],
        ["concepts", "3", "5"],
    ]
    assert out.splitlines()[-1].startswith(f"{directory}: restored from {tmp_path / 'copy'} in ")
    assert err == ""


def test_a_dry_run_changes_nothing(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LMDBStore.open(directory)):  # a writer is at work
        assert main([str(tmp_path / "copy"), str(directory), "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out][:2] == [["before", "expected"], ["concepts", "3", "5"]]
    assert out[-1] == "nothing was changed"
    assert count(directory) == 3


def test_a_copy_of_another_memory_is_named_as_that(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "other", first_batch())
    assert main([str(tmp_path / "other"), str(directory)]) == 0
    said = f"{tmp_path / 'other'}: a copy of another memory than {directory}"
    assert said in capsys.readouterr().out.splitlines()


def test_json_holds_the_report(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "copy"), str(directory), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["before"]["concepts"], report["after"]["concepts"]) == (3, 5)
    assert (report["dry_run"], report["is_same_memory"]) == (False, True)


def test_a_writer_at_work_exits_1_with_one_line(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LMDBStore.open(directory)):
        assert main([str(tmp_path / "copy"), str(directory)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "open for writing by process" in err
    assert count(directory) == 3


def test_a_damaged_copy_exits_2_and_says_how_to_see_more(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_record(tmp_path / "copy", "value", key_of(3), None)
    assert main([str(tmp_path / "copy"), str(directory)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"tools.verify {tmp_path / 'copy'}" in err
    assert count(directory) == 3


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_memory_exits_2(
    directory: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for arguments in ((tmp_path / name, directory), (tmp_path / "copy", tmp_path / name)):
        assert main([str(path) for path in arguments]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    assert count(directory) == 3
