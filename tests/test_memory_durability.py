"""What a commit survives: `AESGConfig.durability`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lmdb
import pytest

from aesg import AESGConfigError, AESGMemory
from tests.memory_build import born, opened, pattern, patterns


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Note of each data file that is opened for writing whether its commits sync all."""
    noted: list[bool] = []
    open_file = lmdb.open

    def noting(*arguments: Any, **named: Any) -> Any:
        if not named.get("readonly"):
            noted.append(named["metasync"])
        return open_file(*arguments, **named)

    monkeypatch.setattr(lmdb, "open", noting)
    yield noted


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_memory_is_written_as_durably_as_it_was_asked(durability: str, syncs: list[bool]) -> None:
    opened().close()
    syncs.clear()
    with opened(durability=durability) as memory:
        memory.remember(pattern(0))
        assert memory.config.durability == durability
    assert set(syncs) == {durability == "full"}


def test_durability_is_stored_with_the_memory(syncs: list[bool]) -> None:
    opened(durability="normal").close()
    syncs.clear()
    with AESGMemory.open("memory", mode="TRAIN") as memory:
        memory.remember(pattern(0))
    with AESGMemory("memory") as memory:
        assert memory.config.durability == "normal"
    assert set(syncs) == {False}


def test_full_is_the_default(syncs: list[bool]) -> None:
    opened().close()
    assert set(syncs) == {True}


@pytest.mark.parametrize("first", ["full", "normal"])
def test_another_durability_beside_a_writer_is_refused(first: str) -> None:
    other = {"full": "normal", "normal": "full"}[first]
    memory = opened(durability=first)
    memory.remember(pattern(0))
    with pytest.raises(AESGConfigError) as caught:
        opened(durability=other)
    assert caught.value.message.endswith(
        f"is open in this process: expected durability='{first}' as there, got '{other}'. "
        "Close its other handles first"
    )
    assert memory.config.durability == first
    memory.remember(pattern(1))
    memory.close()
    with opened(durability=other) as memory:
        assert born(memory) == 2


def test_a_reader_takes_a_memory_of_any_durability() -> None:
    with opened(durability="normal") as memory:
        memory.remember(patterns(0, 1))
        with opened(durability="full", memory_mode="INFERENCE") as reader:
            assert len(reader.retrieve(pattern(0)).concept_ids) == 2
            with pytest.raises(AESGConfigError, match="expected durability='normal'"):
                reader.set_mode("TRAIN")
            assert reader.mode.value == "INFERENCE"
            assert len(reader.retrieve(pattern(0)).concept_ids) == 2
        memory.remember(pattern(2))
        assert born(memory) == 3


@pytest.mark.parametrize("value", ["none", None, "Full"])
def test_nothing_weaker_is_offered(value: Any) -> None:
    with pytest.raises(AESGConfigError, match=r"'durability': .*one of \['full', 'normal'\]"):
        opened(durability=value)
