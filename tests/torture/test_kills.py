"""A writer that is killed at any moment loses nothing that it acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.figures import keep
from tests.torture.kills import kill_often
from tests.torture.sizes import sizes
from tests.torture.workers import Workers


@sizes(15, 1000)
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_killed_writer_loses_no_acknowledged_commit(
    forks: Workers, tmp_path: Path, durability: str, size: int
) -> None:
    tally = kill_often(forks, tmp_path, "commit", durability, size)
    keep(f"kill -9 while committing, `{durability}`", tally)
    assert tally.notes == []
    assert tally.trials == size
    assert tally.acknowledged > size  # they did write between the kills


@sizes(10, 500)
def test_a_writer_killed_while_it_keeps_house_loses_no_acknowledged_commit(
    forks: Workers, tmp_path: Path, size: int
) -> None:
    tally = kill_often(forks, tmp_path, "keep_house", "full", size)
    keep("kill -9 while committing, snapshotting and compacting, `full`", tally)
    assert tally.notes == []
    assert tally.trials == size
    assert tally.acknowledged > size
