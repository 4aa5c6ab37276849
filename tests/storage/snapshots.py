"""Views worth a snapshot: with edges, a graph, tombstones and keys that have moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from storage_backends.hnsw import HnswBase
from storage_backends.types import Contents, Records, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.reference_store import Backing, ReferenceStore

#: Every so many ids stands one that no edge leads to, so that it may be deleted.
_LONELY = 10


def view_of(*, graph: bool, count: int = 300, width: int = 5) -> View:
    """Return a view of about ``count`` concepts, at least 100; the same each time."""
    store = ReferenceStore(Backing())
    known = range(1, count + 1)
    store.commit(
        WriteBatch(
            concepts=concepts(known, width, values="mixed"),
            edges={source: _row(source, count) for source in known},
        )
    )
    view = View.of(store.load())
    if graph:
        view = replace(view, base=HnswBase.build(view.keys))
    return grown(grown(view))


def grown(view: View) -> View:
    """Return what `view_of` made after one more commit, up to five in all.

    It deletes, adds, replaces, puts again what was deleted, and changes statistics and edges.
    """
    step, new = view.generation, view.greatest_id + 1
    put = [3 * step + 1, 3 * step + 2, new, new + 1]
    if step > 1:
        put.append(_LONELY * (step - 1))
    return view.advanced(
        Contents(
            generation=step + 1,
            concepts=concepts(put, view.keys.shape[1], seed=step, values="mixed"),
            stats_ids=ids(7 * step + 4),
            stats=stats([7 * step + 4], seed=step),
            edge_sources=ids(11 * step + 2, new),
            edge_counts=np.array([2, 1]),
            edges=np.concatenate([edges(new, 1, seed=step), edges(2)]),
            deleted=ids(_LONELY * step, _LONELY * (step + 5)),
            settings={"epoch": str(step).encode()},
        )
    )


def _row(source: int, count: int) -> Records:
    targets = [source % count + 1, (source + 7) % count + 1]
    return edges(*(target for target in targets if target % _LONELY and target != source))
