"""One retrieval in numpy: from queries to the columns of a context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.context import Found
from aesg.graph.activation import ALL_KINDS, WITHIN, Recall, recall, recall_sequences
from aesg.graph.scope import Scope
from aesg.learning import UNKNOWN
from storage_backends.columns import Slots
from storage_backends.spreading import Spread
from storage_backends.types import Floats, Ids


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
    """

    unit: Floats
    norms: Floats
    sequences: tuple[int, int]
    origins: Ids
    outcomes: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Reading:
    """What a batch of queries retrieved.

    Parameters
    ----------
    found : Found
    slots : (N, K) int64
        Slots of the scope, most active first; -1 pads.
    seeds : (N, S) int64
        Slots where activation began; -1 pads.
    keys : (N, K, D) float32
        Unit keys.
    activations, ages : (N, K) float32
        Ages in topology updates since a concept was written or last proved right.
    """

    found: Found
    slots: Slots
    seeds: Slots
    keys: Floats
    activations: Floats
    ages: Floats


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
        At least 1.
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
    held = scope.view.node_count + len(scope.shortterm)
    if held and len(unit):
        active = _activate(scope, queries, min(k, held), settings, exclude_own)
    else:
        active = _nothing(len(unit), settings.hops)
    width = int((active.slots >= 0).sum(axis=1).max(initial=0))  # K: what was found, at most k
    slots = active.slots[:, :width]
    keys = scope.keys(slots)  # (N, K, D)
    found = Found(
        queries=unit,
        norms=queries.norms,
        ids=scope.ids(slots),
        paths=scope.ids(active.paths[:, :width]),
        cosines=np.matmul(keys, unit[:, :, None])[..., 0],
        value_kinds=scope.value_kinds(slots),
        value_ids=scope.value_ids(slots),
        vectors=scope.vectors(slots) if vectors else None,
        origins=np.repeat(queries.origins, queries.sequences[1]),
        followed=active.followed,
        sequences=queries.sequences,
    )
    ticks = np.minimum(scope.ticks(slots), np.uint64(tick))
    ages = (np.uint64(tick) - ticks).astype(np.float32)
    return Reading(found, slots, active.seeds, keys, active.activations[:, :width], ages)


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
    )


def _nothing(count: int, hops: int) -> Recall:
    none = np.empty((count, 0), np.int64)
    return Recall(
        slots=none,
        activations=np.empty((count, 0), np.float32),
        paths=np.empty((count, 0, hops), np.int64),
        seeds=none,
        followed=np.zeros(count, np.bool_),
    )
