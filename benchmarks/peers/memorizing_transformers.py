"""memorizing-transformers-pytorch: training steps with its nearest-neighbour memory, or without.

Its memory keeps keys and values of earlier batches, one HNSW index for each sequence of a batch; a
quarter of the layers, as in its README, attend to them. Without, those layers are like the others.
"""

from __future__ import annotations

import importlib
import os
from contextlib import ExitStack
from importlib.metadata import version as installed
from typing import Any

import torch
from torch.nn.functional import cross_entropy

library: Any = importlib.import_module("memorizing_transformers_pytorch")
torch.set_num_threads(1)

_held = ExitStack()
_models: dict[str, tuple[Any, Any, Any]] = {}


def version() -> str:
    """Return what runs here."""
    return installed("memorizing-transformers-pytorch")


def begin(folder: str, vocabulary: int, dim: int, depth: int, batch: int) -> None:
    """Make a model with a memory, and one without."""
    os.chdir(folder)
    for name, layers in {"with": (depth // 2,), "without": ()}.items():
        torch.manual_seed(0)
        model = library.MemorizingTransformer(
            num_tokens=vocabulary,
            dim=dim,
            dim_head=dim // 4,
            heads=4,
            depth=depth,
            memorizing_layers=layers,
            max_knn_memories=64_000,
            num_retrieved_memories=32,
        )
        memories: Any = []
        if layers:
            memories = _held.enter_context(model.knn_memories_context(batch_size=batch))
        _models[name] = model, memories, torch.optim.Adam(model.parameters(), lr=1e-3)


def step(name: str, tokens: Any) -> None:
    """Train one of them on a batch of ``(B, T + 1)`` tokens."""
    model, memories, optimizer = _models[name]
    batch = torch.from_numpy(tokens)
    logits = model(batch[:, :-1], knn_memories=memories)
    loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
