"""Whether a view shows what is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Slots
from storage_backends.types import Problem, ValueKind
from storage_backends.view import View

_TABLE = "view"
_PLAIN = ("keys", "norms", "value_kinds", "value_ids", "stats", "regions")


def differences(view: View, stored: View) -> list[Problem]:
    """Compare a view with one made of all records of the same generation.

    Parameters
    ----------
    view : View
    stored : View
        Without tombstones.

    Returns
    -------
    list of Problem
        The first difference of each kind; empty where both show the same.
    """
    ids = stored.ids.whole()
    slots = view.slots(ids)
    missing = ids[slots < 0]
    if len(missing) or view.node_count != len(ids):
        which = f", without {missing[0]}" if len(missing) else ""
        return [_problem("", f"expected {len(ids)} concepts, got {view.node_count}{which}")]
    if view.vector_dim != stored.vector_dim:
        return [_problem("", f"expected width {stored.vector_dim}, got {view.vector_dim}")]
    found = [_unequal(name, view, stored, slots) for name in _PLAIN] if len(ids) else []
    if dict(view.settings) != dict(stored.settings):
        found.append(_problem("", "expected the settings as stored, got others"))
    found += [_vectors(view, stored, slots), _edges(view, stored, slots)]
    return [problem for problem in found if problem is not None]


def _unequal(name: str, view: View, stored: View, slots: Slots) -> Problem | None:
    rows: NDArray[Any] = getattr(view, name)[slots]
    return _first(name, rows != getattr(stored, name).whole(), stored)


def _vectors(view: View, stored: View, slots: Slots) -> Problem | None:
    """Compare vector values; a view that once had some has zeros where there are none."""
    having = np.flatnonzero(stored.value_kinds.whole() == ValueKind.VECTOR)
    if not len(having) or stored.value_vectors is None:
        return None
    unequal = np.zeros(stored.size, np.bool_)
    if view.value_vectors is None:
        unequal[having] = True
    else:
        rows = view.value_vectors[slots[having]] != stored.value_vectors[having]
        unequal[having] = rows.any(axis=1)
    return _first("value_vectors", unequal, stored)


def _edges(view: View, stored: View, slots: Slots) -> Problem | None:
    everything = np.arange(stored.size)
    unequal = view.adjacency.counts(slots) != stored.adjacency.counts(everything)
    if unequal.any() or view.edge_count != stored.edge_count:
        found = _first("edges", unequal, stored)
        return found or _problem("", f"expected {stored.edge_count} edges, got {view.edge_count}")
    owner, edges = view.adjacency.expand(slots)
    _, expected = stored.adjacency.expand(everything)
    different = view.ids[edges["target"]] != stored.ids[expected["target"]]
    for name in ("weight", "confidence", "use", "kind", "strength"):
        different |= edges[name] != expected[name]
    unequal[owner[different]] = True
    for name in ("kinds", "total", "epoch"):
        unequal |= view.adjacency.rows[slots][name] != stored.adjacency.rows.whole()[name]
    return _first("edges", unequal, stored)


def _first(name: str, unequal: NDArray[np.bool_], stored: View) -> Problem | None:
    rows = unequal.any(axis=1) if unequal.ndim > 1 else unequal
    if not rows.any():
        return None
    concept_id = stored.ids[int(np.argmax(rows))]
    return _problem(str(concept_id), f"expected the {name} that are stored, got others")


def _problem(key: str, message: str) -> Problem:
    return Problem(_TABLE, key, message)
