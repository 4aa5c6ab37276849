"""Whatever is in a file, it is a sound pack or an `AESGStorageError` that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from aesg.packs import reading
from tests.packs import fuzz_migration
from tests.packs.fuzz_figures import Tally, keep
from tests.packs.fuzz_judge import KINDS, Judge, mutant, sources
from tests.packs.fuzz_parts import put_together, taken_apart
from tests.packs.fuzz_worker import Worker, worker

Packs = Mapping[int, Sequence[bytes]]

#: Kinds of which many mutants load, and take longer for it: more of them are left to the long form.
_SLOW = {"frames", "planes", "values", "payloads", "version 1: values", "version 1: flipped_within"}
_FEW, _MANY = 30, 110

#: How many there are in the long form.
_LONG = {
    **dict.fromkeys(KINDS, 1_500),
    **dict.fromkeys(_SLOW, 700),
    **dict.fromkeys(fuzz_migration.KINDS, 400),
    "large bombs": 60,
}

#: Runs a test for every third byte, and in the long form for each.
every = pytest.mark.parametrize(
    "step",
    [pytest.param(3, id="short"), pytest.param(1, id="long", marks=pytest.mark.torture)],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def packs(folder: Path) -> Packs:
    return sources(folder / "sound")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[Judge]:
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("AESG_CACHE", str(folder / "cache"))
        judge = Judge(folder)
        yield judge
        judge.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "large bombs"])
def test_mutants_are_refused_or_sound(judge: Judge, packs: Packs, kind: str) -> None:
    number = _FEW if kind in _SLOW else _MANY
    outcomes = {judge.outcome(mutant(kind, seed, packs)) for seed in range(number)}
    assert outcomes <= {"refused", "loaded"}
    assert "refused" in outcomes or kind == "version 1: values"  # of which nodes are left out


@pytest.mark.parametrize("kind", fuzz_migration.KINDS)
def test_directories_are_refused_or_come_over_soundly(tmp_path: Path, kind: str) -> None:
    files = fuzz_migration.sound(tmp_path / "sound")
    outcomes = {fuzz_migration.outcome(kind, seed, files, tmp_path) for seed in range(_FEW // 2)}
    assert outcomes <= {"refused", "loaded"}


def test_what_is_sound_loads(judge: Judge, packs: Packs) -> None:
    assert {judge.outcome(pack) for version in packs.values() for pack in version} == {"loaded"}


@every
@pytest.mark.parametrize("version", [1, 2])
def test_a_beginning_of_a_pack_is_refused(
    judge: Judge, packs: Packs, version: int, step: int
) -> None:
    pack = packs[version][0]
    assert {judge.outcome(pack[:length]) for length in range(0, len(pack), step)} == {"refused"}


@every
def test_a_change_of_a_byte_is_refused(judge: Judge, packs: Packs, step: int) -> None:
    pack = packs[2][0]
    for place in range(0, len(pack), step):
        changed = bytearray(pack)
        changed[place] ^= 1 << place % 8
        assert judge.outcome(bytes(changed)) == "refused", place


def test_packs_are_put_together_as_the_product_writes_them(packs: Packs) -> None:
    for pack in packs[2]:
        assert put_together(taken_apart(pack)) == pack


def test_a_mutant_is_the_same_each_time(packs: Packs) -> None:
    for kind in KINDS:
        assert mutant(kind, 3, packs) == mutant(kind, 3, packs)


def test_the_judge_notices_a_reader_that_does_not_validate(judge: Judge, packs: Packs) -> None:
    with patch.object(reading, "validate"), pytest.raises(Exception, match="column") as found:
        for seed in range(_FEW):
            judge.outcome(mutant("values", seed, packs))
    assert type(found.value).__name__ == "StoreCorruptError"


@pytest.mark.torture
@pytest.mark.parametrize("kind", [*KINDS, *fuzz_migration.KINDS])
def test_mutants_by_the_thousand_in_little_memory(runner: Worker, kind: str) -> None:
    tally = Tally()
    for seed in range(_LONG[kind]):
        tally.add(runner.judge(kind, seed), f"{kind} {seed}")
    keep(kind, tally)
    assert (tally.wrong, tally.died) == (0, 0), tally.notes


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(tmp_path_factory.mktemp("fuzz_worker")) as found:
        yield found


@pytest.mark.torture
def test_a_worker_that_dies_is_noticed_and_followed_by_another(tmp_path: Path) -> None:
    with worker(tmp_path) as found:
        assert found.judge("no such kind", 0).outcome == "died"
        assert found.judge("flipped", 0).outcome == "refused"
