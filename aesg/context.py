"""What a retrieval returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aesg.errors import AESGMemoryError
from storage_backends.lazy import lazy
from storage_backends.types import Floats, Ids


class Trace(NamedTuple):
    """How ``N`` flattened queries were answered: what learning reads, as tensors on the host.

    Unsigned ids stand as the int64 of the same bits. The columns are those of `Found`.
    """

    queries: Tensor
    norms: Tensor
    ids: Tensor
    paths: Tensor
    cosines: Tensor
    value_kinds: Tensor
    value_ids: Tensor
    origins: Tensor
    seeds: Tensor
    begun: Tensor
    followed: Tensor


@dataclass(frozen=True)
class Found:
    """A `Trace` as arrays.

    Parameters
    ----------
    queries : (N, D) float32
        Unit queries.
    norms : (N,) float32
        Length of the raw queries.
    ids : (N, K) uint64
        Concepts, most active first; 0 pads.
    paths : (N, K, H) uint64
        The concepts that activation came through in at most ``H`` hops, from the one that sent it
        here back to a seed. 0 follows the seed, and is all that a seed has itself.
    cosines : (N, K) float32
        Similarity of key and query.
    value_kinds : (N, K) uint8
        `ValueKind`.
    value_ids : (N, K) int64
        Integer values; -1 where a concept has none.
    origins : (N,) uint64
        Sample of each query; 0 for none.
    seeds : (N, S) uint64
        Concepts where activation began; 0 pads.
    begun : (N, S) float32
        Activation that they began with.
    followed : (N,) bool
        Where successor edges replaced the search.
    sequences : (int, int)
        ``(B, T)`` with ``B * T = N``: consecutive queries belong to one sequence.
    """

    queries: Floats
    norms: Floats
    ids: Ids
    paths: Ids
    cosines: Floats
    value_kinds: NDArray[np.uint8]
    value_ids: NDArray[np.int64]
    origins: Ids
    seeds: Ids
    begun: Floats
    followed: NDArray[np.bool_]
    sequences: tuple[int, int]

    @property
    def parents(self) -> Ids:
        """The concept that activation came from, ``(N, K)`` uint64; 0 for a seed."""
        return self.paths[..., 0]


@dataclass(frozen=True)
class RetrievedContext:
    """Concepts that a query activated, most active first.

    A single query ``(D,)`` gives arrays without a leading axis; batched queries give theirs, and
    ``mask`` tells which of the ``K`` places hold a concept.

    Parameters
    ----------
    keys : (..., K, D) float32 tensor
        Unit keys; zeros where masked.
    weights : (..., K) float32 tensor
        Attention over the concepts, differentiable in the query. They sum to less than one: the
        rest went to ``abstract_weight`` and to the null slot.
    mask : (..., K) bool tensor
        True where there is a concept.
    activations : (..., K) float32 tensor
        What spreading activation brought.
    ages : (..., K) float32 tensor
        Topology updates since each concept was written or last proved right; 0 where masked.
    cosines : (..., K) float32 tensor
        Similarity of key and query, without a gradient; 0 where masked.
    value_kinds : (..., K) uint8 tensor
        `storage_backends.types.ValueKind` of each concept.
    value_ids : (..., K) int64 tensor
        Integer values; -1 where a concept has none.
    abstract : (..., D) float32 tensor
        The virtual concept: the learned projection of the retrieved mean, a unit vector.
    abstract_weight : (...,) float32 tensor
        Its share of the attention.
    trace : Trace
    gathered : (..., K, D) float32 tensor or None
        The `vectors`; None where they were not asked for.
    """

    keys: Tensor
    weights: Tensor
    mask: Tensor
    activations: Tensor
    ages: Tensor
    cosines: Tensor
    value_kinds: Tensor
    value_ids: Tensor
    abstract: Tensor
    abstract_weight: Tensor
    trace: Trace
    gathered: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        """What each concept stands for, ``(..., K, D)``: its vector value, else its raw key.

        Raises
        ------
        AESGMemoryError
            If they were not asked for.
        """
        if self.gathered is None:
            raise AESGMemoryError("No vectors: expected recall(..., vectors=True), got False")
        return self.gathered

    @property
    def best_cosine(self) -> Tensor:
        """Similarity of the most similar key, ``(...,)``; 0 where nothing was retrieved."""
        if not self.mask.shape[-1]:
            return self.keys.new_zeros(self.mask.shape[:-1])
        best = self.cosines.masked_fill(~self.mask, -torch.inf).amax(-1)
        return best.masked_fill(~self.mask.any(-1), 0.0)

    @property
    def sequences(self) -> tuple[int, int]:
        """``(B, T)``: the queries, in order, are ``B`` sequences of ``T`` positions."""
        return sequences_of(self.mask.shape[:-1])

    @lazy
    def found(self) -> Found:
        """What learning reads, as arrays."""
        trace = self.trace
        unsigned = {
            name: getattr(trace, name).numpy().view(np.uint64)
            for name in ("ids", "paths", "origins", "seeds")
        }
        return Found(
            queries=trace.queries.numpy(),
            norms=trace.norms.numpy(),
            cosines=trace.cosines.numpy(),
            value_kinds=trace.value_kinds.numpy(),
            value_ids=trace.value_ids.numpy(),
            begun=trace.begun.numpy(),
            followed=trace.followed.numpy(),
            sequences=self.sequences,
            **unsigned,
        )

    @property
    def concept_ids(self) -> NDArray[np.uint64]:
        """Concept ids ``(..., K)``; 0 pads."""
        return self.found.ids.reshape(self.mask.shape)

    @property
    def primary_concepts(self) -> list[int]:
        """Ids of the first three concepts, of all queries in turn."""
        return self._listed(slice(0, 3))

    @property
    def secondary_concepts(self) -> list[int]:
        """Ids of the concepts behind the first three, of all queries in turn."""
        return self._listed(slice(3, None))

    @property
    def paths(self) -> list[list[int]]:
        """Ids from the seed to each concept, of all queries in turn.

        Each step is an edge; concepts on the way need not be among the retrieved.
        """
        rows, places = np.nonzero(self.found.ids)
        ends = self.found.ids[rows, places].tolist()
        ways = self.found.paths[rows, places].tolist()
        return [
            [*(each for each in reversed(way) if each), end]
            for way, end in zip(ways, ends, strict=True)
        ]

    @classmethod
    def stack(cls, contexts: Sequence[RetrievedContext]) -> RetrievedContext:
        """Return the contexts of consecutive positions, ``(B, ...)`` each, as ``(B, T, ...)``.

        One mixture and one `AESGMemory.defer` then serve the whole sequence. Positions that
        retrieved fewer concepts than others are padded.

        Parameters
        ----------
        contexts : sequence of T RetrievedContext
            Of the same ``B`` sequences, in order of time.

        Raises
        ------
        AESGMemoryError
            If there are none, or they are not of as many sequences.
        """
        shapes = [tuple(each.mask.shape[:-1]) for each in contexts]
        if not shapes or len(shapes[0]) != 1 or any(each != shapes[0] for each in shapes):
            raise AESGMemoryError(
                f"Contexts to stack: expected one or more of the same shape (B, K), "
                f"got leading shapes {shapes}"
            )
        traces = [each.trace for each in contexts]
        gathered = all(each.gathered is not None for each in contexts)
        return cls(
            **{name: _stacked(contexts, name) for name in COLUMNS},
            trace=Trace(*(_stacked(traces, name).flatten(0, 1) for name in Trace._fields)),
            gathered=_stacked(contexts, "gathered") if gathered else None,
        )

    def detached(self) -> RetrievedContext:
        """Return the same context without its part of the autograd graph."""
        return replace(
            self,
            weights=self.weights.detach(),
            abstract=self.abstract.detach(),
            abstract_weight=self.abstract_weight.detach(),
        )

    def aggregate(self) -> Tensor:
        """Return the attention-weighted sum of vectors and virtual concept, ``(..., D)``.

        Zeros where nothing was retrieved.
        """
        summed = weighted_sum(self.weights, self.vectors)  # (..., D)
        return summed + self.abstract_weight.unsqueeze(-1) * self.abstract

    def _listed(self, places: slice) -> list[int]:
        ids = self.found.ids[:, places]
        return [int(concept_id) for concept_id in ids[ids != 0]]


#: The fields of a context that are tensors and always there, in order.
COLUMNS = tuple(
    each.name for each in fields(RetrievedContext) if each.name not in ("trace", "gathered")
)


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return the sum ``(..., D)`` of vectors ``(..., K, D)``, each times one of ``(..., K)``."""
    with torch.autocast(weights.device.type, enabled=False):  # which products would heed
        return torch.matmul(weights.unsqueeze(-2), vectors).squeeze(-2)


def sequences_of(shape: Sequence[int]) -> tuple[int, int]:
    """Return ``(B, T)`` of queries of shape ``(..., D)``, given all but their last axis."""
    time = shape[-1] if len(shape) > 1 else 1
    return math.prod(shape[:-1] if len(shape) > 1 else shape), time


def widened(name: str, column: Tensor, width: int) -> Tensor:
    """Pad the second axis of a column, if it has one, to ``width``."""
    if column.ndim < 2 or column.shape[1] >= width:
        return column
    pad = [0, 0] * (column.ndim - 2) + [0, width - column.shape[1]]
    return F.pad(column, pad, value=-1 if name == "value_ids" else 0)


def _stacked(parts: Sequence[RetrievedContext] | Sequence[Trace], name: str) -> Tensor:
    """Stack columns ``(B, ...)`` to ``(B, T, ...)``, their second axis padded to the widest."""
    columns: list[Tensor] = [getattr(each, name) for each in parts]
    width = max(each.shape[1] if each.ndim > 1 else 0 for each in columns)
    return torch.stack([widened(name, each, width) for each in columns], 1)
