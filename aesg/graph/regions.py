"""Regions: communities of concepts that are connected more densely than others.

A direction of an edge does not matter here: two concepts are as near as their edges to each other
are strong (``weight * confidence``, as the rows state it). The first detection looks at everything;
a later one starts from the regions that are there and moves only what the changes unsettle, in the
way of dynamic community detection (Sahu, 2024, "DF Louvain"). A region that the changes touched in
good part is taken apart and found anew. Found regions are connected.

The result depends on ids, edges and the regions before, not on the numbering of slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.graph.clock import microseconds
from aesg.graph.communities import (
    Graph,
    Links,
    Partition,
    Rows,
    communities,
    connected,
    settle,
    sorted_with_order,
    summed,
    sums,
)
from storage_backends.columns import Slots
from storage_backends.types import EVENT, EventType, WriteBatch
from storage_backends.view import View

#: Concepts that a region has at least.
LEAST_SIZE = 3

#: Share of concepts that changed, of all or of one region, above which the regions there are not
#: what to start from.
_MUCH = 0.25

#: Whole units of the strongest edge.
_ONE = 2**20

#: Slots whose edges are read at a time.
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Found:
    """Regions of a graph.

    Parameters
    ----------
    regions : (N,) uint32
        Region of each slot, counted from 1; 0 where there is none.
    count : int
        Number of regions.
    modularity : float
        Share of the edges' strength that lies within regions, less the share that would by
        chance, in [-0.5, 1]; 0 where there is no edge.
    """

    regions: NDArray[np.uint32]
    count: int
    modularity: float


def detect(view: View, previous: NDArray[np.uint32], changed: Slots | None) -> Found:
    """Find the regions of the graph.

    Parameters
    ----------
    view : View
    previous : (N,) uint32
        Region of each slot up to now, 0 for none. A region keeps the number of the one that it
        shares most concepts with; others get the lowest numbers that are free.
    changed : (M,) int64 or None
        Slots that were born or whose out-edges changed since ``previous`` was found, and those that
        lost an edge from a concept that is gone; None stands for all. Concepts that have edges and
        no region need not be named: they are looked at in any case.

    Returns
    -------
    Found
        Concepts without edges and those in communities of less than three have no region.

    Notes
    -----
    A first detection takes two to three microseconds of CPU time for each edge. A later one passes
    over all edges, at 0.3 microseconds each, and beyond that costs what the changes unsettle.
    Nothing is changed until it returns, so that it may be interrupted.
    """
    nodes = _Nodes.of(view)
    before = previous.astype(np.int64)[nodes.slot]
    if changed is None or len(changed) > _MUCH * view.node_count or not before.any():
        labels, within = _afresh(nodes)
    else:
        labels, within = _onwards(nodes, before, np.unique(nodes.node[changed]))
    regions = _numbered(_sized(labels, nodes.degrees), before)[nodes.node].astype(np.uint32)
    count = int(np.count_nonzero(np.bincount(regions)[1:]))
    return Found(regions, count, _modularity(labels, nodes.degrees, within))


def regroup(view: View, found: Found) -> WriteBatch | None:
    """Return what gives the concepts the regions found.

    Parameters
    ----------
    view : View
        The one that they were found in.
    found : Found

    Returns
    -------
    WriteBatch or None
        Statistics of the concepts whose region changed, and the event; None where none did.
    """
    slots = np.flatnonzero((view.regions.whole() != found.regions) & view.alive.whole())
    if not len(slots):
        return None
    stats = view.stats[slots]
    stats["region"] = found.regions[slots]
    event = (microseconds() // 1_000_000, EventType.RESTRUCTURE, 0, found.count, found.modularity)
    return WriteBatch(stats_ids=view.ids[slots], stats=stats, events=np.array([event], EVENT))


@dataclass(frozen=True)
class _Nodes:
    """The graph as communities are found in it.

    Nodes are the slots in an order that follows from the order of the concept ids alone and says
    nothing of who is near whom.
    """

    view: View
    slot: Slots  # of each node
    node: Slots  # of each slot
    degrees: Slots  # of each node

    @classmethod
    def of(cls, view: View) -> _Nodes:
        slot = np.argsort(_scattered(_ranks(view)), kind="stable")
        node = np.empty(len(slot), np.int64)
        node[slot] = np.arange(len(slot))
        degrees = np.zeros(len(slot), np.int64)
        for one, other, units in _links(view, np.arange(view.size)):
            degrees += sums(one, units, len(slot)) + sums(other, units, len(slot))
        return cls(view, slot, node, degrees[slot])

    def links(self, nodes: Slots) -> Iterator[Links]:
        """Yield the out-edges of some nodes, some at a time: source, target, weight."""
        for one, other, units in _links(self.view, np.sort(self.slot[nodes])):
            yield self.node[one], self.node[other], units

    def reach(self, nodes: Slots) -> Rows:
        """Return the rows of some nodes, which ascend: their edges at both of their ends."""
        slots = self.slot[nodes]
        owner, ends, units = _out(self.view, slots)
        sources = self.view.adjacency.sources_of(slots)
        source, target, back = _out(self.view, sources)
        among = np.full(len(self.slot), -1, np.int64)
        among[slots] = np.arange(len(slots))
        into = among[target] >= 0
        owner, order = sorted_with_order(np.concatenate([owner, among[target[into]]]))
        ends = self.node[np.concatenate([ends, sources[source[into]]])]
        start = np.searchsorted(owner, np.arange(len(nodes) + 1))
        graph = Graph(start, ends[order], np.concatenate([units, back[into]])[order])
        return lambda some: graph.rows(np.searchsorted(nodes, some).astype(np.int64))


def _links(view: View, slots: Slots) -> Iterator[Links]:
    """Yield the out-edges of some slots, some at a time: source, target, weight."""
    for begin in range(0, len(slots), _CHUNK):
        some = slots[begin : begin + _CHUNK]
        owner, target, units = _out(view, some)
        yield some[owner], target, units


def _out(view: View, slots: Slots) -> Links:
    """Return the out-edges of some slots: place among them, target, weight."""
    owner, positions = view.adjacency.positions(slots)
    leads = view.adjacency.leads[positions]
    units = np.rint(leads["strength"].astype(np.float64) * _ONE).astype(np.int64)
    return owner, leads["target"].astype(np.int64), units


def _ranks(view: View) -> NDArray[np.uint64]:
    """Return how many live concepts have a lower id, for each slot; tombstones come last."""
    ranks = np.empty(view.size, np.uint64)
    order = np.lexsort((view.ids.whole(), ~view.alive.whole()))
    ranks[order] = np.arange(view.size, dtype=np.uint64)
    return ranks


def _scattered(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for each that says nothing of its neighbours' (SplitMix64)."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


def _afresh(nodes: _Nodes) -> tuple[Slots, int]:
    """Return a community of each node, found from nothing, and the weight within them."""
    every = np.arange(len(nodes.slot))
    labels, within = _gathered(nodes, every)
    return _connected(nodes, labels, every), within


def _onwards(nodes: _Nodes, previous: Slots, changed: Slots) -> tuple[Slots, int]:
    """Return a community of each node, found from those before, and the weight within them."""
    alone = int(previous.max(initial=0)) + 1 + np.arange(len(previous))
    loose = (previous == 0) | _much_changed(previous, changed)[previous]
    partition = Partition.of(np.where(loose, alone, previous), nodes.degrees)
    _, near, _ = nodes.reach(changed)(changed)
    active = [changed, near, np.flatnonzero(loose & (nodes.degrees > 0))]
    touched = settle(nodes.reach, partition, np.unique(np.concatenate(active)))
    labels, within = _gathered(nodes, partition.labels)
    unsure = np.bincount(labels[touched], minlength=int(labels.max(initial=0)) + 1) > 0
    return _connected(nodes, labels, np.flatnonzero(unsure[labels])), within


def _gathered(nodes: _Nodes, labels: Slots) -> tuple[Slots, int]:
    """Return communities of what has the same label, and the weight of the edges within them."""
    kept, joined = np.unique(labels, return_inverse=True)
    graph = Graph.of(nodes.links(nodes.node), joined, len(kept))
    found = communities(graph, sums(joined, nodes.degrees, len(kept)))
    one, other, units = graph.links()
    apart = int(units[found[one] != found[other]].sum())
    return found[joined], int(nodes.degrees.sum()) // 2 - apart


def _connected(nodes: _Nodes, labels: Slots, unsure: Slots) -> Slots:
    """Return labels of which those of unsure nodes, whole communities, are new and connected."""
    inside = (
        (one[near], other[near], units[near])
        for one, other, units in nodes.links(unsure)
        for near in (labels[one] == labels[other],)
    )
    lowest = connected(inside, len(labels))
    after = labels.copy()
    after[unsure] = int(labels.max(initial=0)) + 1 + lowest[unsure]
    return after


def _much_changed(previous: Slots, changed: Slots) -> NDArray[np.bool_]:
    """Return whether each region changed so much that it is to be taken apart."""
    sizes = np.bincount(previous)
    return np.bincount(previous[changed], minlength=len(sizes)) > _MUCH * sizes


def _modularity(labels: Slots, degrees: Slots, within: int) -> float:
    whole = int(degrees.sum())
    if not whole:
        return 0.0
    totals = np.unique(labels, return_inverse=True)[1]
    shares = np.bincount(totals, degrees) / whole
    return float(2 * within / whole - (shares**2).sum())


def _sized(labels: Slots, degrees: Slots) -> Slots:
    """Return labels counted from 1, and 0 where there is no edge or a community is too small."""
    joined = degrees > 0
    sizes = np.bincount(labels[joined], minlength=int(labels.max(initial=-1)) + 1)
    return np.where(joined & (sizes[labels] >= LEAST_SIZE), labels + 1, 0)


def _numbered(labels: Slots, previous: Slots) -> Slots:
    """Return labels as numbers of regions, like those before where most concepts are the same.

    New numbers go to the largest first.
    """
    count = int(labels.max(initial=0)) + 1
    numbers = np.zeros(count, np.int64)
    held = (labels > 0) & (previous > 0)
    width = int(previous.max(initial=0)) + 1
    pair, shared = summed(labels[held] * width + previous[held], np.ones(held.sum(), np.int64))
    label, old = np.divmod(pair, width)
    taken = np.zeros(width, np.bool_)
    for place in np.lexsort((label, old, -shared)).tolist():
        if not numbers[label[place]] and not taken[old[place]]:
            numbers[label[place]] = old[place]
            taken[old[place]] = True
    sizes = np.bincount(labels, minlength=count)
    sizes[0] = 0
    new = np.flatnonzero((sizes > 0) & (numbers == 0))
    new = new[np.argsort(-sizes[new], kind="stable")]
    free = np.setdiff1d(np.arange(1, width + len(new) + 1), np.flatnonzero(taken))
    numbers[new] = free[: len(new)]
    return numbers[labels]
