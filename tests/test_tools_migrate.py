"""The command that brings memories and packs of release 3.0 over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from aesg import AESGMemory, AESGStorageError
from aesg.migration import migrate
from aesg.packs import read_pack
from benchmarks.suite import NoPeerError, Peer, Peers
from storage_backends.errors import StoreError
from storage_backends.lmdb_store import LMDBStore
from tests.earlier_build import edges_of, event, nodes_of, some_pairs, write_directory, write_pack
from tests.failing_calls import at_call
from tests.tool_runs import command
from tools.migrate import main

COUNT = 12


@pytest.fixture
def old(tmp_path: Path) -> Path:
    nodes = nodes_of(COUNT)
    edges = edges_of(nodes, some_pairs(COUNT, 20))
    return write_directory(tmp_path / "old", nodes, edges, [event(0), event(5)])


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    nodes = nodes_of(COUNT)
    return write_pack(tmp_path / "old.aesgpack", nodes, edges_of(nodes, some_pairs(COUNT, 20)))


def test_a_directory_comes_over(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert main([str(old), str(new)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "12 concepts of width 6, 20 edges and 2 events"
    assert lines[1].startswith(f"{new}: brought over in ")
    assert (len(lines), err) == (2, "")
    assert command("verify", new).returncode == 0


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = nodes_of(COUNT)
    nodes["is_active"][:2] = 0
    nodes["id"][2] = 0
    write_directory(tmp_path / "old", nodes)
    with open(tmp_path / "old" / "nodes.aesg", "r+b") as file:
        file.write(nodes_of(COUNT + 3).tobytes())
        file.seek(0)
        file.write(nodes.tobytes())
    assert main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "left out: 2 concepts that were deleted",
        "changed: 1 concepts that got another id, because theirs is 0, too great or taken",
        "left out (--unsaved brings them over): 3 concepts and 0 edges that were written after the "
        "last save",
        "10 concepts of width 6, 0 edges and 0 events",
    ]


def test_json_holds_the_report(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(old), str(tmp_path / "new"), "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["concepts"], report["edges"], report["events"]) == (COUNT, 20, 2)
    assert report["dry_run"]
    assert not (tmp_path / "new").exists()


def test_errors_are_one_line(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "folder").mkdir()
    for source, target in (
        (old, old / "new"),
        (tmp_path / "missing", tmp_path / "new"),
        (old, tmp_path / "text"),
        (tmp_path / "text", tmp_path / "new"),
        (tmp_path / "folder", tmp_path / "new"),
    ):
        assert main([str(source), str(target)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Error: Failed to ")
        assert str(source) in err


def test_a_pack_is_rewritten(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = pack.with_name("new.aesgpack")
    before = pack.read_bytes()
    assert main([str(pack), str(newer)]) == 0
    assert capsys.readouterr().out.startswith("12 concepts of width 6, 20 edges and 0 events\n")
    assert pack.read_bytes() == before
    found, expected = read_pack(newer), read_pack(pack)
    assert (found.version, found.name, expected.version) == (2, "new", 1)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)


def test_a_pack_takes_no_place_that_is_taken(pack: Path) -> None:
    newer = pack.with_name("new.aesgpack")
    newer.write_text("mine")
    with pytest.raises(AESGStorageError, match="expected a name that is free"):
        migrate(pack, newer)
    assert newer.read_text() == "mine"


def test_a_source_that_is_missing_is_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nope"), str(tmp_path / "new")]) == 2
    assert "found neither a directory nor a file" in capsys.readouterr().err


def test_a_pack_has_nothing_unsaved(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = pack.with_name("new.aesgpack")
    assert main([str(pack), str(newer), "--unsaved"]) == 2
    assert "expected a directory, got a pack" in capsys.readouterr().err
    assert not newer.exists()


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("name", ["folder/", "missing/", "missing/new.aesgpack"])
def test_a_pack_is_written_only_to_a_file_in_a_folder(
    pack: Path, name: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (pack.parent / "folder").mkdir()
    before = sorted(pack.parent.rglob("*"))
    assert main([str(pack), f"{pack.parent}/{name}", *options]) == 2
    assert "expected" in capsys.readouterr().err
    assert sorted(pack.parent.rglob("*")) == before


def test_a_migration_beside_another_says_that_it_could_not_be_done(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: list[int] = []

    def again(step: str, done: int, total: int) -> None:
        if step == "writing concepts":
            statuses.append(main([str(old), str(tmp_path / "new")]))

    migrate(old, tmp_path / "new", progress=again)
    assert statuses == [1]
    assert "found one at work" in capsys.readouterr().err


def test_a_dry_run_writes_no_pack(pack: Path) -> None:
    newer = pack.with_name("new.aesgpack")
    assert migrate(pack, newer, dry_run=True).concepts == COUNT
    assert not newer.exists()


#: Brings a directory over again and again, killed at one call after another.
KILLED = """
import os, sys
from aesg.migration import migrate
from tests.failing_calls import at_call, die
old, new, *numbers = sys.argv[1:]
for number in numbers:
    child = os.fork()
    if not child:
        with at_call(int(number), die):
            migrate(old, new + number)
    print(os.waitpid(child, 0)[1])
