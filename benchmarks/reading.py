"""What a memory gains on held-out text, with controls, for a finished demo.

Each row reads the same text with the same network. "Shuffled values" teaches the memory what came
next somewhere else in the batch: whatever gain is left would not come from what it remembers.

    python benchmarks/reading.py [--folder aesg_demo]
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch
from _demo import console, finished_demo, folder_option, trained_weights, with_weights
from rich.table import Table
from torch import Tensor

from aesg.demo.plan import Workspace
from aesg.demo.train import heldout_batches, load_model, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer


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


@click.command()
@folder_option
def main(folder: Path) -> None:
    """Read the held-out text of a finished demo in several ways."""
    workspace = finished_demo(folder)
    if workspace is None:
        return
    table = Table("held-out text", "perplexity", "against ablated")
    first = math.nan
    for name, measure in variants(workspace).items():
        with tempfile.TemporaryDirectory() as scratch:
            perplexity = measure(Path(scratch))
        first = perplexity if math.isnan(first) else first
        table.add_row(name, f"{perplexity:.2f}", f"{perplexity / first - 1:+.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
