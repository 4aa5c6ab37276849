from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from storage_backends import copying
from storage_backends.lmdb_store import LMDBStore
from tests.storage.damage import make
from tests.storage.place import first_batch
from tests.tool_runs import command
from tools._command import Terminated
from tools.snapshot import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    make(path, first_batch())
    return path


def test_a_memory_is_copied_beside_its_writer(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LMDBStore.open(directory)):
        assert main([str(directory), str(tmp_path / "copy"), "--verify"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'copy'}: generation 1 with 5 concepts and 4 edges, without")
    assert out.endswith(", verified\n")
    assert err == ""
    with closing(LMDBStore.open(tmp_path / "copy")) as made:
        assert made.stats().concepts == 5


def test_json_holds_the_report(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(directory), str(tmp_path / "copy"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["destination"] == str(tmp_path / "copy")
    assert (report["sizes"]["generation"], report["has_snapshot"]) == (1, False)
    assert "gen-000001/data.mdb" in report["files"]


def test_a_destination_in_use_exits_2_with_one_line(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("text")
    for target in (directory, tmp_path / "file", tmp_path / "file" / "below"):
        assert main([str(directory), str(target)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Error: ")
        assert str(target) in err


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_not_a_memory_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert main([str(tmp_path / name), str(tmp_path / "copy")]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_help_names_options_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "DIRECTORY DESTINATION" in out
    assert "Exit status: 0" in out
    assert main([]) == 2


def test_the_command_runs_as_a_module(directory: Path, tmp_path: Path) -> None:
    result = command("snapshot", directory, tmp_path / "copy")
    assert (result.returncode, result.stderr) == (0, "")
    assert "5 concepts" in result.stdout


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupt_while_it_verifies_leaves_a_copy_and_says_so(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[BaseException],
    status: int,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(copying, "examine", interrupted)
    assert main([str(directory), str(tmp_path / "copy"), "--verify"]) == status
    assert "copy: the copy is complete, but not verified" in capsys.readouterr().err
    with closing(LMDBStore.open(tmp_path / "copy")) as made:
        assert made.stats().concepts == 5
