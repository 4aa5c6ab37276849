from __future__ import annotations

import json
import mmap
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from storage_backends.lmdb_store import LMDBStore
from tests.storage.place import first_batch
from tools.verify import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a memory with a record in every table."""
    path = tmp_path / "memory"
    with closing(LMDBStore.open(path, create=True)) as store:
        store.commit(first_batch())
    return path


@pytest.fixture
def damaged(directory: Path) -> Path:
    """Return a memory whose concept 3, the target of an edge, has lost its key."""
    with (
        closing(lmdb.open(str(data_file(directory).parent), max_dbs=16)) as environment,
        environment.begin(write=True) as transaction,
    ):
        table = environment.open_db(b"key", transaction, create=False)
        assert transaction.delete((3).to_bytes(8, "big"), db=table)
    return directory


def data_file(directory: Path) -> Path:
    (path,) = directory.glob("gen-*/data.mdb")
    return path


def digest(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {str(path): path.read_bytes() for path in files}


def test_a_sound_memory_exits_0_and_says_what_it_holds(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(directory)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{directory}: no problems in 5 concepts, 4 edges, 2 payloads")
    assert err == ""


def test_a_damaged_memory_exits_1_and_names_each_problem(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(damaged), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems
    assert main([str(damaged)]) == 1
    text = "".join(capsys.readouterr().out.split())
    assert f"{len(problems)}problem(s)" in text
    assert all(problem["table"] in text for problem in problems)


def test_json_holds_sizes_and_problems(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(directory), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["directory"], report["problems"]) == (str(directory), [])
    assert (report["stats"]["concepts"], report["stats"]["generation"]) == (5, 1)


def test_verify_changes_no_file(damaged: Path) -> None:
    before = digest(damaged)
    assert main([str(damaged)]) == 1
    assert digest(damaged) == before


def test_a_memory_can_be_verified_while_its_writer_is_open(directory: Path) -> None:
    with closing(LMDBStore.open(directory)):
        assert main([str(directory)]) == 0


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_data_file_exits_1_without_a_traceback(directory: Path, kept: int) -> None:
    copy = directory.parent / "copy"
    shutil.copytree(directory, copy)
    with open(data_file(copy), "r+b") as file:
        file.truncate(kept)
    result = command(str(copy))
    assert (result.returncode, result.stderr) == (1, "")
    assert "data.mdb" in result.stdout


def test_zeroed_pages_exit_1_without_a_traceback(directory: Path) -> None:
    copy = directory.parent / "copy"
    shutil.copytree(directory, copy)
    file = data_file(copy)
    metas = file.read_bytes()[: 2 * mmap.PAGESIZE]
    file.write_bytes(metas.ljust(file.stat().st_size, b"\0"))
    result = command(str(copy))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "data.mdb" in result.stdout


def test_what_is_not_a_memory_exits_2_and_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("empty", "file", "missing"):
        assert main([str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Error: ")
        assert name in err
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("arguments", [[], ["--no-such-option"], ["a", "b"]])
def test_a_usage_error_exits_2_and_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Usage: verify [OPTIONS] DIRECTORY" in capsys.readouterr().err


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Examine every record" in capsys.readouterr().out


def test_the_command_runs_as_a_module(directory: Path) -> None:
    result = command(str(directory))
    assert (result.returncode, result.stderr) == (0, "")
    assert "no problems" in result.stdout


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.verify", *arguments], capture_output=True, text=True
    )
