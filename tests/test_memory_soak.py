"""A long life: concepts are born, used, merged and pruned without end in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._soak import Life, resident

KINDS = {"CREATE", "MERGE", "PRUNE", "CONSOLIDATE", "RESTRUCTURE"}


def live(life: Life, births: int) -> tuple[int, int]:
    """Live on for so many births; return the greatest size of files and memory on the way."""
    end = life.births + births
    files = memory = 0
    while life.births < end:
        for _ in range(10):
            life.step()
        files = max(files, life.memory.storage.file_bytes)
        memory = max(memory, resident())
    return files, memory


def kinds(life: Life) -> set[str]:
    return {event["type"] for event in life.memory.logger.get_history()}


def test_a_life_of_some_thousand_births_ends_sound(tmp_path: Path) -> None:
    life = Life(tmp_path, 500)
    live(life, 3_000)
    assert life.memory.storage.node_count <= 500
    assert kinds(life) == KINDS
    assert life.memory.storage.verify() == []
    life.memory.close()


@pytest.mark.long
def test_two_hundred_thousand_births_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    life = Life(tmp_path, 4_000)
    live(life, 50_000)
    early = live(life, 50_000)
    late = live(life, 100_000)
    assert life.memory.storage.node_count <= 4_000
    assert late[0] <= 1.25 * early[0]
    assert late[1] <= 1.25 * early[1]
    assert kinds(life) == KINDS
    assert len(life.memory.logger.get_history()) <= life.memory.config.max_events
    assert life.memory.storage.verify() == []
    life.memory.close()
