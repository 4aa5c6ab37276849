"""Merging: concepts that say the same become one, and nothing that led to them is lost.

Two concepts are duplicates where their keys all but coincide and their values agree. The one that
was used more stays and takes over statistics, payload and edges of the other, whose id becomes its
alias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import reached_by
from aesg.graph.clock import Clock
from aesg.graph.consolidation import relevances
from aesg.graph.draft import Draft
from aesg.graph.out_edges import OutEdges
from aesg.graph.retargeting import retargeted, united
from storage_backends.columns import Scalar, Slots
from storage_backends.types import (
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Records,
    ValueKind,
    WriteBatch,
)
from storage_backends.view import View

#: Neighbours of a candidate that are looked at, itself included. What more there is of the same
#: is found when the merged concept is looked at again.
_NEIGHBOURS = 8


@dataclass(frozen=True)
class Pairs:
    """Concepts that are the same, two by two; empty where there are none.

    Parameters
    ----------
    left : (P,) int64
        Slots of the concepts that stay; a slot may occur several times.
    right : (P,) int64
        Slots of the concepts that they take over; each occurs once, and never in ``left``.
    cosines : (P,) float32
        Similarity of the keys of each pair.
    """

    left: Slots
    right: Slots
    cosines: Floats

    def __len__(self) -> int:
        return len(self.left)

    def of(self, rows: Slots | NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.left[rows], self.right[rows], self.cosines[rows])


def duplicates(view: View, candidates: Slots, similarity: float) -> Pairs:
    """Find concepts that are the same as a candidate.

    Parameters
    ----------
    view : View
    candidates : (M,) int64
        Slots to look at; tombstones and concepts without a direction are passed over.
    similarity : float
        Cosine from which two keys, and two vector values, are alike, in [0, 1]. Of what is alike
        the shorter has at least that share of the length of the longer; keys need this only where
        they are the values.

    Returns
    -------
    Pairs
        The more used concept of each pair stays, of equals the one of lower id. All that are
        merged into one are alike to it, not only to one another. A concept and the abstract
        concept above it are no pair.
    """
    candidates = np.unique(candidates)
    candidates = candidates[view.alive[candidates] & (view.norms[candidates] > 0)]
    if not len(candidates):
        return _none()
    slots, cosines = view.index.search(view.keys[candidates], _NEIGHBOURS)
    row, column = np.nonzero((slots >= 0) & (cosines >= similarity))
    found = Pairs(candidates[row], slots[row, column], cosines[row, column])
    found = found.of((found.left != found.right) & (view.norms[found.right] > 0))
    found = _stronger_first(view, found)
    found = found.of(same_value(view, found.left, view, found.right, similarity))
    found = found.of(~_related(view, found))
    return found.of(_grouped(found))


def merge(
    view: View,
    pairs: Pairs,
    payloads: Mapping[int, bytes | None],
    clock: Clock,
    most_edges: int,
    density: int,
) -> WriteBatch | None:
    """Make one concept of each group of duplicates.

    Key and vector value become the mean, weighted by use. Edges from and to a concept that goes
    are edges from and to the one that stays. A pair is left alone where payloads differ, and where
    the two have so many edges that the one would have to be split.

    Parameters
    ----------
    view : View
    pairs : Pairs
        What `duplicates` found in it.
    payloads : mapping of id to bytes or None
        Payloads of all concepts named; None, or no entry, where there is none.
    clock : Clock
    most_edges : int
        Out-edges that a concept may have; the weakest yield.
    density : int
        Out-edges beyond which a concept is split.

    Returns
    -------
    WriteBatch or None
        None where nothing is merged.
    """
    draft = Draft(view, clock)
    merged = []
    for group in _groups(view, pairs, density):
        survivor = int(view.ids[group.left[0]])
        agreeing, payload = _agreeing(view, group, payloads, survivor)
        if not len(agreeing):
            continue
        merged.append(agreeing)
        if payload and not payloads.get(survivor):
            draft.payload(survivor, payload)
    if not merged:
        return None
    draft.put_concepts(_joined(view, merged, draft.now))
    left, right = (np.concatenate([getattr(g, side) for g in merged]) for side in ("left", "right"))
    stands, gone = view.ids[left], view.ids[right]
    _move_edges(draft, left, right, most_edges)
    cosines = np.concatenate([group.cosines for group in merged])
    for survivor, absorbed, cosine in zip(stands, gone, cosines, strict=True):
        draft.delete(int(absorbed))
        draft.alias(int(absorbed), int(survivor))
        draft.note(EventType.MERGE, int(survivor), int(absorbed), float(cosine))
    return draft.batch()


def _none() -> Pairs:
    return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def _stronger_first(view: View, pairs: Pairs) -> Pairs:
    """Return each pair once, who stays on the left; in order of strength, then of cosine."""
    slots = np.unique(np.concatenate([pairs.left, pairs.right]))
    use = view.stats.field("frequency")[slots].astype(np.int64)
    rank = np.empty(len(slots), np.int64)
    rank[np.lexsort((view.ids[slots], -use))] = np.arange(len(slots))
    left = rank[np.searchsorted(slots, pairs.left)]
    right = rank[np.searchsorted(slots, pairs.right)]
    turned = left > right
    stronger = np.where(turned, pairs.right, pairs.left)
    weaker = np.where(turned, pairs.left, pairs.right)
    order = np.lexsort((np.maximum(left, right), -pairs.cosines, np.minimum(left, right)))
    ordered = Pairs(stronger, weaker, pairs.cosines).of(order)
    _, first = np.unique(np.stack([ordered.left, ordered.right]), axis=1, return_index=True)
    return ordered.of(np.sort(first))


def same_value(
    view: View, left: Slots, other: View, right: Slots, similarity: float
) -> NDArray[np.bool_]:
    """Tell which concepts have values of one kind that agree, two by two.

    Parameters
    ----------
    view, other : View
        They may be the same.
    left : (P,) int64
        Slots of ``view``.
    right : (P,) int64
        Slots of ``other``.
    similarity : float
        As for `duplicates`.
    """
    kinds = view.value_kinds[left]
    same: NDArray[np.bool_] = kinds == other.value_kinds[right]
    same &= (view.value_ids[left] == other.value_ids[right]) | (kinds != ValueKind.INTEGER)
    rows = np.flatnonzero(same & (kinds == ValueKind.KEY))
    same[rows] = _as_long(view.norms[left[rows]], other.norms[right[rows]], similarity)
    rows = np.flatnonzero(same & (kinds == ValueKind.VECTOR))
    if len(rows) and view.value_vectors is not None and other.value_vectors is not None:
        one, another = view.value_vectors[left[rows]], other.value_vectors[right[rows]]
        same[rows] = _alike(one, another, similarity)
        same[rows] |= (one == another).all(axis=1)  # zeros have no direction
    return same


def _alike(one: Floats, other: Floats, similarity: float) -> NDArray[np.bool_]:
    """Tell which vectors point the same way and are about as long."""
    product = np.einsum("nd,nd->n", one, other, dtype=np.float64)
    squares = [np.einsum("nd,nd->n", each, each, dtype=np.float64) for each in (one, other)]
    lengths = np.sqrt(squares[0]), np.sqrt(squares[1])
    scale = lengths[0] * lengths[1]
    alike: NDArray[np.bool_] = product / np.where(scale > 0, scale, 1) >= similarity
    return alike & _as_long(*lengths, similarity)


def _as_long(
    one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]], share: float
) -> NDArray[np.bool_]:
    """Tell where the shorter has at least a share of the length of the longer."""
    enough: NDArray[np.bool_] = np.minimum(one, other) >= share * np.maximum(one, other)
    return enough


def _related(view: View, pairs: Pairs) -> NDArray[np.bool_]:
    """Tell which pairs are a concept and the abstract one above it."""
    related = np.zeros(len(pairs), np.bool_)
    for source, target in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
        owner, above = reached_by(view, source, EdgeKind.ABSTRACTION)
        related[owner[above == target[owner]]] = True
    return related


def _grouped(pairs: Pairs) -> Slots:
    """Return the pairs that make groups: who stays is not taken over, and nobody is twice."""
    gone: set[int] = set()
    kept = []
    for row, (left, right) in enumerate(
        zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    ):
        if left not in gone and right not in gone:
            gone.add(right)
            kept.append(row)
    return np.array(kept, np.int64)


def _groups(view: View, pairs: Pairs, density: int) -> Iterator[Pairs]:
    """Yield the pairs of each concept that stays; together they have so many edges at most."""
    if not len(pairs):
        return
    pairs = pairs.of(np.argsort(pairs.left, kind="stable"))
    first = np.flatnonzero(np.diff(pairs.left, prepend=-1))
    held = view.adjacency.counts(pairs.right)
    together = view.adjacency.counts(pairs.left[first]) + np.add.reduceat(held, first)
    ends = np.append(first[1:], len(pairs)).tolist()
    for begin, end, most in zip(first.tolist(), ends, together.tolist(), strict=True):
        group = pairs.of(np.arange(begin, end))
        if most > density:
            group = _sparse(view, group, density)
        if len(group):
            yield group


def _agreeing(
    view: View, group: Pairs, payloads: Mapping[int, bytes | None], survivor: int
) -> tuple[Pairs, bytes | None]:
    """Return the pairs of a group that share a payload or have none, and that payload."""
    payload = payloads.get(survivor)
    kept = []
    for row, absorbed in enumerate(view.ids[group.right].tolist()):
        own = payloads.get(absorbed)
        if not own or not payload or own == payload:
            payload = payload or own
            kept.append(row)
    return group.of(np.array(kept, np.int64)), payload


def _sparse(view: View, group: Pairs, density: int) -> Pairs:
    """Return the pairs of a group that together have no more than so many out-edges."""
    kept = []
    reached = set(view.adjacency.row(int(group.left[0]))["target"].tolist())
    for row, slot in enumerate(group.right.tolist()):
        together = reached | set(view.adjacency.row(slot)["target"].tolist())
        if len(together) <= density:
            reached = together
            kept.append(row)
    return group.of(np.array(kept, np.int64))


def _joined(view: View, groups: Sequence[Pairs], now: int) -> Concepts:
    """Return what the first of each group becomes when it takes over the others, a row each."""
    first = np.array([group.left[0] for group in groups])
    sizes = np.array([1 + len(group) for group in groups])
    slots = np.concatenate([np.append(group.left[:1], group.right) for group in groups])
    starts = np.cumsum(sizes) - sizes
    stats, values = view.stats[slots], view.value_vectors
    shares = np.maximum(stats["frequency"], 1).astype(np.float64)
    shares /= np.repeat(np.add.reduceat(shares, starts), sizes)
    keys, norms = view.keys[slots], view.norms[slots]
    vectors = None if values is None else values[slots]
    is_valued = view.value_kinds[first] == ValueKind.VECTOR
    after = np.zeros((len(groups), keys.shape[1]), np.float32)
    means = None if vectors is None or not is_valued.any() else np.zeros_like(after)
    for row, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        part = slice(start, start + size)
        key = shares[part] @ keys[part]  # of unit keys: a long one has no more say
        after[row] = key * ((shares[part] @ norms[part]) / np.linalg.norm(key))
        if means is not None and vectors is not None and is_valued[row]:
            means[row] = shares[part] @ vectors[part]
    return Concepts(
        ids=view.ids[first],
        keys=after,
        value_kinds=view.value_kinds[first],
        value_ids=view.value_ids[first],
        value_vectors=means,
        stats=_joined_stats(stats, starts, sizes, now),
    )


def _joined_stats(stats: Records, starts: Slots, sizes: Slots, now: int) -> Records:
    """Return the statistics of the first of each run of concepts, which takes over the others."""
    after = stats[starts]

    def greatest(column: NDArray[Scalar]) -> NDArray[Scalar]:
        return np.maximum.reduceat(column, starts)

    after["created"] = np.minimum.reduceat(stats["created"], starts)
    after["modified"] = now
    origins = stats["origin"]  # what several samples say is nobody's own
    is_common = np.minimum.reduceat(origins, starts) == greatest(origins)
    after["origin"] = np.where(is_common, after["origin"], np.uint64(0))
    uses = np.add.reduceat(stats["frequency"].astype(np.uint64), starts)
    after["frequency"] = np.minimum(uses, np.uint64(2**32 - 1))
    after["epoch"], after["tick"] = greatest(stats["epoch"]), greatest(stats["tick"])
    after["relevance"] = greatest(relevances(stats, np.repeat(after["epoch"], sizes)))
    after["stability"] = greatest(stats["stability"])
    return after


def _move_edges(draft: Draft, left: Slots, right: Slots, most: int) -> None:
    """Let the edges from and to some concepts be edges from and to those that stand for them."""
    view = draft.view
    gone, stands = view.ids[right], view.ids[left]
    sources = np.union1d(view.ids[view.adjacency.sources_of(right)], stands)
    sources = np.setdiff1d(sources, gone)
    heirs = np.append(np.arange(len(sources)), np.searchsorted(sources, stands))
    order = np.argsort(heirs, kind="stable")  # each source's own edges, then those it takes over
    rows = draft.rows(np.append(sources, gone)[order])
    rows = OutEdges(len(sources), heirs[order][rows.owner], retargeted(rows.edges, gone, stands))
    having = rows.counts > 0
    draft.put_rows(sources[having], united(rows.only(having), sources[having], most))
