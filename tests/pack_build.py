"""Builds packs for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.packs import Provenance, write_pack

PROVENANCE = Provenance(
    memory_uuid="6f1c0d0e-52a3-4d3c-9c1f-0a0b0c0d0e0f",
    generation=7,
    created=1_700_000_000_000_000,
    library="4.0.0",
)


def pack_columns(
    concepts: int = 12,
    vector_dim: int = 4,
    edges_each: int = 3,
    *,
    seed: int = 0,
    vectors: bool = False,
    payloads: Mapping[int, bytes] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return random columns of a pack that is sound.

    Parameters
    ----------
    concepts, vector_dim, edges_each : int
        Sizes; at most ``concepts - 1`` edges are given to each.
    seed : int
    vectors : bool
        Whether half of the concepts hold a vector value; the others hold an integer.
    payloads : mapping of position to bytes
        In msgpack.
    """
    random = np.random.default_rng(seed)
    keys = random.normal(size=(concepts, vector_dim)).astype(np.float32)
    norms = np.linalg.norm(keys, axis=1).astype(np.float32)
    moments = (1_700_000_000_000_000 + random.integers(0, 10**9, concepts)).astype(np.uint64)
    kinds = np.ones(concepts, np.uint8)
    if vectors:
        kinds[::2] = 2
    columns: dict[str, NDArray[Any]] = {
        "ids": np.cumsum(random.integers(1, 5, concepts)).astype(np.uint64),
        "keys": keys / norms[:, np.newaxis],
        "norms": norms,
        "value_kinds": kinds,
        "value_ids": np.where(kinds == 1, random.integers(0, 50, concepts), 0).astype(np.int64),
        "created": moments,
        "modified": moments + np.uint64(1000),
        "origin": np.zeros(concepts, np.uint64),
        "frequency": random.integers(1, 100, concepts).astype(np.uint32),
        "relevance": random.random(concepts).astype(np.float32),
        "stability": random.random(concepts).astype(np.float32),
        "region": random.integers(0, 3, concepts).astype(np.uint32),
        "age": random.integers(0, 9, concepts).astype(np.uint32),
        "updates": random.integers(0, 1000, concepts).astype(np.uint64),
    }
    if vectors:
        values = random.normal(size=(concepts, vector_dim)).astype(np.float32)
        columns["value_vectors"] = np.where(kinds[:, np.newaxis] == 2, values, np.float32(0))
    return {**columns, **_edges(random, concepts, edges_each), **_payloads(concepts, payloads)}


def _edges(random: np.random.Generator, concepts: int, each: int) -> dict[str, NDArray[Any]]:
    each = max(0, min(each, concepts - 1))
    # Each has edges to some of those behind it in a ring, so to none twice and not to itself.
    starts = random.integers(0, max(concepts - 1, 1), (concepts, 1))
    steps = (starts + np.arange(each)) % max(concepts - 1, 1) + 1
    targets = (np.arange(concepts)[:, np.newaxis] + steps) % max(concepts, 1)
    weights = random.random((concepts, each)).astype(np.float32)
    confidences = random.random((concepts, each)).astype(np.float32)
    strength = weights * confidences
    order = np.lexsort((targets, -strength), axis=1)
    ordered = [np.take_along_axis(part, order, 1) for part in (targets, weights, confidences)]
    return {
        "edge_counts": np.full(concepts, each, np.uint32),
        "edge_targets": ordered[0].reshape(-1).astype(np.uint32),
        "edge_weights": ordered[1].reshape(-1),
        "edge_confidences": ordered[2].reshape(-1),
        "edge_uses": random.integers(1, 9, concepts * each).astype(np.uint32),
        "edge_kinds": random.integers(1, 16, concepts * each).astype(np.uint32),
    }


def _payloads(concepts: int, payloads: Mapping[int, bytes] | None) -> dict[str, NDArray[Any]]:
    given = dict(payloads or {})
    found = [given.get(position, b"") for position in range(concepts)]
    return {
        "payload_sizes": np.array([len(payload) for payload in found], np.uint32),
        "payloads": np.frombuffer(b"".join(found), np.uint8),
    }


def write_tiny(path: Path, *, name: str = "", vector_dim: int = 4, **options: Any) -> Path:
    """Write a pack of a dozen concepts, or of what ``options`` of `pack_columns` say."""
    columns = pack_columns(vector_dim=vector_dim, **options)
    write_pack(path, columns, name=name, vector_dim=vector_dim, provenance=PROVENANCE)
    return path
