"""What the tests of the memory are made of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory

DIM = 16


def config(**fields: Any) -> AESGConfig:
    return AESGConfig(**{"vector_dim": DIM, **fields})


def opened(directory: Path | str = "memory", **fields: Any) -> AESGMemory:
    return AESGMemory(directory, config(**fields))


def pattern(number: int, dim: int = DIM) -> Tensor:
    """Return one of ``dim`` vectors that do not resemble one another."""
    return torch.eye(dim)[number]


def patterns(*numbers: int) -> Tensor:
    return torch.stack([pattern(number) for number in numbers])


def near(number: int, amount: float = 0.1) -> Tensor:
    """Return a vector that resembles a pattern, and is longer."""
    return 2.0 * (pattern(number) + amount * pattern((number + 1) % DIM))


def meet(memory: AESGMemory, query: Tensor, times: int = 3) -> None:
    for _ in range(times):
        memory.retrieve(query)


def born(memory: AESGMemory) -> int:
    return memory.storage.node_count


def data_file(directory: Path | str) -> Path:
    return Path(directory) / Path(directory, "CURRENT").read_text().strip() / "data.mdb"


def digest(directory: Path | str) -> str:
    """Return the hash of the data file; the memory must be closed in this process."""
    return hashlib.sha256(data_file(directory).read_bytes()).hexdigest()
