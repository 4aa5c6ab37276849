"""From a retrieval and its outcome to an `Experience`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.context import Found, RetrievedContext
from aesg.errors import AESGMemoryError
from aesg.graph.arrays import unit
from aesg.graph.novelty import Experience
from aesg.outcomes import UNKNOWN, Likelihood, fitted
from storage_backends.adjacency import Slots
from storage_backends.types import Floats, Ids, ValueKind

#: By how much probabilities may miss a sum of one: half precision rounds coarsely.
_ROUNDING = 0.1

#: Bytes of retrievals that wait to be learned from; beyond them the oldest are forgotten.
_MOST_DEFERRED = 1 << 28


@dataclass
class Deferred:
    """A retrieval whose outcome may still come.

    Parameters
    ----------
    context : RetrievedContext
    outcomes : (...,) int64 or (..., D) float tensor, or None
        What is known so far; `UNKNOWN` marks gaps.
    log_probs : (..., V) tensor or Likelihood or None
        What model and memory together expected of integers, detached.
    expected : (..., D) tensor or None
        What they expected of vectors, detached.
    observed : bool
        Whether the outcomes are what really came.
    """

    context: RetrievedContext
    outcomes: Tensor | None = None
    log_probs: Tensor | Likelihood | None = None
    expected: Tensor | None = None
    observed: bool = False

    @property
    def nbytes(self) -> int:
        """Memory that the larger tensors take."""
        held = (self.context.keys, self.context.gathered, self.log_probs, self.expected)
        return sum(each.nbytes for each in held if each is not None)

    @property
    def unanswered(self) -> bool:
        """Whether an outcome was to come, as something was expected, and did not."""
        awaited = self.log_probs is not None or self.expected is not None
        return awaited and self.outcomes is None


class Waiting:
    """Retrievals that wait to be learned from, oldest first, in a bounded amount of memory."""

    def __init__(self) -> None:
        self._held: deque[Deferred] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[Deferred]:
        return iter(self._held)

    def add(self, deferred: Deferred) -> None:
        """Add a retrieval; the oldest yield where there are too many.

        Raises
        ------
        AESGMemoryError
            If what is said of its outcomes does not fit its queries.
        """
        check(deferred)
        if deferred.expected is not None:
            deferred.expected = deferred.expected.detach()
        self._held.append(deferred)
        self._bytes += deferred.nbytes
        while self._bytes > _MOST_DEFERRED and len(self._held) > 1:
            self.take()

    def observe(self, outcomes: Tensor) -> None:
        """Say what came at the retrievals added since the last call.

        Raises
        ------
        AESGMemoryError
            If the outcomes do not fit the queries of each of them; nothing is changed.
        """
        asked = [each for each in self._held if not each.observed]
        came = [_fitted(outcomes, each.context) for each in asked]
        for each, its in zip(asked, came, strict=True):
            each.outcomes, each.observed = its.detach(), True

    def take(self) -> Deferred | None:
        """Take out the oldest; None where nothing waits."""
        if not self._held:
            return None
        deferred = self._held.popleft()
        self._bytes -= deferred.nbytes
        return deferred


def check(deferred: Deferred) -> None:
    """Raise `AESGMemoryError` unless what is said of a retrieval fits its queries.

    Outcomes of a sample become those of each of its queries. Log-probabilities are looked at where
    `known` says that they are read.
    """
    if deferred.outcomes is not None:
        deferred.outcomes = _fitted(deferred.outcomes, deferred.context)
    count, log_probs = len(deferred.context.found.queries), deferred.log_probs
    if deferred.expected is not None:
        _check_expected(deferred.expected, deferred.context)
    if log_probs is None or isinstance(log_probs, Likelihood):
        return
    if not log_probs.ndim or log_probs.shape[:-1].numel() != count:
        raise AESGMemoryError(
            f"Log-probabilities do not fit the queries: expected shape (..., V) for {count} of "
            f"them, got shape {tuple(log_probs.shape)}"
        )
    _check_sums(log_probs, known(deferred))


def known(deferred: Deferred) -> NDArray[np.bool_]:
    """Tell of which queries ``(N,)`` it is known what came, or nothing is asked for."""
    outcomes, count = deferred.outcomes, len(deferred.context.found.ids)
    if outcomes is None:
        return np.ones(count, np.bool_)
    if outcomes.is_floating_point():
        return _directed(_array(outcomes, deferred.context.found.queries.shape))
    held: NDArray[np.bool_] = (outcomes.reshape(-1) != UNKNOWN).cpu().numpy()
    return held


def _check_sums(log_probs: Tensor, read: NDArray[np.bool_]) -> None:
    sums = log_probs.detach().float().logsumexp(-1).exp().reshape(-1).cpu().numpy()
    wrong = np.flatnonzero(read & ~(np.abs(sums - 1) <= _ROUNDING))  # NaN is wrong too
    if len(wrong):
        query = int(wrong[0])
        raise AESGMemoryError(
            f"Log-probabilities of query {query}: expected logarithms of probabilities that sum to "
            f"1 (`log_softmax` makes them of scores), got a sum of {sums[query]:.3g}"
        )


def _check_expected(expected: Any, context: RetrievedContext) -> None:
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        got = expected.dtype if isinstance(expected, Tensor) else type(expected).__name__
        raise AESGMemoryError(f"Expected vectors of wrong type: expected a float tensor, got {got}")
    count, dim = context.found.queries.shape
    if expected.shape[-1:] != (dim,) or expected.shape[:-1].numel() != count:
        raise AESGMemoryError(
            f"Expected vectors do not fit the queries: expected shape (..., {dim}) for {count} of "
            f"them, got shape {tuple(expected.shape)}"
        )
    if not bool(expected.isfinite().all()):
        raise AESGMemoryError("Expected vectors hold NaN or infinity: expected finite numbers")


def _fitted(outcomes: Any, context: RetrievedContext) -> Tensor:
    """Return outcomes with one for each query; those of a sample are of all its queries."""
    return fitted(outcomes, context.mask.shape[:-1], context.found.queries.shape[1])


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
        return _with_vectors(deferred, outcomes, threshold)
    return _with_integers(deferred, outcomes)


def experience_again(
    keys: Floats,
    norms: Floats,
    origins: Ids,
    outcomes: Tensor | None,
    asked: tuple[int, ...],
) -> Experience:
    """Return an experience that says what queries led to, and not what they retrieved.

    Parameters
    ----------
    keys : (N, D) float32
        Unit queries.
    norms : (N,) float32
        Length of the raw queries.
    origins : (N,) uint64
    outcomes : (...,) int64 or (..., D) float tensor, or None
        `UNKNOWN` marks gaps.
    asked : tuple of int
        In what shape the queries were asked.

    Raises
    ------
    AESGMemoryError
        If the outcomes do not fit the queries, or are out of range or not finite.
    """
    count = len(keys)
    kind, known = ValueKind.KEY, np.ones(count, np.bool_)
    value_ids, vectors = np.zeros(count, np.int64), None
    if outcomes is not None:
        outcomes = fitted(outcomes, asked, keys.shape[1])
    if outcomes is not None and outcomes.is_floating_point():
        kind, vectors = ValueKind.VECTOR, _finite(outcomes, keys.shape)
        known = _directed(vectors)
    elif outcomes is not None:
        kind = ValueKind.INTEGER
        value_ids = outcomes.detach().reshape(-1).long().cpu().numpy()
        known = value_ids != UNKNOWN
        _check_range(value_ids[known], None)
    nothing = np.empty((count, 0), np.uint64)
    return Experience(
        keys=keys[known],
        norms=norms[known],
        value_kind=kind,
        value_ids=value_ids[known],
        value_vectors=None if vectors is None else vectors[known],
        explained=np.ones(int(known.sum()), np.float32),
        found=nothing[known],
        cosines=nothing[known].astype(np.float32),
        right=nothing[known].astype(np.bool_),
        parents=nothing[known],
        origins=origins[known],
        previous=np.full(int(known.sum()), -1, np.int64),
    )


def _with_integers(deferred: Deferred, outcomes: Tensor) -> Experience:
    found = deferred.context.found
    came: NDArray[np.int64] = outcomes.detach().reshape(-1).long().cpu().numpy()
    known = came != UNKNOWN
    likely = deferred.log_probs
    if isinstance(likely, Likelihood):
        explained, told = likely.to(came)
        known &= told
    else:
        _check_range(came[known], likely)
    right = (
        (found.value_ids == came[:, None])
        & (found.value_kinds == ValueKind.INTEGER)
        & (found.ids != 0)
    )
    if likely is None:
        explained = (_array(deferred.context.weights, right.shape) * right).sum(1)
    elif isinstance(likely, Tensor):
        explained = _given(likely, np.where(known, came, 0))
    return _experience(found, ValueKind.INTEGER, came, None, explained, right, known)


def _check_range(came: NDArray[np.int64], log_probs: Tensor | None) -> None:
    outside = came < 0 if log_probs is None else (came < 0) | (came >= log_probs.shape[-1])
    if outside.any():
        highest = "" if log_probs is None else f" to {log_probs.shape[-1] - 1}"
        raise AESGMemoryError(
            f"Outcome out of range: expected an integer from 0{highest}, or {UNKNOWN} where it is "
            f"not known, got {came[outside][0]}"
        )


def _given(log_probs: Tensor, came: NDArray[np.int64]) -> Floats:
    """Return the probability that ``(..., V)`` gave to each of ``(N,)`` integers."""
    flat = log_probs.detach().reshape(len(came), log_probs.shape[-1])
    index = torch.from_numpy(came).to(flat.device)
    return _array(flat.gather(1, index[:, None]).exp(), came.shape)


def _with_vectors(deferred: Deferred, outcomes: Tensor, threshold: float) -> Experience:
    context, found = deferred.context, deferred.context.found
    count, dim = found.queries.shape
    vectors = _finite(outcomes, (count, dim))
    expected = context.aggregate() if deferred.expected is None else deferred.expected
    held = _array(context.vectors, (*found.ids.shape, dim))
    similar = np.matmul(unit(held), unit(vectors)[:, :, None])[..., 0]  # (N, K)
    right = (similar >= threshold) & (found.ids != 0)
    explained = np.clip((unit(_array(expected, (count, dim))) * unit(vectors)).sum(-1), 0, 1)
    value_ids = np.zeros(count, np.int64)
    return _experience(
        found, ValueKind.VECTOR, value_ids, vectors, explained, right, _directed(vectors)
    )


def _finite(outcomes: Tensor, shape: tuple[int, ...]) -> Floats:
    vectors = _array(outcomes, shape)
    if not np.isfinite(vectors).all():
        raise AESGMemoryError("Outcomes hold NaN or infinity: expected finite numbers")
    return vectors


def _directed(vectors: Floats) -> NDArray[np.bool_]:
    """Tell which vectors have a direction; one without says as little as `UNKNOWN` does."""
    directed: NDArray[np.bool_] = np.abs(vectors).max(axis=1) > 0
    return directed


def _without_outcome(context: RetrievedContext, threshold: float) -> Experience:
    found = context.found
    count, dim = found.queries.shape
    weights = _array(context.weights, found.ids.shape)
    keys = _array(context.keys, (*found.ids.shape, dim))
    mixed = unit((weights[:, :, None] * keys).sum(1))
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
    """Assemble an experience of the queries whose outcome is known.

    A query without direction teaches nothing: it counts as explained, by nobody.
    """
    directed = found.norms > 0
    return Experience(
        keys=found.queries[known],
        norms=found.norms[known],
        value_kind=kind,
        value_ids=value_ids[known],
        value_vectors=None if value_vectors is None else value_vectors[known],
        explained=np.where(directed, explained, 1)[known].astype(np.float32),
        found=found.ids[known],
        cosines=found.cosines[known],
        right=(right & directed[:, None])[known],
        parents=found.parents[known],
        origins=found.origins[known],
        previous=_previous(found.sequences, known),
    )


def _previous(sequences: tuple[int, int], known: NDArray[np.bool_]) -> Slots:
    """Return the row of the position before each known one, among the known; -1 for none."""
    place = np.where(known, np.cumsum(known) - 1, -1)
    before = np.full_like(place, -1)
    before[1:] = place[:-1]
    before.reshape(sequences)[:, :1] = -1  # sequences begin here
    previous: Slots = before[known]
    return previous


def _array(tensor: Tensor, shape: tuple[int, ...]) -> Floats:
    """Return a tensor as a float32 array of the given shape."""
    array: Floats = tensor.detach().float().cpu().numpy().reshape(shape)
    return array
