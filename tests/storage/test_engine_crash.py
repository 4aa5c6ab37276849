"""What is left of an engine that was killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from tests.storage import engine_children
from tests.storage.engines import LARGE, assert_shows_what_is_stored
from tests.storage.processes import child, line, run_child


def test_a_kill_at_any_step_of_a_snapshot_leaves_this_one_or_the_one_before(
    tmp_path: Path,
) -> None:
    steps = int(run_child(engine_children.die_at_each_step, tmp_path / "memory"))
    assert steps > 10


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.2, 0.4])
def test_a_kill_in_the_middle_of_commits_and_snapshots_loses_no_commit(
    tmp_path: Path, seconds: float
) -> None:
    directory, told = tmp_path / "memory", 0
    with child(engine_children.die_at_a_random_time, directory, seconds) as process:
        while text := line(process):
            told = int(text)
        assert process.wait(30) == -signal.SIGKILL
    engine = Engine(LMDBStore.open(directory), LARGE)
    assert engine.view().generation in (told, told + 1)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_an_interpreter_that_ends_during_a_build_ends_well(tmp_path: Path) -> None:
    assert run_child(engine_children.build_and_exit, tmp_path / "memory") == "building\n"
