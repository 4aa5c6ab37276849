"""From what a batch of queries met to what the memory makes of it.

A query is *novel* where model and memory together explained too little of it. A novel query
becomes a provisional concept, unless one that is all but identical and was right stands for it
already. A concept that was retrieved and right is confirmed (provisional) or touched (born); at
enough confirmations a provisional concept is born. Where a sample that was met before is met
again, its own concepts are re-keyed to its queries, and those are confirmed whose query is still
novel. A query that guests explain is not novel; to the guests themselves nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import unit
from aesg.graph.scope import PACK_ID
from aesg.graph.shortterm import ENTRY
from storage_backends.adjacency import Slots
from storage_backends.types import Floats, Ids, ValueKind

#: Rows compared with one another at a time when novel queries of one batch are told apart.
_BLOCK = 2048
#: Of them, with values of their own, as many at a time; more where one value has more.
_TOGETHER = 256


@dataclass(frozen=True)
class Experience:
    """What a batch of queries met, in the order in which they were asked.

    Parameters
    ----------
    keys : (M, D) float32
        Unit queries.
    norms : (M,) float32
        Length of the raw queries.
    value_kind : ValueKind
        What the outcomes are: integers, vectors, or nothing (KEY).
    value_ids : (M,) int64
        Integer outcomes; zeros otherwise.
    value_vectors : (M, D) float32 or None
        Vector outcomes.
    explained : (M,) float32
        Explanation score, in [0, 1].
    found : (M, K) uint64
        Retrieved concepts, most active first; 0 pads.
    cosines : (M, K) float32
        Similarity of their keys to the query.
    right : (M, K) bool
        Whose value is what really came.
    parents : (M, K) uint64
        The concept that activation came from; 0 for a seed.
    origins : (M,) uint64
        Sample that each query belongs to; 0 for none.
    previous : (M,) int64
        Row of the query that came just before in the same sequence; -1 for none.
    """

    keys: Floats
    norms: Floats
    value_kind: ValueKind
    value_ids: NDArray[np.int64]
    value_vectors: Floats | None
    explained: Floats
    found: Ids
    cosines: Floats
    right: NDArray[np.bool_]
    parents: Ids
    origins: Ids
    previous: Slots


@dataclass(frozen=True)
class Digest:
    """What the memory makes of an experience.

    Parameters
    ----------
    entries : (N,) ENTRY
        New provisional concepts.
    keys : (N, D) float32
        Their unit keys.
    vectors : (N, D) float32 or None
        Their vector values.
    proved, counts : (P,) uint64 and (P,) int64
        Concepts that were right, and for how many queries.
    standing : (M,) uint64
        The concept that stands for each query from now on; 0 where none does.
    links : (L, 2) uint64
        Concepts that followed one another in a sequence, in order of time.
    travelled : (U, 2) uint64
        Source and target of each edge that led to a concept that was right, once for each query.
    refined : (R,) uint64
        Concepts whose vector value explained a query and moves towards what came.
    towards : (R, D) float32
        The mean of what came.
    rekeyed : (O,) uint64
        Concepts of the queries' own samples that were met again.
    rows : (O,) int64
        The query that each of them is met again in.
    """

    entries: NDArray[np.void]
    keys: Floats
    vectors: Floats | None
    proved: Ids
    counts: NDArray[np.int64]
    standing: Ids
    links: Ids
    travelled: Ids
    refined: Ids
    towards: Floats
    rekeyed: Ids
    rows: Slots


def digest(
    experience: Experience,
    novelty_threshold: float,
    sameness: float,
    next_id: int,
    tick: int,
    own: Ids | None = None,
) -> Digest:
    """Decide what is novel, what stands for what, and what was proved right.

    Parameters
    ----------
    experience : Experience
    novelty_threshold : float
        Explanation score below which a query is novel, in [0, 1].
    sameness : float
        Cosine from which two keys with the same value are one concept, in [0, 1].
    next_id : int
        First concept id that is free.
    tick : int
        The present topology update.
    own : (M,) uint64, optional
        The concept of its own sample that each query meets again; 0 for none. Where it is given,
        queries that have an origin refine nothing.
    """
    experience = _without_guests(experience)
    novel = experience.explained < novelty_threshold
    standing = _standing(experience, np.where(novel, sameness, -1.0))
    # A value that a sample moved would tell it, when it comes again, what it led to.
    silent = novel if own is None else novel | (experience.origins != 0)
    refined, towards = _refinement(experience, np.where(silent, np.uint64(0), standing))
    met = np.empty(0, np.int64) if own is None else np.flatnonzero(own)
    if own is not None:
        standing[met] = own[met]
    made = _made(experience, novel, standing, met, sameness, next_id)
    created, ids = made.created, made.ids
    vectors = experience.value_vectors
    right = np.append(experience.found[experience.right], made.confirmed)
    proved, counts = np.unique(right, return_counts=True)
    return Digest(
        entries=_entries(experience, created, ids, made.repeats, tick),
        keys=experience.keys[created],
        vectors=None if vectors is None else vectors[created],
        proved=proved,
        counts=counts,
        standing=standing,
        links=_links(standing, experience.previous),
        travelled=_travelled(experience),
        refined=refined,
        towards=towards,
        rekeyed=standing[met],
        rows=met,
    )


def _without_guests(experience: Experience) -> Experience:
    """Return an experience in which no concept of a guest was found; explained is what it was."""
    guest = experience.found >= np.uint64(PACK_ID)
    if not guest.any():
        return experience
    found = np.where(guest, np.uint64(0), experience.found)
    return replace(experience, found=found, right=experience.right & ~guest)


@dataclass(frozen=True)
class _Made:
    """What novel queries make: concepts ``ids`` of rows ``created``, and confirmations."""

    created: Slots
    ids: Ids
    repeats: NDArray[np.int64]
    confirmed: Ids


def _made(
    experience: Experience,
    novel: NDArray[np.bool_],
    standing: Ids,
    met: Slots,
    sameness: float,
    next_id: int,
) -> _Made:
    """Let each novel query have a concept that stands for it; ``standing`` is filled in.

    A query that is the same as one in which its sample's own concept is met again is that concept.
    """
    again = met[novel[met]]
    rows = np.append(again, np.flatnonzero(novel & (standing == 0)))
    leader = _leaders(experience, rows, sameness)
    leader[: len(again)] = np.arange(len(again))
    leads = leader == np.arange(len(rows))
    leads[: len(again)] = False
    ids = np.append(standing[again], np.zeros(len(rows) - len(again), np.uint64))
    ids[leads] = next_id + np.arange(leads.sum(), dtype=np.uint64)
    ids = ids[leader]
    standing[rows] = ids
    new = ids >= next_id
    repeats = np.bincount((ids[new] - np.uint64(next_id)).astype(np.int64), minlength=leads.sum())
    return _Made(rows[leads], ids[leads], repeats, ids[~new])


def _refinement(experience: Experience, explained_by: Ids) -> tuple[Ids, Floats]:
    """Return the concepts whose vector values were right enough, and the mean of what came."""
    rows = np.flatnonzero(explained_by)
    vectors = experience.value_vectors
    if vectors is None or not len(rows):
        return np.empty(0, np.uint64), np.empty((0, experience.keys.shape[1]), np.float32)
    refined, place, counts = np.unique(explained_by[rows], return_inverse=True, return_counts=True)
    total = np.zeros((len(refined), vectors.shape[1]), np.float32)
    np.add.at(total, place, vectors[rows])
    total /= counts[:, None]
    return refined, total


def _standing(experience: Experience, least: Floats) -> Ids:
    """Return for each query the most similar concept that was right, 0 where none reaches."""
    if not experience.found.shape[1]:
        return np.zeros(len(experience.keys), np.uint64)
    cosines = np.where(experience.right, experience.cosines, -np.inf)
    best = np.argmax(cosines, axis=1)
    row = np.arange(len(best))
    return np.where(cosines[row, best] >= least, experience.found[row, best], np.uint64(0))


def _leaders(experience: Experience, rows: Slots, sameness: float) -> Slots:
    """Return for each novel query the first of the batch that is the same concept, by position."""
    leader = np.arange(len(rows))
    for begin in range(0, len(rows), _BLOCK):
        for block in _of_shared_values(experience.value_ids[rows[begin : begin + _BLOCK]]):
            places = begin + block
            leader[places] = places[_first_same(experience, rows[places], sameness)]
    while not np.array_equal(leader, leader[leader]):
        leader = leader[leader]
    return leader


def _of_shared_values(values: NDArray[np.int64]) -> Iterator[Slots]:
    """Yield the places of values that occur more than once, some values at a time.

    All places of a value come together, in ascending order.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    again = ordered[1:] == ordered[:-1]
    shared = order[np.append(again, False) | np.append(False, again)]
    ends = np.append(np.flatnonzero(np.diff(values[shared])) + 1, len(shared))
    begin = 0
    while begin < len(shared):
        within = np.searchsorted(ends, begin + _TOGETHER, side="right")
        beyond = np.searchsorted(ends, begin, side="right")
        end = int(ends[max(within - 1, beyond)])
        yield shared[begin:end]
        begin = end


