"""Whatever became of a file, what is read is right, or it is an error of the store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from storage_backends.lmdb_store import LMDBStore
from tests.storage.history import batch_of
from tests.torture.damage import KINDS, damaged_copy
from tests.torture.figures import Tally, keep
from tests.torture.sizes import sizes
from tests.torture.workers import Workers

#: Files that are derived: a memory does without them.
_DERIVED = ("columns-*.aesg", "index-*.faiss", "STAMP", "WRITER.lock", "lock.mdb")


@pytest.fixture(scope="module")
def memory(forks: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    memory = tmp_path_factory.mktemp("damage") / "memory"
    forks.begin("keep_house", memory, "full", 2).rest()
    assert forks.judge(memory, read_only=True, ahead=20).sound
    return memory


@sizes(64, 2000)
def test_damage_to_the_records_is_refused_or_harmless(
    forks: Workers, tmp_path: Path, memory: Path, size: int
) -> None:
    tally = _fuzz(forks, tmp_path, memory, "data.mdb", size)
    keep("damage to `data.mdb`", tally)
    assert (tally.lost, tally.wrong, tally.died) == (0, 0, 0), tally.notes
    assert tally.refused + tally.reported > 0  # some of the damage was met
    assert tally.trials == size


@sizes(8, 500)
def test_damage_to_the_name_of_the_folder_in_use_is_refused(
    forks: Workers, tmp_path: Path, memory: Path, size: int
) -> None:
    tally = _fuzz(forks, tmp_path, memory, "CURRENT", size)
    keep("damage to `CURRENT`", tally)
    assert (tally.lost, tally.wrong, tally.died) == (0, 0, 0), tally.notes
    assert tally.trials == size


@sizes(8, 500)
@pytest.mark.parametrize("pattern", _DERIVED)
def test_damage_to_what_is_derived_is_harmless(
    forks: Workers, tmp_path: Path, memory: Path, pattern: str, size: int
) -> None:
    tally = _fuzz(forks, tmp_path, memory, pattern, size)
    keep(f"damage to `{pattern}`", tally)
    assert (tally.lost, tally.refused, tally.wrong, tally.died) == (0, 0, 0, 0), tally.notes
    assert tally.trials == size


def test_the_judge_notices_a_memory_that_is_not_what_was_written(
    forks: Workers, tmp_path: Path, memory: Path
) -> None:
    uuid, generation = _known(forks, memory)
    other = "0" * 32
    assert forks.judge(memory, other, read_only=True, ahead=generation).outcome == "wrong"
    copy = tmp_path / "copy"
    shutil.copytree(memory, copy)
    with LMDBStore.open(copy) as store:
        store.commit(replace(batch_of(generation + 1), shortterm={"clock": b"wrong"}))
    verdict = forks.judge(copy, uuid, read_only=True, ahead=generation + 1)
    assert (verdict.outcome, verdict.detail) == ("wrong", "wrong: shortterm; ")


def _fuzz(forks: Workers, folder: Path, memory: Path, pattern: str, size: int) -> Tally:
    """Damage a file in ``size`` ways; a reader and a writer open it in turn."""
    tally, copy = Tally(), folder / "copy"
    uuid, generation = _known(forks, memory)
    for seed in range(size):
        where = damaged_copy(memory, copy, pattern, seed)
        verdict = forks.judge(
            copy, uuid, read_only=seed // len(KINDS) % 2 == 0, ahead=generation + 2
        )
        tally.add(verdict, where, generation)
    return tally


def _known(forks: Workers, memory: Path) -> tuple[str, int]:
    work = forks.begin("identify", memory)
    (said,) = work.rest()
    uuid, generation = said.split()
    return uuid, int(generation)
