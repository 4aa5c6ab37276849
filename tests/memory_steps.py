"""Steps of a memory's life, each the same every time, and what tells two memories apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory, AESGMemoryError
from aesg.context import RetrievedContext

DIM = 8

#: Name and seed of a step.
Step = tuple[str, int]


def config(seed: int) -> AESGConfig:
    """Return parameters under which everything that a memory can do is soon due."""
    choose = Random(seed).choice
    return AESGConfig(
        vector_dim=DIM,
        novelty_birth_threshold=choose([1, 2]),
        consolidation_epoch_interval=choose([1, 2, 3]),
        region_detection_interval=choose([1, 2]),
        split_density_threshold=choose([4, 8]),
        max_edges_per_node=choose([6, 16]),
        merge_similarity_threshold=choose([0.9, 0.98]),
        coactivation_threshold_create=2,
        survival_threshold_relevance=choose([0.3, 0.9]),
        survival_threshold_frequency=choose([3, 50]),
        prune_confidence_threshold=choose([0.1, 0.29]),
        max_concepts=choose([60, 1000]),
        region_facilitation_multiplier=1.5,
    )


def take(memory: AESGMemory, step: Step) -> list[Any]:
    """Let a memory take a step; return what it retrieved, to the bit."""
    name, seed = step
    return [_said(each) for each in _STEPS[name](memory, np.random.default_rng(seed))]


def content(memory: AESGMemory, *, ranked: bool = False) -> dict[str, Any]:
    """Return all that a saved memory holds, but for times and the numbers of commits.

    Parameters
    ----------
    memory : AESGMemory
        Saved first.
    ranked : bool
        Whether ids are replaced by their order, and what counts or packs ids is left out.
    """
    memory.save()
    store = memory.storage.engine.store
    held = store.load()
    stats = held.concepts.stats
    stats["created"] = stats["modified"] = 0
    concepts = held.concepts
    vectors = concepts.value_vectors
    sources = np.repeat(held.edge_sources, held.edge_counts).tolist()
    edges = sorted(zip(sources, held.edges.tolist(), strict=True))
    shortterm = {name: part for name, part in store.shortterm().items() if name != "saves"}
    known: dict[str, Any] = {
        "keys": concepts.keys.tobytes(),
        "values": concepts.value_ids.tolist(),
        "vectors": None if vectors is None else vectors.tobytes(),
        "stats": stats.tobytes(),
        "window": shortterm.get("keys", b""),
    }
    if ranked:
        ids = concepts.ids
        known["edges"] = [
            (int(np.searchsorted(ids, source)), int(np.searchsorted(ids, edge[0])), *edge[1:])
            for source, edge in edges
        ]
        known["events"] = [(kind, value) for _, kind, _, _, value in store.events().tolist()]
        return known
    settings = {name: part for name, part in held.settings.items() if name != "saves"}
    events = [event[1:] for event in store.events().tolist()]
    whole = {"ids": concepts.ids.tolist(), "edges": edges, "events": events}
    return {**known, **whole, "shortterm": shortterm, "settings": settings}


def kinds(memory: AESGMemory) -> set[str]:
    """Return the types of the events of a memory."""
    return {str(event["type"]) for event in memory.logger.get_history()}


def _said(context: RetrievedContext) -> tuple[Any, ...]:
    parts = (context.keys, context.weights, context.activations, context.ages, context.value_ids)
    return context.concept_ids.tolist(), *(part.detach().numpy().tobytes() for part in parts)


def _keys(random: np.random.Generator, count: int) -> Tensor:
    """Return vectors around twelve centres; often several are the same to the bit."""
    centres = np.random.default_rng(7).normal(size=(12, DIM))
    noise = random.choice([0, 0, 0.05, 0.5, 2.0]) * random.normal(size=(count, DIM))
    return torch.tensor(centres[random.integers(0, 12, count)] + noise, dtype=torch.float32)


def _learn(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    count = int(random.integers(1, 30))
    context = memory.recall(_keys(random, count), top_k=5)
    memory.defer(context, torch.tensor(random.integers(0, 4, count)))
    memory.update_topology()
    return [context]


def _learn_again(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    count = int(random.integers(1, 30))
    origins = torch.tensor(random.integers(1, 15, count))
    context = memory.recall(_keys(random, count), top_k=5, origins=origins)
    memory.defer(context, torch.tensor(random.integers(0, 4, count)))
    memory.update_topology()
    return [context]


def _learn_sequences(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    batch, time = int(random.integers(1, 5)), int(random.integers(2, 8))
    outcomes = torch.tensor(random.integers(0, 4, (batch, time)))
    origins = torch.tensor(random.integers(1, 9, batch))
    queries = _keys(random, batch * time).view(batch, time, DIM)
    context = memory.recall(queries, outcomes=outcomes, origins=origins, top_k=5)
    memory.defer(context, outcomes)
    memory.update_topology()
    return [context]


def _learn_vectors(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    count = int(random.integers(1, 20))
    context = memory.recall(_keys(random, count), top_k=5)
    memory.defer(context, _keys(random, count))
    memory.update_topology()
    return [context]


def _retrieve(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    queries = _keys(random, int(random.integers(1, 9)))
    return [memory.retrieve(queries, top_k=4), memory.retrieve(queries, top_k=4)]


def _remember(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    count = int(random.integers(1, 20))
    of_integers = bool(random.integers(0, 2))
    values = torch.tensor(random.integers(0, 4, count)) if of_integers else _keys(random, count)
    payloads = [None if each % 3 else each for each in range(count)]
    try:
        memory.remember(_keys(random, count), values, payloads)
    except AESGMemoryError as error:
        if "No room" not in str(error):  # some modes may not prune
            raise
    return []


def _age(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    for _ in range(int(random.integers(1, 25))):
        memory.update_topology()
    return []


def _change_mode(memory: AESGMemory, random: np.random.Generator) -> list[RetrievedContext]:
    memory.set_mode(str(random.choice(["TRAIN", "TRAIN", "FINETUNE", "ONLINE"])))
    return []


_STEPS: dict[str, Callable[[AESGMemory, np.random.Generator], Sequence[RetrievedContext]]] = {
    "age": _age,
    "change mode": _change_mode,
    "learn": _learn,
    "learn again": _learn_again,
    "learn sequences": _learn_sequences,
    "learn vectors": _learn_vectors,
    "remember": _remember,
    "retrieve": _retrieve,
}

NAMES = tuple(_STEPS)
