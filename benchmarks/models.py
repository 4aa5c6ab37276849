"""Every model on a small task of its own, with its memory and without.

Each run trains a model and its twin whose memory is ablated: same initialisation, data, order and
steps. The difference is that of the pairs, with its 95 % interval over the seeds; concepts and
edges are what training left in the memory of the first seed. The tasks are in `_models_*.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import _models_classifier, _models_image, _models_recurrent, _models_transformer
from benchmarks._models import ModelRun
from benchmarks.suite import Result, Settings, TableOf, benchmark

RUNS: dict[str, ModelRun] = {
    **_models_recurrent.RUNS,
    **_models_transformer.RUNS,
    **_models_image.RUNS,
    **_models_classifier.RUNS,
}

_SEEDS, _SEEDS_QUICK = 3, 1
_QUICK = "AESGCNNClassifier"  # the quickest
_HEADER = ("model", "measure", "memory", "ablated", "difference", "concepts", "edges")


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
    from scipy import stats

    error = pairs.std(ddof=1) / np.sqrt(len(pairs))
    return f"{pairs.mean():+.3g} ± {stats.t.ppf(0.975, len(pairs) - 1) * error:.2g}"


def row_of(name: str, run: ModelRun, seeds: list[Measured]) -> tuple[str, ...]:
    return (
        name,
        run.measure,
        f"{np.mean([seed.memory for seed in seeds]):.4g}",
        f"{np.mean([seed.ablated for seed in seeds]):.4g}",
        difference(seeds),
        f"{seeds[0].concepts:,}",
        f"{seeds[0].edges:,}",
    )


@benchmark("models", "every model on a task of its own, and its twin", minutes=40, group="more")
def run(settings: Settings) -> Result:
    seeds, names = (_SEEDS_QUICK, [_QUICK]) if settings.quick else (_SEEDS, sorted(RUNS))
    rows = []
    for name in names:
        each = RUNS[name]
        settings.say(f"{name}: {each.task}; {each.measure}, {each.better} is better")
        rows.append(row_of(name, each, [measured(each, seed) for seed in range(seeds)]))
    table = TableOf(f"memory against ablated twin, {seeds} seeds", _HEADER, rows)
    return Result("models", "The models on tasks of their own", tables=(table,))
