"""Small batches for tests: the same id and seed always give the same record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from storage_backends.types import (
    EDGE,
    EVENT,
    STATS,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Ids,
    Records,
    ValueKind,
)

Values = Literal["key", "integer", "vector", "mixed"]


def ids(*values: int) -> Ids:
    """Return concept ids as a (N,) uint64 array."""
    return np.array(values, np.uint64)


def concepts(
    wanted: Sequence[int], dim: int = 4, seed: int = 0, values: Values = "key"
) -> Concepts:
    """Make a concept for every id in ``wanted``, in that order.

    Parameters
    ----------
    wanted : sequence of int
        Ids, in the order of the rows.
    dim : int
        Width of the keys.
    seed : int
        Another seed gives other keys, values and statistics for the same ids.
    values : {"key", "integer", "vector", "mixed"}
        Kind of the values; "mixed" takes the three kinds in turn, by id.

    Returns
    -------
    Concepts
        With ``value_vectors`` None where no row has a vector.
    """
    kinds = np.array([_kind(concept_id, values) for concept_id in wanted], np.uint8)
    keys = _normal(wanted, dim, seed)
    vectors = np.where((kinds == ValueKind.VECTOR)[:, None], _normal(wanted, dim, seed + 1000), 0)
    numbers = np.array([_number(concept_id, seed) for concept_id in wanted], np.int64)
    return Concepts(
        ids=ids(*wanted),
        keys=keys,
        value_kinds=kinds,
        value_ids=np.where(kinds == ValueKind.INTEGER, numbers, 0).astype(np.int64),
        value_vectors=vectors.astype(np.float32) if (kinds == ValueKind.VECTOR).any() else None,
        stats=stats(wanted, seed),
    )


def stats(wanted: Sequence[int], seed: int = 0) -> Records:
    """Make the (N,) STATS of the ids in ``wanted``."""
    records = np.zeros(len(wanted), STATS)
    for row, concept_id in zip(records, wanted, strict=True):
        base = (seed + 1) * 2**40 + concept_id % 2**32 * 100  # wider than 32 bits, and readable
        row["created"], row["modified"], row["origin"] = base + 1, base + 2, 2**64 - base
        row["epoch"], row["tick"] = base + 4, base + 5
        row["frequency"], row["region"] = (
            seed * 1000 + concept_id % 2**20,
            2**32 - 1 - concept_id % 2**20,
        )
        row["edge_epoch"] = seed + concept_id % 3
        row["relevance"], row["stability"] = concept_id % 64 / 64, seed % 64 / 64
    return records


def edges(*targets: int, seed: int = 0) -> Records:
    """Make one edge to each of ``targets``, as (N,) EDGE in that order."""
    records = np.zeros(len(targets), EDGE)
    for rank, (row, target) in enumerate(zip(records, targets, strict=True)):
        row["target"], row["weight"] = target, (target % 64 + 1) / 64
        row["confidence"], row["use"] = 1 / (rank + 1), 2**32 - 1 - seed
    records["kind"] = EdgeKind.SUCCESSOR | EdgeKind.VALUE
    return records


def events(numbers: Iterable[int], kind: EventType = EventType.CREATE) -> Records:
    """Make one event for each number, which shows in every column, as (N,) EVENT."""
    rows = [(1_700_000_000 + n, kind, n, n + 2**40, n + 0.5) for n in numbers]
    return np.array(rows, EVENT)


def _kind(concept_id: int, values: Values) -> ValueKind:
    if values == "mixed":
        return ValueKind(concept_id % len(ValueKind))
    return ValueKind[values.upper()]


def _number(concept_id: int, seed: int) -> int:
    number = seed * 2**40 + concept_id % 2**32
    return -number if concept_id % 2 else number


def _normal(wanted: Sequence[int], dim: int, seed: int) -> Floats:
    rows = [np.random.default_rng((seed, concept_id)).normal(size=dim) for concept_id in wanted]
    eighths = np.round(np.array(rows) * 8) / 8  # short numbers make readable failures
    return eighths.astype(np.float32).reshape(len(wanted), dim)
