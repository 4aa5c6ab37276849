"""Release 3.0.0: a memory of it, filled, told about and packed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import aesg
from aesg.config import AESGConfig
from aesg.memory.controller import AESGMemory

_memory: Any = None

if aesg.__version__ != "3.0.0":
    raise ImportError(f"expected release 3.0.0, got {aesg.__version__} in {aesg.__file__}")
torch.set_num_threads(1)


def open_memory(directory: str, dim: int, most: int) -> None:
    """Open a memory, and work with it from now on."""
    global _memory
    _memory = AESGMemory(directory, AESGConfig(vector_dim=dim, max_concepts=most))


def fill(concepts: int, edges: int) -> None:
    """Give the memory random concepts and edges, in no time."""
    random, storage = np.random.default_rng(0), _memory.storage
    nodes = storage.nodes[:concepts]
    nodes["id"] = random.choice(10**10, concepts, replace=False) + 1
    nodes["vector"] = random.standard_normal(nodes["vector"].shape, np.float32)
    nodes["created_at"] = 1_700_000_000 + np.sort(random.integers(0, 10**6, concepts))
    nodes["modified_at"] = nodes["created_at"] + random.integers(0, 1000, concepts)
    nodes["use_frequency"] = random.geometric(0.1, concepts)
    nodes["age"] = random.integers(0, 40, concepts)
    nodes["relevance"] = 0.95 ** nodes["age"]
    nodes["stability"] = 0.5
    nodes["region_id"] = random.integers(0, 50, concepts)
    nodes["is_active"] = 1
    nodes["head_edge_idx"] = -1
    links = storage.edges[:edges]
    links["source_id"] = random.choice(nodes["id"], edges)
    links["target_id"] = random.choice(nodes["id"], edges)
    links["weight"] = random.random(edges)
    links["confidence"] = random.random(edges)
    links["use_count"] = random.geometric(0.1, edges)
    links["next_edge_idx"] = -1
    storage.node_count, storage.edge_count = concepts, edges
    storage.flush()


def live(turns: int) -> None:
    """Let the memory meet patterns, make concepts of concepts, and grow older."""
    torch.manual_seed(0)
    engine, storage = _memory.cognitive_engine, _memory.storage
    for turn in range(turns):
        pattern = torch.randn(_memory.vector_dim) * (1 + turn / 10)
        for _ in range(8):
            _memory.retrieve(pattern)
        _memory.reset_state()
        if turn % 10 == 9:
            _memory.update_topology()
    for first in range(0, storage.node_count - 3, 4):
        engine.create_abstract_concept([first, first + 1, first + 2])
    engine.merge_concepts(0, 1)
    engine.split_concept(2)
    engine.find_semantic_regions()
    storage.nodes["region_id"][3] = 5
    _memory.save()


def tell() -> dict[str, Any]:
    """Return what the memory holds, as its own readers say it."""
    storage = _memory.storage
    nodes = storage.nodes[: storage.node_count]
    places = range(storage.node_count)
    return {
        "nodes": {name: nodes[name].tolist() for name in nodes.dtype.names},
        "edges": [[edge.item() for edge in storage.get_edges(place)] for place in places],
        "history": _memory.logger.get_history(),
    }


def export(path: str) -> None:
    """Export a pack of all."""
    _memory.export_pack(path)


def load(path: str) -> None:
    """Load a pack."""
    _memory.load_pack(path)


def take(
    keys: NDArray[np.float32],
    links: NDArray[np.void],
    weights: NDArray[np.float32],
    confidences: NDArray[np.float32],
    hops: int,
) -> None:
    """Give the memory keys, and edges in order of their sources, and let activation go so far."""
    storage = _memory.storage
    nodes = storage.nodes[: len(keys)]
    nodes["id"] = np.arange(1, len(keys) + 1)
    nodes["vector"] = keys
    nodes["age"] = np.random.default_rng(0).integers(0, 40, len(keys))
    nodes["relevance"], nodes["stability"], nodes["is_active"] = 1, 0.5, 1
    counts = np.bincount(links["source"], minlength=len(keys) + 1)[1:]
    ends = np.cumsum(counts)
    nodes["head_edge_idx"] = np.where(counts, ends - counts, -1)
    edges = storage.edges[: len(links)]
    edges["source_id"], edges["target_id"] = links["source"], links["target"]
    edges["weight"], edges["confidence"] = weights, confidences
    edges["next_edge_idx"] = np.arange(1, len(links) + 1)
    edges["next_edge_idx"][ends[counts > 0] - 1] = -1
    storage.node_count, storage.edge_count = len(keys), len(links)
    storage.flush()
    _memory.config = _memory.navigator.config = replace(
        _memory.config, spreading_activation_steps=hops, region_facilitation_multiplier=1.0
    )


def spread(queries: NDArray[np.float32], seeds: NDArray[np.int64]) -> list[list[int]]:
    """Spread from seeds, which are not searched for, and return the ten best of each query."""
    state, found = _memory.active_state, []
    for query, begun in zip(torch.from_numpy(queries), seeds.tolist(), strict=True):
        state.set_active(0, {each - 1 for each in begun})
        context, _ = _memory.navigator.retrieve(query, state)
        places = [*context.primary_concepts, *context.secondary_concepts]
        found.append([int(place) + 1 for place in places])
    return found


def update() -> None:
    """Let everything grow older, and write it."""
    _memory.update_topology()
