"""Fan-normalised spreading activation for a batch of queries, in numpy.

A concept passes on ``activation * hop_decay * share``. The shares of its out-edges are
``weight * confidence`` (times the region multiplier where the target lies in the query's dominant
region), divided by their sum where that exceeds one. Without this normalisation activation
multiplies on dense graphs until the seeds fall out of the result (the fan effect: Anderson, 1983,
"A spreading activation theory of memory"). Each hop sends only what arrived in the hop before.

Activations are summed as integers, so that the result does not depend on the order of summation,
on the other queries of the batch or on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency, Slots, strengths
from storage_backends.types import Floats, Ids

#: Units of one whole activation. Float64 holds every sum that occurs exactly (below 2**53).
_ONE = float(2**32)


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
        The slot that first sent activation here; -1 for a seed and where padded.
    """

    slots: Slots
    activations: Floats
    parents: Slots


@dataclass(frozen=True)
class _Active:
    """Active (query, slot) pairs, sorted by pair and without repeats."""

    pair: Slots  # query * slots + slot
    units: Slots  # activation in units of 1 / _ONE
    parent: Slots


def spread(
    adjacency: Adjacency,
    ids: Ids,
    regions: NDArray[np.uint32],
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
    ids : (M,) uint64
        Concept id of each slot, which breaks ties.
    regions : (M,) uint32
        Region of each slot; 0 means none.
    seeds : (N, S) int64
        Seed slots of each query; -1 pads.
    activations : (N, S) float32
        Activation of each seed, in [0, 1].
    settings : Spread
    top : int
        Slots to return for each query.
    """
    width = max(len(ids), 1)
    active = _seeded(seeds, activations, width)
    if settings.hops and adjacency.edge_count:
        favoured = _dominant_regions(active, regions, width, len(seeds))
        arrived = active
        for _ in range(settings.hops):
            arrived = _sent(adjacency, arrived, regions, favoured, settings, width)
            if not len(arrived.pair):
                break
            active = _merged([active, arrived])
    return _strongest(active, ids, width, len(seeds), top)


def _seeded(seeds: Slots, activations: Floats, width: int) -> _Active:
    query, column = np.nonzero(seeds >= 0)
    pair = query * width + seeds[query, column]
    units = np.floor(activations[query, column].astype(np.float64) * _ONE).astype(np.int64)
    return _merged([_Active(pair, units, np.full(len(pair), -1, np.int64))])


def _sent(
    adjacency: Adjacency,
    active: _Active,
    regions: NDArray[np.uint32],
    favoured: NDArray[np.uint32],
    settings: Spread,
    width: int,
) -> _Active:
    """Return what the active pairs send along their out-edges in one hop."""
    query, slot = np.divmod(active.pair, width)
    owner, edges = adjacency.expand(slot)
    followed = (edges["kind"] & np.uint32(settings.kinds)) != 0
    owner, edges = owner[followed], edges[followed]
    target: Slots = edges["target"]
    share = strengths(edges).astype(np.float64)
    if settings.region_multiplier != 1.0:
        region = regions[target]
        inside = (region != 0) & (region == favoured[query[owner]])
        share = np.where(inside, share * settings.region_multiplier, share)
    share /= np.maximum(np.bincount(owner, share, len(slot)), 1.0)[owner]
    units = np.floor(active.units[owner] * (settings.decay * share)).astype(np.int64)
    loud = units >= settings.floor * _ONE
    owner = owner[loud]
    return _merged([_Active(query[owner] * width + target[loud], units[loud], slot[owner])])


def _merged(parts: list[_Active]) -> _Active:
    """Add the activations of equal pairs; the parent is that of the earliest, then strongest."""
    pair = np.concatenate([part.pair for part in parts])
    units = np.concatenate([part.units for part in parts])
    parent = np.concatenate([part.parent for part in parts])
    stage = np.repeat(np.arange(len(parts)), [len(part.pair) for part in parts])
    order = np.lexsort((parent, -units, stage, pair))
    pair, parent = pair[order], parent[order]
    first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]]) if len(pair) else order
    total = np.add.reduceat(units[order], first) if len(pair) else units
    return _Active(pair[first], total, parent[first])


def _dominant_regions(
    active: _Active, regions: NDArray[np.uint32], width: int, queries: int
) -> NDArray[np.uint32]:
    """Return the region that holds most of each query's seed activation; 0 where none does."""
    query, slot = np.divmod(active.pair, width)
    region = regions[slot]
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


def _strongest(active: _Active, ids: Ids, width: int, queries: int, top: int) -> Spreading:
    query, slot = np.divmod(active.pair, width)
    order = np.lexsort((ids[slot], -active.units, query))
    query, slot = query[order], slot[order]
    begins = np.searchsorted(query, np.arange(queries))
    rank = np.arange(len(query)) - begins[query]
    kept = rank < top
    place = (query[kept], rank[kept])
    slots = np.full((queries, top), -1, np.int64)
    parents = np.full((queries, top), -1, np.int64)
    activations = np.zeros((queries, top), np.float32)
    slots[place] = slot[kept]
    parents[place] = active.parent[order][kept]
    activations[place] = active.units[order][kept] / _ONE
    return Spreading(slots, activations, parents)
