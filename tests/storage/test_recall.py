"""The sampled recall of a graph: high where it serves, low where tombstones have ruined it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from storage_backends.hnsw import HnswBase
from storage_backends.recall import sampled_recall
from storage_backends.types import EDGE, STATS, Concepts, Contents, Floats, Ids
from storage_backends.view import View

_NO_IDS: Ids = np.empty(0, np.uint64)
_CLUSTERS, _EACH, _DIM = 40, 100, 16


def _contents(numbers: Ids, keys: Floats, deleted: Ids = _NO_IDS) -> Contents:
    count = len(numbers)
    kinds, values = np.zeros(count, np.uint8), np.zeros(count, np.int64)
    return Contents(
        generation=1,
        concepts=Concepts(numbers, keys, kinds, values, None, np.zeros(count, STATS)),
        stats_ids=_NO_IDS,
        stats=np.zeros(0, STATS),
        edge_sources=_NO_IDS,
        edge_counts=np.zeros(0, np.int64),
        edges=np.zeros(0, EDGE),
        deleted=deleted,
        settings={},
    )


def _view() -> View:
    """Return a view of clustered keys, cluster after cluster, with a graph."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(_CLUSTERS, 1, _DIM)) + 0.2 * rng.normal(size=(_CLUSTERS, _EACH, _DIM))
    numbers = np.arange(1, _CLUSTERS * _EACH + 1, dtype=np.uint64)
    view = View.of(_contents(numbers, keys.reshape(-1, _DIM).astype(np.float32)))
    return replace(view, base=HnswBase.build(view.keys))


def _without(view: View, numbers: Ids) -> View:
    return view.advanced(_contents(_NO_IDS, np.empty((0, _DIM), np.float32), numbers))


def test_a_fresh_graph_finds_nearly_all() -> None:
    assert sampled_recall(_view()) > 0.97


def test_scattered_tombstones_cost_little() -> None:
    view = _view()
    assert sampled_recall(_without(view, view.ids.whole()[::3])) > 0.95


def test_tombstones_that_lie_together_show() -> None:
    view = _view()
    assert sampled_recall(_without(view, view.ids.whole()[:300])) < 0.7


def test_moved_keys_are_not_expected_of_the_graph() -> None:
    view = _view()
    numbers = view.ids.whole()[:50]
    moved = view.advanced(_contents(numbers, -view.keys.part(0, 50)))
    assert moved.uncovered == 50
    assert sampled_recall(moved) > 0.97


def test_the_sample_is_chosen_by_the_seed() -> None:
    view = _view()
    worn = _without(view, view.ids.whole()[:3900:2])
    found = [sampled_recall(worn, k=30, sample=4, seed=seed) for seed in range(20)]
    assert len(set(found)) > 1
    assert found == [sampled_recall(worn, k=30, sample=4, seed=seed) for seed in range(20)]


def test_where_there_is_nothing_to_find_nothing_is_missed() -> None:
    view = _view()
    assert sampled_recall(replace(view, base=None)) == 1
    assert sampled_recall(_without(view, view.ids.whole())) == 1
