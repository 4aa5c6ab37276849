"""Every model on a small task of its own, with its memory and without.

    python benchmarks/models.py [--model NAME ...] [--seeds 3] [--quick]

Each run trains a model and its twin whose memory is ablated: same initialisation, data, order and
steps. The difference is that of the pairs, with its 95 % interval over the seeds; concepts and
edges are what training left in the memory of the first seed. The tasks are in `_models_*.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import _models_classifier
import _models_image
import _models_recurrent
import _models_transformer
import click
import numpy as np
import torch
from _models import ModelRun
from rich.console import Console
from rich.table import Column, Table
from scipy import stats

RUNS: dict[str, ModelRun] = {
    **_models_recurrent.RUNS,
    **_models_transformer.RUNS,
    **_models_image.RUNS,
    **_models_classifier.RUNS,
}

_COLUMNS = ("measure", "memory", "ablated", "difference", "concepts", "edges")


class Measured(NamedTuple):
    """What one seed gave, and what the memory grew."""

    memory: float
    ablated: float
    concepts: int
    edges: int


def measured(run: ModelRun, seed: int) -> Measured:
    with tempfile.TemporaryDirectory() as scratch:
        memory, ablated, model = run.run(seed, Path(scratch))
        with model.memory:
            storage = model.memory.storage
            return Measured(memory, ablated, storage.node_count, storage.edge_count)


def difference(seeds: list[Measured]) -> str:
    """Return the mean difference, with half of its 95 % interval (Student's t)."""
    pairs = np.array([seed.memory - seed.ablated for seed in seeds])
    if len(pairs) < 2:
        return f"{pairs.mean():+.3g}"
    error = pairs.std(ddof=1) / np.sqrt(len(pairs))
    return f"{pairs.mean():+.3g} ± {stats.t.ppf(0.975, len(pairs) - 1) * error:.2g}"


def add_row(table: Table, name: str, run: ModelRun, seeds: list[Measured]) -> None:
    table.add_row(
        name,
        run.measure,
        f"{np.mean([seed.memory for seed in seeds]):.4g}",
        f"{np.mean([seed.ablated for seed in seeds]):.4g}",
        difference(seeds),
        f"{seeds[0].concepts:,}",
        f"{seeds[0].edges:,}",
    )


@click.command()
@click.option("--model", "names", multiple=True, type=click.Choice(sorted(RUNS)))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--quick", is_flag=True, help="One seed: a check, no figures.")
def main(names: tuple[str, ...], seeds: int, quick: bool) -> None:
    """Train every model, or those that are named, and print what the memory gained."""
    torch.set_num_threads(1)
    console = Console()
    table = Table(Column("model", no_wrap=True), *_COLUMNS)
    for name in names or sorted(RUNS):
        run = RUNS[name]
        console.print(f"{name}: {run.task}; {run.measure}, {run.better} is better")
        add_row(table, name, run, [measured(run, seed) for seed in range(1 if quick else seeds)])
    console.print(table)


if __name__ == "__main__":
    main()
