"""Wherever a writer's system calls are cut off, what it acknowledged is on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.disk import Disk
from tests.torture.figures import Tally, keep
from tests.torture.prefixes import Replay
from tests.torture.sizes import sizes
from tests.torture.trace import record
from tests.torture.workers import Workers

_TITLES = {
    "written": "prefixes of the writes, {}: all of them on the disk",
    "synced": "prefixes of the writes, {}: only what was synced",
    "torn": "prefixes of the writes, {}: of the others some sectors",
}


def _replayed(
    forks: Workers, folder: Path, program: str, durability: str, size: int
) -> dict[str, Tally]:
    memory = folder / "memory"
    memory.mkdir()
    calls = record(folder, program, memory, durability, size)
    return Replay(forks, folder).run(calls, memory)


@sizes(4, 60)
def test_with_full_durability_no_prefix_loses_an_acknowledged_commit(
    forks: Workers, tmp_path: Path, size: int
) -> None:
    for kind, tally in _replayed(forks, tmp_path, "commit", "full", size).items():
        keep(_TITLES[kind].format("`full`"), tally)
        assert tally.notes == [], kind
        assert tally.trials > size


@sizes(4, 60)
def test_with_normal_durability_every_prefix_is_whole_and_only_the_last_commits_are_missing(
    forks: Workers, tmp_path: Path, size: int
) -> None:
    tallies = _replayed(forks, tmp_path, "commit", "normal", size)
    for kind, tally in tallies.items():
        keep(_TITLES[kind].format("`normal`"), tally)
        assert tally.only_lost, tally.notes
        assert tally.trials > size
    assert tallies["written"].lost == 0
    assert tallies["synced"].lost > 0  # or the two modes would not differ


@pytest.mark.parametrize(
    ("rounds", "every"),
    [
        pytest.param(1, 19, id="short"),
        pytest.param(2, 2, id="long", marks=pytest.mark.torture),
    ],
)
def test_no_prefix_of_snapshots_and_compaction_loses_an_acknowledged_commit(
    forks: Workers, tmp_path: Path, rounds: int, every: int
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    calls = record(tmp_path, "keep_house", memory, "full", rounds)
    for kind, tally in Replay(forks, tmp_path).run(calls, memory, every).items():
        keep(_TITLES[kind].format("`full`, with snapshots and compaction"), tally)
        assert tally.notes == [], kind
        assert tally.trials > 5


@pytest.mark.parametrize("forgotten", ["fdatasync", "fsync"])
def test_the_replay_notices_a_forgotten_sync(
    forks: Workers, tmp_path: Path, forgotten: str
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    calls = record(tmp_path, "commit", memory, "full", 1)
    kept = [call for call in calls if call.name != forgotten]
    tallies = Replay(forks, tmp_path).run(kept, memory)
    assert 0 < sum(len(tally.notes) for tally in tallies.values()) < 16
    assert tallies["written"].notes == []


def test_a_replay_ends_with_the_files_that_the_writer_left(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    disk = Disk(memory)
    for call in record(tmp_path, "keep_house", memory, "full", 1):
        disk.apply(call)
    left = {str(path.relative_to(memory)): path for path in memory.rglob("*")}
    written = disk.written()
    assert sorted(written) == sorted(left)
    assert len(written["gen-000002/data.mdb"] or b"") > 10_000
    for name, path in left.items():
        if path.name != "lock.mdb":  # which is shared memory, and not written
            assert written[name] == (path.read_bytes() if path.is_file() else None), name
