"""Runs with release 3.0.0: does what each line of standard input says, and answers by a line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aesg
from aesg.config import AESGConfig
from aesg.memory.controller import AESGMemory

_memory: Any = None


def version() -> list[str]:
    """Return the release, and where it is."""
    return [aesg.__version__, str(Path(aesg.__file__).resolve())]


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


def export(path: str) -> float:
    """Export a pack of all and return the seconds of the processor."""
    begin = time.process_time()
    _memory.export_pack(path)
    return time.process_time() - begin


def load(path: str) -> float:
    """Load a pack and return the seconds of the processor."""
    begin = time.process_time()
    _memory.load_pack(path)
    return time.process_time() - begin


_KNOWN = {each.__name__: each for each in (version, open_memory, fill, live, tell, export, load)}

torch.set_num_threads(1)
for line in iter(sys.stdin.readline, ""):
    name, *arguments = json.loads(line)
    print(json.dumps(_KNOWN[name](*arguments)), flush=True)
