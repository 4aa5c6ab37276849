"""Export of a memory in which concepts of every kind of value were learned side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory
from storage_backends.types import ValueKind


def test_a_concept_without_a_value_that_explains_vectors_gets_none(tmp_path: Path) -> None:
    memory = AESGMemory(tmp_path / "memory", AESGConfig(vector_dim=8))
    torch.manual_seed(0)
    first, second = torch.randn(2, 8)
    for _ in range(3):
        _see(memory, first, second)
    for _ in range(4):
        memory.retrieve(second[None])
        memory.update_topology()
        _see(memory, second, second + 0.1 * torch.randn(8))
    memory.export_pack(tmp_path / "live.aesgpack")
    pack = memory.load_pack(tmp_path / "live.aesgpack")
    kinds = pack.columns["value_kinds"]
    assert {ValueKind.KEY, ValueKind.VECTOR} <= set(kinds.tolist())
    without = pack.columns["value_vectors"][kinds != ValueKind.VECTOR]
    np.testing.assert_array_equal(without, np.zeros_like(without))
    memory.close()


def _see(memory: AESGMemory, query: Tensor, outcome: Tensor) -> None:
    memory.defer(memory.recall(query[None]))
    memory.observe(outcome[None])
    memory.update_topology()
