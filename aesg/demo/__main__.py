"""``python -m aesg.demo``: a language model that grows a memory, loses its process, and uses it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.table import Table

from aesg.demo.corpus import load_corpus
from aesg.demo.plan import Plan, Workspace
from aesg.demo.terminal import console, spoken_errors
from aesg.demo.train import heldout_batches, load_model, loader, memory_batches, part_title
from aesg.memory import AESGMemory
from aesg.trainer import AESGTrainer

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--text", type=_FILE, help="A text to learn from, instead of the Python library.")
@click.option("--epochs", default=1, type=click.IntRange(min=1), help="Passes over the text.")
@click.option("--quick", is_flag=True, help="The short form: under a minute.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of weights and order.")
@click.option(
    "--folder",
    default="aesg_demo",
    type=_FOLDER,
    help="Where everything is written; emptied first if an earlier demo made it.",
)
def main(text: Path | None, epochs: int, quick: bool, seed: int, folder: Path) -> None:
    """Train a small language model with memory, kill it, resume it, and show what memory gains.

    Exits with 1 if the run failed, or the memory was damaged or did not help, and with 2 for a
    mistake in the call.
    """
    started = time.monotonic()
    plan = Plan.quick(seed) if quick else Plan(seed=seed)
    workspace = Workspace(folder.absolute())
    with spoken_errors():
        _prepare(workspace, plan, text)
        intact = _train_through_a_kill(workspace, epochs)
        losses = _evaluate(workspace)
        _step("A second process opens the memory read-only")
        found = not subprocess.run(_command("read", workspace), check=False).returncode
        helped = _report(workspace, losses)
    console.print(f"{time.monotonic() - started:.0f} seconds in all; everything is in {folder}")
    sys.exit(0 if intact and found and helped else 1)


def _prepare(workspace: Workspace, plan: Plan, text: Path | None) -> None:
    _step("Reading text and training a tokenizer")
    corpus = load_corpus(text)
    workspace.clear()
    workspace.prepare(plan, corpus)
    memory_batches(workspace.tokens("train"), plan)  # too little text is an error now, not later
    heldout_batches(workspace)
    console.print(
        f"{corpus.source}: {len(workspace.tokens('train'))} tokens to train on, "
        f"{len(workspace.tokens('heldout'))} from {len(corpus.heldout)} documents held out"
    )


def _train_through_a_kill(workspace: Workspace, epochs: int) -> bool:
    """Train, kill the process with memory in use, look at what it left, and resume."""
    _step("Training, in a process of its own")
    with _training(workspace, epochs) as child:
        _follow_into_a_part(child, workspace.plan)
        child.kill()
    _step("SIGKILL, in the middle of a part")
    with AESGMemory.open(workspace.memory) as memory:
        problems = memory.storage.verify()
        console.print(
            f"the directory opens: {memory.storage.node_count} concepts, verify() finds "
            f"{len(problems) or 'no'} problems"
        )
    _step("Resuming from the last checkpoint")
    with _training(workspace, epochs) as child:
        _follow(child)
        if child.wait():
            raise click.ClickException(f"the training process failed, with {child.returncode}")
    return not problems


def _follow_into_a_part(child: subprocess.Popen[str], plan: Plan) -> None:
    """Return half-way through the middle part, going by how long the one before it took."""
    middle = plan.parts // 2 + 1
    reached = _follow(child, part_title(middle - 1, plan))
    begun = time.monotonic()
    if not (reached and _follow(child, part_title(middle, plan))):
        raise click.ClickException(f"the training process ended early, with {child.wait()}")
    time.sleep((time.monotonic() - begun) / 2)


def _evaluate(workspace: Workspace) -> dict[str, float]:
    """Return the average loss on held-out text, three ways."""
    _step("Reading text that the model never saw")
    data = loader(heldout_batches(workspace))
    model = load_model(workspace)
    trainer = AESGTrainer(model)
    losses = {}
    with model.without_memory():
        losses["(a) memory ablated"] = trainer.evaluate(data)["loss"]
    losses["(b) trained memory, read-only"] = trainer.evaluate(data)["loss"]
    losses["(c) ONLINE, learning while it reads"] = trainer.evaluate(data, mode="ONLINE")["loss"]
    model.memory.close()
    return losses


def _report(workspace: Workspace, losses: dict[str, float]) -> bool:
    ablated, *_, online = losses.values()
    table = Table("held-out text", "perplexity", "against (a)", title="What memory gains")
    for name, loss in losses.items():
        change = math.expm1(loss - ablated)
        table.add_row(name, f"{math.exp(loss):.2f}", f"{change:+.1%}" if change else "")
    console.print(table)
    with AESGMemory.open(workspace.memory) as memory:
        sizes = Table("on disk", "")
        sizes.add_row("concepts", str(memory.storage.node_count))
        sizes.add_row("provisional concepts", str(memory.provisional_count))
        sizes.add_row("edges", str(memory.storage.edge_count))
        sizes.add_row("memory", _mebibytes(workspace.memory))
        sizes.add_row("checkpoint of the network", _mebibytes(workspace.checkpoint))
        console.print(sizes)
    return online < ablated


def _follow(child: subprocess.Popen[str], until: str | None = None) -> bool:
    """Print what a child says, up to a line; return whether that line came."""
    for line in child.stdout or ():
        console.print(line.rstrip())
        if line.rstrip() == until:
            return True
    return False


@contextmanager
def _training(workspace: Workspace, epochs: int) -> Iterator[subprocess.Popen[str]]:
    """Run the training process beside the block; it does not outlive it."""
    command = _command("train", workspace, str(epochs))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def _command(module: str, workspace: Workspace, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"aesg.demo.{module}", str(workspace.folder), *arguments]


def _mebibytes(path: Path) -> str:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return f"{sum(os.stat(each).st_blocks * 512 for each in files) / 2**20:.1f} MiB"


def _step(title: str) -> None:
    console.rule(title, align="left")


if __name__ == "__main__":
    main()
