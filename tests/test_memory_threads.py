"""Threads of one process on one memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from aesg import AESGMemory
from aesg.reading import read
from aesg.state import MemoryState
from storage_backends.lmdb_store import LMDBStore
from tests.memory_build import born, meet, opened, pattern, patterns

SECONDS = 30


@pytest.fixture
def _switching_often() -> Iterator[None]:
    """Let threads take turns at almost every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(*jobs: Callable[[], object]) -> list[Any]:
    """Run each job on a thread; return what they returned, or raise what one raised."""
    results: list[Any] = [None] * len(jobs)

    def work(place: int) -> None:
        try:
            results[place] = jobs[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@pytest.fixture(params=["INFERENCE", "TRAIN"])
def memory(request: pytest.FixtureRequest) -> Iterator[AESGMemory]:
    with opened() as made:
        made.remember(patterns(0, 1), payloads=["zero", "one"])
    with AESGMemory.open("memory", mode=request.param) as memory:
        yield memory


def meeting(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does what another does once two threads are in it together."""
    barrier = threading.Barrier(2)

    def met(*arguments: Any, **named: Any) -> Any:
        barrier.wait(SECONDS)
        return call(*arguments, **named)

    return met


def test_two_threads_retrieve_at_the_same_time(
    memory: AESGMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesg.memory_reading.read", meeting(read))
    found = run(lambda: memory.recall(pattern(0)), lambda: memory.recall(pattern(1)))
    assert [each.primary_concepts for each in found] == [[1, 2], [2, 1]]


def test_two_handles_retrieve_at_the_same_time(
    memory: AESGMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesg.memory_reading.read", meeting(read))
    with AESGMemory.open("memory") as other:
        found = run(lambda: memory.recall(pattern(0)), lambda: other.retrieve(pattern(1)))
    assert [each.primary_concepts for each in found] == [[1, 2], [2, 1]]


def test_two_threads_read_payloads_at_the_same_time(
    memory: AESGMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LMDBStore, "payloads", meeting(LMDBStore.payloads))
    found = run(lambda: memory.payloads([1]), lambda: memory.payloads([2, 3]))
    assert found == [["zero"], ["one", None]]


def test_a_retrieval_waits_until_a_batch_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, inside, go_on = opened(), threading.Event(), threading.Event()
    memory.remember(pattern(0))
    absorb = MemoryState.absorb
    order: list[str] = []

    def slow(*arguments: Any, **named: Any) -> Any:
        inside.set()
        assert go_on.wait(SECONDS)
        result = absorb(*arguments, **named)
        order.append("learned")
        return result

    monkeypatch.setattr(MemoryState, "absorb", slow)

    def look() -> int:
        assert inside.wait(SECONDS)
        threading.Timer(0.1, go_on.set).start()
        found = len(memory.recall(pattern(3)).concept_ids)
        order.append("looked")
        return found

    assert run(lambda: memory.retrieve(pattern(3)), look)[1] == 2
    assert order == ["learned", "looked"]


def values_seen(memory: AESGMemory) -> list[int]:
    """Return the integer values that one retrieval finds."""
    values: list[int] = memory.recall(torch.ones(16)).value_ids.tolist()
    return values


def replace_all(memory: AESGMemory, value: int) -> None:
    """Put concepts of one value in the place of all others, in one commit.

    The memory holds no more than these.
    """
    memory.remember(torch.eye(16)[:8], [value] * 8)


def watch(memory: AESGMemory, done: threading.Event) -> list[int]:
    """Return the values that retrievals found, in turn, until all is written."""
    seen = [0]
    while not done.is_set():
        values = values_seen(memory)
        assert len(values) == 8
        assert set(values) == {values[0]}, "of more than one commit"
        assert values[0] >= seen[-1]
        if values[0] > seen[-1]:
            seen.append(values[0])
    return seen


@pytest.mark.usefixtures("_switching_often")
@pytest.mark.parametrize("reader_first", [True, False])
def test_threads_see_whole_commits_while_another_makes_them(reader_first: bool) -> None:
    """With and without a read state of its own, which refreshes, beside that of the writer."""
    opened(max_concepts=8).close()
    reader = AESGMemory.open("memory") if reader_first else None
    writer, done = opened(max_concepts=8, durability="normal"), threading.Event()
    replace_all(writer, 0)
    reader = reader or AESGMemory.open("memory")
    assert (reader._state is writer._state) != reader_first

    def write() -> None:
        try:
            for value in range(1, 40):
                replace_all(writer, value)
        finally:
            done.set()

    _, *seen = run(write, *[lambda: watch(reader, done)] * 3)
    assert values_seen(reader) == [39] * 8
    assert max(map(len, seen)) > 1


@pytest.mark.usefixtures("_switching_often")
def test_threads_never_see_a_concept_twice_while_it_is_born() -> None:
    """Once as a provisional concept, that is, and once in the graph."""
    writer = opened(novelty_birth_threshold=2, durability="normal")
    done = threading.Event()
    reader = AESGMemory.open("memory")
    generator = torch.Generator().manual_seed(0)

    def write() -> None:
        try:
            for _ in range(40):
                meet(writer, torch.randn(16, generator=generator), times=2)
                writer.save()
        finally:
            done.set()

    def look() -> int:
        most = 0
        while not done.is_set():
            ids = reader.recall(torch.ones(16), top_k=1000).concept_ids.tolist()
            assert len(ids) == len(set(ids))
            assert len(ids) >= most
            most = len(ids)
        return most

    _, *most = run(write, look, look)
    assert max(most) > 1
    assert born(writer) > 10


def test_a_save_in_the_middle_of_a_refresh_is_seen_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened().close()
    reader = AESGMemory.open("memory")
    writer = opened()
    meet(writer, pattern(0), times=2)
    meet(writer, pattern(1), times=1)
    writer.save()
    assert reader.refresh()
    assert (born(reader), reader.provisional_count) == (0, 2)
    writer.retrieve(pattern(2))
    writer.save()
    shortterm, turns = LMDBStore.shortterm, [0]

    def late(store: LMDBStore) -> Any:
        turns[0] += 1
        if turns[0] == 1:
            meet(writer, pattern(0), times=1)  # which lets it be born
            writer.save()
        return shortterm(store)

    monkeypatch.setattr(LMDBStore, "shortterm", late)
    found = reader.recall(pattern(0), top_k=9)
    assert turns == [2]
    assert len(found.concept_ids) == 3  # not without the one that was born in between
    assert (born(reader), reader.provisional_count) == (1, 2)
    assert not reader.refresh()


def test_short_term_memory_is_read_only_where_it_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened().close()
    reader = AESGMemory.open("memory")
    writer = opened()
    writer.retrieve(pattern(0))
    writer.save()
    assert reader.refresh()
    reads: list[LMDBStore] = []
    monkeypatch.setattr(LMDBStore, "shortterm", lambda store: reads.append(store))
    writer.remember(pattern(1))
    assert len(reader.recall(pattern(0)).concept_ids) == 2
    assert reads == []


def test_an_interrupted_refresh_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    opened().close()
    reader = AESGMemory.open("memory")
    writer = opened()
    writer.retrieve(pattern(0))
    writer.save()

    def interrupted(store: LMDBStore) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LMDBStore, "shortterm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.recall(pattern(0))
    assert len(reader.recall(pattern(0)).concept_ids) == 1
