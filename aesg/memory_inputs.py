"""Checks what users hand to a memory, and returns it as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.context import RetrievedContext, sequences_of
from aesg.errors import AESGMemoryError, AESGNavigationError
from aesg.outcomes import UNKNOWN, Likelihood
from aesg.reading import Came, Queries
from storage_backends.types import Floats, Ids, ValueKind

#: Lengths of vectors between which squares are exact enough in float32. A shorter vector has no
#: direction and counts as zero.
_LONGEST = 1e18
_SHORTEST = 1e-18


def check_top_k(top_k: int) -> None:
    """Raise `AESGNavigationError` unless ``top_k`` is an integer of at least 1."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise AESGNavigationError(f"top_k: expected an integer >= 1, got {top_k!r}")


def check_log_probs(log_probs: Any) -> None:
    """Raise `AESGMemoryError` unless log-probabilities are a float tensor, or None."""
    if log_probs is None or isinstance(log_probs, Likelihood):
        return
    if isinstance(log_probs, Tensor) and log_probs.is_floating_point():
        return
    got = log_probs.dtype if isinstance(log_probs, Tensor) else type(log_probs).__name__
    raise AESGMemoryError(f"Log-probabilities of wrong type: expected a float tensor, got {got}")


def queries_of(
    query: Tensor,
    vector_dim: int,
    outcomes: Tensor | None,
    origins: Tensor | None,
    before: Sequence[Tensor] = (),
) -> Queries:
    """Return queries, and what is known about them, as arrays.

    Parameters
    ----------
    query : (..., D) float tensor
    vector_dim : int
        The width ``D`` of the memory.
    outcomes : (...) integer tensor or None
    origins : integer tensor or None
        One for each sequence: for each query of ``(N, D)``, for each row of ``(B, T, D)``.
    before : sequence of tensors
        What `following` returned.

    Raises
    ------
    AESGNavigationError
        If types or shapes do not fit, or a query is not finite.
    """
    raw, norms = _vectors("Query", query, vector_dim)
    sequences = sequences_of(query.shape[:-1])
    unit = _unit(raw, norms)
    came = None if outcomes is None else _outcomes(outcomes, sequences)
    own = _origins(origins, sequences[0])
    return Queries(unit, norms, sequences, own, came, _came(before) if before else None)


