"""The pass that gives concepts the keys of the trained network, and the keys before it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from aesg.data import Batches
from aesg.interrupts import Interrupts
from aesg.losses import all_ignored
from aesg.memory_keys import KeyChanges
from aesg.modes import MemoryMode
from aesg.trainable import KeyKeeping, Memory, Rekeyable
from aesg.training.passes import Passes


def keys_move(model: nn.Module, memory: Memory | None) -> bool:
    """Tell whether a memory's keys can follow the network, and the network moves."""
    drift = getattr(model, "keys_drift", True) and not getattr(model, "trunk_frozen", False)
    return bool(drift and isinstance(memory, Rekeyable) and memory.can_rekey)


def refresh(passes: Passes, batches: Batches, interrupts: Interrupts) -> None:
    """Let the memory's keys be those that the network, as it is now, asks with.

    Parameters
    ----------
    passes : Passes
        Of a model whose `keys_move`.
    batches : Batches
        What it was trained on.
    interrupts : Interrupts
        Held back while a batch is taken in.
    """
    memory = passes.memory
    if not isinstance(memory, Rekeyable):
        return
    first = getattr(passes.model, "asks_first", False)
    with (
        passes.in_mode(MemoryMode.TRAIN, training=False),
        memory.asking_only() if first else nullcontext(),
        torch.no_grad(),
    ):
        memory.train()  # the model is in eval mode; its memory listens
        for batch in batches:
            if all_ignored(passes.criterion, batch[1]):
                continue
            with interrupts.step():
                inputs, targets = passes.moved(batch)
                passes.forward(inputs, targets)
                passes.observe(targets)
                memory.update_keys()
    memory.save()


def sums_of(model: nn.Module) -> list[float]:
    """Return numbers that change where weights do, in whatever way they are written.

    Writes through ``parameter.data``, as by many averages of weights, change no other number.
    """
    held = [each.detach() for each in (*model.parameters(), *model.buffers()) if not is_lazy(each)]
    return [
        float((each.abs() if each.is_complex() else each).sum(dtype=torch.float32)) for each in held
    ]


class Keys:
    """Keys that a memory trains with, kept while it holds those that are good to read by.

    Training that goes on from refreshed keys is other training than one that never stopped.

    Parameters
    ----------
    memory : Memory or None
    """

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory if isinstance(memory, KeyKeeping) else None
        self._changes: KeyChanges | None = None

    @contextmanager
    def of_training(self) -> Iterator[None]:
        """Put the keys of training back for a block; those that no refresh met come again."""
        memory, earlier = self._memory, self._changes
        if memory is None or earlier is None:
            yield
            return
        memory.put_back(earlier)
        try:
            yield
        finally:
            if self._changes is earlier:  # no refresh came so far
                memory.put_forward(earlier)

    def __len__(self) -> int:
        """How many concepts have other keys than those of training."""
        return 0 if self._changes is None else len(self._changes)

    @contextmanager
    def refreshed(self, interrupts: Interrupts) -> Iterator[None]:
        """Note the keys that a refresh within a block replaces, also where that is interrupted."""
        if self._memory is None:
            yield
            return
        noting = self._memory.refreshing(self._changes)
        try:
            with interrupts.step():
                self._changes = noting.__enter__()
            yield
        finally:
            with interrupts.step():  # here the changes are filled in
                noting.__exit__(*sys.exc_info())

    def state_dict(self) -> dict[str, Any]:
        """Return the keys as tensors."""
        return {} if self._changes is None else self._changes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._changes = KeyChanges.from_state_dict(state) if state else None


@contextmanager
def counted_commits(memory: Memory | None) -> Iterator[None]:
    """Let a memory's commits depend on what it learns, not on the clock, for a block.

    Saves first: what was learned before is then the same whether or not it has been saved.
    """
    if not isinstance(memory, KeyKeeping):
        yield
        return
    memory.save()
    with memory.counted_commits():
        yield
