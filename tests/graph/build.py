"""Provisional concepts and graphs for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aesg.graph.edges import Use, Uses
from aesg.graph.edges import strengthened as strengthened_rows
from aesg.graph.out_edges import OutEdges
from aesg.graph.shortterm import ENTRY, ShortTermMemory
from storage_backends.engine import Engine
from storage_backends.types import STATS, Concepts, Floats, Records, ValueKind, WriteBatch
from storage_backends.view import View
from tests.storage.build import edges, ids
from tests.storage.reference_store import Backing, ReferenceStore

DIM = 4


def unit(wanted: Sequence[int], dim: int = DIM) -> Floats:
    """Return a unit vector for each id, the same each time."""
    rows = [np.random.default_rng(number).normal(size=dim) for number in wanted]
    vectors = np.array(rows, np.float32).reshape(len(wanted), dim)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def entries(wanted: Sequence[int], origin: int = 0) -> NDArray[np.void]:
    """Return provisional concepts with integer values, the tens of their ids."""
    made = np.zeros(len(wanted), ENTRY)
    made["id"], made["origin"], made["norm"], made["confirmations"] = wanted, origin, 2.0, 1
    made["value_kind"] = ValueKind.INTEGER
    made["value_id"] = np.array(wanted, np.int64) // 10
    return made


def window(wanted: Sequence[int], capacity: int = 64, origin: int = 0) -> ShortTermMemory:
    """Return a short-term memory that holds the ids ``wanted``, which ascend."""
    made = ShortTermMemory(DIM, capacity)
    made.append(entries(wanted, origin), unit(wanted), None)
    return made


def stats(count: int, **fields: float) -> Records:
    """Return ``count`` statistics that have these fields."""
    made = np.zeros(count, STATS)
    made["relevance"] = 1
    for name, value in fields.items():
        made[name] = value
    return made


def concepts(wanted: Sequence[int], keys: Floats | None = None, **fields: float) -> Concepts:
    """Return concepts with integer values, the tens of their ids."""
    return Concepts(
        ids=ids(*wanted),
        keys=unit(wanted) if keys is None else keys,
        value_kinds=np.full(len(wanted), ValueKind.INTEGER, np.uint8),
        value_ids=np.array(wanted, np.int64) // 10,
        value_vectors=None,
        stats=stats(len(wanted), **fields),
    )


def engine(wanted: Sequence[int], links: dict[int, Sequence[int]] | None = None) -> Engine:
    """Return an engine that holds the ids ``wanted`` and edges from id to ids."""
    made = Engine(ReferenceStore(Backing()))
    if wanted:
        rows = {source: edges(*targets) for source, targets in (links or {}).items()}
        made.commit(WriteBatch(concepts=concepts(wanted), edges=rows))
    return made


def view(*wanted: int) -> View:
    """Return a view that holds the ids ``wanted``."""
    return engine(wanted).view()


def strengthened(row: Records, uses: Sequence[Use], most: int) -> Records:
    """Return one row after some of its edges were used."""
    owner = np.zeros(len(uses), np.int64)
    return strengthened_rows(OutEdges.of([row]), Uses.of(owner, uses), most).edges
