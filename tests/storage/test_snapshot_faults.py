"""Snapshots of processes that are killed, and snapshots that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_backends import snapshot
from tests.storage import snapshot_children
from tests.storage.processes import run_child
from tests.storage.snapshots import view_of


def test_a_kill_at_any_system_call_leaves_the_earlier_snapshot_or_the_next(tmp_path: Path) -> None:
    lines = run_child(snapshot_children.die_at_every_step, tmp_path).split("\n")[:-1]
    found = [tuple(map(int, line.split())) for line in lines]
    generations = [generation for generation, _ in found]
    assert generations == sorted(generations)
    assert set(found) >= {(1, 0), (1, 1), (1, 2), (2, 2), (2, 1), (2, 0)}
    assert found[-1] == (2, 0)


@pytest.mark.parametrize(("number", "times"), [(0, 1000), (1, 300)])
def test_damage_is_always_found_and_never_ends_the_process(
    tmp_path: Path, number: int, times: int
) -> None:
    manifest = snapshot.write(tmp_path, 1, view_of(graph=True))
    (tmp_path / snapshot_children.MANIFEST).write_bytes(manifest.encode())
    name = manifest.files[number].name
    opened = int(run_child(snapshot_children.open_mutated, tmp_path, name, times))
    assert 0 < opened < times
