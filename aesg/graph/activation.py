"""Retrieval as arrays: seeds, followed successors, spreading activation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aesg.graph.scope import Scope
from storage_backends.adjacency import Adjacency
from storage_backends.columns import Slots
from storage_backends.spreading import Part, Spread, spread
from storage_backends.types import EdgeKind, Floats, Ids, ValueKind

#: Successor edges lead to what comes next, so they widen no position of a sequence.
WITHIN = int(EdgeKind.COACTIVATION | EdgeKind.VALUE | EdgeKind.ABSTRACTION)
ALL_KINDS = int(WITHIN | EdgeKind.SUCCESSOR)
_SUCCESSOR = np.uint32(EdgeKind.SUCCESSOR)


@dataclass(frozen=True)
class Recall:
    """Concepts that a batch of queries activated.

    Parameters
    ----------
    slots : (N, K) int64
        Slots of a `Scope`, descending by activation; -1 pads.
    activations : (N, K) float32
        In [0, hops + 1]; 0 where padded.
    paths : (N, K, H) int64
        The slots that activation came through in at most ``H`` hops: the one that first sent it to
        the concept, the one that had sent it to that, and so on to a seed. -1 follows the seed,
        and is all that a seed has itself. Slots in between need not be among ``slots``.
    seeds : (N, S) int64
        Slots where activation began; -1 pads.
    begun : (N, S) float32
        Activation that they began with; 0 where padded.
    followed : (N,) bool
        True where the seeds came along successor edges and the search was skipped.
    """

    slots: Slots
    activations: Floats
    paths: Slots
    seeds: Slots
    begun: Floats
    followed: NDArray[np.bool_]


@dataclass(frozen=True)
class Before:
    """The position before the first of each of ``B`` sequences, and what came there.

    Parameters
    ----------
    seeds : (B, S) int64
        Slots where activation began; -1 pads.
    begun : (B, S) float32
        Activation that they began with.
    outcomes : (B,) int64
    known : (B,) bool
        Where the outcome is known.
    """

    seeds: Slots
    begun: Floats
    outcomes: NDArray[np.int64]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class _Seeds:
    """Where activation begins: ``(N, S)`` slots and activations, and which were followed."""

    slots: Slots
    activations: Floats
    followed: NDArray[np.bool_]


def recall(
    scope: Scope, queries: Floats, k: int, settings: Spread, origins: Ids | None = None
) -> Recall:
    """Activate concepts from the nearest neighbours of independent queries.

    Parameters
    ----------
    scope : Scope
    queries : (N, D) float32
        Unit vectors.
    k : int
        Concepts for each query.
    settings : Spread
    origins : (N,) uint64 or None
        Concepts of a query's own origin stay out of its result.
    """
    seeds = _Seeds(*_searched(scope, queries, k, origins), np.zeros(len(queries), np.bool_))
    return _spread_from(scope, seeds, settings, origins)


def recall_sequences(
    scope: Scope,
    queries: Floats,
    outcomes: NDArray[np.int64],
    known: NDArray[np.bool_],
    k: int,
    settings: Spread,
    origins: Ids | None = None,
    before: Before | None = None,
) -> Recall:
    """Activate concepts for the positions of sequences, following successors before searching.

    Where a seed of one position had the value that really came, its successors are the seeds of
    the next position, and nothing is searched there (Alon et al., 2022, "Neuro-symbolic language
    modeling with automaton-augmented retrieval"). Position ``t`` depends on ``outcomes[:, :t]``
    only, and on no other sequence of the batch.

    Parameters
    ----------
    scope : Scope
    queries : (B, T, D) float32
        Unit vectors.
    outcomes : (B, T) int64
        What came after each position.
    known : (B, T) bool
        Where an outcome is known.
    k, settings, origins
        As for `recall`; ``origins`` is ``(B,)``.
    before : Before or None
        The position that the first ones follow; None where sequences begin. Position by position
        gives what all at once do.

    Returns
    -------
    Recall
        Of ``B * T`` rows, sequence after sequence.
    """
    batch, time, _ = queries.shape
    slots = np.full((batch, time, k), -1, np.int64)
    activations = np.zeros((batch, time, k), np.float32)
    followed = np.zeros((batch, time), np.bool_)
    for t in range(time):
        if t:
            last = t - 1
            before = Before(slots[:, last], activations[:, last], outcomes[:, last], known[:, last])
        if before is not None:
            slots[:, t], activations[:, t] = _onward(scope, before, k, settings, origins)
        followed[:, t] = slots[:, t, 0] >= 0
        lost = np.flatnonzero(~followed[:, t])
        if len(lost):
            own = None if origins is None else origins[lost]
            asked = np.ascontiguousarray(queries[lost, t])
            slots[lost, t], activations[lost, t] = _searched(scope, asked, k, own)
    flat = slots.reshape(batch * time, k)  # (B * T, K)
    seeds = _Seeds(flat, activations.reshape(flat.shape), followed.reshape(-1))
    return _spread_from(
        scope, seeds, settings, None if origins is None else np.repeat(origins, time)
    )


def _searched(scope: Scope, queries: Floats, k: int, origins: Ids | None) -> tuple[Slots, Floats]:
    """Return the nearest concepts, ``(N, k)``, and what they begin with, the most active first."""
    slots, cosines = scope.search(queries, k, origins)
    activations = scope.seed_activations(slots, cosines)
    if not scope.guests:
        return slots, activations
    order = np.argsort(-activations, axis=1, kind="stable")
    return np.take_along_axis(slots, order, 1), np.take_along_axis(activations, order, 1)


def _onward(
    scope: Scope, before: Before, k: int, settings: Spread, origins: Ids | None
) -> tuple[Slots, Floats]:
    """Return the successors, ``(B, k)``, of seeds that had the value that came; -1 pads."""
    if not before.known.any():
        return _nowhere(len(before.seeds), k)
    seeds = scope.at(before.seeds)
    match = (seeds.value_ids == before.outcomes[:, None]) & before.known[:, None]
    right = match & (seeds.value_kinds == ValueKind.INTEGER) & (seeds.slots >= 0)
    heard = np.where(right, before.begun, np.float32(0))
    return _successors(scope, seeds.slots, heard, k, settings, origins)


def _successors(
    scope: Scope,
    slots: Slots,
    activations: Floats,
    k: int,
    settings: Spread,
    origins: Ids | None,
) -> tuple[Slots, Floats]:
    """Return the successors of active concepts, ``(B, k)``, strongest first; -1 pads."""
    row, column = np.nonzero(activations > 0)
    if not len(row):
        return _nowhere(len(slots), k)
    source, sent = slots[row, column], activations[row, column]
    provisional = scope.is_provisional(source)
    chained = scope.find(scope.shortterm.entries["next"][source[provisional] - scope.firsts[-1]])
    owner, onward, share = _shares(scope, source[~provisional], settings)
    target = np.concatenate([chained, onward])
    heard = np.concatenate([sent[provisional], sent[~provisional][owner] * share])
    row = np.concatenate([row[provisional], row[~provisional][owner]])
    source = np.concatenate([source[provisional], source[~provisional][owner]])
    kept = target >= 0
    if origins is not None:
        own = scope.excluded(np.stack([source, target]), origins[row])
        kept &= ~own.any(axis=0)
    return _grouped(row[kept], target[kept], heard[kept].astype(np.float32), len(slots), k)


def _shares(
    scope: Scope, sources: Slots, settings: Spread
) -> tuple[Slots, Slots, NDArray[np.float64]]:
    """Return the successor edges of concepts: index of the source, target and share of each."""
    found = []
    for view, (first, end) in zip(scope.views, pairwise(scope.firsts), strict=True):
        chosen = np.flatnonzero((sources >= first) & (sources < end))
        owner, target, share = _shares_in(view.adjacency, sources[chosen] - first, settings)
        found.append((chosen[owner], first + target, share))
    owners, targets, shares = (np.concatenate(each) for each in zip(*found, strict=True))
    return owners, targets, shares


def _shares_in(
    adjacency: Adjacency, sources: Slots, settings: Spread
) -> tuple[Slots, Slots, NDArray[np.float64]]:
    """Do what `_shares` does in one graph."""
    leading = np.flatnonzero(adjacency.kinds(sources) & _SUCCESSOR)
    sources = sources[leading]
    owner, places = adjacency.positions(sources)
    onward = np.flatnonzero(adjacency.rest.field("kind")[places] & _SUCCESSOR)
    owner, leads = owner[onward], adjacency.leads[places[onward]]
    fading = settings.fading
    age = np.maximum(settings.epoch - adjacency.epochs(sources).astype(np.int64), 0)
    strength = leads["strength"] * fading[np.minimum(age, len(fading) - 1)][owner]
    fan = np.maximum(np.bincount(owner, strength, len(sources)), 1.0)
    return leading[owner], leads["target"].astype(np.int64), strength / fan[owner]


def _grouped(
    row: Slots, slot: Slots, activation: Floats, rows: int, k: int
) -> tuple[Slots, Floats]:
    """Collect (row, slot, activation) triples into ``(rows, k)`` arrays, keeping the maximum."""
    slots, activations = _nowhere(rows, k)
    order = np.lexsort((-activation, slot, row))
    row, slot, activation = row[order], slot[order], activation[order]
    fresh = np.ones(len(row), np.bool_)
    fresh[1:] = (row[1:] != row[:-1]) | (slot[1:] != slot[:-1])
    row, slot, activation = row[fresh], slot[fresh], activation[fresh]
    order = np.lexsort((slot, -activation, row))
    row, slot, activation = row[order], slot[order], activation[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < k
    slots[row[kept], rank[kept]] = slot[kept]
    activations[row[kept], rank[kept]] = activation[kept]
    return slots, activations


def _nowhere(rows: int, k: int) -> tuple[Slots, Floats]:
    return np.full((rows, k), -1, np.int64), np.zeros((rows, k), np.float32)


def _spread_from(scope: Scope, seeds: _Seeds, settings: Spread, origins: Ids | None) -> Recall:
    """Let seeds activate their neighbours in the graphs; provisional concepts have no edges."""
    slots, activations = seeds.slots, seeds.activations
    in_graph = np.where(scope.is_provisional(slots), -1, slots)
    rows = _leading(scope, in_graph, settings)
    if len(rows) == len(slots):
        found = _widened(scope, slots, in_graph, activations, settings, origins)
        return Recall(*found, slots, activations, seeds.followed)
    paths = np.full((*slots.shape, settings.hops), -1, np.int64)
    if len(rows):
        own = None if origins is None else origins[rows]
        slots, activations = slots.copy(), activations.copy()
        slots[rows], activations[rows], paths[rows] = _widened(
            scope, slots[rows], in_graph[rows], activations[rows], settings, own
        )
    return Recall(slots, activations, paths, seeds.slots, seeds.activations, seeds.followed)


def _leading(scope: Scope, in_graph: Slots, settings: Spread) -> Slots:
    """Return the queries of which a seed has an edge to follow."""
    if not settings.hops or not any(view.edge_count for view in scope.views):
        return np.empty(0, np.int64)
    kinds = scope.edge_kinds(in_graph)
    return np.flatnonzero((kinds & np.uint32(settings.kinds)).any(axis=1))


def _widened(
    scope: Scope,
    slots: Slots,
    in_graph: Slots,
    activations: Floats,
    settings: Spread,
    origins: Ids | None,
) -> tuple[Slots, Floats, Slots]:
    """Spread from the seeds of some queries; return slots, activations and paths.

    A query's own concepts are left out, and what activation first came to through one of them, as
    paths tell. What it came to another way first stays, with all the activation that it got: how
    much of that came through own concepts is not told apart.
    """
    k = slots.shape[1]
    result = spread(
        [Part(view.adjacency, view.ids, view.regions) for view in scope.views],
        in_graph,
        activations,
        settings,
        k if origins is None else 2 * k,  # own concepts fall away, and what they led to
    )
    provisional = np.where(in_graph >= 0, -1, slots)
    if origins is None and (provisional < 0).all():
        return result.slots, result.activations, result.paths
    slots = np.concatenate([result.slots, provisional], axis=1)
    heard = np.concatenate([result.activations, activations], axis=1)
    no_paths = np.full((*provisional.shape, settings.hops), -1, np.int64)
    paths = np.concatenate([result.paths, no_paths], axis=1)
    if origins is not None:
        own = scope.excluded(slots, origins[:, None])
        row, place, hop = np.nonzero(paths >= 0)
        through = scope.excluded(paths[row, place, hop], origins[row])
        own[row[through], place[through]] = True
        slots = np.where(own, -1, slots)
    order = _order(scope, slots, heard)[:, :k]
    slots = np.take_along_axis(slots, order, 1)
    here = slots >= 0
    heard = np.where(here, np.take_along_axis(heard, order, 1), np.float32(0))
    paths = np.take_along_axis(paths, order[:, :, None], 1)
    return slots, heard, np.where(here[:, :, None], paths, -1)


def _order(scope: Scope, slots: Slots, heard: Floats) -> Slots:
    """Return the places of each row, the most active first, of equals that of the lowest id."""
    rank = np.where(slots >= 0, -heard, np.float32(np.inf))
    order = np.argsort(rank, axis=1, kind="stable")
    ranked = np.take_along_axis(rank, order, 1)
    tied = (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] < np.inf)
    rows = np.flatnonzero(tied.any(axis=1))
    if len(rows):
        order[rows] = np.lexsort((scope.ids(slots[rows]), rank[rows]), axis=1)
    return order
