"""What it costs to ask the memory at every position, and what it gains.

For each policy a decoder LM is trained end to end on program text and reads other packages ONLINE;
the ablated twin is one for all. Times are CPU seconds of one thread, of training and of reading.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aesg.models import AESGDecoderLM
from benchmarks._models_transformer import perplexity, trained
from benchmarks.suite import Result, Settings, TableOf, benchmark

_EVERY, _EVERY_QUICK = (1, 2, 4, 8), (8,)
_SEEDS, _SEEDS_QUICK = 3, 1
_HEADER = ("asks", "perplexity", "against ablated", "training, s", "reading, s", "concepts")


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


def row_of(every: int | None, rows: list[Measured], twins: list[Measured]) -> tuple[str, ...]:
    """Return a row of the table, with the gain on the ablated twins."""
    gains = [row.perplexity / twin.perplexity - 1 for row, twin in zip(rows, twins, strict=True)]
    means = np.mean(rows, 0)
    return (
        "never" if every is None else f"every {every}",
        f"{means[0]:.2f}",
        f"{np.mean(gains):+.1%} ({min(gains):+.1%} to {max(gains):+.1%})",
        f"{means[1]:.1f}",
        f"{means[2]:.1f}",
        f"{means[3]:,.0f}",
    )


@benchmark("policies", "how often a model asks: cost and gain", minutes=8, group="more")
def run(settings: Settings) -> Result:
    seeds, policies = (_SEEDS_QUICK, _EVERY_QUICK) if settings.quick else (_SEEDS, _EVERY)
    twins = [measured(seed, None) for seed in range(seeds)]
    rows = [row_of(None, twins, twins)]
    for every in policies:
        settings.say(f"every {every}")
        rows.append(row_of(every, [measured(seed, every) for seed in range(seeds)], twins))
    table = TableOf(f"mean of {seeds} seeds, CPU time", _HEADER, rows)
    return Result("policies", "How often a model asks", tables=(table,))
