"""One retrieval in numpy: from queries to the columns of a context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.context import Found
from aesg.graph.activation import ALL_KINDS, WITHIN, Recall, recall, recall_sequences
from aesg.graph.scope import Scope
from storage_backends.spreading import Spread
from storage_backends.types import Floats, Ids


@dataclass(frozen=True)
class Queries:
    """A batch of queries.

    Parameters
    ----------
    vectors : (B * T, D) float32
        As they came, finite.
    sequences : (int, int)
        ``(B, T)``: consecutive queries of one sequence.
    origins : (B,) uint64
        Sample of each sequence; 0 for none.
    outcomes : (B, T) int64 or None
        What came after each position; None searches every position for itself.
    known : (B, T) bool or None
        Where an outcome is known.
    """

    vectors: Floats
    sequences: tuple[int, int]
    origins: Ids
    outcomes: NDArray[np.int64] | None = None
    known: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Reading:
    """What a batch of queries retrieved.

    Parameters
    ----------
    found : Found
    keys : (N, K, D) float32
        Unit keys.
    activations, ages : (N, K) float32
        Ages in topology updates since a concept was written or last proved right.
    """

    found: Found
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
    """Retrieve ``k`` concepts for each query.

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
    norms: Floats = np.linalg.norm(queries.vectors, axis=1)
    unit: Floats = queries.vectors / np.where(norms > 0, norms, np.float32(1))[:, None]
    if scope.empty:
        active = _nothing(len(unit))
    else:
        active = _activate(scope, queries, unit, k, settings, exclude_own)
    width = int((active.slots >= 0).sum(axis=1).max(initial=0))  # K: what was found, at most k
    slots = active.slots[:, :width]
    keys = scope.keys(slots)  # (N, K, D)
    found = Found(
        queries=unit,
        norms=norms,
        ids=scope.ids(slots),
        parents=scope.ids(active.parents[:, :width]),
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
    return Reading(found, keys, active.activations[:, :width], ages)


def _activate(
    scope: Scope,
    queries: Queries,
    unit: Floats,
    k: int,
    settings: Spread,
    exclude_own: bool,
) -> Recall:
    own = queries.origins if exclude_own and queries.origins.any() else None
    batch, time = queries.sequences
    if queries.outcomes is None or queries.known is None:
        each = None if own is None else np.repeat(own, time)
        return recall(scope, unit, k, settings.along(ALL_KINDS), each)
    return recall_sequences(
        scope,
        unit.reshape(batch, time, -1),
        queries.outcomes,
        queries.known,
        k,
        settings.along(WITHIN),
        own,
    )


def _nothing(count: int) -> Recall:
    none = np.empty((count, 0), np.int64)
    return Recall(none, np.empty((count, 0), np.float32), none, np.zeros(count, np.bool_))