"""


def killed(old: Path, new: Path, numbers: list[int]) -> None:
    """Bring a directory over to as many others, killed at the calls of these numbers."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(new), *map(str, numbers)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.split() == [str(int(signal.SIGKILL)).encode()] * len(numbers)


def published(old: Path, new: Path) -> tuple[int, list[str]]:
    """Return after how many calls a memory is there, and all calls."""
    with at_call(None) as calls:
        migrate(old, new)
    return len(calls.names) - calls.names[::-1].index("replace"), calls.names


def test_a_kill_leaves_nothing_that_opens(old: Path, tmp_path: Path) -> None:
    whole, _ = published(old, tmp_path / "whole")
    killed(old, tmp_path / "killed-", [whole // 2])
    place = tmp_path / f"killed-{whole // 2}"
    with pytest.raises(StoreError):
        LMDBStore.open(place, read_only=True)
    assert migrate(old, place).concepts == COUNT


@pytest.mark.long
def test_a_kill_at_any_call_leaves_nothing_that_opens_or_all(old: Path, tmp_path: Path) -> None:
    whole, calls = published(old, tmp_path / "whole")
    moved = max(number for number in range(whole) if calls[number] == "rename")
    killed(old, tmp_path / "killed-", list(range(len(calls))))
    for number in range(len(calls)):
        place = tmp_path / f"killed-{number}"
        if number < whole:
            with pytest.raises(StoreError):
                LMDBStore.open(place, read_only=True)
        if number <= moved:
            assert migrate(old, place).concepts == COUNT
        if number >= whole:
            with AESGMemory.open(place) as memory:
                assert memory.storage.node_count == COUNT


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    peers = Peers(tmp_path_factory.mktemp("earlier"))
    try:
        yield peers.get("aesg-3.0.0")
    except NoPeerError as error:
        pytest.skip(f"NOT TESTED: {error}")
    finally:
        peers.close()


@pytest.mark.long
def test_what_the_real_release_wrote_comes_over(side: Peer, tmp_path: Path) -> None:
    old, new, pack = tmp_path / "old", tmp_path / "new", tmp_path / "old.aesgpack"
    side("open_memory", str(old), 16, 1000)
    side("live", 60)
    side("export", str(pack))
    held = side("tell")
    nodes = held["nodes"]
    alive = [place for place, active in enumerate(nodes["is_active"]) if active]
    (gone,) = set(nodes["id"]) - {nodes["id"][place] for place in alive}
    assert len(alive) > 20
    vectors = dict(zip(nodes["id"], nodes["vector"], strict=True))
    report = migrate(old, new)
    assert report.concepts == len(alive)
    assert report.left_out["concepts that were deleted"] == 1
    with AESGMemory.open(new) as memory:
        assert memory.config.max_concepts == 1000
        assert memory.logger.get_history() == held["history"]
        for place in alive:
            concept = nodes["id"][place]
            context = memory.retrieve(torch.tensor(nodes["vector"][place]))
            met = {tuple(vectors[each]) for each in context.concept_ids.tolist()}
            assert tuple(vectors[concept]) in met  # several concepts may have one vector
            expected = {edge[1] for edge in held["edges"][place]} - {gone, concept}
            assert {edge.target for edge in memory.edges(concept)} == expected
    columns = read_pack(pack).columns
    rows = dict(
        zip(columns["ids"].tolist(), columns["keys"] * columns["norms"][:, None], strict=True)
    )
    assert rows.keys() == {nodes["id"][place] for place in alive}
    for place in alive:
        np.testing.assert_allclose(rows[nodes["id"][place]], nodes["vector"][place], rtol=1e-5)
    assert command("verify", new).returncode == 0
