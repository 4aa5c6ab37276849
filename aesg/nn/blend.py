"""Blending vectors that the memory expects with those that a model expects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aesg.context import RetrievedContext, weighted_sum
from aesg.nn._gate import FIRST_BIAS, share_of
from storage_backends.types import ValueKind

_FEATURES = 6
#: Adam moves a weight by about the learning rate in a step. A gate is to open in some hundreds of
#: them, so its logit is this many times as quick.
_HASTE = 5.0
_TINY = 1e-6
_NEAR = 0.01


class MemoryBlend(nn.Module):
    """``v = own + g (recalled - own)``: for vector values what `MemoryMixture` is for integers.

    ``recalled`` is the attention-weighted mean of the vector values. The attention that went to the
    null slot, to the virtual concept and to concepts without a vector value stays with the model.
    The gate sees the hidden state, the best similarity, how much attention the values have, its
    peak and their age, how far they differ from one another, and from what the model expects. It
    starts near closed.

    Parameters
    ----------
    hidden_size : int
        Width ``H`` of the hidden states that the gate sees.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.gate = nn.Linear(hidden_size + _FEATURES, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, FIRST_BIAS / _HASTE)

    def forward(
        self, hidden: Tensor, own: Tensor, context: RetrievedContext
    ) -> tuple[Tensor, Tensor]:
        """Return what the memory expects, and how far it is to be believed.

        Parameters
        ----------
        hidden : (..., H) tensor
        own : (..., D) tensor
            What the model expects; no gradient goes there.
        context : RetrievedContext

        Returns
        -------
        recalled : (..., D) tensor
            ``own`` where nothing was retrieved.
        share : (..., 1) tensor
            Of the blend, in [0, 1): gate times attention; 0 where nothing was retrieved.
        """
        own = own.detach()
        if not context.mask.shape[-1]:
            share = 0 * self.gate.bias.expand(*own.shape[:-1], 1)
            return own, share  # still differentiable where the rest is frozen
        weights, shares = _attention(context)
        heard = weights.sum(-1, keepdim=True)
        recalled = torch.where(heard > 0, weighted_sum(shares, context.vectors), own)
        spread = (shares * _apart(context.vectors, recalled)).sum(-1)
        return recalled, heard * self._gate(
            hidden,
            _closeness(context.best_cosine),
            heard[..., 0],
            shares.amax(-1),
            (weights * context.ages.log1p()).sum(-1),
            _log_length(spread),
            _log_length((recalled - own).square().sum(-1)),
        )

    def _gate(self, hidden: Tensor, *features: Tensor) -> Tensor:
        seen = torch.cat([self.norm(hidden), torch.stack(features, -1)], -1)
        gate: Tensor = self.gate(seen.to(self.gate.weight.dtype)).float()
        return share_of(_HASTE * gate)


def recalled_vectors(context: RetrievedContext) -> Tensor:
    """Return the attention-weighted mean of the vector values, ``(..., D)``.

    Zeros where no concept with a vector value was retrieved.
    """
    _, shares = _attention(context)
    return weighted_sum(shares, context.vectors)


def _attention(context: RetrievedContext) -> tuple[Tensor, Tensor]:
    """Return the attention ``(..., K)`` that vector values have, and their shares of it.

    The shares ``(..., K)`` add up to one, or to zero where there is no vector value.
    """
    vector = context.value_kinds == int(ValueKind.VECTOR)
    weights = context.weights.masked_fill(~(vector & context.mask), 0.0)
    return weights, weights / weights.sum(-1, keepdim=True).clamp_min(_TINY)


@torch.no_grad()
def _apart(vectors: Tensor, mean: Tensor) -> Tensor:
    """Return the squared distances ``(..., K)`` of vectors ``(..., K, D)`` from their mean.

    The mean is where they are least in all, so that no gradient by it is left out of their sum.
    """
    return (vectors - mean.unsqueeze(-2)).square_().sum(-1)


def _closeness(cosine: Tensor) -> Tensor:
    """Return about how many times a similarity halves the distance to one."""
    return -(1 + _NEAR - cosine).clamp_min(_NEAR).log2()


def _log_length(square: Tensor) -> Tensor:
    """Return the logarithm of a length, from its square: a gate can tell it apart at any scale."""
    return 0.5 * (square + _TINY).log10() + 1
