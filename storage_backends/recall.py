"""How much of what it should find a graph finds, on a sample of queries."""

from __future__ import annotations

import numpy as np

from storage_backends.columns import Slots
from storage_backends.faiss_index import one_thread
from storage_backends.types import Floats
from storage_backends.view import View

#: Cosines that differ by no more are equally good answers.
_ROUNDING = 1e-5


def sampled_recall(view: View, k: int = 8, sample: int = 64, seed: int = 0) -> float:
    """Return the recall of a view's graph, before anything is searched exactly.

    Half of the queries are keys of live concepts, half those of tombstones, where there are any: a
    graph answers worst where many have gone from one place.

    Parameters
    ----------
    view : View
    k : int
        Answers wanted for each query.
    sample : int
        Queries; each is compared with every key that the graph answers for.
    seed : int
        Of the choice of the queries.

    Returns
    -------
    float
        Share of the answers, in [0, 1], that are as near as the true nearest; 1 where there is no
        graph or nothing to find.
    """
    index = view.index
    if index.base is None:
        return 1.0
    queries = view.keys[_sampled_slots(view, index.covered, sample, seed)]
    with one_thread():
        right, nearest = index.search_covered(queries, k)
        if not right.shape[1]:
            return 1.0
        slots, cosines = index.search_graph(index.base, queries, k)
    return _share_found(slots, cosines, nearest)


def _sampled_slots(view: View, covered: int, sample: int, seed: int) -> Slots:
    alive = view.alive.part(0, covered)
    rng = np.random.default_rng(seed)
    dead = np.flatnonzero(~alive)
    gone = rng.choice(dead, min(sample // 2, len(dead)), replace=False)
    live = np.flatnonzero(alive)
    here = rng.choice(live, min(sample - len(gone), len(live)), replace=False)
    return np.concatenate([gone, here])


def _share_found(slots: Slots, cosines: Floats, nearest: Floats) -> float:
    """Return the share of the true nearest that answers as near stand for."""
    near = (slots >= 0) & (cosines >= nearest[:, -1:] - _ROUNDING)
    wanted = nearest.shape[1]
    return float(np.minimum(near.sum(axis=1), wanted).mean() / wanted)
