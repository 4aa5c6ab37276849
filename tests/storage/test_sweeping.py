"""Aliases that lead nowhere go while their writer is at work, and no others."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from storage_backends import codec
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage.build import concepts, edges, ids
from tests.storage.damage import flip, key_of, make, replace_record

LIVE = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LMDBStore]:
    """Return a store of the concepts 1 and 2, to which 300 ids each lead."""
    with closing(LMDBStore.open(tmp_path / "memory", durability="normal")) as opened:
        opened.commit(WriteBatch(concepts=concepts([1, 2])))
        opened.commit(WriteBatch(aliases={i: 1 + i % 2 for i in range(1000, 1600)}))
        yield opened


class Life:
    """Concepts that are born, merged and pruned, one each in every commit."""

    def __init__(self) -> None:
        self._random = random.Random(11)
        self._next = LIVE + 1
        self.live = list(range(1, LIVE + 1))
        self.aliases: dict[int, int] = {}

    def first(self) -> WriteBatch:
        """Return the batch that it begins with."""
        return WriteBatch(concepts=concepts(self.live))

    def next(self) -> WriteBatch:
        """Return the batch of the next commit: two births, a merge and a prune."""
        born = [self._next, self._next + 1]
        self._next += 2
        absorbed, pruned = self._taken(), self._taken()
        self.aliases[absorbed] = self._random.choice(self.live)
        self.live += born
        return WriteBatch(
            deleted=ids(absorbed, pruned),
            concepts=concepts(born),
            aliases={absorbed: self.aliases[absorbed]},
        )

    def resolved(self) -> dict[int, int]:
        """Return what stands for each id that there ever was; 0 where nothing does."""
        return {each: self._resolved(each) for each in range(1, self._next)}

    def _taken(self) -> int:
        return self.live.pop(self._random.randrange(len(self.live)))

    def _resolved(self, each: int) -> int:
        while each in self.aliases:
            each = self.aliases[each]
        return each if each in self.live else 0


def check(store: LMDBStore, life: Life) -> None:
    wanted = life.resolved()
    assert store.resolve(ids(*wanted)).tolist() == list(wanted.values())
    assert store.verify() == []


def leading(life: Life) -> int:
    """Return how many aliases lead somewhere."""
    resolved = life.resolved()
    return sum(resolved[each] > 0 for each in life.aliases)


def test_the_aliases_of_a_long_life_level_off(tmp_path: Path) -> None:
    life, held, needed = Life(), [], []
    with closing(LMDBStore.open(tmp_path, durability="normal")) as store:
        store.commit(life.first())
        for number in range(1, 1001):
            store.commit(life.next())
            if number % 50 == 0:
                held.append(store.stats().aliases)
                needed.append(leading(life))
        check(store, life)
    assert len(life.aliases) == 1000
    assert all(found <= 1.5 * least + 10 for found, least in zip(held, needed, strict=True))
    assert max(held[10:]) <= 1.5 * max(held[:10])


def test_writers_that_are_soon_closed_get_round_together(tmp_path: Path) -> None:
    make(tmp_path, WriteBatch(concepts=concepts(range(1, 63))))
    make(tmp_path, WriteBatch(aliases={i: 1 + i // 85 for i in range(70, 100)}))
    make(tmp_path, WriteBatch(deleted=ids(2)))  # to which the later half led
    for each in range(3, 63):
        make(tmp_path, WriteBatch(deleted=ids(each)))
    with closing(LMDBStore.open(tmp_path, read_only=True)) as reader:
        assert reader.stats().aliases == 15
        assert reader.resolve(ids(*range(70, 100))).tolist() == [1] * 15 + [0] * 15
        assert reader.verify() == []


def prune(store: LMDBStore, gone: Iterable[int]) -> None:
    """Let concepts without aliases be born and die, a commit each."""
    for each in gone:
        store.commit(WriteBatch(concepts=concepts([each])))
        store.commit(WriteBatch(deleted=ids(each)))


def test_a_commit_looks_at_few_aliases_but_the_next_ones_go_on(store: LMDBStore) -> None:
    store.commit(WriteBatch(deleted=ids(1)))
    assert store.stats().aliases >= 590
    prune(store, range(2000, 2160))
    assert store.stats().aliases == 300
    found = store.resolve(np.arange(1000, 1600, dtype=np.uint64))
    assert found.tolist() == [2 * (i % 2) for i in range(1000, 1600)]


def test_a_commit_without_deletions_and_aliases_drops_none(store: LMDBStore) -> None:
    store.commit(WriteBatch(deleted=ids(1)))
    held = store.stats().aliases
    for each in range(2000, 2100):
        store.commit(WriteBatch(concepts=concepts([each]), edges={2: edges(each)}))
    assert store.stats().aliases == held > 300


def test_an_alias_goes_with_the_end_of_its_chain_and_not_before(tmp_path: Path) -> None:
    with closing(LMDBStore.open(tmp_path, durability="normal")) as store:
        store.commit(WriteBatch(concepts=concepts(range(1, 101))))
        for gone in range(1, 100):
            store.commit(WriteBatch(deleted=ids(gone), aliases={gone: gone + 1}))
        prune(store, range(300, 350))
        assert store.stats().aliases == 99
        assert set(store.resolve(np.arange(1, 101, dtype=np.uint64)).tolist()) == {100}
        store.commit(WriteBatch(deleted=ids(100)))
        prune(store, range(400, 500))
        assert store.stats().aliases == 0


def test_a_damaged_alias_and_a_circle_are_left_for_an_examination_to_find(tmp_path: Path) -> None:
    make(tmp_path, WriteBatch(concepts=concepts([1, 2]), aliases={10: 1, 11: 1, 12: 2}))
    flip(tmp_path, codec.ALIAS, key_of(10))
    for source, target in [(20, 21), (21, 20)]:
        (record,) = codec.encode_aliases(ids(source), ids(target))
        replace_record(tmp_path, codec.ALIAS, key_of(source), record)
    with closing(LMDBStore.open(tmp_path, durability="normal")) as store:
        store.commit(WriteBatch(deleted=ids(1)))
        prune(store, range(300, 310))
        assert store.stats().aliases == 4  # without 11
        assert {problem.table for problem in store.verify()} == {codec.ALIAS}
