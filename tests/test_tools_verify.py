from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from storage_backends.lmdb_store import LMDBStore
from tests.storage import maintenance_children as children
from tests.storage.place import first_batch
from tests.storage.processes import child, line
from tests.tool_runs import command
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
    result = command("verify", copy)
    assert (result.returncode, result.stderr) == (1, "")
    assert "data.mdb" in result.stdout


def test_zeroed_pages_exit_1_without_a_traceback(directory: Path) -> None:
    copy = directory.parent / "copy"
    shutil.copytree(directory, copy)
    file = data_file(copy)
    metas = file.read_bytes()[: 2 * mmap.PAGESIZE]
    file.write_bytes(metas.ljust(file.stat().st_size, b"\0"))
    result = command("verify", copy)
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
    assert "Usage: python -m tools.verify [OPTIONS] DIRECTORY" in capsys.readouterr().err


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Examine every record" in capsys.readouterr().out


def test_the_command_runs_as_a_module(directory: Path) -> None:
    result = command("verify", directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert "no problems" in result.stdout


def test_beside_a_writer_that_commits_it_finds_nothing(directory: Path) -> None:
    with child(children.hold, directory) as writer:
        line(writer)
        assert writer.stdin is not None
        with ThreadPoolExecutor(1) as pool:
            verifying = pool.submit(command, "verify", directory)
            while not verifying.done():
                print(file=writer.stdin, flush=True)
                line(writer)
        result = verifying.result()
        assert (result.returncode, result.stderr) == (0, "")


def test_repair_says_what_it_did_and_what_was_lost_and_exits_1(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(damaged), "--repair"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "taken out: value[3]: expected a whole concept, found it without" in out
    assert "taken out: adjacency[1]: expected an existing concept, got an edge to 3" in out
    assert "made anew: the count of edges: 3" in out
    (quarantine,) = damaged.glob("quarantine-*.jsonl")
    assert f"what was taken out is in {quarantine}" in out
    rows = [text.split() for text in out.splitlines()]
    assert ["concepts", "5", "4"] in rows
    assert ["edges", "4", "3"] in rows
    assert "lost: 1 of 5 concepts\nlost: 1 of 4 edges\n" in out
    assert out.endswith("repaired with losses, no problems left\n")
    assert main([str(damaged)]) == 0
    assert main([str(damaged), "--repair"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_a_bad_current_is_a_problem_that_repair_mends(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "CURRENT").write_text("gen-000077\n")
    assert main([str(directory)]) == 1
    assert "gen-000077/data.mdb: expected a file, found none" in capsys.readouterr().out
    assert main([str(directory), "--repair"]) == 0
    assert "made anew: CURRENT, which names gen-000001 again" in capsys.readouterr().out


def test_repair_in_json_lists_everything(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(damaged), "--repair", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    moved = {(each["table"], each["key"]) for each in report["moved"]}
    assert moved == {("value", "3"), ("meta", "3"), ("adjacency", "1")}
    lines = (damaged / report["quarantine"]).read_text().splitlines()
    assert {(each["table"], each["key"]) for each in map(json.loads, lines)} == moved
    assert report["problems"] == []
    assert (report["before"]["concepts"], report["after"]["concepts"]) == (5, 4)
    assert report["lost"][0] == "1 of 5 concepts"


def test_a_file_with_damaged_pages_is_kept(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data_file(directory)
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size - 2 * mmap.PAGESIZE)
    assert main([str(directory), "--repair"]) == 0  # of the log and the free list alone
    out = capsys.readouterr().out
    assert "damaged: " in out
    assert "nothing was lost" in out
    (kept,) = directory.glob("damaged-*")
    assert f"the damaged files are in {kept}: remove them" in out


def test_repair_beside_a_writer_exits_1_and_names_it(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with child(children.hold, damaged) as writer:
        pid = line(writer)
        assert main([str(damaged), "--repair"]) == 1
    assert f"process {pid} " in capsys.readouterr().err


def test_what_nothing_can_be_read_of_exits_2(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_file(directory).write_bytes(bytes(10 * mmap.PAGESIZE))
    assert main([str(directory), "--repair"]) == 2
    assert "restore a copy" in capsys.readouterr().err


def test_what_an_interrupted_run_left_is_no_problem_and_is_told(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "next").mkdir()
    assert main([str(directory)]) == 0
    assert "left of an interrupted run, removed by the next writer: next" in capsys.readouterr().out


def test_an_interrupt_ends_the_examination_at_once_with_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "CURRENT"
    os.mkfifo(pipe)  # whoever reads it waits
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.verify", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    descriptor = _opened_beside_a_reader(pipe)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(descriptor)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "Error: interrupted; the memory is as it was, or as it was to be"


def _opened_beside_a_reader(pipe: Path) -> int:
    """Wait until somebody reads a named pipe, and open it for writing."""
    limit = time.monotonic() + 60
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < limit, "nobody reads it"
            time.sleep(0.02)


def test_a_lost_current_or_data_file_is_named_with_what_to_do(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "CURRENT").unlink()
    assert main([str(directory)]) == 2
    err = capsys.readouterr().err
    assert "found no file CURRENT in it, but gen-000001/data.mdb" in err
    assert f"`python -m tools.verify {directory} --repair`" in err
    assert main([str(directory), "--repair"]) == 0
    (directory / "gen-000001" / "data.mdb").unlink()
    assert main([str(directory)]) == 1
    assert "gen-000001/data.mdb: expected a file, found none" in capsys.readouterr().out
    assert main([str(directory), "--repair"]) == 2
    assert "gen-000001: expected a memory directory, found no data.mdb in it: restore a copy" in (
        capsys.readouterr().err
    )


def test_problems_come_with_advice(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(damaged)]) == 1
    assert f"run `python -m tools.verify {damaged} --repair`" in capsys.readouterr().out
