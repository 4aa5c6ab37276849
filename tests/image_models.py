"""What the tests of the models that return images are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aesg.models import AESGCNNAutoencoder, AESGColorizationNet

Painter = TypeVar("Painter", AESGCNNAutoencoder, AESGColorizationNet)

#: Pixels along a side of a cell of the bottleneck.
STRIDE = 4
DIM = 16


def painter(kind: type[Painter], directory: str | Path = "memory", **options: Any) -> Painter:
    """Return a tiny model; the same weights each time."""
    torch.manual_seed(0)
    sizes = {"base_filters": 4, "blocks": 2, "vector_dim": DIM, "top_k": 4, "memory_dropout": 0.0}
    return kind.sized(directory, **{**sizes, "novelty_birth_threshold": 2, **options})


def pictures(count: int, channels: int, side: int | tuple[int, int] = 16, seed: int = 0) -> Tensor:
    """Return random pictures of large pixels, the same each time."""
    size = (side, side) if isinstance(side, int) else side
    dice = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=dice)
    return nn.functional.interpolate(coarse, size, mode="bilinear")


@torch.no_grad()
def tell(model: Painter, images: Tensor, targets: Tensor) -> None:
    """Let the memory see what belongs to images; weights stay as they are."""
    keys, values = model.eval().queries(images), model.outcomes(targets)
    model.memory.remember(keys.flatten(0, -2), values.flatten(0, -2))


def outspoken(model: Painter) -> Painter:
    """Let what is retrieved show in the output: injection and gate start at zero and near it."""
    nn.init.normal_(model.injection.projection.weight, std=0.1)
    nn.init.constant_(model.blend.gate.bias, 1.0)
    nn.init.normal_(model.memory.abstraction_projection.weight, std=0.1)
    return model.eval()
