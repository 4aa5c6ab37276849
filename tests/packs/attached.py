"""Memories to export, their packs, and memories that have them attached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aesg import AESGMemory
from storage_backends.types import EDGE, EdgeKind, Ids, WriteBatch
from tests.memory_build import DIM, opened

BATCH, TIME = 3, 6


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    """Return queries ``(B, T, D)`` and what came at each."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(BATCH, TIME, DIM, generator=generator)
    return queries, torch.randint(0, 4, (BATCH, TIME), generator=generator)


def source(directory: str = "source", count: int = 80) -> AESGMemory:
    """Return a memory of born concepts with values, payloads and edges of all kinds."""
    memory = opened(directory, consolidation_epoch_interval=10_000)
    dice = np.random.default_rng(count)
    keys = dice.normal(size=(count, DIM)).astype(np.float32)
    vectors = torch.from_numpy(dice.normal(size=(count // 4, DIM)).astype(np.float32))
    ids = [
        memory.remember(keys[: count // 2], dice.integers(0, 4, count // 2)),
        memory.remember(keys[count // 2 : -count // 4], payloads=[*range(count // 4)]),
        memory.remember(keys[-count // 4 :], vectors),
    ]
    link(memory, np.concatenate(ids), dice)
    for _ in range(7):
        memory.update_topology()
    return memory


def link(memory: AESGMemory, ids: Ids, dice: np.random.Generator) -> None:
    """Write four edges from each concept into the store."""
    kinds = [EdgeKind.SUCCESSOR, EdgeKind.COACTIVATION, EdgeKind.SUCCESSOR | EdgeKind.VALUE]
    edges = {}
    for each in ids.tolist():
        row = np.zeros(4, EDGE)
        row["target"] = dice.choice(ids[ids != each], 4, replace=False)
        row["weight"], row["confidence"] = dice.random(4), 0.9
        row["kind"] = dice.choice(kinds, 4)
        edges[each] = row
    memory._state.engine.commit(WriteBatch(edges=edges))


def packed(memory: AESGMemory, name: str = "medical") -> Path:
    path = Path(f"{name}.aesgpack").resolve()
    memory.export_pack(path)
    return path


def attached(path: Path, directory: str = "other", **fields: object) -> AESGMemory:
    """Return a memory that has a pack attached, and nothing in it."""
    memory = opened(directory, **fields)
    memory.attach_pack(memory.load_pack(path))
    return memory
