"""Random numbers: one seed for all of them, and passes that draw none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader


def seed_all(seed: int) -> None:
    """Seed python's, numpy's and torch's generators, those of all devices included.

    Parameters
    ----------
    seed : int
        In [0, 2**32).
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generators_of(data: Any) -> list[torch.Generator]:
    """Return the generators that a DataLoader and its samplers have for themselves."""
    if not isinstance(data, DataLoader):
        return []
    parts = (data, data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


@contextmanager
def undisturbed(data: Any, device: torch.device) -> Iterator[None]:
    """Leave all generators behind a block as they were before it.

    Parameters
    ----------
    data : Any
        What the block reads; a DataLoader may have generators of its own.
    device : torch.device
        Where the model runs.
    """
    own = [(each, each.get_state()) for each in generators_of(data)]
    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            for generator, state in own:
                generator.set_state(state)


class LoaderGenerators:
    """The generators that the DataLoader of `fit` has for itself, so that they can be resumed."""

    def __init__(self) -> None:
        self._held: list[torch.Generator] = []
        self._waiting: list[Tensor] = []

    def of(self, data: Any) -> None:
        """Hold those of some data; a state that was loaded becomes theirs.

        Parameters
        ----------
        data : Any
        """
        self._held = generators_of(data)
        if len(self._held) == len(self._waiting):
            for generator, state in zip(self._held, self._waiting, strict=True):
                generator.set_state(state)
        self._waiting = []

    def state_dict(self) -> list[Tensor]:
        """Return the states of the generators."""
        return [each.get_state() for each in self._held] or self._waiting

    def load_state_dict(self, states: list[Tensor]) -> None:
        """Take over what `state_dict` returned, once the data is known."""
        self._held, self._waiting = [], list(states)
