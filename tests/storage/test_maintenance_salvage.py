"""What is read of a damaged data file: all that is whole, and nothing that is not in use."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.salvage import DataFile, Found
from tests.storage.damage import PAGE, overwrite, pages_of

Content = set[tuple[str, bytes, bytes]]

_BRANCH, _LEAF, _LARGE = 1, 2, 4
_RECORDS = 3000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mdb"


@pytest.fixture
def content(path: Path) -> Content:
    """Make a file of three tables with a history: deleted and replaced records, large ones."""
    chance, records = random.Random(1), dict[tuple[str, bytes], bytes]()
    with closing(lmdb.open(str(path.parent), max_dbs=4, map_size=1 << 28, sync=False)) as env:
        for table in ("one", "two", "three") * 3:
            database = env.open_db(table.encode())
            with env.begin(db=database, write=True) as transaction:
                for _ in range(_RECORDS // 3):
                    key = chance.randrange(_RECORDS).to_bytes(8, "big")
                    if chance.random() < 0.2:
                        transaction.delete(key)
                        records.pop((table, key), None)
                    else:
                        size = 9000 if chance.random() < 0.01 else chance.randrange(200)
                        record = key + chance.randbytes(size)  # so that no two are the same
                        transaction.put(key, record)
                        records[table, key] = record
    return {(table, key, record) for (table, key), record in records.items()}


def read(path: Path) -> tuple[list[Found], list[str]]:
    with DataFile(path) as file:
        return list(file.records()), file.damage


def test_a_sound_file_gives_every_record_and_no_other(path: Path, content: Content) -> None:
    found, damage = read(path)
    assert damage == []
    assert len(found) == len(content)
    assert {tuple(each) for each in found} == content


@pytest.mark.parametrize("field", [0, 6], ids=["size", "size of the key"])
def test_a_record_that_does_not_fit_between_its_neighbours_is_noticed(
    path: Path, content: Content, field: int
) -> None:
    with DataFile(path) as file:
        assert file.ill_fitting() == []
    _, key, record = next(each for each in sorted(content) if 20 < len(each[2]) < 200)
    found = path.read_bytes()
    for at in (at for at in range(8, len(found)) if found.startswith(key + record, at)):
        overwrite(path, at - 8 + field, bytes([found[at - 8 + field] ^ 2]))
    with DataFile(path) as file:
        assert any("holds damaged records" in text for text in file.ill_fitting())


def test_a_zeroed_branch_page_costs_nothing(path: Path, content: Content) -> None:
    for page in pages_of(path, _BRANCH):
        overwrite(path, page * PAGE, bytes(PAGE))
    found, damage = read(path)
    assert any("cannot be read" in text for text in damage)
    plain = {(key, record) for _, key, record in content}
    assert {(each.key, each.record) for each in found} == plain  # and no freed page among them
    assert len(found) == len(content)


def test_a_zeroed_list_of_tables_costs_nothing_but_their_names(
    path: Path, content: Content
) -> None:
    with DataFile(path) as file:
        overwrite(path, file._meta.table_root * PAGE, bytes(PAGE))
    found, _ = read(path)
    assert {each.table for each in found} == {""}
    assert {(each.key, each.record) for each in found} == {
        (key, record) for _, key, record in content
    }


@pytest.mark.parametrize("noise", [False, True])
def test_a_damaged_leaf_costs_its_own_records_alone(
    path: Path, content: Content, noise: bool
) -> None:
    leaves = pages_of(path, _LEAF)
    chance = random.Random(2)
    for page in chance.sample(leaves, 3):
        overwrite(path, page * PAGE, chance.randbytes(PAGE) if noise else bytes(PAGE))
    found, _ = read(path)
    named = {tuple(each) for each in found if each.table}
    assert named <= content
    assert len(content) - len(named) < 3 * PAGE // 16


def test_a_damaged_large_record_is_left_out_and_told(path: Path, content: Content) -> None:
    sound, in_use = path.read_bytes(), 0
    for page in pages_of(path, _LARGE):
        overwrite(path, page * PAGE, bytes(16))
        found, damage = read(path)
        path.write_bytes(sound)
        if len(found) < len(content):  # else it was of a record that is no more
            assert len(found) == len(content) - 1
            assert damage == [f"the large record at page {page} cannot be read"]
            in_use += 1
    assert in_use


@pytest.mark.parametrize("meta", [0, 1])
def test_one_meta_page_is_enough(path: Path, content: Content, meta: int) -> None:
    overwrite(path, meta * PAGE, bytes(PAGE))
    found, damage = read(path)
    assert "one of the two meta pages is damaged: the last commit may be lost" in damage
    assert len({tuple(each) for each in found} & content) > len(content) // 2


def test_without_a_meta_page_nothing_is_guessed(path: Path, content: Content) -> None:
    overwrite(path, 0, bytes(2 * PAGE))
    with pytest.raises(StoreCorruptError, match="restore a copy"):
        DataFile(path)


def test_a_truncated_file_gives_what_is_there(path: Path, content: Content) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    found, damage = read(path)
    assert any("pages are missing" in text for text in damage)
    assert 0 < len(found) <= len(content)


def test_noise_of_any_kind_is_never_an_error_of_another_kind(path: Path, content: Content) -> None:
    sound = path.read_bytes()
    for seed in range(60):
        path.write_bytes(mutated(sound, random.Random(seed)))
        try:
            found, _ = read(path)
        except StoreError:
            continue
        assert len(found) < 100 * len(content)


def mutated(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 10, 100])):
        at = chance.randrange(len(damaged)) if chance.random() < 0.5 else chance.randrange(3 * PAGE)
        size = chance.choice([1, 2, 8, 100])
        damaged[at : at + size] = chance.randbytes(size)
    return bytes(damaged[: len(content)])
