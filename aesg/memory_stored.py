"""What a memory stores beside its concepts, and how concepts of two sources become one batch."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from aesg.config import AESGConfig
from aesg.graph.pending import Clock
from storage_backends.types import EVENT, Concepts, EventType, Records


def clock_of(settings: Mapping[str, bytes]) -> Clock:
    """Return the counters that `settings_of` stored; those of a new memory where it did not."""
    return Clock(
        next_id=int(settings.get("next_id", b"1")),
        epoch=int(settings.get("epoch", b"0")),
        tick=int(settings.get("tick", b"0")),
    )


def config_of(settings: Mapping[str, bytes]) -> AESGConfig:
    """Return the parameters that `settings_of` stored; the defaults where it did not."""
    text = settings.get("config")
    return AESGConfig() if text is None else AESGConfig.from_json(text.decode())


def settings_of(clock: Clock, config: AESGConfig) -> dict[str, bytes]:
    """Return the settings of every commit."""
    numbers = {"next_id": clock.next_id, "epoch": clock.epoch, "tick": clock.tick}
    settings = {name: str(number).encode() for name, number in numbers.items()}
    return {**settings, "config": config.to_json().encode()}


def with_created(events: Records, concepts: Concepts) -> Records:
    """Return events and, behind them, the creation of each concept."""
    both = np.zeros(len(events) + len(concepts), EVENT)  # concatenate would pack the fields
    both[: len(events)] = events
    created = both[len(events) :]
    created["timestamp"] = int(time.time())
    created["type"] = EventType.CREATE
    created["id1"] = concepts.ids
    return both
