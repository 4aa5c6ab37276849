"""What a retrieval returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.errors import AESGMemoryError
from storage_backends.lazy import lazy
from storage_backends.types import Floats, Ids, ValueKind


@dataclass(frozen=True)
class Found:
    """The numpy side of a context: concepts of ``N`` flattened queries.

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
        Integer values.
    vectors : (N, K, D) float32 or None
        What the concepts stand for; None where they were not asked for.
    origins : (N,) uint64
        Sample of each query; 0 for none.
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
    vectors: Floats | None
    origins: Ids
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
    abstract : (..., D) float32 tensor
        The virtual concept: the learned projection of the retrieved mean, a unit vector.
    abstract_weight : (...,) float32 tensor
        Its share of the attention.
    found : Found
    """

    keys: Tensor
    weights: Tensor
    mask: Tensor
    activations: Tensor
    ages: Tensor
    abstract: Tensor
    abstract_weight: Tensor
    found: Found

    @lazy
    def vectors(self) -> Tensor:
        """What each concept stands for, ``(..., K, D)``: its vector value, else its raw key.

        Raises
        ------
        AESGMemoryError
            If they were not asked for.
        """
        if self.found.vectors is None:
            raise AESGMemoryError("No vectors: expected recall(..., vectors=True), got False")
        return torch.from_numpy(self.found.vectors).to(self.keys.device).view(self.keys.shape)

    @lazy
    def value_ids(self) -> Tensor:
        """Integer values ``(..., K)``, int64; -1 where a concept has none."""
        integer = (self.found.value_kinds == ValueKind.INTEGER) & (self.found.ids != 0)
        values = np.where(integer, self.found.value_ids, -1)
        return torch.from_numpy(values).to(self.keys.device).view(self.mask.shape)

    @property
    def best_cosine(self) -> Tensor:
        """Similarity of the most similar key, ``(...,)``; 0 where nothing was retrieved."""
        cosines = np.where(self.found.ids != 0, self.found.cosines, -1).max(1, initial=-1)
        best = np.where(cosines > -1, cosines, 0).astype(np.float32)
        return torch.from_numpy(best).to(self.keys.device).view(self.mask.shape[:-1])

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
        summed = (self.weights.unsqueeze(-1) * self.vectors).sum(-2)  # (..., D)
        return summed + self.abstract_weight.unsqueeze(-1) * self.abstract

    def _listed(self, places: slice) -> list[int]:
        ids = self.found.ids[:, places]
        return [int(concept_id) for concept_id in ids[ids != 0]]