def _first_same(experience: Experience, rows: Slots, sameness: float) -> Slots:
    """Return for each of some queries the place of the first of them that is the same concept."""
    same = experience.keys[rows] @ experience.keys[rows].T >= sameness
    same &= experience.value_ids[rows, None] == experience.value_ids[None, rows]
    if experience.value_vectors is not None:
        same &= _alike(experience.value_vectors[rows], sameness)
    np.fill_diagonal(same, True)  # a query is itself, whatever rounding says
    first: Slots = same.argmax(axis=1)
    return first


def _alike(vectors: Floats, sameness: float) -> NDArray[np.bool_]:
    directions = unit(vectors)
    alike: NDArray[np.bool_] = directions @ directions.T >= sameness
    return alike


def _links(standing: Ids, previous: Slots) -> Ids:
    follows = np.flatnonzero(previous >= 0)
    pairs = np.stack([standing[previous[follows]], standing[follows]], axis=1)
    linked: Ids = pairs[(pairs != 0).all(axis=1) & (pairs[:, 0] != pairs[:, 1])]
    return linked


def _travelled(experience: Experience) -> Ids:
    along = experience.right & (experience.parents != 0)
    return np.stack([experience.parents[along], experience.found[along]], axis=1)


def _entries(
    experience: Experience,
    rows: Slots,
    ids: Ids,
    repeats: NDArray[np.int64],
    tick: int,
) -> NDArray[np.void]:
    entries = np.zeros(len(rows), ENTRY)
    entries["id"] = ids
    entries["origin"] = experience.origins[rows]
    entries["tick"] = tick
    entries["value_kind"] = experience.value_kind
    entries["value_id"] = experience.value_ids[rows]
    entries["norm"] = experience.norms[rows]
    entries["confirmations"] = repeats
    return entries
