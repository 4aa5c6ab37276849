"""What it costs to ask the memory at every position, and what it gains.

    python benchmarks/policies.py [--seeds 3] [--every 1 --every 2 ...]

For each policy a decoder LM is trained end to end on program text and reads other packages ONLINE;
the ablated twin is one for all. Times are CPU seconds of one thread, of training and of reading.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from _models_transformer import perplexity, trained
from rich.console import Console
from rich.table import Table

from aesg.models import AESGDecoderLM

_EVERY = (1, 2, 4, 8)


class Measured(NamedTuple):
    """Perplexity, CPU seconds of training and of reading, and concepts at the end."""

    perplexity: float
    training: float
    reading: float
    concepts: int


def measured(seed: int, every: int | None) -> Measured:
    """Train and read with a policy; None ablates the memory."""
    ablated = every is None
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time()
        model = trained(AESGDecoderLM.small, seed, Path(scratch), ablated, query_every=every or 1)
        with model.memory as memory:
            middle = time.process_time()
            found = perplexity(model, ablated)
            end = time.process_time()
            held = memory.storage.node_count + memory.provisional_count
    return Measured(found, middle - start, end - middle, held)


@click.command()
@click.option("--seeds", default=3, show_default=True, help="Runs of each policy.")
@click.option("--every", "policies", multiple=True, default=_EVERY, type=click.IntRange(min=1))
def main(seeds: int, policies: tuple[int, ...]) -> None:
    """Train and read with each policy and print what it gained and cost."""
    torch.set_num_threads(1)
    table = Table("asks", "perplexity", "against ablated", "training, s", "reading, s", "concepts")
    twins: list[Measured] = []
    for every in (None, *policies):
        rows = [measured(seed, every) for seed in range(seeds)]
        twins = twins or rows
        gains = [
            row.perplexity / twin.perplexity - 1 for row, twin in zip(rows, twins, strict=True)
        ]
        means = np.mean(rows, 0)
        table.add_row(
            "never" if every is None else f"every {every}",
            f"{means[0]:.2f}",
            f"{np.mean(gains):+.1%} ({min(gains):+.1%} to {max(gains):+.1%})",
            f"{means[1]:.1f}",
            f"{means[2]:.1f}",
            f"{means[3]:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
