"""What a memory gains on held-out text, with controls, for a finished demo.

Each row reads the same text with the same network. "Shuffled values" teaches the memory what came
next somewhere else in the batch: whatever gain is left would not come from what it remembers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from aesg.demo.plan import Workspace
from aesg.demo.train import heldout_batches, load_model, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from benchmarks._demo import finished_demo, trained_weights, with_weights, without_demo
from benchmarks.suite import Result, Settings, TableOf, benchmark


class ShuffledValues(AESGDecoderLM):
    """A model whose memory is told what came next at another position."""

    def observe(self, targets: Tensor) -> None:
        """Shuffle the outcomes of a batch before the memory sees them."""
        order = torch.randperm(targets.numel(), generator=torch.Generator().manual_seed(0))
        super().observe(targets.flatten()[order].view(targets.shape))


def read_online(workspace: Workspace, folder: Path, kind: type[AESGDecoderLM]) -> float:
    """Return the perplexity of the held-out text, learned while it is read."""
    model = with_weights(workspace, trained_weights(workspace), folder / "memory", kind)
    with model.memory:
        batches = loader(heldout_batches(workspace))
        return math.exp(AESGTrainer(model).evaluate(batches, mode="ONLINE")["loss"])


def read_ablated(workspace: Workspace) -> float:
    """Return the perplexity of the held-out text without the memory."""
    model = load_model(workspace)
    with model.memory, model.without_memory():
        return math.exp(AESGTrainer(model).evaluate(loader(heldout_batches(workspace)))["loss"])


def variants(workspace: Workspace) -> dict[str, Callable[[Path], float]]:
    """Return what to measure; each takes a folder of its own.

    All start from an empty memory: that of the demo has read the held-out text at its end.
    """
    return {
        "memory ablated": lambda _: read_ablated(workspace),
        "ONLINE": lambda folder: read_online(workspace, folder, AESGDecoderLM),
        "ONLINE, shuffled values": lambda folder: read_online(workspace, folder, ShuffledValues),
    }


@benchmark("reading", "what a memory gains on a text, with controls", minutes=3, group="more")
def run(settings: Settings) -> Result:
    name, title = "reading", "What a memory gains, with controls"
    workspace = finished_demo()
    if workspace is None:
        return without_demo(name, title)
    found = {
        variant: measure(settings.scratch / variant)
        for variant, measure in variants(workspace).items()
    }
    first = next(iter(found.values()))
    rows = [(way, f"{each:.2f}", f"{each / first - 1:+.1%}") for way, each in found.items()]
    table = TableOf("held-out text", ("how it is read", "perplexity", "against ablated"), rows)
    return Result(name, title, tables=(table,))
