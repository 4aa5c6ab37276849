"""A power cut at any moment takes nothing that was acknowledged as durable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.cuts import Ext4, cut_often, mounted_ext4
from tests.torture.figures import keep
from tests.torture.sizes import sizes
from tests.torture.workers import Workers


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4]:
    with mounted_ext4(tmp_path) as mounted:
        yield mounted


@sizes(4, 200)
def test_with_full_durability_a_power_cut_loses_no_acknowledged_commit(
    forks: Workers, disk: Ext4, size: int
) -> None:
    tally = cut_often(forks, disk, "commit", "full", size)
    keep("power cut while committing, `full`", tally)
    assert tally.notes == []
    assert tally.acknowledged > size


@sizes(4, 200)
def test_with_normal_durability_a_power_cut_leaves_a_whole_memory(
    forks: Workers, disk: Ext4, size: int
) -> None:
    tally = cut_often(forks, disk, "commit", "normal", size)
    keep("power cut while committing, `normal`", tally)
    assert tally.only_lost, tally.notes
    assert tally.acknowledged > size


@sizes(4, 200)
def test_a_power_cut_while_a_writer_keeps_house_loses_no_acknowledged_commit(
    forks: Workers, disk: Ext4, size: int
) -> None:
    tally = cut_often(forks, disk, "keep_house", "full", size)
    keep("power cut while committing, snapshotting and compacting, `full`", tally)
    assert tally.notes == []
    assert tally.acknowledged > size


def test_the_power_cuts_notice_a_writer_that_does_not_sync(forks: Workers, disk: Ext4) -> None:
    assert cut_often(forks, disk, "commit_carelessly", "full", 2).notes