def following(
    after: tuple[RetrievedContext | None, Tensor], query: Tensor, outcomes: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return what is known of queries that follow a position.

    Parameters
    ----------
    after : (RetrievedContext or None, (B,) integer tensor)
        Its context, None where sequences begin, and what came there.
    query : (..., D) tensor
    outcomes : (...) integer tensor or None

    Returns
    -------
    outcomes : (...) integer tensor
    before : list of tensors
        Where activation began there, ``(B, S)`` ids and activations, and what came, ``(B,)``;
        empty where sequences begin.

    Raises
    ------
    AESGNavigationError
        If they are not of as many sequences as the queries.
    """
    context, came = after
    batch, _ = sequences_of(query.shape[:-1])
    if not is_integer(came) or came.numel() != batch:
        raise AESGNavigationError(
            f"What came before does not fit the queries: expected {batch} integers "
            f"({UNKNOWN} where not known), got {_kind(came)}"
        )
    if outcomes is None:
        outcomes = torch.full(query.shape[:-1], UNKNOWN)
    if context is None:
        return outcomes, []
    if context.sequences[0] != batch:
        raise AESGNavigationError(
            f"The context before does not fit the queries: expected {batch} sequences, "
            f"got {context.sequences[0]}"
        )
    began = (context.trace.seeds, context.trace.begun)
    last = [each.view(*context.sequences, -1)[:, -1] for each in began]
    return outcomes, [*last, came.detach().reshape(batch)]


def keys_of(
    keys: Tensor | NDArray[np.floating[Any]], vector_dim: int, origins: Tensor | None
) -> tuple[Floats, Ids]:
    """Return the keys given to `AESGMemory.remember`, ``(N, D)`` float32, and their origins.

    Raises
    ------
    AESGNavigationError
        If types or shapes do not fit, or a key is not finite.
    """
    if isinstance(keys, np.ndarray) and keys.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
            keys = torch.from_numpy(np.array(keys, np.float32))
    if isinstance(keys, Tensor) and keys.ndim > 2:
        raise AESGNavigationError(
            f"Keys of wrong shape: expected (N, {vector_dim}), got {tuple(keys.shape)}"
        )
    raw, norms = _vectors("Key", keys, vector_dim)
    kept = np.where(norms[:, None] > 0, raw, np.float32(0))  # a copy: the tensor is the caller's
    return kept, _origins(origins, len(raw))


def values_of(
    values: Tensor | NDArray[Any] | Sequence[int] | None, count: int, dim: int
) -> tuple[ValueKind, NDArray[np.int64], Floats | None]:
    """Return kind and columns of the values given to `AESGMemory.remember`.

    Raises
    ------
    AESGMemoryError
        If they are neither ``count`` integers from 0 on nor finite floats ``(count, dim)``.
    """
    none = np.zeros(count, np.int64)
    if values is None:
        return ValueKind.KEY, none, None
    given = _array("values", values)
    if not count and not given.size:
        return ValueKind.KEY, none, None
    if given.dtype.kind in "iu" and given.size == count and given.shape in ((count,), ()):
        if int(given.min()) >= 0 and int(given.max()) < 2**63:
            return ValueKind.INTEGER, given.reshape(count).astype(np.int64), None
    elif given.dtype.kind == "f" and given.shape in _vector_shapes(count, dim):
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
            vectors = given.reshape(count, dim).astype(np.float32)
        if np.isfinite(vectors).all():
            return ValueKind.VECTOR, none, vectors
    raise AESGMemoryError(
        f"values: expected {count} integers >= 0, or finite floats of shape ({count}, {dim}), "
        f"got {given.dtype} of shape {given.shape}{_extremes(given)}"
    )


def ids_of(concept_ids: Any, name: str = "concept_ids") -> Ids:
    """Return concept ids, ``(N,)`` uint64; ``name`` is what a message calls them.

    Raises
    ------
    AESGMemoryError
        If they are not integers from 0 to 2**64 - 1.
    """
    given = _not_rounded(_array(name, concept_ids), concept_ids)
    if not given.size:
        return np.empty(0, np.uint64)
    if given.dtype.kind not in "iu" or (given.dtype.kind == "i" and given.min() < 0):
        raise AESGMemoryError(
            f"{name}: expected integers from 0 to 2**64 - 1, got {given.dtype} of shape "
            f"{given.shape}{_extremes(given)}"
        )
    return given.astype(np.uint64).ravel()


def id_of(concept_id: Any) -> Ids:
    """Return one concept id, ``(1,)`` uint64.

    Raises
    ------
    AESGMemoryError
        If it is not one integer from 0 to 2**64 - 1.
    """
    ids = ids_of(concept_id)
    if len(ids) != 1:
        raise AESGMemoryError(f"concept_id: expected one integer, got {len(ids)}")
    return ids


def _vector_shapes(count: int, dim: int) -> list[tuple[int, ...]]:
    return [(1, dim), (dim,)] if count == 1 else [(count, dim)]


def _array(name: str, values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
        return array
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of unequal length
        raise AESGMemoryError(f"{name}: expected one array, got {error}") from error


def _not_rounded(array: NDArray[Any], values: Any) -> NDArray[Any]:
    """Return an array of integers for a list of them.

    numpy makes floats of them where some are of 64 bits, as those of packs are, and some are not.
    """
    listed = array.dtype.kind == "f" and array.ndim == 1 and isinstance(values, list | tuple)
    if listed and all(isinstance(each, int | np.integer) and each >= 0 for each in values):
        return np.array(values, np.uint64)
    return array


def _extremes(given: NDArray[Any]) -> str:
    if given.dtype.kind not in "iuf" or not given.size:
        return ""
    return f" from {given.min()} to {given.max()}"


def _vectors(name: str, given: Any, vector_dim: int) -> tuple[Floats, Floats]:
    """Return vectors ``(N, D)`` and their lengths ``(N,)``, 0 for those without direction."""
    if not isinstance(given, Tensor) or not given.is_floating_point():
        got = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise AESGNavigationError(f"{name} of wrong type: expected a float tensor, got {got}")
    if not given.ndim or given.shape[-1] != vector_dim:
        raise AESGNavigationError(
            f"{name} of wrong width: expected (..., {vector_dim}), got {tuple(given.shape)}"
        )
    flat: Floats = given.detach().reshape(-1, vector_dim).float().cpu().numpy()
    norms = np.sqrt(np.square(flat, dtype=np.float64).sum(axis=1))
    good = norms <= _LONGEST  # False for NaN
    if not good.all():
        place = int(np.argmin(good))
        found = "NaN or infinity" if not np.isfinite(norms[place]) else f"length {norms[place]:.3g}"
        raise AESGNavigationError(
            f"{name} {place}: expected finite numbers and a length of at most {_LONGEST:.0e}, "
            f"got {found}"
        )
    return flat, np.where(norms >= _SHORTEST, norms, 0).astype(np.float32)


def _unit(raw: Floats, norms: Floats) -> Floats:
    """Return vectors at a length of one; zeros where they have no direction."""
    directed = norms > 0
    unit: Floats = np.divide(raw, np.where(directed, norms, 1)[:, None], dtype=np.float32)
    if not directed.all():
        unit[~directed] = 0
    return unit


def _outcomes(outcomes: Tensor, sequences: tuple[int, int]) -> NDArray[np.int64]:
    if not is_integer(outcomes) or outcomes.numel() != math.prod(sequences):
        raise AESGNavigationError(
            f"Outcomes do not fit the queries: expected {math.prod(sequences)} integers "
            f"({UNKNOWN} where not known), got {_kind(outcomes)}"
        )
    came: NDArray[np.int64] = outcomes.detach().reshape(sequences).long().cpu().numpy()
    return came


def _came(before: Sequence[Tensor]) -> Came:
    seeds, begun, came = (each.cpu().numpy() for each in before)
    return Came(seeds.view(np.uint64), begun, came.astype(np.int64))


def _origins(origins: Tensor | None, count: int) -> Ids:
    if origins is None:
        return np.zeros(count, np.uint64)
    if not is_integer(origins) or origins.numel() != count:
        raise AESGNavigationError(
            f"Origins do not fit the queries: expected {count} integers, got {_kind(origins)}"
        )
    own: Ids = origins.detach().reshape(-1).long().cpu().numpy().view(np.uint64)
    return own


def is_integer(tensor: Any) -> bool:
    """Tell whether it is a tensor of integers; bool is none."""
    return isinstance(tensor, Tensor) and not (
        tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool
    )


def _kind(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
