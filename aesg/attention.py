"""Attention over retrieved concepts, with a virtual concept and a null slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_SILENT = 1e-6  # activation below which log() would take over
_SHORTEST = 1e-12  # length below which a vector is not made longer


@dataclass(frozen=True)
class Attention:
    """Shares of attention that add up to one with that of the null slot.

    Parameters
    ----------
    weights : (..., K) tensor
        Shares of the concepts; zero where masked.
    abstract : (..., D) tensor
        The virtual concept, a unit vector; zeros where nothing was retrieved.
    abstract_weight : (...,) tensor
        Its share.
    """

    weights: Tensor
    abstract: Tensor
    abstract_weight: Tensor


def attend(
    query: Tensor,
    keys: Tensor,
    mask: Tensor | None,
    activations: Tensor,
    ages: Tensor,
    roots: Tensor,
    prior: Tensor | None = None,
    *,
    scale: Tensor,
    reach: Tensor,
    recency: Tensor,
    null_logit: Tensor,
    projection: Tensor,
) -> Attention:
    """Weigh concepts by similarity, activation and age.

    The logit of a concept is ``scale * cosine + log(activation) - recency * log(1 + age) + prior``;
    the term of age is base-level activation (Anderson and Schooler, 1991, "Reflections of the
    environment in memory"). One virtual concept, the projection of the retrieved mean, joins with
    ``scale * cosine``, and a null slot with ``null_logit``.

    A concept that activation reached along edges need not resemble the query at all. Where the
    seed that it came from does so more, ``reach`` of what is missing is made up: beside that seed
    its share then follows its activation.

    Parameters
    ----------
    query : (..., D) tensor
    keys : (..., K, D) tensor
        Unit vectors.
    mask : (..., K) bool tensor or None
        True where there is a concept; None where there is one in every place.
    activations, ages : (..., K) tensor
        Ages in topology updates.
    roots : (..., K) int64 tensor
        The place among the ``K`` of the seed that activation came from; a seed's own.
    prior : (..., K) tensor, optional
        What else speaks for each concept.
    scale, recency, null_logit : scalar tensor
    reach : scalar tensor
        In [0, 1]; 0 weighs every concept by its own similarity.
    projection : (D, D) tensor
        The virtual concept is ``normalise(mean + mean @ projection.T)``.
    """
    unit = _unit(query)
    cosines = torch.matmul(keys, unit.unsqueeze(-1)).squeeze(-1)  # (..., K)
    cosines = cosines + reach * (cosines.gather(-1, roots) - cosines).clamp_min(0)
    logits = scale * cosines + activations.clamp_min(_SILENT).log() - recency * ages.log1p()
    if prior is not None:
        logits = logits + prior
    mean = _unit(keys.sum(-2))  # (..., D)
    abstract = _unit(mean + F.linear(mean, projection))
    virtual = scale * (abstract * unit).sum(-1, keepdim=True)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
        virtual = virtual.masked_fill(~mask.any(-1, keepdim=True), -torch.inf)
    shares = torch.cat([logits, virtual, null_logit.expand_as(virtual)], -1).softmax(-1)
    return Attention(shares[..., :-2], abstract, shares[..., -2])


def _unit(vectors: Tensor) -> Tensor:
    """Do what `torch.nn.functional.normalize` does, in less time where there are few vectors."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(_SHORTEST)
