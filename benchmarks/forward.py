"""What the memory costs a forward pass: ``AESGDecoderLM.small`` with it and without it.

Both run in one process, in turn, on the same input. The figure is the ratio of medians.

    python benchmarks/forward.py [--concepts 20000] [--repeats 15] [--json FILE]
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from aesg.models import AESGDecoderLM

VOCABULARY = 10_000
SHAPE = (32, 64)  # sequences, positions


def filled_model(directory: Path, concepts: int) -> AESGDecoderLM:
    """Return a model whose memory holds concepts that its own queries made.

    Keys must lie where queries lie: random vectors would be found equally far from everything.
    """
    model = AESGDecoderLM.small(VOCABULARY, str(directory)).eval()
    held = 0
    while held < concepts:
        tokens = torch.randint(0, VOCABULARY, SHAPE)
        with torch.no_grad():
            keys = model.queries(tokens).flatten(0, 1)[: concepts - held]
        model.memory.remember(keys, torch.randint(0, VOCABULARY, (len(keys),)))
        held += len(keys)
    model.memory.set_mode("INFERENCE")
    return model


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


@torch.no_grad()
def measure(model: AESGDecoderLM, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Time both variants in turn, after one warm-up of each."""
    tokens = torch.randint(0, VOCABULARY, SHAPE)
    times: dict[str, list[tuple[float, float]]] = {"with memory": [], "without": []}
    for turn in range(repeats + 1):
        with_memory = timed(lambda: model(tokens))
        with model.without_memory():
            without = timed(lambda: model(tokens))
        if turn:
            times["with memory"].append(with_memory)
            times["without"].append(without)
    return times


@click.command()
@click.option("--concepts", default=20_000, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--repeats", default=15, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "path", type=click.Path(path_type=Path), help="Also write figures here.")
def main(concepts: int, repeats: int, path: Path | None) -> None:
    """Compare a forward pass with memory against one without."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = filled_model(Path(folder) / "memory", concepts)
        times = measure(model, repeats)
        model.memory.close()
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in times.items()
    }
    table = Table("forward pass", "wall, ms", "CPU, ms")
    for name, (wall, cpu) in medians.items():
        table.add_row(name, f"{wall:.0f}", f"{cpu:.0f}")
    ratios = [a / b for a, b in zip(medians["with memory"], medians["without"], strict=True)]
    table.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)
    if path is not None:
        path.write_text(
            json.dumps(
                {
                    "concepts": concepts,
                    "batch": SHAPE,
                    "vocabulary": VOCABULARY,
                    "median_ms": medians,
                    "ratio": ratios,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
