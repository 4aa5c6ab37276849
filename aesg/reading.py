"""One retrieval in numpy: from queries to the columns of a context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.graph.activation import ALL_KINDS, WITHIN, Before, Recall, recall, recall_sequences
from aesg.graph.scope import Located, Scope
from aesg.outcomes import UNKNOWN
from storage_backends.columns import Slots
from storage_backends.spreading import Spread
from storage_backends.types import Floats, Ids

_NOWHERE = np.empty((2, 0), np.int64)


@dataclass(frozen=True)
class Came:
    """The retrieval of the position before, and what came there.

    Parameters
    ----------
    seeds : (B, S) uint64
        Concepts where its activation began; 0 pads.
    begun : (B, S) float32
        Activation that they began with.
    outcomes : (B,) int64
        `UNKNOWN` where that is not known.
    """

    seeds: Ids
    begun: Floats
    outcomes: NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """A batch of queries.

    Parameters
    ----------
    unit : (B * T, D) float32
        Unit vectors; zeros where a query has no direction.
    norms : (B * T,) float32
        Length of the raw queries.
    sequences : (int, int)
        ``(B, T)``: consecutive queries of one sequence.
    origins : (B,) uint64
        Sample of each sequence; 0 for none.
    outcomes : (B, T) int64 or None
        What came after each position, `UNKNOWN` where that is not known; None searches every
        position for itself.
    after : Came or None
        What the first positions follow; None where sequences begin.
    """

    unit: Floats
    norms: Floats
    sequences: tuple[int, int]
    origins: Ids
    outcomes: NDArray[np.int64] | None = None
    after: Came | None = None


@dataclass(frozen=True)
class Reading:
    """What a batch of queries retrieved.

    Parameters
    ----------
    queries : Queries
    concepts : Located
        Slots ``(N, K)`` of the scope, most active first; -1 pads. Valid as long as the scope is.
    seeds : (N, S) int64
        Slots where activation began; -1 pads.
    begun : (N, S) float32
        Activation that they began with.
    paths : (N, K, H) int64
        Slots that activation came through; see `aesg.graph.activation.Recall`.
    roots : (N, K) int64
        Place among the ``K`` of the seed that activation came from; its own for a seed, and where
        that seed is not among them.
    vectors : (N, K, D) float32 or None
        What the concepts stand for; None where they were not asked for.
    activations, ages, cosines : (N, K) float32
        Ages in topology updates since a concept was written or last proved right.
    followed : (N,) bool
        Where successor edges replaced the search.
    """

    queries: Queries
    concepts: Located
    seeds: Slots
    begun: Floats
    paths: Slots
    roots: Slots
    vectors: Floats | None
    activations: Floats
    ages: Floats
    cosines: Floats
    followed: NDArray[np.bool_]

    @property
    def slots(self) -> Slots:
        """Slots of the concepts, ``(N, K)``."""
        return self.concepts.slots


def read(
    scope: Scope,
    queries: Queries,
    k: int,
    settings: Spread,
    tick: int,
    *,
    exclude_own: bool,
    vectors: bool,
) -> Reading:
    """Retrieve at most ``k`` concepts for each query.

    Parameters
    ----------
    scope : Scope
    queries : Queries
    k : int
        0 or more; 0 only takes the queries down.
    settings : Spread
        ``kinds`` is chosen here: sequences with outcomes follow successor edges from position to
        position and spread along the others; independent queries spread along all.
    tick : int
        The present topology update.
    exclude_own : bool
        Whether concepts of a query's own origin stay out.
    vectors : bool
        Whether to gather what the concepts stand for besides their keys.
    """
    unit = queries.unit
    held = scope.count
    if k and held and len(unit):
        active = _activate(scope, queries, min(k, held), settings, exclude_own)
    else:
        active = _nothing(len(unit), settings.hops)
    width = _most(active.slots)  # K: what was found, at most k
    paths = active.paths[:, :width]
    concepts = scope.at(active.slots[:, :width])
    return Reading(
        queries=queries,
        concepts=concepts,
        seeds=active.seeds,
        begun=active.begun,
        paths=paths,
        roots=_roots(concepts.slots, paths),
        vectors=concepts.vectors if vectors else None,
        activations=active.activations[:, :width],
        ages=concepts.ages(tick).astype(np.float32),
        cosines=np.matmul(concepts.keys, unit[:, :, None])[..., 0],
        followed=active.followed,
    )


def _most(slots: Slots) -> int:
    """Return how many concepts the query has that has most; they stand in front."""
    width: int = slots.shape[1]
    if (slots[:, -1:] >= 0).any():
        return width
    return int((slots >= 0).sum(axis=1).max(initial=0))


def _activate(
    scope: Scope, queries: Queries, k: int, settings: Spread, exclude_own: bool
) -> Recall:
    own = queries.origins if exclude_own and queries.origins.any() else None
    batch, time = queries.sequences
    if queries.outcomes is None:
        each = None if own is None else np.repeat(own, time)
        return recall(scope, queries.unit, k, settings.along(ALL_KINDS), each)
    return recall_sequences(
        scope,
        queries.unit.reshape(batch, time, -1),
        queries.outcomes,
        queries.outcomes != UNKNOWN,
        k,
        settings.along(WITHIN),
        own,
        None if queries.after is None else _before(scope, queries.after),
    )


def _before(scope: Scope, after: Came) -> Before:
    """Return where the concepts of the position before are now."""
    return Before(scope.find(after.seeds), after.begun, after.outcomes, after.outcomes != UNKNOWN)


def _nothing(count: int, hops: int) -> Recall:
    none = np.empty((count, 0), np.int64)
    return Recall(
        slots=none,
        activations=np.empty((count, 0), np.float32),
        paths=np.empty((count, 0, hops), np.int64),
        seeds=none,
        begun=np.empty((count, 0), np.float32),
        followed=np.zeros(count, np.bool_),
    )


def _roots(slots: Slots, paths: Slots) -> Slots:
    """Return the place of the seed that each of ``(N, K)`` slots was reached from, or its own."""
    roots = np.empty(slots.shape, np.int64)
    roots[:] = np.arange(slots.shape[1])
    row, place = np.nonzero(paths[:, :, 0] >= 0) if paths.shape[2] else _NOWHERE
    if len(row):
        way = paths[row, place]  # (M, H), -1 behind the seed
        seed = way[np.arange(len(way)), (way >= 0).sum(axis=1) - 1]
        same = slots[row] == seed[:, None]
        found = same.argmax(axis=1)
        roots[row, place] = np.where(same[np.arange(len(way)), found], found, place)
    return roots
