"""Spreading activation in numpy: what the kernel does, for where there is no compiler.

An active (query, concept) pair is one integer, ``query * width + slot``. Concept ids are looked up
only where they break a tie, so that the cost does not depend on the size of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import ragged_positions
from storage_backends.columns import Column, Slots
from storage_backends.spreading.model import ONE, Part, Spread, Spreading
from storage_backends.types import Floats, Ids

Scalar = TypeVar("Scalar", bound=np.generic)

#: Queries that are spread together: enough to make numpy worth it, few enough for the cache.
_BLOCK = 256


@dataclass(frozen=True)
class _Graph:
    """Several parts under one range of slots."""

    parts: Sequence[Part]
    first: Slots  # (P,) slot that each part begins at
    width: int

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Graph:
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(parts, np.append(0, ends[:-1]), max(int(ends[-1]), 1))

    def part_of(self, slots: Slots) -> Slots:
        return np.searchsorted(self.first, slots, side="right") - 1

    def ids(self, slots: Slots) -> Ids:
        part = self.part_of(slots)
        return _gathered([each.ids for each in self.parts], part, slots - self.first[part])

    def regions(self, slots: Slots) -> NDArray[np.uint32]:
        part = self.part_of(slots)
        return _gathered([each.regions for each in self.parts], part, slots - self.first[part])


def _gathered(columns: Sequence[Column[Scalar]], part: Slots, index: Slots) -> NDArray[Scalar]:
    """Return row ``index`` of the column of each ``part``."""
    if len(columns) == 1:
        return columns[0][index]
    rows = np.empty(len(index), columns[0].dtype)
    for number, column in enumerate(columns):
        chosen = np.flatnonzero(part == number)
        if len(chosen):
            rows[chosen] = column[index[chosen]]
    return rows


@dataclass(frozen=True)
class _Active:
    """Active pairs, ascending and without repeats."""

    pair: Slots
    units: Slots  # activation in units of 1 / ONE
    parent: Slots  # slot; -1 for a seed

    def __getitem__(self, chosen: Slots | NDArray[np.bool_]) -> _Active:
        return _Active(self.pair[chosen], self.units[chosen], self.parent[chosen])


def spread(
    parts: Sequence[Part], seeds: Slots, activations: Floats, settings: Spread, top: int
) -> Spreading:
    """Propagate activation from seeds, as `storage_backends.spreading.spread` says."""
    graph = _Graph.of(parts)
    blocks = [
        _spread_block(
            graph, seeds[begin : begin + _BLOCK], activations[begin : begin + _BLOCK], settings, top
        )
        for begin in range(0, max(len(seeds), 1), _BLOCK)
    ]
    return Spreading(
        np.concatenate([block.slots for block in blocks]),
        np.concatenate([block.activations for block in blocks]),
        np.concatenate([block.paths for block in blocks]),
    )


def _spread_block(
    graph: _Graph, seeds: Slots, activations: Floats, settings: Spread, top: int
) -> Spreading:
    queries = len(seeds)
    arrived = active = _seeded(graph, seeds, activations)
    favoured = np.zeros((queries, len(graph.parts)), np.uint32)
    if settings.hops and settings.region_multiplier != 1.0:
        favoured = _dominant_regions(graph, active, queries)
    for _ in range(settings.hops):
        if settings.frontier:
            arrived = arrived[_strongest(graph, arrived, queries, settings.frontier)[0]]
        arrived = _sent(graph, arrived, favoured, settings)
        if not len(arrived.pair):
            break
        active = _with_arrived(active, arrived)
    return _result(graph, active, queries, settings.hops, top)


def _seeded(graph: _Graph, seeds: Slots, activations: Floats) -> _Active:
    query, column = np.nonzero(seeds >= 0)
    slot = seeds[query, column]
    weight = np.array([part.weight for part in graph.parts])[graph.part_of(slot)]
    heard = activations[query, column].astype(np.float64) * weight
    units = np.floor(heard * ONE).astype(np.int64)
    pair = query * graph.width + slot
    order = np.argsort(pair, kind="stable")
    first = _first_of_runs(pair[order])
    total = np.add.reduceat(units[order], first) if len(first) else units
    return _Active(pair[order][first], total, np.full(len(first), -1, np.int64))


def _dominant_regions(graph: _Graph, active: _Active, queries: int) -> NDArray[np.uint32]:
    """Return the region that holds most of the seeds' activation, by query and part.

    It is 0 where no seed has a region; of several the lowest.
    """
    query, slot = np.divmod(active.pair, graph.width)
    region = graph.regions(slot)
    favoured = np.zeros(queries * len(graph.parts), np.uint32)
    inside = region != 0
    if inside.any():
        place = query * len(graph.parts) + graph.part_of(slot)
        held, inverse = np.unique(
            np.stack([place[inside], region[inside].astype(np.int64)]), axis=1, return_inverse=True
        )
        total = np.zeros(held.shape[1], np.int64)
        np.add.at(total, inverse.ravel(), active.units[inside])
        order = np.lexsort((-held[1], total))  # the last write wins: heaviest, then lowest region
        favoured[held[0][order]] = held[1][order]
    return favoured.reshape(queries, len(graph.parts))


def _sent(
    graph: _Graph, active: _Active, favoured: NDArray[np.uint32], settings: Spread
) -> _Active:
    """Return what the active pairs send along their out-edges in one hop."""
    # No share exceeds one, so that these send nothing that reaches the floor.
    active = active[active.units * settings.decay >= settings.least]
    query, slot = np.divmod(active.pair, graph.width)
    part = graph.part_of(slot)
    rows = _gathered([each.adjacency.rows for each in graph.parts], part, slot - graph.first[part])
    owner, target, share, fan = _shares(graph, part, rows, favoured[query, part], settings)
    age = np.maximum(settings.epoch - rows["epoch"].astype(np.int64), 0)
    fading = settings.fading[np.minimum(age, len(settings.fading) - 1)]
    passed = active.units * (settings.decay * fading / np.maximum(fan * fading, 1.0))
    heard = passed[owner] * share
    loud = heard >= settings.least
    owner, units = owner[loud], np.floor(heard[loud]).astype(np.int64)
    return _summed(graph, query[owner] * graph.width + target[loud], units, slot[owner])


def _shares(
    graph: _Graph,
    part: Slots,
    rows: NDArray[np.void],
    favoured: NDArray[np.uint32],
    settings: Spread,
) -> tuple[Slots, Slots, NDArray[np.float64], NDArray[np.float64]]:
    """Return the edges to follow (row, target and share of each), and the sum of each row.

    Where a row is followed whole and no region is favoured, its sum is the one that it states.
    """
    count = rows["count"].astype(np.int64)
    owner = np.repeat(np.arange(len(rows)), count)
    place = ragged_positions(rows["start"], count)
    whole = (rows["kinds"] & ~np.uint32(settings.kinds)) == 0
    if not whole.all():
        followed = whole[owner]
        mixed = np.flatnonzero(~followed)
        kinds = [each.adjacency.rest.field("kind") for each in graph.parts]
        kind = _gathered(kinds, part[owner[mixed]], place[mixed])
        followed[mixed] = (kind & np.uint32(settings.kinds)) != 0
        owner, place = owner[followed], place[followed]
    leads = _gathered([each.adjacency.leads for each in graph.parts], part[owner], place)
    target = leads["target"] + graph.first[part][owner]
    share = leads["strength"].astype(np.float64)
    if favoured.any():
        inside = (favoured != 0)[owner] & (graph.regions(target) == favoured[owner])
        share[inside] *= settings.region_multiplier
    summed = np.bincount(owner, share, len(rows))
    return owner, target, share, np.where(whole & (favoured == 0), rows["total"], summed)


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
        most = most[np.lexsort((graph.ids(parent[most]), run[most]))]
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


def _result(graph: _Graph, active: _Active, queries: int, hops: int, top: int) -> Spreading:
    chosen, rank = _strongest(graph, active, queries, top)
    query, slot = np.divmod(active.pair[chosen], graph.width)
    slots = np.full((queries, top), -1, np.int64)
    activations = np.zeros((queries, top), np.float32)
    paths = np.full((queries, top, hops), -1, np.int64)
    slots[query, rank] = slot
    activations[query, rank] = active.units[chosen] / ONE
    paths[query, rank] = _paths(graph, active, chosen, hops)
    return Spreading(slots, activations, paths)


def _paths(graph: _Graph, active: _Active, chosen: Slots, hops: int) -> Slots:
    """Return the chain of parents of some active pairs, ``(M, hops)``."""
    paths = np.full((len(chosen), hops), -1, np.int64)
    row, at = np.arange(len(chosen)), chosen
    for hop in range(hops):
        parent = active.parent[at]
        here = parent >= 0
        row, at, parent = row[here], at[here], parent[here]
        paths[row, hop] = parent
        query = active.pair[at] // graph.width
        at = np.searchsorted(active.pair, query * graph.width + parent)
    return paths


def _strongest(graph: _Graph, active: _Active, queries: int, count: int) -> tuple[Slots, Slots]:
    """Return the positions of the ``count`` strongest of each query, and the rank of each.

    Of equal ones the lower part comes first, then the lower id.
    """
    query, slot = np.divmod(active.pair, graph.width)
    kept = _contenders(query, active.units, queries, count)
    query, slot = query[kept], slot[kept]
    order = np.lexsort((graph.ids(slot), graph.part_of(slot), -active.units[kept], query))
    rank = _rank(query[order])
    return kept[order][rank < count], rank[rank < count]


def _contenders(query: Slots, units: Slots, queries: int, count: int) -> Slots:
    """Return the positions of at least the ``count`` strongest of each query, without sorting."""
    rank = _rank(query)
    longest = int(rank.max(initial=-1)) + 1
    if longest <= count:
        return np.arange(len(query))
    table = np.zeros((queries, longest), np.int64)
    table[query, rank] = units
    least = np.partition(table, longest - count, axis=1)[:, longest - count]
    return np.flatnonzero(units >= least[query])


def _rank(query: Slots) -> Slots:
    """Return the position of each entry within its query; ``query`` ascends."""
    return np.arange(len(query)) - np.searchsorted(query, query)
