"""Fan-normalised spreading activation for a batch of queries, in numpy.

A concept passes on ``activation * hop_decay * share``. The shares of its out-edges are
``weight * confidence`` (times the region multiplier where the target lies in the query's dominant
region), divided by their sum where that exceeds one. Without this normalisation activation
multiplies on dense graphs until the seeds fall out of the result (the fan effect: Anderson, 1983,
"A spreading activation theory of memory"). Each hop sends only what arrived in the hop before.

Activations are summed as integers, so that the result does not depend on the order of summation,
on the other queries of the batch or on the number of threads.

Inside, an active (query, concept) pair is one integer, ``query * width + slot``. Concept ids are
looked up only where they break a tie, so that the cost does not depend on the size of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency, strengths
from storage_backends.columns import Column, Slots
from storage_backends.types import Floats

#: Units of one whole activation. Float64 holds every sum that occurs exactly (below 2**53).
_ONE = float(2**32)

#: Queries that are spread together: enough to make numpy worth it, few enough for the cache.
_BLOCK = 256


@dataclass(frozen=True)
class Spread:
    """How activation travels.

    Parameters
    ----------
    hops : int
        Propagation steps, at least 0.
    decay : float
        Share kept per hop, in [0, 1].
    floor : float
        Transfers below this activation are dropped, in (0, 1].
    region_multiplier : float
        Bonus of edges into the query's dominant region; 1 switches it off.
    kinds : int
        `EdgeKind` flags of the edges to follow.
    """

    hops: int
    decay: float
    floor: float = 1e-3
    region_multiplier: float = 1.0
    kinds: int = 0xFFFFFFFF

    def along(self, kinds: int) -> Spread:
        """Return the same settings for other kinds of edges."""
        return replace(self, kinds=kinds)


@dataclass(frozen=True)
class Spreading:
    """The most active slots of each query.

    Parameters
    ----------
    slots : (N, K) int64
        Descending by activation, then ascending by concept id; -1 pads.
    activations : (N, K) float32
        Zero where padded.
    parents : (N, K) int64
        The slot that first sent activation here (the one that sent most, then the one of the
        lowest concept id); -1 for a seed and where padded.
    """

    slots: Slots
    activations: Floats
    parents: Slots


@dataclass(frozen=True)
class _Graph:
    """Where activation travels."""

    adjacency: Adjacency
    ids: Column[np.uint64]
    regions: Column[np.uint32]

    @property
    def width(self) -> int:
        return max(len(self.ids), 1)


@dataclass(frozen=True)
class _Active:
    """Active pairs, ascending and without repeats."""

    pair: Slots
    units: Slots  # activation in units of 1 / _ONE
    parent: Slots  # slot; -1 for a seed


def spread(
    adjacency: Adjacency,
    ids: Column[np.uint64],
    regions: Column[np.uint32],
    seeds: Slots,
    activations: Floats,
    settings: Spread,
    top: int,
) -> Spreading:
    """Propagate activation from seeds and return the most active slots.

    Parameters
    ----------
    adjacency : Adjacency
        Out-edges of ``M`` slots.
    ids : column of (M,) uint64
        Concept id of each slot, which breaks ties.
    regions : column of (M,) uint32
        Region of each slot; 0 means none.
    seeds : (N, S) int64
        Seed slots of each query; -1 pads.
    activations : (N, S) float32
        Activation of each seed, in [0, 1].
    settings : Spread
    top : int
        Slots to return for each query.

    Returns
    -------
    Spreading
    """
    graph = _Graph(adjacency, ids, regions)
    blocks = [
        _spread_block(
            graph, seeds[begin : begin + _BLOCK], activations[begin : begin + _BLOCK], settings, top
        )
        for begin in range(0, max(len(seeds), 1), _BLOCK)
    ]
    return Spreading(
        np.concatenate([block.slots for block in blocks]),
        np.concatenate([block.activations for block in blocks]),
        np.concatenate([block.parents for block in blocks]),
    )


def _spread_block(
    graph: _Graph, seeds: Slots, activations: Floats, settings: Spread, top: int
) -> Spreading:
    active = _seeded(graph, seeds, activations)
    if settings.hops and graph.adjacency.edge_count:
        favoured = _dominant_regions(graph, active, len(seeds))
        arrived = active
        for _ in range(settings.hops):
            arrived = _sent(graph, arrived, favoured, settings)
            if not len(arrived.pair):
                break
            active = _with_arrived(active, arrived)
    return _strongest(graph, active, len(seeds), top)


def _seeded(graph: _Graph, seeds: Slots, activations: Floats) -> _Active:
    query, column = np.nonzero(seeds >= 0)
    pair = query * graph.width + seeds[query, column]
    units = np.floor(activations[query, column].astype(np.float64) * _ONE).astype(np.int64)
    order = np.argsort(pair, kind="stable")
    first = _first_of_runs(pair[order])
    total = np.add.reduceat(units[order], first) if len(first) else units
    return _Active(pair[order][first], total, np.full(len(first), -1, np.int64))


def _sent(
    graph: _Graph, active: _Active, favoured: NDArray[np.uint32], settings: Spread
) -> _Active:
    """Return what the active pairs send along their out-edges in one hop."""
    query, slot = np.divmod(active.pair, graph.width)
    owner, edges = graph.adjacency.expand(slot)
    followed = (edges["kind"] & np.uint32(settings.kinds)) != 0
    if not followed.all():
        owner, edges = owner[followed], edges[followed]
    share = strengths(edges).astype(np.float64)
    if settings.region_multiplier != 1.0:
        region = graph.regions[edges["target"]]
        inside = (region != 0) & (region == favoured[query[owner]])
        share = np.where(inside, share * settings.region_multiplier, share)
    share /= np.maximum(np.bincount(owner, share, len(slot)), 1.0)[owner]
    units = np.floor(active.units[owner] * (settings.decay * share)).astype(np.int64)
    loud = units >= settings.floor * _ONE
    owner, target = owner[loud], edges["target"][loud]
    return _summed(graph, query[owner] * graph.width + target, units[loud], slot[owner])


def _summed(graph: _Graph, pair: Slots, units: Slots, parent: Slots) -> _Active:
    """Add the activations of equal pairs.

    The parent that stays is the one that sent most, of several the one of the lowest id.
    """
    if not len(pair):
        return _Active(pair, units, parent)
    # Sorting pair and position as one number is several times faster than a stable argsort.
    pair, order = np.divmod(np.sort(pair * len(pair) + np.arange(len(pair))), len(pair))
    units, parent = units[order], parent[order]
    first = _first_of_runs(pair)
    run = np.repeat(np.arange(len(first)), np.diff(first, append=len(pair)))
    most = np.flatnonzero(units == np.maximum.reduceat(units, first)[run])
    if len(most) > len(first):
        most = most[np.lexsort((graph.ids[parent[most]], run[most]))]
    chosen = most[_first_of_runs(run[most])]
    return _Active(pair[first], np.add.reduceat(units, first), parent[chosen])


def _with_arrived(active: _Active, arrived: _Active) -> _Active:
    """Add what arrived to what was there; a concept that was active keeps its parent."""
    pair = np.concatenate([active.pair, arrived.pair])
    order = np.argsort(pair, kind="stable")  # two ascending runs: merged in linear time
    first = _first_of_runs(pair[order])
    units = np.concatenate([active.units, arrived.units])[order]
    parent = np.concatenate([active.parent, arrived.parent])[order]
    return _Active(pair[order][first], np.add.reduceat(units, first), parent[first])


def _first_of_runs(values: Slots) -> Slots:
    """Return where each run of equal values begins."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return np.flatnonzero(begins)


