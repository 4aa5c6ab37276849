"""A memory that is saved and opened anew goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from aesg import AESGConfig, AESGMemory, AESGMemoryError
from aesg.memory_keys import KeyChanges
from storage_backends.types import WriteBatch
from tests.memory_steps import DIM, NAMES, Step, config, content, kinds, take

STEPS = st.tuples(st.sampled_from(NAMES), st.integers(0, 2**30))

_numbers = count()


def steps(seed: int, number: int) -> list[Step]:
    random = Random(seed)
    return [(random.choice(NAMES), random.randrange(2**30)) for _ in range(number)]


@contextmanager
def two(parameters: int, earlier: Sequence[Step]) -> Iterator[tuple[AESGMemory, AESGMemory]]:
    """Give a memory that took some steps, and what was opened from its copy."""
    place = Path(f"memories-{next(_numbers)}")
    with ExitStack() as opened:
        one = opened.enter_context(AESGMemory(place / "one", config(parameters)))
        opened.enter_context(one.counted_commits())
        for step in earlier:
            take(one, step)
        one.reset_state()
        one.copy(place / "other")
        other = opened.enter_context(AESGMemory.open(place / "other", mode="TRAIN"))
        other.set_mode(one.mode)
        opened.enter_context(other.counted_commits())
        yield one, other


def assert_same_way(parameters: int, earlier: Sequence[Step], later: Sequence[Step]) -> set[str]:
    with two(parameters, earlier) as (one, other):
        for step in later:
            assert take(one, step) == take(other, step)
        assert content(one) == content(other)
        return kinds(one)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    parameters=st.integers(0, 99),
    earlier=st.lists(STEPS, min_size=4, max_size=12),
    later=st.lists(STEPS, min_size=4, max_size=12),
)
def test_who_goes_on_and_who_opens_a_copy_go_the_same_way(
    parameters: int, earlier: list[Step], later: list[Step]
) -> None:
    assert_same_way(parameters, earlier, later)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_long_ways_are_the_same_too(seed: int) -> None:
    found = set()
    for each in range(10 * seed, 10 * seed + 10):
        ways = steps(each, 40)
        found |= assert_same_way(each, ways[:20], ways[20:])
    assert {"CREATE", "MERGE", "SPLIT", "PRUNE", "CONSOLIDATE", "RESTRUCTURE"} == found


def test_a_way_on_which_much_happens_is_the_same() -> None:
    ways = steps(12, 30)
    found = assert_same_way(12, ways[:12], ways[12:])
    assert {"CREATE", "MERGE", "PRUNE", "CONSOLIDATE", "RESTRUCTURE"} <= found


def test_ids_that_are_higher_than_they_need_be_change_nothing() -> None:
    ways = steps(5, 24)
    with two(5, ways[:10]) as (one, other):
        other._state.clock.next_id += 1_000  # as after a restore of what was left long ago
        for step in ways[10:]:
            for left, right in zip(take(one, step), take(other, step), strict=True):
                assert left[1:] == right[1:]
        assert content(one, ranked=True) == content(other, ranked=True)
        assert one.logger.get_history("RESTRUCTURE")


def test_a_restored_memory_goes_the_way_that_it_went() -> None:
    ways = steps(11, 24)
    with two(11, ways[:10]) as (one, other):
        directory = other.directory
        went = [take(one, step) for step in ways[10:]]
        other.close()
        one.reset_state()
        one.set_mode("TRAIN")
        one.restore(directory)
        with AESGMemory.open(directory) as copy:
            one.set_mode("TRAIN")
            assert content(copy, ranked=True) == content(one, ranked=True)
        again = [take(one, step) for step in ways[10:]]
        for former, latter in zip(went, again, strict=True):
            assert [each[1:] for each in former] == [each[1:] for each in latter]


def test_a_second_save_changes_nothing() -> None:
    ways = steps(3, 20)
    with two(3, ways[:8]) as (one, other):
        for step in ways[8:]:
            one.save()
            other.save()
            other.save()
            other.copy(other.directory.parent / f"copy-{next(_numbers)}")
            assert take(one, step) == take(other, step)
        assert content(one) == content(other)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_counted_commits_do_not_look_at_the_clock(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesg.memory_durable._COMMIT_SECONDS", seconds)
    monkeypatch.setattr("aesg.memory_durable._COMMIT_UPDATES", 4)
    memory = AESGMemory("memory", config(0))
    memory.set_mode("ONLINE")  # in which no consolidation commits
    memory.remember(torch.eye(DIM))
    generations = []
    with memory.counted_commits():
        for _ in range(9):
            take(memory, ("learn", 1))
            generations.append(memory._state.view.generation)
    first = generations[0]
    assert [each - first for each in generations] == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    take(memory, ("learn", 1))
    assert memory._state.view.generation - first == 2 + (seconds == 0)


def test_who_looks_where_commits_are_counted_changes_nothing() -> None:
    memory = AESGMemory("memory", AESGConfig(vector_dim=DIM, novelty_birth_threshold=1))
    (first,) = memory.remember(torch.eye(DIM)[:1])
    with memory.counted_commits(), AESGMemory.open("memory") as reader:
        memory.retrieve(-torch.eye(DIM)[:3])
        before = memory._state.view.generation
        for handle in (memory, reader):
            assert handle.storage.node_count == 4  # three wait
            assert handle.storage.edge_count == 0
            assert "concepts=4" in repr(handle)
            assert len(handle.logger.get_history()) == 1
            assert handle.edges(first) == []
            assert handle.storage.verify() == []
        assert memory._state.view.generation == before
        memory.save()
        assert memory._state.view.generation > before
    assert memory.storage.node_count == 4


def _asked(memory: AESGMemory, seed: int, origins: Sequence[int]) -> None:
    """Ask with other queries of some samples, each of which has its own outcome."""
    random = np.random.default_rng(seed)
    queries = torch.tensor(random.normal(size=(len(origins), DIM)), dtype=torch.float32)
    context = memory.recall(queries, origins=torch.tensor(origins))
    memory.defer(context, torch.tensor(origins))


def _taught(births: int) -> AESGMemory:
    """Return a memory with a concept of each of 40 samples; some are provisional."""
    memory = AESGMemory("memory", AESGConfig(vector_dim=DIM, novelty_birth_threshold=births))
    _asked(memory, 0, range(1, 41))
    memory.update_topology()
    _asked(memory, 1, range(1, 21))  # again: these are confirmed
    memory.update_topology()
    return memory


def _columns(memory: AESGMemory) -> dict[str, bytes]:
    """Return keys and norms of the graph and of the window, as retrievals see them."""
    state = memory._state
    view, window = state.view, state.shortterm
    return {
        "ids": view.ids.whole().tobytes(),
        "keys": view.keys.whole().tobytes(),
        "norms": view.norms.whole().tobytes(),
        "entries": window.entries.tobytes(),
        "provisional keys": window.keys.tobytes(),
    }


@pytest.mark.parametrize(("births", "provisional"), [(1, 0), (2, 10), (99, 30)])
def test_keys_that_are_put_back_are_those_before_the_refresh(births: int, provisional: int) -> None:
    memory = _taught(births)
    memory.save()
    before, stored = _columns(memory), content(memory)
    with memory.refreshing() as changes:
        _asked(memory, 5, range(1, 31))
        assert memory.update_keys() == 30
    after = _columns(memory)
    assert len(changes) == 30
    assert changes.provisional.sum() == provisional
    assert after != before
    again = KeyChanges.from_state_dict(changes.state_dict())
    assert memory.put_back(again) == 30
    assert _columns(memory) == before
    assert content(memory) == stored
    assert memory.put_back(again) == 0
    assert memory.put_forward(again) == 30
    assert _columns(memory) == after
    assert memory.storage.verify() == []


def test_a_refresh_that_was_put_back_leaves_no_trace_in_what_is_learned_later() -> None:
    ways = [step for step in steps(8, 40) if step[0] != "change mode"]
    with two(8, ways[:15]) as (one, other):
        with other.refreshing() as changes:
            _asked(other, 5, range(1, 15))
            assert other.update_keys()
        assert len(changes)
        other.put_back(changes)
        other.reset_state()
        for step in ways[15:]:
            assert take(one, step) == take(other, step)
        assert content(one) == content(other)


def test_concepts_that_a_later_refresh_does_not_meet_get_their_refreshed_keys_again() -> None:
    memory = _taught(2)
    with memory.refreshing() as first:
        _asked(memory, 5, range(1, 41))
        memory.update_keys()
    refreshed = dict(zip(first.ids.tolist(), first.after.tolist(), strict=True))
    memory.put_back(first)
    with memory.refreshing(first) as second:
        _asked(memory, 6, range(1, 11))
        memory.update_keys()
    assert sorted(second.ids.tolist()) == sorted(first.ids.tolist())
    kept = sum(
        refreshed[each] == key
        for each, key in zip(second.ids.tolist(), second.after.tolist(), strict=True)
    )
    assert kept == 30
    assert memory.put_back(second) == 40


def test_keys_that_changed_otherwise_stay() -> None:
    memory = _taught(1)
    with memory.refreshing() as changes:
        _asked(memory, 5, range(1, 41))
        memory.update_keys()
    _asked(memory, 6, range(1, 4))
    memory.update_keys()
    memory.save()
    assert memory.put_back(changes) == 37


def test_a_block_that_fails_has_noted_what_it_changed() -> None:
    memory, found = _taught(2), list[KeyChanges]()

    def refresh() -> None:
        with memory.refreshing() as changes:
            found.append(changes)
            _asked(memory, 5, range(1, 31))
            memory.update_keys()
            raise KeyboardInterrupt

    memory.save()
    before = _columns(memory)
    with pytest.raises(KeyboardInterrupt):
        refresh()
    assert _columns(memory) != before
    assert memory.put_back(found[0]) == 30
    assert _columns(memory) == before


def test_changes_of_keys_must_fit() -> None:
    memory = _taught(1)
    other = KeyChanges.none(DIM + 1)
    with pytest.raises(AESGMemoryError, match=rf"expected vector_dim={DIM}, got {DIM + 1}"):
        memory.put_back(other)
    state = KeyChanges.none(DIM).state_dict()
    with pytest.raises(AESGMemoryError, match="got no before"):
        KeyChanges.from_state_dict({"ids": state["ids"]})
    with pytest.raises(AESGMemoryError, match="expected after of shape"):
        KeyChanges.from_state_dict({**state, "after": torch.zeros(2, DIM)})


def test_what_waits_to_be_looked_at_is_ignored_where_it_is_damaged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with AESGMemory("memory", config(0)) as memory:
        for step in steps(0, 8):
            take(memory, step)
        memory.save()
        store = memory.storage.engine.store
        table = {**store.shortterm(), "put": b"odd", "held_back": b"x", "open_values": b"odd"}
        memory.storage.engine.commit(WriteBatch(shortterm=table))
    with AESGMemory("memory", config(0)) as memory:
        for step in steps(1, 8):
            take(memory, step)
        assert memory.storage.verify() == []
    assert "ignored: expected whole records" in caplog.text


def test_rates_count_retrievals_and_what_was_pruned() -> None:
    memory = AESGMemory("memory", config(0))
    before = memory.rates.retrievals
    for step in [("learn", 1), ("retrieve", 2), ("age", 3)]:
        take(memory, step)
    assert memory.rates.retrievals - before == 3
    assert memory.rates.retrieval_seconds > 0
    for _ in range(200):
        memory.update_topology()
    memory.save()
    pruned = [each for each in memory.logger.get_history("PRUNE") if not each["id2"]]
    assert memory.rates.pruned == len(pruned) > 0
