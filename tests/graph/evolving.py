"""Small graphs with chosen keys, values and edges, for tests of what changes a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np

from storage_backends.columns import Slots
from storage_backends.engine import Engine
from storage_backends.protocol import Store
from storage_backends.spreading import Part, Spread, spread
from storage_backends.types import (
    EDGE,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Records,
    ValueKind,
    WriteBatch,
)
from storage_backends.view import View
from tests.graph.build import stats
from tests.storage.build import ids
from tests.storage.reference_store import Backing, ReferenceStore

#: Source, target, confidence.
Link = tuple[int, int, float]


def directions(*degrees: float) -> Floats:
    """Return unit vectors ``(N, 2)`` at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def out_rows(count: int) -> st.SearchStrategy[list[Records]]:
    """Return rows of edges, a few each, of which some are as strong as others."""
    share = st.sampled_from([0.0, 0.25, 0.3, 1.0]) | st.floats(0, 1, width=32)
    uses = st.sampled_from([0, 1, 2**32 - 1])
    edge = st.tuples(st.integers(1, 6), share, share, uses, st.integers(0, 15))
    rows = st.lists(edge, max_size=6, unique_by=lambda each: each[0])
    return st.lists(rows.map(lambda many: np.array(many, EDGE)), min_size=count, max_size=count)


def row(*edges: tuple[int, float], kind: EdgeKind = EdgeKind.COACTIVATION) -> Records:
    """Return edges to targets with a confidence, of weight 1 and one use."""
    return np.array([(target, 1, confidence, 1, kind) for target, confidence in edges], EDGE)


def rows(links: Sequence[Link]) -> dict[int, Records]:
    """Return the out-rows that links make."""
    sources = {source for source, _, _ in links}
    return {each: row(*((t, c) for s, t, c in links if s == each)) for each in sorted(sources)}


def grown(
    keys: Floats,
    links: Sequence[Link] = (),
    *,
    values: Sequence[int] | None = None,
    vectors: Floats | None = None,
    payloads: Mapping[int, bytes] | None = None,
    store: Store | None = None,
    **fields: Any,
) -> Engine:
    """Return an engine that holds the concepts 1, 2, ... with these keys.

    Integer values where ``values`` are given, vector values where ``vectors`` are, else none.
    """
    count = len(keys)
    kind = ValueKind.KEY if values is None else ValueKind.INTEGER
    kind = kind if vectors is None else ValueKind.VECTOR
    concepts = Concepts(
        ids=ids(*range(1, count + 1)),
        keys=np.asarray(keys, np.float32),
        value_kinds=np.full(count, kind, np.uint8),
        value_ids=np.array([0] * count if values is None else values, np.int64),
        value_vectors=None if vectors is None else np.asarray(vectors, np.float32),
        stats=stats(count, **fields),
    )
    engine = Engine(store or ReferenceStore(Backing()))
    engine.commit(WriteBatch(concepts=concepts, edges=rows(links), payloads=payloads or {}))
    return engine


def everywhere(view: View) -> Slots:
    """Return all slots."""
    return np.arange(view.size, dtype=np.int64)


def with_tombstone(engine: Engine, concept_id: int) -> View:
    """Return the view after a concept was deleted, with its slot still there."""
    view, store = engine.view(), engine.store
    store.commit(WriteBatch(deleted=ids(concept_id)))
    changes = store.changes(view.generation)
    assert changes is not None
    after = view.advanced(changes)
    assert after.dead == 1
    return after


def events(engine: Engine) -> list[tuple[EventType, int, int, Any]]:
    """Return the events of the log without their times."""
    records = engine.store.events().tolist()
    return [(EventType(kind), id1, id2, val) for _, kind, id1, id2, val in records]


def links(view: View) -> dict[tuple[int, int], float]:
    """Return source, target and confidence of all edges."""
    found = {}
    for source in view.ids[everywhere(view)].tolist():
        for edge in view.edges(source):
            found[source, int(edge["target"])] = float(edge["confidence"])
    return found


def reached(view: View, seed: int, hops: int, **settings: Any) -> dict[int, float]:
    """Return the activation of every concept that a seed activates, by id."""
    part = Part(view.adjacency, view.ids, view.regions)
    chosen = Spread(hops=hops, decay=0.9, **{"floor": 1e-6, **settings})
    found = spread([part], view.slots(ids(seed))[None], np.ones((1, 1), np.float32), chosen, 512)
    held = found.slots[0] >= 0
    concept_ids = view.ids[found.slots[0][held]].tolist()
    return dict(zip(concept_ids, found.activations[0][held].tolist(), strict=True))
