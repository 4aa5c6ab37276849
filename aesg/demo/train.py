"""The demo's training process: ``python -m aesg.demo.train FOLDER EPOCHS``.

It may be killed at any moment and started again: it goes on from the last checkpoint, and the
memory from its last commit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aesg.demo.corpus import segments
from aesg.demo.plan import STEPS_PER_PART, Plan, Workspace
from aesg.demo.terminal import spoken_errors
from aesg.errors import AESGTrainingError
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from storage_backends.layout import sync_folder

Batches = list[tuple[Tensor, Tensor]]

#: Steps of the first stage between two lines of report.
_STEPS_PER_LINE = 100


def build_model(workspace: Workspace, **config: Any) -> AESGDecoderLM:
    """Return the model of a run, untrained, with its memory open."""
    plan = workspace.plan
    torch.manual_seed(plan.seed)
    return AESGDecoderLM.small(plan.vocab_size, str(workspace.memory), **config)


def load_model(workspace: Workspace, **config: Any) -> AESGDecoderLM:
    """Return the model of a run with the weights of its last checkpoint."""
    model = build_model(workspace, **config)
    model.load_state_dict(torch.load(workspace.checkpoint, weights_only=True)["model"])
    return model


def side_by_side(tokens: NDArray[np.int64], streams: int, length: int) -> Batches:
    """Cut text into parallel streams; batch *i* holds segment *i* of every stream.

    Parameters
    ----------
    tokens : (N,) int64
    streams : int
        Sequences ``B`` of a batch.
    length : int
        Tokens ``T`` of a segment.

    Returns
    -------
    list of ((B, T), (B, T)) int64 tensors
        Inputs and the targets one token later.

    Raises
    ------
    AESGTrainingError
        If there are too few tokens for one segment of every stream.
    """
    if len(tokens) <= streams * length:
        raise AESGTrainingError(
            f"too little text: {streams} streams of {length} tokens need "
            f"{streams * length + 1} tokens, got {len(tokens)}"
        )
    inputs, targets = segments(tokens, length)
    rows = len(inputs) // streams
    used = rows * streams
    columns = [
        torch.from_numpy(part[:used].reshape(streams, rows, length).swapaxes(0, 1).copy())
        for part in (inputs, targets)
    ]
    return list(zip(*columns, strict=True))


def heldout_batches(workspace: Workspace) -> Batches:
    """Return the held-out text of a run, side by side."""
    plan = workspace.plan
    return side_by_side(workspace.tokens("heldout"), plan.streams, plan.segment)


def loader(batches: Batches) -> DataLoader[Any]:
    """Return batches as the trainer takes them: as they are, in their order."""
    return DataLoader(cast(Dataset[Any], batches), batch_size=None)  # a list does as a Dataset


def memory_batches(tokens: NDArray[np.int64], plan: Plan) -> Batches:
    """Return the batches of the second stage: text in its order and from anywhere, in turn.

    In its order, what the memory has just read helps; from anywhere, it seldom does. The gate has
    to learn both.

    Parameters
    ----------
    tokens : (N,) int64
    plan : Plan

    Returns
    -------
    list of ((B, T), (B, T)) int64 tensors
        One for each of ``plan.memory_steps``.

    Raises
    ------
    AESGTrainingError
        If there are too few tokens for one segment of every stream.
    """
    ordered = side_by_side(tokens, plan.batch, plan.segment)
    inputs, targets = segments(tokens, plan.segment)
    dice = np.random.default_rng(plan.seed)
    batches = []
    for step in range(plan.memory_steps):
        if step % 2 == 0:
            batches.append(ordered[step % len(ordered)])
        else:
            chosen = dice.choice(len(inputs), plan.batch)
            batches.append((torch.from_numpy(inputs[chosen]), torch.from_numpy(targets[chosen])))
    return batches


def train(workspace: Workspace, epochs: int) -> Generator[str, None, None]:
    """Train in two stages, a checkpoint after each part; yield what to report.

    Parameters
    ----------
    workspace : Workspace
        Prepared; with a checkpoint, training goes on from there.
    epochs : int
        Passes over the training text in the first stage.

    Yields
    ------
    str
        A line: what begins (of a part: `part_title`), and what came of it.
    """
    model = build_model(workspace)
    with model.memory:
        if not workspace.checkpoint.exists():
            yield f"the network alone, {workspace.plan.trunk_steps * epochs} steps"
            yield from _train_alone(workspace, model, epochs)
        yield from _train_with_memory(workspace, model)


def part_title(number: int, plan: Plan) -> str:
    """Return the line with which part ``number``, from 1 on, of the second stage begins."""
    return f"with memory, part {number} of {plan.parts}"


def _train_alone(workspace: Workspace, model: AESGDecoderLM, epochs: int) -> Iterator[str]:
    plan = workspace.plan
    trainer = AESGTrainer(model, learning_rate=plan.learning_rate, batch_size=plan.batch)
    cut = segments(workspace.tokens("train"), plan.segment)
    pairs = list(zip(*map(torch.from_numpy, cut), strict=True))
    dice = np.random.default_rng(plan.seed)
    reach = _STEPS_PER_LINE * plan.batch
    for epoch in range(1, epochs + 1):
        order = dice.permutation(len(pairs))
        for begin in range(0, len(pairs), reach):
            part = [pairs[place] for place in order[begin : begin + reach]]
            with model.without_memory():
                loss = trainer.fit(part)[-1]
            done = math.ceil((begin + len(part)) / plan.batch)
            yield f"the network alone, epoch {epoch}, step {done}: loss {loss:.3f}"
    _checkpoint(workspace, model, None, 0)


def _train_with_memory(workspace: Workspace, model: AESGDecoderLM) -> Iterator[str]:
    plan = workspace.plan
    state = torch.load(workspace.checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    model.freeze_trunk()
    optimizer = torch.optim.Adam(model.memory_parameters(), lr=plan.learning_rate)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    trainer = AESGTrainer(model, optimizer=optimizer)
    batches = memory_batches(workspace.tokens("train"), plan)
    for number in range(state["part"] + 1, plan.parts + 1):
        yield part_title(number, plan)
        end = number * STEPS_PER_PART
        loss = trainer.fit(loader(batches[end - STEPS_PER_PART : end]))[-1]
        _checkpoint(workspace, model, optimizer, number)
        storage = model.memory.storage
        yield (
            f"{part_title(number, plan)}: loss {loss:.3f}, "
            f"{storage.node_count} concepts, {storage.edge_count} edges"
        )


def _checkpoint(
    workspace: Workspace, model: AESGDecoderLM, optimizer: torch.optim.Optimizer | None, part: int
) -> None:
    """Write weights and progress, whole or not at all."""
    state = {
        "part": part,
        "model": model.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }
    new = workspace.checkpoint.with_suffix(".new")
    with new.open("wb") as file:
        torch.save(state, file)
        os.fsync(file.fileno())
    new.replace(workspace.checkpoint)
    sync_folder(workspace.folder)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("epochs", type=click.IntRange(min=1))
def main(folder: Path, epochs: int) -> None:
    """Train in a prepared FOLDER, with EPOCHS passes of the network alone."""
    with spoken_errors():
        for line in train(Workspace(folder), epochs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
