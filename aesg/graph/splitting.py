"""Splitting: a concept of two neighbourhoods becomes two concepts.

A concept with very many edges has come to mean several things. Its neighbours are divided by their
keys; where they make two parts that lie apart, a new concept takes over the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import unit
from aesg.graph.clock import Clock
from aesg.graph.draft import Draft
from aesg.graph.retargeting import retargeted
from storage_backends.columns import Slots
from storage_backends.types import (
    EDGE,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    Ids,
    Records,
    WriteBatch,
)
from storage_backends.view import View

#: Neighbours that a part holds at least, and as a share of all. Less is a fringe, not a meaning;
#: and a split that takes away hardly more than the link that it adds would soon be due again.
_LEAST_MEMBERS = 3
_LEAST_SHARE = 0.1
#: How much further two parts lie apart than the halves of as many random directions.
_LEAST_GAIN = 0.05
#: Rounds of two-means at most; it rests long before.
_ROUNDS = 32
#: How far the key of a new concept goes towards its part, tried in turn until it is no duplicate
#: of the key that it started from.
_STEPS = (0.5, 0.75, 1.0)


@dataclass
class _Splits:
    """The draft of a batch, with the keys of the concepts that it makes."""

    draft: Draft
    keys: dict[int, Floats] = field(default_factory=dict)

    def unit_keys(self, ids: Ids) -> Floats:
        """Return unit keys ``(M, D)``; zeros where a concept is not there."""
        view = self.draft.view
        slots = view.slots(ids)
        keys = np.where((slots >= 0)[:, None], view.keys[slots], np.float32(0))
        for row in np.flatnonzero(slots < 0).tolist():
            keys[row] = self.keys.get(int(ids[row]), 0)
        return keys

    def sources_of(self, slot: int, concept_id: int) -> list[int]:
        """Return the ids that may have an edge to a concept."""
        view = self.draft.view
        sources = view.ids[view.adjacency.sources_of(np.array([slot], np.int64))].tolist()
        return [each for each in [*sources, *self.keys] if each != concept_id]


def dense(view: View, candidates: Slots, density: int) -> Slots:
    """Return those of some live slots that have more than ``density`` out-edges, ascending."""
    candidates = np.unique(candidates)
    candidates = candidates[view.alive[candidates]]
    return candidates[view.adjacency.counts(candidates) > density]


def split(
    view: View,
    slots: Slots,
    payloads: Mapping[int, bytes | None],
    clock: Clock,
    density: int,
    similarity: float,
) -> WriteBatch | None:
    """Divide concepts whose neighbourhoods fall in two.

    The larger part stays with the concept, whose key and value do not change. The other goes, with
    the edges that come from it, to a new concept of the same value, payload, origin and region,
    whose key lies nearer to its part. The two are linked both ways.

    Parameters
    ----------
    view : View
    slots : (M,) int64
        Live concepts, those that `dense` returned.
    payloads : mapping of id to bytes or None
        Their payloads; None, or no entry, where there is none.
    clock : Clock
        Gives the first id of the new concepts.
    density : int
        A concept with no more out-edges than that is left alone.
    similarity : float
        Cosine from which two keys are duplicates. A concept is left alone where the key of the new
        one would be one.

    Returns
    -------
    WriteBatch or None
        None where nothing is divided.

    Notes
    -----
    The parts are those of spherical two-means (Dhillon and Modha, 2001), which starts from the
    neighbour farthest from all and the one farthest from that. They count as two where each has a
    tenth of the neighbours, three at least, and they lie further apart than the halves of as many
    random directions (a reference as in the gap statistic of Tibshirani et al., 2001), by the mean
    simplified silhouette (Hruschka et al., 2004) of cosine distances to the two centres. Of 800
    neighbours in 64 dimensions, random ones have 0.22, one cloud has 0.10 at most, twenty clouds
    have 0.34 and two 0.88.
    """
    splits = _Splits(Draft(view, clock))
    for slot in np.unique(slots).tolist():
        _split_one(splits, slot, payloads, density, similarity)
    return splits.draft.batch() if splits.keys else None


def two_parts(keys: Floats) -> tuple[NDArray[np.bool_], Floats] | None:
    """Divide directions in two parts, if they lie apart.

    Parameters
    ----------
    keys : (M, D) float32
        Unit vectors; zeros belong to the larger part.

    Returns
    -------
    moved : (M,) bool
        The smaller part.
    centres : (2, D) float32
        Unit centre of the part that stays, and of the smaller one.
    """
    known = np.flatnonzero(keys.any(axis=1))
    directions = keys[known]
    halves = _halves(directions)
    if halves is None:
        return None
    second, centres = halves
    if 2 * second.sum() > len(second):
        second, centres = ~second, centres[::-1]
    if second.sum() < max(_LEAST_SHARE * len(keys), _LEAST_MEMBERS):
        return None
    if _separation(directions, centres) < _by_chance(*directions.shape) + _LEAST_GAIN:
        return None
    moved = np.zeros(len(keys), np.bool_)
    moved[known] = second
    return moved, centres


def _halves(directions: Floats) -> tuple[NDArray[np.bool_], Floats] | None:
    """Return what belongs to the second of two centres, and both; None where all are one."""
    if not len(directions):
        return None
    first = directions[np.argmin(directions @ directions.mean(axis=0))]
    centres = np.stack([first, directions[np.argmin(directions @ first)]])
    second = _nearer_to_second(directions, centres)
    for _ in range(_ROUNDS):
        if second.all() or not second.any():
            return None
        centres = np.stack([_direction(directions[~second]), _direction(directions[second])])
        before, second = second, _nearer_to_second(directions, centres)
        if np.array_equal(before, second):
            break
    return second, centres


def _by_chance(count: int, width: int) -> float:
    """Return the separation of the halves of random directions, the same each time."""
    drawn = unit(np.random.default_rng(0).normal(size=(count, width)).astype(np.float32))
    halves = _halves(drawn)
    return 0.0 if halves is None else _separation(drawn, halves[1])


def _split_one(
    splits: _Splits,
    slot: int,
    payloads: Mapping[int, bytes | None],
    density: int,
    similarity: float,
) -> None:
    draft = splits.draft
    concept_id = int(draft.view.ids[slot])
    row = draft.row(concept_id)
    if len(row) <= density:
        return
    row = row[np.argsort(row["target"])]  # the outcome does not hang on what is strongest now
    parts = two_parts(splits.unit_keys(row["target"]))
    if parts is None:
        return
    moved, centres = parts
    key = _key_towards(draft.view.keys[slot], centres[1], similarity)
    if key is None:
        return
    new = draft.new_id()
    share = float(moved.mean())
    draft.put_concepts(_twin(draft, slot, new, key, share))
    splits.keys[new] = key
    payload = payloads.get(concept_id)
    if payload:
        draft.payload(new, payload)
    _divide_sources(splits, slot, concept_id, new, centres)
    draft.put_row(concept_id, np.append(row[~moved], _link(new)))
    draft.put_row(new, np.append(row[moved], _link(concept_id)))
    draft.note(EventType.SPLIT, concept_id, new, share)


def _divide_sources(splits: _Splits, slot: int, concept_id: int, new: int, centres: Floats) -> None:
    """Let the edges that come from where the new concept lies lead to it."""
    draft = splits.draft
    sources = [each for each in splits.sources_of(slot, concept_id) if each != new]
    keys = splits.unit_keys(np.array(sources, np.uint64))
    with_new = keys @ centres[1] > keys @ centres[0]
    own, twin = np.array([concept_id], np.uint64), np.array([new], np.uint64)
    for source, moves in zip(sources, with_new.tolist(), strict=True):
        row = draft.row(source) if moves else np.empty(0, EDGE)
        if (row["target"] == concept_id).any():
            draft.put_row(source, retargeted(row, own, twin))


def _twin(draft: Draft, slot: int, new: int, key: Floats, share: float) -> Concepts:
    """Return the concept, one row, that takes over a share of another's neighbours."""
    view, own = draft.view, np.array([slot])
    stats = view.stats[own]
    stats["created"] = stats["modified"] = draft.now
    stats["frequency"] = np.maximum(stats["frequency"] * share, 1).astype(np.uint32)
    return Concepts(
        ids=np.array([new], np.uint64),
        keys=(key * (view.norms[slot] or 1))[None],
        value_kinds=view.value_kinds[own],
        value_ids=view.value_ids[own],
        value_vectors=None if view.value_vectors is None else view.value_vectors[own],
        stats=stats,
    )


def _link(target: int) -> Records:
    """Return the edge, one row, between two concepts that were one: as sure as an edge can be."""
    return np.array([(target, 1.0, 1.0, 1, int(EdgeKind.COACTIVATION))], EDGE)


def _key_towards(key: Floats, centre: Floats, similarity: float) -> Floats | None:
    """Return a unit key between a key and the centre of a part, None where all are duplicates."""
    for step in _STEPS:
        moved = unit((1 - step) * key + step * centre)
        if moved @ key < similarity:
            return moved
    return None


def _nearer_to_second(directions: Floats, centres: Floats) -> NDArray[np.bool_]:
    nearer: NDArray[np.bool_] = directions @ centres[1] > directions @ centres[0]
    return nearer


def _separation(directions: Floats, centres: Floats) -> float:
    """Return the mean simplified silhouette of directions about two centres, in [0, 1]."""
    distances = np.maximum(1 - directions @ centres.T, np.float32(1e-9))  # (M, 2)
    near, far = distances.min(axis=1), distances.max(axis=1)
    return float((1 - near / far).mean())


def _direction(directions: Floats) -> Floats:
    return unit(directions.mean(axis=0))
