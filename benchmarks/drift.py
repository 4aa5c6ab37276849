"""What becomes of keys while the network that makes them learns on, over several epochs.

A small language model is trained end to end, its memory from the first step on, and then reads
held-out text without writing. The rows differ in which keys the concepts have by then: those that
they were written with, those of the last time that their sample came, or those of the trained
network. The text is that of the demo.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from aesg.demo.corpus import load_corpus, segments
from aesg.demo.plan import Plan, Workspace
from aesg.demo.train import heldout_batches, loader
from aesg.graph.novelty import Experience
from aesg.models import AESGDecoderLM
from aesg.nn.origins import origins_of
from aesg.trainer import AESGTrainer
from benchmarks.suite import Result, Settings, TableOf, benchmark
from storage_backends.types import Ids

#: Seeds, training steps of an epoch, and epochs.
_FULL, _QUICK = (3, 20, 3), (1, 2, 2)

Pairs = list[tuple[Tensor, Tensor]]
Rows = dict[str, list[float]]


def unrecognised(experience: Experience, *_: object) -> Ids:
    """Recognise nothing: every meeting of a sample is its first."""
    return np.zeros(len(experience.keys), np.uint64)


def perplexity(workspace: Workspace, model: AESGDecoderLM) -> float:
    """Return the perplexity of the held-out text, read and not learned."""
    return math.exp(AESGTrainer(model).evaluate(loader(heldout_batches(workspace)))["loss"])


def refresh(model: AESGDecoderLM, pairs: Pairs, batch: int) -> None:
    """Give concepts the keys that the network asks with now."""
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(pairs), batch):
            tokens, targets = map(torch.stack, zip(*pairs[begin : begin + batch], strict=True))
            queries = model.queries(tokens)
            model.memory.rekey(queries, targets, origins=origins_of(tokens))


def measured(workspace: Workspace, model: AESGDecoderLM, seconds: float) -> list[float]:
    """Return perplexity without memory and with it, concepts, and seconds."""
    with model.without_memory():
        alone = perplexity(workspace, model)
    return [alone, perplexity(workspace, model), model.memory.storage.node_count, seconds]


def new_model(workspace: Workspace, memory: Path) -> AESGDecoderLM:
    """Return an untrained model, the same for each memory."""
    plan = workspace.plan
    torch.manual_seed(plan.seed)
    return AESGDecoderLM.small(plan.vocab_size, str(memory))


def end_to_end(
    workspace: Workspace, memory: Path, pairs: Pairs, epochs: int, *, recognises: bool
) -> Rows:
    """Train with memory from the first step on; measure before and after a refresh of the keys."""
    plan, name = workspace.plan, "recognised" if recognises else "as written"
    model = new_model(workspace, memory)
    trainer = AESGTrainer(
        model, learning_rate=plan.learning_rate, batch_size=plan.batch, refresh_keys=False
    )
    with (
        model.memory,
        nullcontext() if recognises else patch("aesg.state.own.match", unrecognised),
    ):
        begun = time.process_time()
        trainer.fit(pairs, epochs)
        spent = time.process_time() - begun
        rows = {name: measured(workspace, model, spent)}
        model.memory.set_mode("TRAIN")
        if recognises:
            begun = time.process_time()
            refresh(model, pairs, plan.batch)
            spent = time.process_time() - begun
            rows[f"{name}, refreshed at the end"] = measured(workspace, model, spent)
    return rows


def two_stages(workspace: Workspace, memory: Path, pairs: Pairs, epochs: int) -> Rows:
    """Train the network alone, then the way in which it uses its memory."""
    plan, model = workspace.plan, new_model(workspace, memory)
    with model.memory:
        begun = time.process_time()
        with model.without_memory():
            trainer = AESGTrainer(model, learning_rate=plan.learning_rate, batch_size=plan.batch)
            trainer.fit(pairs, epochs)
        model.freeze_trunk()
        optimizer = torch.optim.Adam(model.memory_parameters(), lr=plan.learning_rate)
        AESGTrainer(model, optimizer=optimizer, batch_size=plan.batch).fit(pairs)
        return {"two stages": measured(workspace, model, time.process_time() - begun)}


def run_of(seed: int, steps: int, epochs: int, scratch: Path) -> Rows:
    """Return the rows of one seed."""
    workspace = Workspace(scratch / "text")
    plan = Plan(
        seed=seed, trunk_steps=steps, memory_steps=0, heldout_tokens=12_000, vocab_size=2048
    )
    workspace.prepare(plan, load_corpus())
    cut = segments(workspace.tokens("train"), plan.segment)
    pairs = list(zip(*map(torch.from_numpy, cut), strict=True))
    return {
        **end_to_end(workspace, scratch / "stale", pairs, epochs, recognises=False),
        **end_to_end(workspace, scratch / "own", pairs, epochs, recognises=True),
        **two_stages(workspace, scratch / "stages", pairs, epochs),
    }


_HEADER = ("keys", "without memory", "read-only", "gain", "concepts", "CPU seconds")


def row_of(name: str, runs: list[list[float]]) -> tuple[str | float, ...]:
    alone, read, concepts, seconds = map(statistics.fmean, zip(*runs, strict=True))
    gains = [1 - each[1] / each[0] for each in runs]
    gain = f"{statistics.fmean(gains):.1%} ({min(gains):.1%} to {max(gains):.1%})"
    return (name, f"{alone:.1f}", f"{read:.1f}", gain, f"{concepts:,.0f}", f"{seconds:.0f}")


@benchmark("drift", "keys while the network learns on", minutes=15, group="more")
def run(settings: Settings) -> Result:
    seeds, steps, epochs = _QUICK if settings.quick else _FULL
    every: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(seeds):
        settings.say(f"seed {seed}")
        for name, row in run_of(seed, steps, epochs, settings.scratch / str(seed)).items():
            every[name].append(row)
    title = f"held-out perplexity, mean of {seeds} seeds (spread of the gain)"
    table = TableOf(title, _HEADER, [row_of(*each) for each in every.items()])
    return Result("drift", "What becomes of keys", tables=(table,))
