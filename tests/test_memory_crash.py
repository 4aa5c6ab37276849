"""A training process may be killed at any moment."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from aesg import AESGMemory
from tests.memory_build import born, opened
from tests.memory_children import EVOLVING, TRAINED, provisional, train_forever
from tests.memory_processes import child

KILLS = 40


def test_a_trainer_killed_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    opened(directory, **TRAINED).close()
    chance = random.Random(5)
    remembered: dict[int, Any] = {}
    saved = []
    for kill in range(KILLS):
        said = _train_and_kill(directory, kill, chance, 6, TRAINED)
        saved += [word[1:] for word in said if word[0] == "saved"]
        remembered.update(word[1:] for word in said if word[0] == "remembered")
        with AESGMemory.open(directory) as memory:
            assert memory.storage.verify() == []
            assert memory.payloads(list(remembered)) == list(remembered.values())
            if saved:
                _check_saved(memory, *saved[-1])
    assert len(saved) > KILLS // 2
    assert len(remembered) > KILLS
    assert born_beside(remembered, saved) > 0


def born_beside(remembered: dict[int, Any], saved: list[tuple[int, list[int]]]) -> int:
    """Return how many concepts were born of queries, at the last save."""
    return saved[-1][0] - len(remembered)


def test_a_trainer_killed_while_its_graph_reorganizes_leaves_it_whole(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    opened(directory, **EVOLVING).close()
    chance = random.Random(6)
    remembered: dict[int, Any] = {}
    steps: set[str] = set()
    for kill in range(KILLS // 4):
        said = _train_and_kill(directory, kill, chance, 30, EVOLVING)
        remembered.update(word[1:] for word in said if word[0] == "remembered")
        with AESGMemory.open(directory) as memory:
            assert memory.storage.verify() == []
            assert memory.payloads(list(remembered)) == list(remembered.values())
            history = memory.logger.get_history()
            merged = {each["id2"] for each in history if each["type"] == "MERGE"}
            alive = memory.storage.engine.view().slots(np.array(sorted(merged), np.uint64)) >= 0
            assert not alive.any()
            steps |= {each["type"] for each in history}
    assert {"MERGE", "SPLIT", "RESTRUCTURE", "CONSOLIDATE"} <= steps


def _train_and_kill(
    directory: str, seed: int, chance: random.Random, words: int, parameters: dict[str, Any]
) -> list[Any]:
    with child(train_forever, directory, seed, parameters) as trainer:
        said = [trainer.next() for _ in range(chance.randrange(words))]
        time.sleep(chance.random() * 0.03)
        return said + trainer.kill()


def _check_saved(memory: AESGMemory, concepts: int, kept: list[int]) -> None:
    """Check that there is what was saved last: what came later was born, or may be lost."""
    assert born(memory) >= concepts
    view = memory.storage.engine.view()
    held = set(provisional(memory)) | set(view.ids.whole()[view.alive.whole()].tolist())
    assert set(kept) <= held
