"""Graphs with known communities, and how far two partitions agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Slots
from storage_backends.engine import Engine
from storage_backends.types import EDGE, Concepts, Ids, Records, WriteBatch
from storage_backends.view import View
from tests.graph.build import stats
from tests.storage.reference_store import Backing, ReferenceStore


def agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """Return the normalised mutual information of two partitions: 1 where they are the same.

    It is the mutual information over the mean of the two entropies; two partitions of one part
    each agree.
    """
    _, one = np.unique(one, return_inverse=True)
    _, other = np.unique(other, return_inverse=True)
    joint = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(joint, (one, other), 1 / len(one))
    apart = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    return 2 * (apart - _entropy(joint.ravel())) / apart if apart else 1.0


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def planted(
    sizes: list[int], degree: int, mixing: float, seed: int = 0
) -> tuple[Slots, Slots, Slots]:
    """Return the community of each node, and sources and targets of edges, without repeats.

    Each node draws ``degree`` targets: a share ``mixing`` of them from all nodes, the others from
    its own community. Communities are scattered over the nodes.
    """
    rng = np.random.default_rng(seed)
    community = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    members = [np.flatnonzero(community == each) for each in range(len(sizes))]
    count = len(community)
    source = np.repeat(np.arange(count), degree)
    near = np.concatenate([rng.choice(members[each], degree) for each in community])
    far = rng.integers(0, count, len(source))
    target = np.where(rng.random(len(source)) < mixing, far, near)
    source, target = np.divmod(np.unique(source * count + target), count)
    apart = source != target
    return community, source[apart], target[apart]


def rows(ids: Ids, source: Slots, target: Slots, strength: float = 0.5) -> dict[int, Records]:
    """Return the out-rows of the edges from ``ids[source]`` to ``ids[target]``."""
    order = np.argsort(source, kind="stable")
    edges = np.zeros(len(source), EDGE)
    edges["target"], edges["weight"], edges["confidence"] = ids[target[order]], 1, strength
    edges["kind"] = edges["use"] = 1
    first, begins = np.unique(source[order], return_index=True)
    runs = np.split(edges, begins)[1:]
    return dict(zip(ids[first].tolist(), runs, strict=True))


def engine_of(count: int, edges: dict[int, Records], ids: Ids | None = None) -> Engine:
    """Return an engine that holds concepts, by default 1 to ``count``, with these out-rows."""
    ids = np.arange(1, count + 1, dtype=np.uint64) if ids is None else ids
    nothing = np.zeros(count, np.int64)
    keys = np.ones((count, 2), np.float32)
    kinds = nothing.astype(np.uint8)
    concepts = Concepts(ids, keys, kinds, nothing, None, stats(count))
    made = Engine(ReferenceStore(Backing()))
    made.commit(WriteBatch(concepts=concepts, edges=edges))
    return made


def view_of(count: int, source: Slots, target: Slots) -> View:
    """Return a view of the concepts 1 to ``count`` with edges between slots."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    return engine_of(count, rows(ids, source, target)).view()
