from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from storage_backends.description import describe
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import children
from tests.storage import maintenance_children as programs
from tests.storage.build import events, ids
from tests.storage.damage import make
from tests.storage.engines import LARGE, large_batch
from tests.storage.history import batch_of
from tests.storage.place import first_batch
from tests.storage.processes import child, line
from tests.tool_runs import command
from tools.stats import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    make(path, first_batch())
    return path


def test_it_says_what_the_memory_holds(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(directory)]) == 0
    out, err = capsys.readouterr()
    rows = dict(re.split(r"\s{2,}", text.strip(), maxsplit=1) for text in out.splitlines())
    assert rows["concepts"] == "5 of 4 dimensions"
    assert (rows["edges"], rows["payloads"], rows["aliases"]) == ("4", "2", "0")
    assert rows["regions"] == "5"
    assert rows["events"] == "3 from 2023-11-14T22:13:21+00:00 to 2023-11-14T22:13:23+00:00"
    assert (rows["generation"], rows["log"]) == ("1", "1 entries")
    assert (rows["snapshot"], rows["writer"], rows["readers"]) == ("none", "none", "none")
    assert "gen-000001/data.mdb" in rows
    assert err == ""


def test_it_says_which_events_are_kept(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = events([4])
    late["timestamp"] = 2**60
    with closing(LMDBStore.open(directory)) as store:
        store.commit(WriteBatch(aliases={60: 1}, events=late, most_events=1))
    found = describe(directory)
    assert (found.sizes.aliases, found.event_times) == (1, (2**60, 2**60))
    assert main([str(directory)]) == 0
    moment = f"second {2**60}"
    assert f"1 from {moment} to {moment}, 3 older ones gone" in capsys.readouterr().out


def test_a_memory_without_concepts_has_neither_regions_nor_events(tmp_path: Path) -> None:
    make(tmp_path, WriteBatch())
    found = describe(tmp_path)
    assert (found.regions, found.event_times) == (0, None)


def test_the_parts_add_up_to_the_whole(directory: Path) -> None:
    found = describe(directory)
    sizes = {
        str(path.relative_to(directory)): path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file()
    }
    assert found.files == sizes
    assert found.total_bytes == sum(sizes.values())


def test_json_holds_everything(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(directory), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sizes"]["concepts"] == 5
    assert report["settings"] == {"config": "{}", "epoch": "1"}
    assert report["vector_dim"] == 4
    assert report["pages"]["size"] * report["pages"]["total"] == report["sizes"]["file_bytes"]


def test_free_pages_are_what_compaction_gives_back(tmp_path: Path) -> None:
    make(tmp_path, *map(batch_of, range(1, 60)))
    pages = describe(tmp_path).pages
    assert 0 < pages.free < pages.total


def test_provisional_concepts_are_counted(tmp_path: Path) -> None:
    window = {"entries": bytes(57 * 3), "keys": np.zeros((3, 8), np.float32).tobytes()}
    make(tmp_path, WriteBatch(shortterm=window, settings={"config": b'{"vector_dim": 8}'}))
    assert describe(tmp_path).provisional == 3


def test_the_snapshot_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Engine(LMDBStore.open(tmp_path), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(9)))
        found = describe(tmp_path).snapshot
        assert found is not None
        assert (found.generation, found.behind, found.graph_size) == (1, 1, 60)
        assert found.bytes > 60 * 4 * 4
        assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "generation 1 (1 behind), graph over 60 concepts" in out
    assert "seconds old" in out


def test_writer_and_readers_are_named(directory: Path) -> None:
    with child(programs.hold, directory) as writer, child(children.follow, directory) as reader:
        pid = line(writer)
        assert line(reader) == "1"
        found = describe(directory)
        assert found.writer is not None
        assert f"process {pid} " in found.writer
        assert [each.pid for each in found.readers] == [reader.pid]
    found = describe(directory)
    assert (found.writer, found.readers) == (None, ())


def test_it_changes_no_file(directory: Path) -> None:
    def state() -> dict[Path, int]:
        files = [path for path in directory.rglob("*") if path.name != "lock.mdb"]
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    before = state()
    describe(directory)
    assert state() == before


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_not_a_memory_exits_2_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert main([str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert name in err
    assert list((tmp_path / "empty").iterdir()) == []


def test_help_names_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Exit status: 0" in capsys.readouterr().out
    assert main([]) == 2


def test_the_command_runs_as_a_module(directory: Path) -> None:
    result = command("stats", directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert "5 of 4 dimensions" in result.stdout


def test_the_numbers_are_of_one_commit_beside_a_writer(directory: Path) -> None:
    with child(programs.count_up, directory) as writer:
        line(writer)
        for _ in range(30):
            found = describe(directory)
            assert found.settings["count"] == str(found.sizes.events)
            assert found.sizes.generation == found.sizes.events - 2


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_durability_is_that_of_the_last_commit(directory: Path, durability: str) -> None:
    with closing(LMDBStore.open(directory, durability=durability)) as store:
        store.commit(WriteBatch())
        assert describe(directory).durability == durability
    (directory / "gen-000001" / "STAMP").write_bytes(b"")
    assert describe(directory).durability == "unknown"
