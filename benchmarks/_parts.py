"""Where the time of a forward pass, of a training step and of a commit goes.

CPU time of one thread, sampled; what is called in numpy, torch or FAISS counts for the part that
calls it.
"""

from __future__ import annotations

import torch

from aesg.demo.train import Batches, loader
from benchmarks._sampling import Sampler
from benchmarks._steps import trainer
from benchmarks._text_models import Trained
from benchmarks.suite import TableOf

_NETWORK, _BACKWARD = "network", "backward, of all"
_QUERY, _REST_OF_RETRIEVAL = "queries", "retrieval, the rest"
_GRAPH, _EXACT = "seed search, graph", "seed search, exact"
_SPREADING, _GATHERING = "spreading", "gathering"
_ATTENTION, _MIXTURE = "attention", "mixture and loss"
_LEARNING, _COMMIT = "learning", "commit"

#: Of a forward pass and a training step, as `Sampler` takes them.
PARTS: dict[str, str | None] = {
    "/aesg/nn/query.py": _QUERY,
    "/aesg/memory_inputs.py": _QUERY,
    "/storage_backends/lookup.py:search": _GRAPH,
    "/storage_backends/lookup.py:compare": _EXACT,
    "/storage_backends/lookup.py": None,
    "/storage_backends/native.py": None,
    "/storage_backends/cosines.py": None,
    "/storage_backends/hnsw.py": _GRAPH,
    "/storage_backends/faiss_index.py": _EXACT,
    "/storage_backends/spreading/": _SPREADING,
    "/aesg/graph/activation.py": _SPREADING,
    "/aesg/memory_columns.py": _GATHERING,
    "/aesg/context.py": _GATHERING,
    "/aesg/graph/places.py": _GATHERING,
    "/aesg/attention.py": _ATTENTION,
    "/aesg/nn/cross_attention.py": _ATTENTION,
    "/aesg/nn/memory_attention.py": _ATTENTION,
    "/aesg/nn/values.py": _ATTENTION,
    "/aesg/nn/mixture.py": _MIXTURE,
    "/aesg/nn/likelihood.py:backward": _BACKWARD,
    "/aesg/nn/likelihood.py": _MIXTURE,
    "/aesg/losses.py": _MIXTURE,
    "/aesg/memory_durable.py": _COMMIT,
    "/storage_backends/engine.py": _COMMIT,
    "/storage_backends/lmdb": _COMMIT,
    "/storage_backends/codec.py": _COMMIT,
    "/storage_backends/adjacency.py": _COMMIT,
    "/aesg/graph/pending.py": _COMMIT,
    "/aesg/graph/association.py": _COMMIT,
    "/aesg/graph/edges.py": _COMMIT,
    "/aesg/graph/out_edges.py": _COMMIT,
    "/aesg/graph/scope.py": _REST_OF_RETRIEVAL,
    "/aesg/graph/crowding.py": _REST_OF_RETRIEVAL,
    "/aesg/graph/own.py": _REST_OF_RETRIEVAL,
    "/aesg/graph/shortterm.py": _REST_OF_RETRIEVAL,
    "/aesg/learning.py": _LEARNING,
    "/aesg/outcomes.py": _LEARNING,
    "/aesg/memory_learning.py": _LEARNING,
    "/aesg/evolution.py": _LEARNING,
    "/aesg/state.py": _LEARNING,
    "/aesg/graph/": _LEARNING,
    "/aesg/reading.py": _REST_OF_RETRIEVAL,
    "/aesg/memory_reading.py": _REST_OF_RETRIEVAL,
    "/aesg/memory_sources.py": _REST_OF_RETRIEVAL,
    "/aesg/memory": _REST_OF_RETRIEVAL,
    "/storage_backends/": _REST_OF_RETRIEVAL,
    "/aesg/training/stepping.py:_backward": _BACKWARD,
    "/torch/autograd/": _BACKWARD,
    "/torch/optim/": "optimizer",
    "/aesg/models/": _NETWORK,
    "/aesg/nn/": _NETWORK,
}
#: Of a commit.
COMMIT_PARTS: dict[str, str | None] = {
    "/aesg/graph/association.py": "edges by value",
    "/storage_backends/hnsw.py": "edges by value",
    "/storage_backends/lookup.py": None,
    "/storage_backends/native.py": None,
    "/storage_backends/cosines.py": None,
    "/storage_backends/faiss_index.py": "edges by value",
    "/aesg/graph/": "edges and statistics",
    "/storage_backends/adjacency.py": "edges in memory",
    "/storage_backends/rows.py": "edges in memory",
    "/storage_backends/codec.py": "records",
    "/storage_backends/lmdb": "records",
    "/storage_backends/": "view",
}


def table_of(sampler: Sampler, count: int, title: str) -> TableOf:
    """Return what each of ``count`` steps took, the largest part first."""
    spent = {part: seconds / count * 1e3 for part, seconds in sampler.seconds.items()}
    whole = sum(spent.values())
    rows = [
        (part, f"{spent[part]:.1f}", f"{spent[part] / whole:.0%}")
        for part in sorted(spent, key=spent.__getitem__, reverse=True)
    ]
    return TableOf(title, ("part", "ms of CPU", "share"), [*rows, ("all", f"{whole:.1f}", "")])


def forward_pass(given: Trained, batches: Batches) -> TableOf:
    """Return the parts of a forward pass, read-only and without gradients."""
    model, sampler = given.model().eval(), Sampler(PARTS)
    before = model.memory.mode
    model.memory.set_mode("INFERENCE")
    with torch.no_grad():
        model(batches[0][0])
        with sampler.running():
            for inputs, _ in batches:
                model(inputs)
    model.memory.set_mode(before)
    return table_of(sampler, len(batches), f"{given.task.name}: a forward pass")


def training_step(given: Trained, batches: Batches) -> TableOf:
    """Return the parts of a training step that asks the memory."""
    model, sampler = given.model(), Sampler(PARTS)
    model.memory_dropout = 0.0
    trainer(model).fit(loader(batches[:1]))
    with sampler.running():
        trainer(model).fit(loader(batches))
    return table_of(sampler, len(batches), f"{given.task.name}: a training step that asks")


def commits(given: Trained, batches: Batches) -> TableOf:
    """Return the parts of the commits of a training."""
    model, sampler = given.model(), Sampler(COMMIT_PARTS, within="commit")
    model.memory_dropout = 0.0
    first = given.memory.storage.generation
    with sampler.running():
        trainer(model).fit(loader(batches))
    count = given.memory.storage.generation - first
    what = f"{given.task.name}: a commit, {count} in {len(batches)} steps"
    return table_of(sampler, count, what)
