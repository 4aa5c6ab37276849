"""Programs about checkpoints that tests run in processes of their own, see `memory_processes`."""

from __future__ import annotations

import time
from contextlib import closing
from itertools import count, cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - once for all processes: an optimizer imports it

from aesg.callbacks import Callback, Checkpoint
from aesg.checkpoint import load_checkpoint
from aesg.checkpoint.folders import replaced
from storage_backends.layout import sync_file
from storage_backends.lmdb_store import LMDBStore
from tests.checkpoint_build import (
    close,
    mark,
    marked,
    memory_of,
    picture,
    sentences,
    trainer_of,
)
from tests.failing_calls import at_call, die


def accept(place: Path) -> None:
    """Accept whatever is there."""


def fill(folder: Path, content: str) -> None:
    """Put two files into a folder, which belong together."""
    for name in ("a", "b"):
        (folder / name).write_text(content)
        sync_file(folder / name)


def replace(say: Connection, place: str, content: str, number: int | None = None) -> None:
    """Replace a folder, and die at one of the calls on the way."""
    with at_call(number, die) as calls, replaced(Path(place), accept) as folder:
        fill(folder, content)
    say.send(len(calls.names))


def hold(say: Connection, place: str) -> None:
    """Begin to replace a folder, and end when told to."""
    with replaced(Path(place), accept) as folder:
        fill(folder, "held")
        say.send(folder.parent.name)
        say.recv()
    say.send("done")


def take_turns(say: Connection, place: str, word: str, times: int) -> None:
    """Replace a folder again and again."""
    for number in range(times):
        with replaced(Path(place), accept) as folder:
            fill(folder, f"{word}{number}")
    say.send("done")


def fit_and_save(say: Connection, memory: str, checkpoint: str, epochs: int) -> None:
    """Train a new model and save it; tell the losses, and all that there is."""
    trainer = trainer_of("transformer", memory)
    losses = trainer.fit(sentences(), epochs=epochs)
    trainer.save(checkpoint)
    say.send((losses, picture(trainer)))
    close(trainer)


def resume_and_fit(say: Connection, memory: str, checkpoint: str, epochs: int) -> None:
    """Go on from a checkpoint; tell the losses, and all that there is."""
    trainer = trainer_of("transformer", memory)
    known = trainer.memory is not None and trainer.memory.storage.node_count > 0
    trainer.resume(checkpoint)
    losses = trainer.fit(sentences(), epochs=epochs)
    say.send((losses, picture(trainer, by_rank=known)))
    close(trainer)


class _Death(Callback):
    """Kills the process in the second batch of an epoch."""

    def __init__(self, say: Connection, epoch: int) -> None:
        self._say, self._epoch, self._now = say, epoch, 0

    def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
        self._now = epoch + 1

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if (self._now, batch) == (self._epoch, 1):
            self._say.send(self._now - 1)
            die()


def fit_until_killed(say: Connection, memory: str, checkpoints: str, epoch: int) -> None:
    """Train with a checkpoint every five epochs, and die in one of them."""
    callbacks = [Checkpoint(5, checkpoints), _Death(say, epoch)]
    trainer_of("transformer", memory, callbacks=callbacks).fit(sentences(), epochs=10)


def save_at(say: Connection, memory: str, place: str, number: int | None) -> None:
    """Save the second of two marked states, and die at one of the calls on the way."""
    trainer = trainer_of("transformer", memory)
    mark(trainer, 1)
    trainer.save(place)
    mark(trainer, 2)
    say.send("begin")
    with at_call(number, die) as calls:
        trainer.save(place)
    say.send(calls.names)
    close(trainer)


def load_at(say: Connection, memory: str, place: str, number: int | None) -> None:
    """Resume from a checkpoint, and die at one of the calls on the way."""
    trainer = trainer_of("transformer", memory)
    mark(trainer, 5)
    memory_of(trainer).save()
    say.send("begin")
    with at_call(number, die) as calls:
        trainer.resume(place)
    say.send(calls.names)
    close(trainer)


def save_always(say: Connection, memory: str, place: str, pause: float = 0.0) -> None:
    """Save one marked state after another, with so many seconds between them."""
    trainer = trainer_of("transformer", memory)
    for number in count(1):
        mark(trainer, number)
        trainer.save(place)
        say.send(number)
        time.sleep(pause)


def load_always(say: Connection, memory: str, places: list[str], resume: bool) -> None:
    """Load, or resume from, one checkpoint after another."""
    trainer = trainer_of("transformer", memory)
    for place in cycle(places):
        load_checkpoint(trainer, place, resume=resume)
        say.send(marked(trainer))


def examine(say: Connection, memory: str) -> None:
    """Tell how many concepts a memory has, which is sound."""
    with closing(LMDBStore.open(Path(memory), read_only=True, create=False)) as store:
        assert store.verify() == []
        say.send(store.stats().concepts)
