"""Small models and memories for tests of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aesg.config import AESGConfig
from aesg.modes import MemoryMode


class RecordingMemory:
    """Writes down what is called, in order, and in which mode."""

    def __init__(self, calls: list[str], config: AESGConfig | None = None) -> None:
        self.calls = calls
        self.config = config or AESGConfig()
        self.mode = MemoryMode.ONLINE
        self.storage = SimpleNamespace(node_count=3, edge_count=4)

    def set_mode(self, mode: MemoryMode) -> None:
        self.mode = mode

    def reset_state(self) -> None:
        self.calls.append("reset_state")

    def update_topology(self) -> None:
        self.calls.append("update_topology")

    def save(self) -> None:
        self.calls.append("save")


class Classifier(nn.Module):
    """Two inputs, three classes; tells when it is run, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.calls: list[str] = []
        self.seen: list[tuple[bool, bool, MemoryMode | None]] = []
        self.memory: RecordingMemory | None = None
        self.during: Callable[[], None] = lambda: None

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append("forward")
        mode = self.memory.mode if self.memory is not None else None
        self.seen.append((self.training, torch.is_grad_enabled(), mode))
        self.during()
        output: Tensor = self.linear(inputs)
        return output


class ObservingClassifier(Classifier):
    def observe(self, targets: Tensor) -> None:
        self.calls.append(f"observe {targets.tolist()}")


def with_memory(model: Classifier, config: AESGConfig | None = None) -> RecordingMemory:
    model.memory = RecordingMemory(model.calls, config)
    return model.memory


def classifier() -> tuple[Classifier, RecordingMemory]:
    torch.manual_seed(0)
    model = Classifier()
    return model, with_memory(model)


def samples(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, generator=generator), torch.tensor(i % 3)) for i in range(count)]


def loader(data: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, **options)


def failing_at(call: int, error: BaseException) -> Callable[[], None]:
    """Return a function that raises at its ``call``-th call."""
    count = iter(range(1, call))

    def fail() -> None:
        if next(count, None) is None:
            raise error

    return fail


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
