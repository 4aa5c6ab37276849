"""The example: a memory in models that AESG did not write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aesg import AESGConfig, AESGMemory, AESGTrainer
from examples.foreign.run import MODELS, told


@pytest.mark.parametrize("name", MODELS)
def test_what_was_told_once_after_training_is_known_by_another_view(
    name: str, tmp_path: Path
) -> None:
    before, after = told(name, tmp_path / "right", epochs=2)
    _, misled = told(name, tmp_path / "wrong", wrong=True, epochs=2)
    assert after > before + 0.15
    assert after > misled + 0.15


@pytest.mark.parametrize("name", MODELS)
def test_training_grows_the_memory_of_a_foreign_model(name: str, tmp_path: Path) -> None:
    views, make = MODELS[name]
    dice = torch.Generator().manual_seed(0)
    with AESGMemory(tmp_path, AESGConfig(vector_dim=32)) as memory:
        torch.manual_seed(0)
        model = make(memory)
        data = [(row, torch.tensor(number % 5)) for number, row in enumerate(views(16, dice)[0])]
        AESGTrainer(model, batch_size=8, progress=False).fit(data, epochs=1)
        assert memory.provisional_count + memory.storage.node_count > 8
        assert memory.storage.verify() == []
