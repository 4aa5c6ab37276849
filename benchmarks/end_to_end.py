"""Two-stage training against end-to-end training, with as many steps on the same text.

Takes the network, the text and the plan of a finished demo; takes longer than the demo.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from aesg.demo.corpus import segments
from aesg.demo.plan import Workspace
from aesg.demo.train import heldout_batches, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from benchmarks._demo import finished_demo, trained_weights, with_weights, without_demo
from benchmarks.suite import Result, Settings, TableOf, benchmark


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


@benchmark("end-to-end", "two-stage training against end-to-end", minutes=15, group="more")
def run(settings: Settings) -> Result:
    name, title = "end-to-end", "Two stages, or end to end"
    workspace = finished_demo()
    if workspace is None:
        return without_demo(name, title)
    states = {
        "network alone": trained(workspace, settings.scratch / "alone", alone=True),
        "end to end": trained(workspace, settings.scratch / "together", alone=False),
        "two stages": trained_weights(workspace),
    }
    rows = []
    for training, state in states.items():
        model = with_weights(workspace, state, settings.scratch / training)
        with model.memory:
            found = perplexities(workspace, model)
        rows.append((training, *(f"{perplexity:.2f}" for perplexity in found)))
    table = TableOf("held-out perplexity", ("training", "ablated", "ONLINE"), rows)
    return Result(name, title, tables=(table,))
