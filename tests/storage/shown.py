"""What a view shows, as plain Python values by concept id: slots differ between equal views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from storage_backends.columns import Column
from storage_backends.types import ValueKind
from storage_backends.view import View
from tests.storage.picture import ID_LIMIT, rows


def shown(view: View) -> dict[str, Any]:
    """Return everything that ``view`` shows, after a check of its form."""
    lengths = {name: len(column) for name, column in _columns(view).items()}
    assert set(lengths.values()) == {view.size}, lengths
    live = np.flatnonzero(view.alive.whole())
    assert view.greatest_id == max(view.ids[live].tolist(), default=0)
    assert np.array_equal(view.slots(view.ids[live]), live)
    assert (view.node_count, view.dead) == (len(live), view.size - len(live))
    edges = {int(i): rows(view.edges(int(i))) for i in view.ids[live]}
    assert view.edge_count == sum(map(len, edges.values()))
    assert view.regions[live].tolist() == view.stats[live]["region"].tolist()
    return {
        "generation": view.generation,
        "settings": dict(view.settings),
        "width": view.vector_dim,
        "concepts": {int(view.ids[slot]): _concept(view, slot) for slot in live.tolist()},
        "edges": {source: row for source, row in edges.items() if row},
        "rows": {int(view.ids[slot]): _row(view, slot) for slot in live.tolist()},
    }


def frozen(view: View) -> list[tuple[str, Any]]:
    """Return a copy of every array of ``view``, tombstones included."""
    held = [(name, column.whole().copy()) for name, column in _columns(view).items()]
    adjacency = view.adjacency
    pool = [(name, getattr(adjacency, name).whole().copy()) for name in ("leads", "rest")]
    probed = view.slots(np.arange(ID_LIMIT, dtype=np.uint64))
    held += [*pool, ("slots", probed), ("moved", view.moved.copy())]
    held += [("counts", (view.node_count, view.edge_count, view.uncovered))]
    return [*held, ("settings", copy.deepcopy(dict(view.settings)))]


def assert_unchanged(view: View, before: Sequence[tuple[str, Any]]) -> None:
    """Assert that ``view`` is what `frozen` once returned of it."""
    for (name, now), (_, then) in zip(frozen(view), before, strict=True):
        same = np.array_equal(now, then) if isinstance(then, np.ndarray) else now == then
        assert same, f"{name} was {then}, is {now}"


def _columns(view: View) -> dict[str, Any]:
    found = {
        field.name: getattr(view, field.name)
        for field in fields(view)
        if isinstance(getattr(view, field.name), Column)
    }
    return found | {"rows": view.adjacency.rows}


def _row(view: View, slot: int) -> dict[str, Any]:
    """Return what the out-edges of a slot have in common, after a check of what it must be."""
    row, edges = view.adjacency.rows[slot], view.adjacency.row(slot)
    found = {name: row[name].item() for name in ("count", "kinds", "total", "epoch")}
    if not len(edges):
        assert row.tobytes() == bytes(row.nbytes)
        return found
    held = edges["weight"] * edges["confidence"]
    ranked = list(zip((-held).tolist(), view.ids[edges["target"]].tolist(), strict=True))
    assert ranked == sorted(ranked)
    assert held.tobytes() == edges["strength"].tobytes()
    total = np.cumsum(held, dtype=np.float64)[-1]  # one after another, the strongest first
    assert np.float64(row["total"]) >= total > np.nextafter(row["total"], np.float32(-np.inf))
    assert row["kinds"] == np.bitwise_or.reduce(edges["kind"])
    assert row["epoch"] == view.edge_epochs(np.array([slot]))[0] == view.stats[slot]["edge_epoch"]
    return found


def _concept(view: View, slot: int) -> dict[str, Any]:
    kind = ValueKind(view.value_kinds[slot])
    vectors = view.value_vectors
    return {
        "key": view.keys[slot].tolist(),
        "norm": float(view.norms[slot]),
        "kind": kind.name,
        "integer": int(view.value_ids[slot]),
        "vector": vectors[slot].tolist() if vectors is not None and kind == 2 else None,
        "stats": rows(view.stats[np.array([slot])])[0],
    }
