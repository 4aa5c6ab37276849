"""What a memory stores beside its concepts, and how concepts of two sources become one batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.graph.pending import Clock, microseconds
from aesg.validation import validate
from storage_backends.errors import StoreCorruptError
from storage_backends.types import EVENT, Concepts, EventType, Records


def clock_of(settings: Mapping[str, bytes]) -> Clock:
    """Return the counters that `settings_of` stored; those of a new memory where it did not.

    Raises
    ------
    StoreCorruptError
        If one is not a number.
    """
    return Clock(
        next_id=_number(settings, "next_id", 1),
        epoch=_number(settings, "epoch", 0),
        tick=_number(settings, "tick", 0),
    )


def _number(settings: Mapping[str, bytes], name: str, default: int) -> int:
    stored = settings.get(name)
    if stored is None:
        return default
    if not stored.isdigit() or int(stored[:20]) >= 2**63 or len(stored) > 20:
        raise StoreCorruptError(
            f"stored setting '{name}': expected an integer from 0 to 2**63 - 1, got {stored[:40]!r}"
        )
    return int(stored)


def config_of(settings: Mapping[str, bytes]) -> AESGConfig:
    """Return the parameters that `settings_of` stored; the defaults where it did not.

    Raises
    ------
    StoreCorruptError
        If they do not decode, or are not what this release would have written.
    """
    stored = settings.get("config")
    if stored is None:
        return AESGConfig()
    try:
        config = AESGConfig.from_json(stored.decode())
        validate(config)
    except (UnicodeDecodeError, AESGConfigError) as error:
        raise StoreCorruptError(
            f"stored setting 'config' (a newer release may have written it): {error}"
        ) from error
    return config


def settings_of(clock: Clock, config: AESGConfig, saves: int) -> dict[str, bytes]:
    """Return the settings of every commit.

    Parameters
    ----------
    clock : Clock
    config : AESGConfig
    saves : int
        How often the short-term window was stored, this commit included.
    """
    numbers = {"next_id": clock.next_id, "epoch": clock.epoch, "tick": clock.tick, "saves": saves}
    settings = {name: str(number).encode() for name, number in numbers.items()}
    return {**settings, "config": config.to_json().encode()}


def saves_of(settings: Mapping[str, bytes]) -> int:
    """Return how often the short-term window was stored, from settings or from its own table.

    Raises
    ------
    StoreCorruptError
        If that is not a number.
    """
    return _number(settings, "saves", 0)


def with_created(events: Records, concepts: Concepts) -> Records:
    """Return events and, behind them, the creation of each concept."""
    both = np.zeros(len(events) + len(concepts), EVENT)  # concatenate would pack the fields
    both[: len(events)] = events
    created = both[len(events) :]
    created["timestamp"] = microseconds() // 1_000_000
    created["type"] = EventType.CREATE
    created["id1"] = concepts.ids
    return both
