"""From a retrieval and its outcome to an `Experience`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.context import Found, RetrievedContext
from aesg.errors import AESGMemoryError
from aesg.graph.novelty import Experience
from storage_backends.adjacency import Slots
from storage_backends.types import Floats, ValueKind

#: The outcome that says "not known" (the ``ignore_index`` of cross-entropy).
UNKNOWN = -100


@dataclass
class Deferred:
    """A retrieval whose outcome may still come.

    Parameters
    ----------
    context : RetrievedContext
    outcomes : (...,) int64 or (..., D) float tensor, or None
        What is known so far; `UNKNOWN` marks gaps.
    log_probs : (..., V) tensor or None
        What model and memory together expected, detached.
    """

    context: RetrievedContext
    outcomes: Tensor | None = None
    log_probs: Tensor | None = None


def experience_of(deferred: Deferred, threshold: float) -> Experience:
    """Return what the memory learns from a retrieval.

    Parameters
    ----------
    deferred : Deferred
    threshold : float
        Cosine from which a vector counts as explained by another, in [0, 1].
    """
    outcomes = deferred.outcomes
    if outcomes is None:
        return _without_outcome(deferred.context, threshold)
    if outcomes.is_floating_point():
        return _with_vectors(deferred.context, outcomes, threshold)
    return _with_integers(deferred, outcomes)


def _with_integers(deferred: Deferred, outcomes: Tensor) -> Experience:
    found = deferred.context.found
    count = len(found.queries)
    values = outcomes.reshape(-1)
    if len(values) != count:
        raise AESGMemoryError(
            f"Outcomes do not fit the queries: expected {count} integers "
            f"(one for each position), got {tuple(outcomes.shape)}"
        )
    known = values != UNKNOWN
    value_ids = values.cpu().numpy()
    if deferred.log_probs is None:
        explained = np.zeros(count, np.float32)
    else:
        flat = deferred.log_probs.reshape(count, -1)
        top = flat.shape[1]
        outside = known & ((values < 0) | (values >= top))
        if bool(outside.any()):
            raise AESGMemoryError(
                f"Outcome out of range: expected 0 to {top - 1}, got {int(values[outside][0])}"
            )
        given = flat.gather(1, values.where(known, values.new_zeros(()))[:, None]).squeeze(1)
        explained = given.exp().float().cpu().numpy()
    right = (
        (found.value_ids == value_ids[:, None])
        & (found.value_kinds == ValueKind.INTEGER)
        & (found.ids != 0)
    )
    return _experience(
        found, ValueKind.INTEGER, value_ids, None, explained, right, known.cpu().numpy()
    )


def _with_vectors(context: RetrievedContext, outcomes: Tensor, threshold: float) -> Experience:
    found = context.found
    count, dim = found.queries.shape
    if outcomes.numel() != count * dim:
        raise AESGMemoryError(
            f"Outcomes do not fit the queries: expected shape ({count}, {dim}), "
            f"got {tuple(outcomes.shape)}"
        )
    if not bool(torch.isfinite(outcomes).all()):
        raise AESGMemoryError("Outcomes hold NaN or infinity: expected finite numbers")
    vectors = outcomes.detach().reshape(count, dim).float().cpu().numpy()
    mixed = context.aggregate().detach().reshape(count, dim).float().cpu().numpy()
    held = context.vectors.detach().reshape(*found.ids.shape, dim).float().cpu().numpy()
    similar = np.matmul(_unit(held), _unit(vectors)[:, :, None])[..., 0]  # (N, K)
    right = (similar >= threshold) & (found.ids != 0)
    explained = np.clip((_unit(mixed) * _unit(vectors)).sum(-1), 0, 1)
    value_ids = np.zeros(count, np.int64)
    everything = np.ones(count, np.bool_)
    return _experience(
        found, ValueKind.VECTOR, value_ids, vectors, explained, right, everything
    )


def _without_outcome(context: RetrievedContext, threshold: float) -> Experience:
    found = context.found
    count, dim = found.queries.shape
    weights = context.weights.detach().reshape(found.ids.shape).float().cpu().numpy()
    keys = context.keys.detach().reshape(*found.ids.shape, dim).float().cpu().numpy()
    mixed = _unit((weights[:, :, None] * keys).sum(1))
    explained: Floats = (mixed * found.queries).sum(-1)
    right = np.zeros(found.ids.shape, np.bool_)
    if found.ids.shape[1]:
        cosines = np.where(found.ids != 0, found.cosines, np.float32(-1))
        nearest = np.argmax(cosines, axis=1)
        row = np.arange(count)
        explained = np.maximum(explained, cosines[row, nearest])
        right[row, nearest] = cosines[row, nearest] >= threshold
    return _experience(
        found,
        ValueKind.KEY,
        np.zeros(count, np.int64),
        None,
        np.clip(explained, 0, 1),
        right,
        np.ones(count, np.bool_),
    )


def _experience(
    found: Found,
    kind: ValueKind,
    value_ids: NDArray[np.int64],
    value_vectors: Floats | None,
    explained: Floats,
    right: NDArray[np.bool_],
    known: NDArray[np.bool_],
) -> Experience:
    """Assemble an experience of the queries whose outcome is known."""
    return Experience(
        keys=found.queries[known],
        norms=found.norms[known],
        value_kind=kind,
        value_ids=value_ids[known],
        value_vectors=None if value_vectors is None else value_vectors[known],
        explained=explained[known].astype(np.float32),
        found=found.ids[known],
        cosines=found.cosines[known],
        right=right[known],
        origins=found.origins[known],
        previous=_previous(found.sequences, known),
    )


def _previous(sequences: tuple[int, int], known: NDArray[np.bool_]) -> Slots:
    """Return the row of the position before each known one, among the known; -1 for none."""
    place = np.where(known, np.cumsum(known) - 1, -1)
    before = np.full_like(place, -1)
    before[1:] = place[:-1]
    before[:: sequences[1]] = -1  # sequences begin here
    previous: Slots = before[known]
    return previous


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.where(norms > 0, norms, np.float32(1))
    return unit
