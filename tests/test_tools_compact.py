from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path

import pytest

from storage_backends.lmdb_store import LMDBStore
from tests.storage import maintenance_children as children
from tests.storage.damage import flip, key_of, make
from tests.storage.history import batch_of
from tests.storage.processes import child, line
from tests.tool_runs import command
from tools.compact import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    make(path, *map(batch_of, range(1, 40)))
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_says_before_and_after(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(directory), "--verify"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {" ".join(text.split()[:-4]): text.split()[-4:] for text in out.splitlines()[1:-1]}
    assert float(rows["data"][2]) < float(rows["data"][0])
    rows = {text.split("  ")[0]: text.split()[-2:] for text in out.splitlines()[1:-1]}
    assert rows["concepts"] == ["40", "40"]
    named = {"snapshot", "total on disk", "tombstones", "edges", "aliases", "log entries"}
    assert named <= rows.keys()
    assert rows["events"] == ["78", "78"]
    assert out.splitlines()[-1].startswith(f"{directory}: compacted in ")
    assert out.endswith(", verified\n")
    assert names(directory) == ["CURRENT", "WRITER.lock", "gen-000002"]


def test_a_dry_run_changes_nothing(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(directory)
    assert main([str(directory), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "expected" in out.splitlines()[0]
    assert "nothing was changed" in out
    assert names(directory) == before


def test_it_keeps_as_many_events_as_it_is_told_to(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra in (["--dry-run"], []):
        assert main([str(directory), "--max-events", "10", *extra]) == 0
        rows = [text.split() for text in capsys.readouterr().out.splitlines()]
        assert ["events", "78", "10"] in rows
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        assert store.events()["id1"].tolist() == list(range(70, 80))
    assert main([str(directory), "--max-events", "0"]) == 2


def test_json_holds_the_report(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(directory), "--dry-run", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main([str(directory), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (expected["dry_run"], report["dry_run"], report["done"]) == (True, False, True)
    assert expected["before"] == report["before"]
    assert report["after"]["data_bytes"] < report["before"]["data_bytes"]
    assert report["folder"] == "gen-000002"


def test_beside_a_writer_it_exits_1_and_names_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with child(children.hold, directory) as writer:
        pid = line(writer)
        assert main([str(directory)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"process {pid} " in err
        assert main([str(directory), "--wait", "0.1"]) == 1
        assert "(waited 0.1 s)" in capsys.readouterr().err
        assert main([str(directory), "--dry-run"]) == 1
        assert f"process {pid} " in capsys.readouterr().out


def test_damage_exits_1_and_leaves_the_memory(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        ids = store.load().concepts.ids
        (held, *_) = (i for i, p in zip(ids, store.payloads(ids), strict=True) if p is not None)
    flip(directory, "payload", key_of(int(held)))
    assert main([str(directory), "--verify"]) == 1
    out = capsys.readouterr().out
    assert f"payload[{held}]" in out
    assert "not compacted" in out
    assert "gen-000001" in names(directory)


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_not_a_memory_exits_2_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for options in ([], ["--dry-run"]):
        assert main([str(tmp_path / name), *options]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Error: ")
        assert name in err


@pytest.mark.parametrize("arguments", [[], ["--wait", "-1", "x"], ["--wait", "soon", "x"]])
def test_a_usage_error_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: python -m tools.compact [OPTIONS] DIRECTORY" in capsys.readouterr().err


def test_help_names_options_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--dry-run", "--wait SECONDS", "--verify", "--json", "Exit status: 0"):
        assert word in out


def test_an_interrupt_exits_130_with_one_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        signal.raise_signal(signal.SIGINT)

    with closing(LMDBStore.open(directory)):
        monkeypatch.setattr("storage_backends.locks.time.sleep", interrupted)
        assert main([str(directory), "--wait", "60"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == "Error: interrupted; the memory is as it was, or as it was to be"
    assert names(directory) == ["CURRENT", "WRITER.lock", "gen-000001"]


def test_the_command_runs_as_a_module(directory: Path) -> None:
    result = command("compact", directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert "compacted in" in result.stdout
