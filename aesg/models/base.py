"""What all models share: sizes, factories, and the hook for outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.memory import AESGMemory

Model = TypeVar("Model", bound="AESGModel")


@dataclass(frozen=True)
class Size:
    """A documented preset.

    Parameters
    ----------
    hidden_size : int
        Width of the network's internal states.
    num_layers : int
        Stacked layers.
    vector_dim : int
        Width of the concepts.
    nhead : int
        Attention heads, where there are any.
    """

    hidden_size: int
    num_layers: int
    vector_dim: int
    nhead: int


TEXT_SIZES = {
    "small": Size(128, 1, 64, 4),
    "medium": Size(256, 2, 128, 8),
    "large": Size(512, 4, 256, 16),
}

_MAX_CONCEPTS = 100_000


class AESGModel(nn.Module):
    """A network with a memory.

    Parameters
    ----------
    memory : AESGMemory
    """

    def __init__(self, memory: AESGMemory) -> None:
        super().__init__()
        self.memory = memory
        self.memory_enabled = True
        self.trunk_frozen = False

    def observe(self, targets: Tensor) -> None:
        """Tell the memory what really came, after a forward pass and before `update_topology`.

        Ignored in INFERENCE.

        Parameters
        ----------
        targets : tensor
            One outcome for each query that the forward pass made.
        """
        self.memory.observe(targets)

    def memory_parameters(self) -> list[nn.Parameter]:
        """Return the parameters through which the memory speaks; the rest is the trunk."""
        return list(self.memory.parameters())

    def freeze_trunk(self, frozen: bool = True) -> None:
        """Leave only the memory's parameters trainable, or make all of them so again.

        For training in two stages: the network alone first (`without_memory`), then the way in
        which it uses the memory. The network without its memory stays exactly what it was, and
        the hidden states that queries are made from do not drift. A frozen trunk runs without
        dropout.
        """
        spoken = {id(parameter) for parameter in self.memory_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen or id(parameter) in spoken)
        self.trunk_frozen = frozen
        self.train(self.training)

    def train(self: Model, mode: bool = True) -> Model:
        """Set training mode; see `torch.nn.Module.train`."""
        super().train(mode)
        if self.trunk_frozen:
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
        return self

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Run, or train, as the network alone: the memory is neither read nor written.

        It is `at_rest` meanwhile: it neither learns nor ages nor prunes, whatever its mode and
        however often `update_topology` is called.
        """
        before, self.memory_enabled = self.memory_enabled, False
        try:
            with self.memory.at_rest():
                yield
        finally:
            self.memory_enabled = before


def make_memory(
    size: Size, storage_dir: str | os.PathLike[str] | None, overrides: dict[str, Any]
) -> AESGMemory:
    """Return the memory of a preset model; ``overrides`` are fields of its `AESGConfig`."""
    fields = {"vector_dim": size.vector_dim, "max_concepts": _MAX_CONCEPTS, **overrides}
    try:
        config = AESGConfig(**fields)
    except TypeError as error:
        raise AESGConfigError(f"Unknown parameter: {error}") from error
    return AESGMemory(storage_dir, config)


def check_positive(**numbers: int) -> None:
    """Raise the documented error where one of the sizes is not a positive integer."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise AESGConfigError(f"{name} must be >= 1")
