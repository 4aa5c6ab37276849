"""Two-stage training against end-to-end training, with as many steps on the same text.

    python benchmarks/end_to_end.py [--folder aesg_demo]

Takes the network, the text and the plan of a finished demo; takes longer than the demo.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path

import click
import torch
from _demo import console, finished_demo, folder_option, trained_weights, with_weights
from rich.table import Table
from torch.utils.data import DataLoader

from aesg.demo.corpus import segments
from aesg.demo.plan import Workspace
from aesg.demo.train import heldout_batches, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer


def trained(workspace: Workspace, memory: Path, *, alone: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a model that had its memory from the first step on, or never."""
    plan = workspace.plan
    torch.manual_seed(plan.seed)
    model = AESGDecoderLM.small(plan.vocab_size, str(memory))
    cut = segments(workspace.tokens("train"), plan.segment)
    pairs = list(zip(*map(torch.from_numpy, cut), strict=True))
    again = pairs[: plan.memory_steps * plan.batch]  # the demo reads some of its text twice, too
    batches: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(
        pairs + again,  # type: ignore[arg-type]  # a list does as a Dataset
        batch_size=plan.batch,
        shuffle=True,
    )
    with model.memory, model.without_memory() if alone else nullcontext():
        AESGTrainer(model, learning_rate=plan.learning_rate).fit(batches)
    return model.state_dict()


def perplexities(workspace: Workspace, model: AESGDecoderLM) -> tuple[float, float]:
    """Return the perplexity with memory ablated, and ONLINE; the memory is empty at first."""
    trainer, batches = AESGTrainer(model), loader(heldout_batches(workspace))
    with model.without_memory():
        ablated = trainer.evaluate(batches)["loss"]
    online = trainer.evaluate(batches, mode="ONLINE")["loss"]
    return math.exp(ablated), math.exp(online)


@click.command()
@folder_option
def main(folder: Path) -> None:
    """Train end to end what the demo trained in two stages, and compare."""
    workspace = finished_demo(folder)
    if workspace is None:
        return
    table = Table("training", "ablated", "ONLINE", title="held-out perplexity")
    with tempfile.TemporaryDirectory() as scratch:
        states = {
            "network alone": trained(workspace, Path(scratch) / "alone", alone=True),
            "end to end": trained(workspace, Path(scratch) / "together", alone=False),
            "two stages": trained_weights(workspace),
        }
        for name, state in states.items():
            model = with_weights(workspace, state, Path(scratch) / name)
            with model.memory:
                row = perplexities(workspace, model)
            table.add_row(name, *(f"{perplexity:.2f}" for perplexity in row))
    console.print(table)


if __name__ == "__main__":
    main()
