"""A disk that fails, or Ctrl-C, at any moment of saving and loading leaves all or nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from aesg import AESGMemory, AESGStorageError
from aesg.memory_durable import DurableState
from tests.checkpoint_build import differences, picture, saved, sentences, trained
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted

FAULTS = [disk_full, disk_broken, interrupted]


def read(path: str) -> dict[str, bytes]:
    """Return the files of a checkpoint but for the memory's and what tells of time."""
    names = ["model_weights.pt", "optimizer_state.pt", "training_state.json", "config.json"]
    return {name: Path(path, name).read_bytes() for name in names}


def save_with_faults(fails: Callable[[], None], most: int) -> None:
    trainer = trained()
    trainer.save("checkpoint")
    kept = read("checkpoint")
    with at_call(None) as calls:
        trainer.save("checkpoint")
    failed = 0
    for number in range(0, len(calls.names), max(1, len(calls.names) // most)):
        with at_call(number, fails):
            try:
                trainer.save("checkpoint")
            except (AESGStorageError, KeyboardInterrupt):
                failed += 1
        assert read("checkpoint") == kept
    assert failed > 4
    trainer.fit(sentences(), epochs=1)  # the memory has lived through it
    trainer.save("checkpoint")
    assert [name for name in os.listdir(".") if name.startswith(".")] == []


def load_with_faults(fails: Callable[[], None], most: int) -> None:
    saved()
    trainer = trained()
    with at_call(None) as calls:
        trainer.resume("checkpoint")
    after = picture(trainer, by_rank=True)
    trainer.fit(sentences(), epochs=1)
    failed, before = 0, picture(trainer, by_rank=True)
    for number in range(0, len(calls.names), max(1, len(calls.names) // most)):
        with at_call(number, fails):
            try:
                trainer.resume("checkpoint")
            except (AESGStorageError, KeyboardInterrupt):
                failed += 1
        found = picture(trainer, by_rank=True)
        assert [] in (differences(before, found), differences(after, found))
        before = found
    assert failed > 2


@pytest.mark.parametrize("fails", FAULTS)
def test_a_fault_while_it_saves_leaves_the_checkpoint_before(fails: Callable[[], None]) -> None:
    save_with_faults(fails, 12)


def test_an_interrupt_while_the_memory_is_read_anew_leaves_nothing_of_the_one_before() -> None:
    saved()
    trainer = trained()
    trainer.resume("checkpoint")
    after = picture(trainer, by_rank=True)
    trainer.fit(sentences(), epochs=1)
    real, calls = DurableState._begin, iter(range(9))

    def begin(state: DurableState) -> None:
        if next(calls) == 0:
            raise KeyboardInterrupt
        real(state)

    with patch.object(DurableState, "_begin", begin), pytest.raises(KeyboardInterrupt):
        trainer.resume("checkpoint")
    assert next(calls) == 2
    assert differences(after, picture(trainer, by_rank=True)) == []


@pytest.mark.parametrize("fails", [False, True])
def test_however_often_ctrl_c_comes_while_it_loads_it_waits(fails: bool) -> None:
    saved()
    trainer = trained()
    trainer.resume("checkpoint")
    after = picture(trainer, by_rank=True)
    trainer.fit(sentences(), epochs=1)
    before = picture(trainer, by_rank=True)
    real = AESGMemory.restore

    def restore(memory: AESGMemory, source: Path) -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        if fails:
            raise AESGStorageError("no room")
        real(memory, source)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        error = AESGStorageError if fails else KeyboardInterrupt
        with patch.object(AESGMemory, "restore", restore), pytest.raises(error):
            trainer.resume("checkpoint")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert differences(before if fails else after, picture(trainer, by_rank=True)) == []


@pytest.mark.parametrize("fails", FAULTS)
def test_a_fault_while_it_loads_leaves_everything_or_changes_all(fails: Callable[[], None]) -> None:
    load_with_faults(fails, 8)


@pytest.mark.long
@pytest.mark.parametrize("fails", FAULTS)
def test_a_fault_at_every_call_while_it_saves(fails: Callable[[], None]) -> None:
    save_with_faults(fails, 10_000)


@pytest.mark.long
@pytest.mark.parametrize("fails", FAULTS)
def test_a_fault_at_every_call_while_it_loads(fails: Callable[[], None]) -> None:
    load_with_faults(fails, 10_000)