def _dominant_regions(graph: _Graph, active: _Active, queries: int) -> NDArray[np.uint32]:
    """Return the region that holds most of each query's seed activation; 0 where none does."""
    query, slot = np.divmod(active.pair, graph.width)
    region = graph.regions[slot]
    favoured = np.zeros(queries, np.uint32)
    inside = region != 0
    if inside.any():
        pairs, inverse = np.unique(
            np.stack([query[inside], region[inside].astype(np.int64)]), axis=1, return_inverse=True
        )
        total = np.bincount(inverse.ravel(), active.units[inside])
        order = np.lexsort((-pairs[1], total))  # the last write wins: heaviest, then lowest region
        favoured[pairs[0][order]] = pairs[1][order]
    return favoured


def _strongest(graph: _Graph, active: _Active, queries: int, top: int) -> Spreading:
    query, slot = np.divmod(active.pair, graph.width)
    kept = _contenders(query, active.units, queries, top)
    query, slot, units, parent = query[kept], slot[kept], active.units[kept], active.parent[kept]
    order = np.lexsort((graph.ids[slot], -units, query))
    order = order[_rank(query[order]) < top]
    cell = (query[order], _rank(query[order]))
    slots = np.full((queries, top), -1, np.int64)
    parents = np.full((queries, top), -1, np.int64)
    activations = np.zeros((queries, top), np.float32)
    slots[cell] = slot[order]
    parents[cell] = parent[order]
    activations[cell] = units[order] / _ONE
    return Spreading(slots, activations, parents)


def _contenders(query: Slots, units: Slots, queries: int, top: int) -> Slots:
    """Return the positions of at least the ``top`` strongest of each query, without sorting."""
    rank = _rank(query)
    longest = int(rank.max(initial=-1)) + 1
    if longest <= top:
        return np.arange(len(query))
    table = np.zeros((queries, longest), np.int64)
    table[query, rank] = units
    least = np.partition(table, longest - top, axis=1)[:, longest - top]
    return np.flatnonzero(units >= least[query])


def _rank(query: Slots) -> Slots:
    """Return the position of each entry within its query; ``query`` ascends."""
    return np.arange(len(query)) - np.searchsorted(query, query)
