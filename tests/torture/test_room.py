"""Where the room runs out, on the disk or in memory, a job ends with an error and harms nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.limits import disk_of
from tests.torture.figures import Tally, keep
from tests.torture.judge import Verdict
from tests.torture.sizes import sizes
from tests.torture.workers import Workers

_JOBS = {"begin_commit": "commits", "begin_snapshot": "snapshots", "begin_compact": "compaction"}
_DISK_BYTES = 4 << 20
#: Room, and a length of files, that are more than enough for a job.
_MOST_ROOM = {"begin_commit": 400_000, "begin_snapshot": 1_200_000, "begin_compact": 2_000_000}
_LONGEST = {"begin_commit": 400_000, "begin_snapshot": 400_000, "begin_compact": 150_000}
#: Address space that the process has before it opens a memory, about.
_LEAST_SPACE = 1 << 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", str(_DISK_BYTES)) as disk:
        yield disk


@sizes(4, 60)
@pytest.mark.parametrize("program", _JOBS)
def test_a_full_disk_ends_a_job_and_harms_nothing(
    forks: Workers, small_disk: Path, program: str, size: int
) -> None:
    memory, filler = _made(forks, small_disk), small_disk / "filler"
    tally, ends = Tally(), set[str]()
    for number in range(size):
        room = number * _MOST_ROOM[program] // (size - 1)
        _leave_room(filler, room)
        ended, before = _run(forks, program, memory)
        filler.unlink()
        ends.add(ended)
        tally.add(_verdict(forks, memory, ended, before), f"{room} bytes of room", before)
    keep(f"full disk during {_JOBS[program]}", tally)
    assert tally.notes == []
    assert "done" in ends
    assert "Store" in {end[:5] for end in ends}  # and some were refused


@sizes(4, 60)
@pytest.mark.parametrize("program", _JOBS)
def test_a_limit_on_file_sizes_ends_a_job_and_harms_nothing(
    forks: Workers, tmp_path: Path, program: str, size: int
) -> None:
    memory = _made(forks, tmp_path)
    tally, ends = Tally(), set[str]()
    for number in range(size):
        limit = (number + 1) * _LONGEST[program] // size
        ended, before = _run(forks, "limited", "RLIMIT_FSIZE", limit, program, memory)
        ends.add(ended)
        tally.add(_verdict(forks, memory, ended, before), f"files of {limit} bytes", before)
    keep(f"RLIMIT_FSIZE during {_JOBS[program]}", tally)
    assert tally.notes == []
    assert "done" in ends
    assert "Store" in {end[:5] for end in ends}  # and some were refused


@sizes(2, 30)
@pytest.mark.parametrize("program", _JOBS)
def test_a_limit_on_address_space_costs_at_most_the_job(
    forks: Workers, tmp_path: Path, program: str, size: int
) -> None:
    memory, tally = _made(forks, tmp_path), Tally()
    for number in range(size):
        limit = _LEAST_SPACE + number * (1 << 26)
        ended, before = _run(forks, "limited", "RLIMIT_AS", limit, program, memory)
        tally.add(_verdict(forks, memory, ended, before), f"{limit} bytes of space", before)
    keep(f"RLIMIT_AS during {_JOBS[program]}", tally)
    assert tally.notes == []


def _made(forks: Workers, folder: Path) -> Path:
    memory = folder / "memory"
    forks.begin("keep_house", memory, "full", 1).rest()
    return memory


def _run(forks: Workers, program: str, *arguments: object) -> tuple[str, int]:
    """Return how a program ended, and the last generation that it acknowledged or found."""
    work = forks.begin(program, *arguments)
    ended, acknowledged = "done", 0
    for line in work.rest():
        word, _, rest = line.partition(" ")
        if word == "refused":
            ended = rest.split()[0]
        elif word == "commit":
            acknowledged = int(rest)
    return (ended if work.status == 0 else f"status {work.status}"), acknowledged


def _verdict(forks: Workers, memory: Path, ended: str, before: int) -> Verdict:
    verdict = forks.judge(memory, ahead=before + 60)
    return verdict if not ended.startswith("status") else Verdict("died", detail=ended)


def _leave_room(filler: Path, room: int) -> None:
    with open(filler, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(file.tell() - room, 0))
