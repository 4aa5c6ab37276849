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
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aesg.demo.plan import Workspace
from aesg.demo.train import build_model, heldout_batches, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer

console = Console()


class ShuffledValues(AESGDecoderLM):
    """A model whose memory is told what came next at another position."""

    def observe(self, targets: Tensor) -> None:
        """Shuffle the outcomes of a batch before the memory sees them."""
        order = torch.randperm(targets.numel(), generator=torch.Generator().manual_seed(0))
        super().observe(targets.flatten()[order].view(targets.shape))


def read_online(workspace: Workspace, folder: Path, kind: type[AESGDecoderLM]) -> float:
    """Return the perplexity of the held-out text, learned while it is read."""
    model = kind.small(workspace.plan.vocab_size, str(folder / "memory"))
    with model.memory:
        model.load_state_dict(torch.load(workspace.checkpoint, weights_only=True)["model"])
        batches = loader(heldout_batches(workspace))
        return math.exp(AESGTrainer(model).evaluate(batches, mode="ONLINE")["loss"])


def read_ablated(workspace: Workspace) -> float:
    """Return the perplexity of the held-out text without the memory."""
    model = build_model(workspace)
    with model.memory, model.without_memory():
        model.load_state_dict(torch.load(workspace.checkpoint, weights_only=True)["model"])
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
@click.option("--folder", default="aesg_demo", show_default=True, type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Read the held-out text of a finished demo in several ways."""
    workspace = Workspace(folder.absolute())
    if not workspace.checkpoint.exists():
        console.print(f"SKIPPED: no finished demo in {folder}; run `python -m aesg.demo` first")
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
