from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from aesg.errors import AESGMemoryError
from aesg.modes import PERMISSIONS, MemoryMode, Permissions


@pytest.mark.parametrize("mode", MemoryMode)
def test_a_mode_is_found_by_its_name_and_by_itself(mode: MemoryMode) -> None:
    assert MemoryMode.parse(mode.value) is mode
    assert MemoryMode.parse(mode) is mode


def test_the_value_of_a_mode_is_its_name() -> None:
    assert [mode.value for mode in MemoryMode] == ["TRAIN", "FINETUNE", "INFERENCE", "ONLINE"]
    assert str(MemoryMode.TRAIN) == f"{MemoryMode.TRAIN}" == "MemoryMode.TRAIN"


def test_an_unknown_mode_is_a_memory_error_in_the_documented_words() -> None:
    with pytest.raises(AESGMemoryError) as caught:
        MemoryMode.parse("INVALID")
    assert caught.value.message == (
        "Invalid memory mode 'INVALID'. Valid modes: ['TRAIN', 'FINETUNE', 'INFERENCE', 'ONLINE']"
    )
    assert caught.value.subsystem == "memory"


@pytest.mark.parametrize("value", ["train", "", None, 0, True, ["TRAIN"]])
def test_what_is_not_exactly_a_name_is_no_mode(value: Any) -> None:
    with pytest.raises(AESGMemoryError, match="Invalid memory mode"):
        MemoryMode.parse(value)


@pytest.mark.parametrize(
    ("mode", "create", "consolidate", "reorganize", "prune", "scale"),
    [
        ("TRAIN", True, True, True, True, 1.0),
        ("FINETUNE", True, True, False, False, 0.1),
        ("INFERENCE", False, False, False, False, 0.0),
        ("ONLINE", True, True, False, False, 1.0),
    ],
)
def test_each_mode_allows_what_is_documented(
    mode: str, create: bool, consolidate: bool, reorganize: bool, prune: bool, scale: float
) -> None:
    assert PERMISSIONS[MemoryMode(mode)] == Permissions(
        create_concepts=create,
        consolidation=consolidate,
        reorganization=reorganize,
        evolutionary_pressure=prune,
        learning_rate_scale=scale,
    )


def test_every_mode_has_permissions_that_nobody_can_change() -> None:
    assert set(PERMISSIONS) == set(MemoryMode)
    with pytest.raises(TypeError):
        PERMISSIONS[MemoryMode.INFERENCE] = PERMISSIONS[MemoryMode.TRAIN]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PERMISSIONS[MemoryMode.INFERENCE].consolidation = True  # type: ignore[misc]


@pytest.mark.parametrize("mode", MemoryMode)
def test_a_mode_survives_pickle(mode: MemoryMode) -> None:
    assert pickle.loads(pickle.dumps(mode)) is mode
