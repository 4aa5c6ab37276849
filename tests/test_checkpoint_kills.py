"""A process that dies while it saves, loads or resumes leaves a checkpoint that can be used."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aesg import AESGMemory
from aesg.checkpoint import load_checkpoint
from tests import checkpoint_children as children
from tests.checkpoint_build import close, mark, marked, trainer_of
from tests.memory_processes import Child, child, run_child

#: Milliseconds, at most, from a word of a program to its death: longer than what it does next.
_MOMENT = 40


def number_in(place: str, memory: str) -> int:
    """Return the number that a checkpoint holds in all its parts; it can be trained on."""
    trainer = trainer_of("transformer", memory)
    load_checkpoint(trainer, place, resume=True)
    found = marked(trainer)
    close(trainer)
    return found


def nothing_is_left_behind() -> None:
    """Save once more: what dead processes have left is gone then."""
    trainer = trainer_of("transformer", "other")
    trainer.save("checkpoint")
    close(trainer)
    assert [name for name in os.listdir(".") if name.startswith(".")] == []


def _some(names: list[str]) -> list[int]:
    """Return calls to die at: the last that rename, and of the others a few."""
    renames = [place for place, name in enumerate(names) if name in ("rename", "replace")]
    rest = [place for place in range(len(names)) if place not in renames]
    return sorted({*renames[-3:], *rest[:: len(rest) // 3]})


def _all(names: list[str]) -> list[int]:
    return list(range(len(names)))


def kill_in_calls_of_saving(chosen: Callable[[list[str]], list[int]]) -> None:
    _, names = run_child(children.save_at, "memory", "whole", None)
    found = []
    for number in chosen(names):
        with child(children.save_at, f"memory-{number}", "checkpoint", number) as dying:
            assert dying.said() == ["begin"]
        found.append(number_in("checkpoint", "other"))
    assert set(found) == {1, 2}
    assert sorted(found) == found  # once the new one is there, it stays
    nothing_is_left_behind()


def kill_in_calls_of_resuming(chosen: Callable[[list[str]], list[int]]) -> None:
    trainer = trainer_of("transformer", "saved")
    mark(trainer, 2)
    trainer.save("checkpoint")
    _, names = run_child(children.load_at, "memory", "checkpoint", None)
    found = []
    for number in chosen(names):
        memory = f"memory-{number}"
        with child(children.load_at, memory, "checkpoint", number) as dying:
            assert dying.said() == ["begin"]
        found += run_child(children.examine, memory)
        assert number_in("checkpoint", memory) == 2
    assert set(found) == {5, 2}
    assert sorted(found, reverse=True) == found


def test_a_process_that_dies_while_it_saves_leaves_the_checkpoint_before_or_its_own() -> None:
    kill_in_calls_of_saving(_some)


def test_a_process_that_dies_while_it_resumes_leaves_the_memory_before_or_the_one_to_be() -> None:
    kill_in_calls_of_resuming(_some)


@pytest.mark.long
def test_a_process_that_dies_in_any_call_of_saving() -> None:
    kill_in_calls_of_saving(_all)


@pytest.mark.long
def test_a_process_that_dies_in_any_call_of_resuming() -> None:
    kill_in_calls_of_resuming(_all)


def _killed_at_some_moment(running: Child, chance: random.Random) -> list[int]:
    """Kill a program at a moment of chance; return what it said."""
    said = [running.next() for _ in range(chance.randint(1, 4))]
    time.sleep(chance.random() * _MOMENT / 1000)
    return said + running.kill()


def kill_while_saving(times: int) -> None:
    chance = random.Random(1)
    for number in range(times):
        with child(children.save_always, f"memory-{number}", "checkpoint") as running:
            said = _killed_at_some_moment(running, chance)
        assert number_in("checkpoint", "other") in (said[-1], said[-1] + 1)
    nothing_is_left_behind()


def kill_while_loading(times: int, *, resume: bool) -> None:
    chance = random.Random(2)
    trainer = trainer_of("transformer", "saved")
    for number in (3, 9):
        mark(trainer, number)
        trainer.save(f"checkpoint-{number}")
    places = ["checkpoint-3", "checkpoint-9"]
    for _ in range(times):
        with child(children.load_always, "memory", places, resume) as running:
            assert set(_killed_at_some_moment(running, chance)) <= {3, 9}
        [concepts] = run_child(children.examine, "memory")
        assert concepts in (3, 9)
        assert [number_in(place, "memory") for place in places] == [3, 9]


@pytest.mark.long
def test_kills_at_random_moments_of_saving() -> None:
    kill_while_saving(20)


@pytest.mark.long
@pytest.mark.parametrize("resume", [False, True])
def test_kills_at_random_moments_of_loading(resume: bool) -> None:
    kill_while_loading(20, resume=resume)


def test_two_processes_may_save_to_one_place() -> None:
    with (
        child(children.save_always, "memory-1", "checkpoint") as one,
        child(children.save_always, "memory-2", "checkpoint") as two,
    ):
        said = [running.next() for running in (one, two) for _ in range(5)]
        said += one.kill() + two.kill()
    assert number_in("checkpoint", "memory") <= max(said) + 1
    nothing_is_left_behind()


def test_a_checkpoint_that_is_replaced_while_it_is_loaded_is_loaded_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, trainer = trainer_of("transformer", "other"), trainer_of("transformer", "memory")
    mark(other, 1)
    other.save("checkpoint")
    restore = AESGMemory.restore
    seen: list[int] = []

    def late(self: AESGMemory, source: Path) -> None:
        if not seen:
            mark(other, 2)
            other.save("checkpoint")
        restore(self, source)
        seen.append(self.storage.node_count)

    monkeypatch.setattr(AESGMemory, "restore", late)
    trainer.load("checkpoint")
    assert seen == [2, 2]  # the first time with weights of the checkpoint before
    assert marked(trainer) == 2


@pytest.mark.long
def test_a_checkpoint_can_be_loaded_while_another_process_replaces_it() -> None:
    # A pause shorter than a load would have it begin again and again.
    with child(children.save_always, "memory-1", "checkpoint", 0.2) as running:
        assert running.next() == 1
        trainer = trainer_of("transformer", "memory")
        found = []
        while len(found) < 10 or (found[-1] == found[0] and len(found) < 1000):
            trainer.load("checkpoint")
            found.append(marked(trainer))
        running.kill()
    assert found == sorted(found)
    assert found[-1] > found[0]
