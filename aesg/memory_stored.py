"""What a memory stores beside its concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.graph.clock import Clock
from aesg.validation import MOST_STEPS, validate
from storage_backends.errors import StoreCorruptError

#: In which rows of edges state their epoch.
_EPOCH_BITS = 32


def clock_of(settings: Mapping[str, bytes]) -> Clock:
    """Return the counters that `settings_of` stored; those of a new memory where it did not.

    Raises
    ------
    StoreCorruptError
        If one is not a number, or is one that no memory has counted to.
    """
    return Clock(
        next_id=_number(settings, "next_id", 1),
        epoch=_number(settings, "epoch", 0, _EPOCH_BITS),
        tick=_number(settings, "tick", 0),
    )


def _number(settings: Mapping[str, bytes], name: str, default: int, bits: int = 63) -> int:
    stored = settings.get(name)
    if stored is None:
        return default
    if not stored.isdigit() or int(stored[:20]) >= 2**bits or len(stored) > 20:
        raise StoreCorruptError(
            f"stored setting '{name}': expected an integer from 0 to 2**{bits} - 1, "
            f"got {stored[:40]!r}"
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
        config = _bounded(AESGConfig.from_json(stored.decode()))
        validate(config)
    except (UnicodeDecodeError, AESGConfigError) as error:
        raise StoreCorruptError(
            f"stored setting 'config' (a newer release may have written it): {error}"
        ) from error
    return config


def _bounded(config: AESGConfig) -> AESGConfig:
    """Return a configuration of a release that let activation travel any number of hops."""
    steps = min(config.spreading_activation_steps, MOST_STEPS)
    return replace(config, spreading_activation_steps=steps)


def settings_of(clock: Clock, config: AESGConfig, saves: int, *, is_save: bool) -> dict[str, bytes]:
    """Return the settings of every commit.

    Parameters
    ----------
    clock : Clock
    config : AESGConfig
    saves : int
        How often the short-term window was stored, this commit included.
    is_save : bool
        Whether this commit stores it.
    """
    numbers = {"next_id": clock.next_id, "epoch": clock.epoch, "tick": clock.tick, "saves": saves}
    numbers["max_events"] = config.max_events  # for compaction, which knows no config
    numbers["edge_epochs"] = 1  # see `are_edges_dated`
    numbers["is_save"] = is_save
    settings = {name: str(int(number)).encode() for name, number in numbers.items()}
    return {**settings, "config": config.to_json().encode()}


def are_edges_dated(settings: Mapping[str, bytes]) -> bool:
    """Tell whether statistics say as of which epoch edges are stated.

    An earlier release, which did not store that, let no edge weaken.
    """
    return "edge_epochs" in settings


def saves_of(settings: Mapping[str, bytes]) -> int:
    """Return how often the short-term window was stored, from settings or from its own table.

    Raises
    ------
    StoreCorruptError
        If that is not a number.
    """
    return _number(settings, "saves", 0)


def is_save(settings: Mapping[str, bytes]) -> bool:
    """Tell whether the last commit was one that stored the short-term window."""
    return settings.get("is_save") == b"1"
