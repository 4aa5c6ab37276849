"""One graph of concepts for us and for others: keys, edges, queries, and what is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory
from benchmarks._large import vectors
from benchmarks.suite import Spent
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EDGE, STATS, Concepts, EdgeKind, Floats, Records, WriteBatch

DIM = 64
EACH = 12  # edges from one concept, less those that came twice
TOP = 10
DECAY = 0.8
FLOOR = 1e-3
_CLUSTER = 100
_NOISE = 0.15  # of a query beside the concept that it is near
_BATCH = 20_000

#: An edge with the share of activation that it passes on, before decay.
LINK = np.dtype([("source", np.int64), ("target", np.int64), ("share", np.float64)])

Answers = Sequence[Sequence[int]]


@dataclass(frozen=True)
class World:
    """Concepts 1 to ``N``, unit keys in clusters of a hundred, half of the edges inside of those.

    Parameters
    ----------
    keys : (N, DIM) float32
    links : (E,) LINK
        By source, then by target.
    edges : (E,) EDGE
        The same with weight and confidence.
    """

    keys: Floats
    links: Records
    edges: Records

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where the links of each concept end, from a concept 0 on, ``(N + 1,)``."""
        return np.cumsum(np.bincount(self.links["source"], minlength=len(self.keys) + 1))

    def queries(self, count: int, seed: int = 0) -> Floats:
        """Return unit queries near concepts that lie anywhere, ``(count, DIM)``."""
        rng = np.random.default_rng(seed)
        near = self.keys[rng.integers(0, len(self.keys), count)]
        return _unit(near + rng.normal(0, _NOISE / np.sqrt(DIM), near.shape).astype(np.float32))

    def nearest(self, queries: Floats, count: int = TOP) -> list[list[int]]:
        """Return the nearest concepts of each query, by brute force."""
        cosines = queries @ self.keys.T
        found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, found, 1), axis=1)
        nearest: list[list[int]] = (np.take_along_axis(found, order, 1) + 1).tolist()
        return nearest

    def best(self, queries: Floats) -> list[list[int]]:
        """Return the ten of the highest score of each query, by the plain definition.

        The ten nearest begin with their cosine. A concept passes on what has arrived, times decay
        and share; less than a thousandth is dropped. What arrives in two hops is added up.
        """
        ends = self.ends
        return [self._best(ends, query) for query in queries]

    def _best(self, ends: NDArray[np.int64], query: Floats) -> list[int]:
        cosines = self.keys @ query
        arrived = {
            place: max(float(cosines[place - 1]), 0) for place in self.nearest(query[None])[0]
        }
        score = dict(arrived)
        for _ in range(2):
            sent: dict[int, float] = {}
            for source, heard in arrived.items():
                for _, target, share in self.links[ends[source - 1] : ends[source]].tolist():
                    if heard * DECAY * share >= FLOOR:
                        sent[target] = sent.get(target, 0) + heard * DECAY * share
            arrived = sent
            for each, heard in arrived.items():
                score[each] = score.get(each, 0) + heard
        return sorted(score, key=lambda each: (-score[each], each))[:TOP]


def world(concepts: int) -> World:
    """Make a world of a multiple of a hundred concepts."""
    rng = np.random.default_rng(concepts)
    sources = np.arange(concepts)[:, None]
    near = sources // _CLUSTER * _CLUSTER + rng.integers(0, _CLUSTER, (concepts, EACH))
    far = rng.integers(0, concepts, (concepts, EACH))
    targets = np.sort(np.where(np.arange(EACH) % 2, far, near), axis=1)
    new = targets != sources
    new[:, 1:] &= targets[:, 1:] != targets[:, :-1]
    edges = np.zeros(int(new.sum()), EDGE)
    edges["target"] = targets[new] + 1
    edges["weight"] = rng.uniform(0.4, 1.0, len(edges))
    edges["confidence"] = rng.uniform(0.2, 0.9, len(edges))
    edges["kind"] = EdgeKind.COACTIVATION
    links = np.zeros(len(edges), LINK)
    links["source"] = np.broadcast_to(sources, targets.shape)[new] + 1
    links["target"] = edges["target"]
    strength = edges["weight"].astype(np.float64) * edges["confidence"]
    total = np.bincount(links["source"], strength)
    links["share"] = strength / np.maximum(total, 1)[links["source"]]
    return World(_unit(vectors(0, concepts, DIM)), links, edges)


def fill(directory: Path, made: World) -> None:
    """Make a memory of the world, with its seed index."""
    concepts, ends = len(made.keys), made.ends
    AESGMemory(directory, AESGConfig(vector_dim=DIM, spreading_activation_steps=2)).close()
    with closing(Engine(LMDBStore.open(directory, create=False))) as engine:
        settings = {"next_id": str(concepts + 1).encode()}
        for first in range(0, concepts, _BATCH):
            batch = _concepts(made.keys[first : first + _BATCH], first)
            engine.store.commit(WriteBatch(concepts=batch, settings=settings))
        for first in range(0, concepts, _BATCH):
            ids = range(first + 1, min(first + _BATCH, concepts) + 1)
            rows = {each: made.edges[ends[each - 1] : ends[each]] for each in ids}
            engine.store.commit(WriteBatch(edges=rows))
        engine.refresh()
        engine.rebuild()


def _concepts(keys: Floats, first: int) -> Concepts:
    stats = np.zeros(len(keys), STATS)
    stats["created"] = stats["modified"] = time.time_ns() // 1000
    stats["frequency"] = stats["relevance"] = stats["stability"] = 1
    nothing = np.zeros(len(keys), np.int64)
    ids = np.arange(first + 1, first + len(keys) + 1, dtype=np.uint64)
    return Concepts(ids, keys, nothing.astype(np.uint8), nothing, None, stats)


def _unit(rows: Floats) -> Floats:
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def shared(found: Answers, right: Answers) -> float:
    """Return the share of what is right that was found, a mean over the queries."""
    common = [len(set(some) & set(all_)) for some, all_ in zip(found, right, strict=True)]
    return sum(common) / sum(map(len, right))


def each(count: int, run: Callable[[], Any]) -> Spent:
    """Run something over ``count`` queries and return what one of them cost in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Spent(cpu / count, wall / count, found)


def of_each(count: int, spent: Spent) -> Spent:
    """Return what one of ``count`` queries cost another process."""
    return Spent(spent.cpu / count, spent.wall / count, spent.answer)
