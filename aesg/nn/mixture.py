"""Mixing what the memory expects into a distribution over integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aesg.context import RetrievedContext
from aesg.nn._gate import FIRST_BIAS, share_of
from aesg.nn.query import MemoryQuery

_FEATURES = 6

#: Log-probability that stands for none at all: minus infinity times a closed gate is not a number.
_NEVER = -1e3


class MemoryMixture(nn.Module):
    """``p = (1 - g) p_model + g p_memory``, where ``p_memory`` is attention over integer values.

    The attention that went to the null slot, to the virtual concept and to concepts without an
    integer value below ``V`` stays with the model. The gate ``g`` sees the hidden state, the best
    similarity, the peaks of both distributions, their agreement and the age of what is attended to,
    and starts near closed. Mixing as in Khandelwal et al., 2020, "Generalization through
    memorization", with a learned gate.

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
        nn.init.constant_(self.gate.bias, FIRST_BIAS)

    def forward(self, logits: Tensor, hidden: Tensor, context: RetrievedContext) -> Tensor:
        """Return log-probabilities, usable as logits.

        Parameters
        ----------
        logits : (..., V) tensor
        hidden : (..., H) tensor
        context : RetrievedContext

        Returns
        -------
        (..., V) tensor
            ``log p``, float32 at least; exactly ``log_softmax(logits)`` where nothing was
            retrieved, but for a finite number in place of minus infinity.
        """
        log_model = log_probabilities(logits)
        ids = context.value_ids
        if not ids.shape[-1]:
            return log_model + 0 * self.gate.bias  # still differentiable where the rest is frozen
        log_model = log_model.masked_fill(log_model.isneginf(), _NEVER)
        expressible = (ids >= 0) & (ids < logits.shape[-1])
        weights = context.weights.masked_fill(~expressible, 0.0).to(log_model.dtype)
        ids = ids.masked_fill(~expressible, 0)
        shares, first = _summed_by_value(ids, weights)
        at_values = log_model.gather(-1, ids)  # (..., K)
        gate = self._gate(log_model, at_values, hidden, context, shares)  # (..., 1)
        left = 1 - gate * weights.sum(-1, keepdim=True)
        heard = (gate * shares).clamp_min(1e-20).log()
        gain = torch.logaddexp(at_values + left.log(), heard) - at_values - left.log()
        gain = gain.masked_fill(~first | (shares <= 0), 0.0)
        return (log_model + left.log()).scatter_add(-1, ids, gain)

    def where_asked(
        self, query: MemoryQuery, logits: Tensor, hidden: Tensor, context: RetrievedContext
    ) -> tuple[Tensor, Tensor]:
        """Mix where positions asked, and let the model speak alone elsewhere.

        Parameters
        ----------
        query : MemoryQuery
            That asked for the positions ``T'`` among ``T``.
        logits : (B, T, V) tensor
        hidden : (B, T, H) tensor
        context : RetrievedContext
            ``(B, T', K)``.

        Returns
        -------
        (B, T, V) tensor, (B, T', V) tensor
            Log-probabilities of all positions, and of those that asked, for `AESGMemory.defer`.
        """
        asked: Tensor = self(query.at_places(logits), query.at_places(hidden), context)
        if query.every == 1:
            return asked, asked
        return query.put(log_probabilities(logits), asked), asked

    def _gate(
        self,
        log_model: Tensor,
        at_values: Tensor,
        hidden: Tensor,
        context: RetrievedContext,
        shares: Tensor,
    ) -> Tensor:
        peak, place = shares.max(-1, keepdim=True)
        agreement = at_values.gather(-1, place)
        features = torch.cat(
            [
                self.norm(hidden),
                context.best_cosine.unsqueeze(-1),
                context.weights.sum(-1, keepdim=True),
                peak,
                (context.weights * context.ages.log1p()).sum(-1, keepdim=True),
                log_model.detach().amax(-1, keepdim=True).exp(),
                agreement.detach().exp(),
            ],
            -1,
        )
        gate: Tensor = self.gate(features.to(self.gate.weight.dtype)).to(shares.dtype)
        return share_of(gate)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return ``log_softmax`` over the last axis, in float32 at least."""
    return logits.log_softmax(-1, torch.promote_types(logits.dtype, torch.float32))


def _summed_by_value(ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed weight of each place's value, and where a value stands first."""
    same = ids.unsqueeze(-1) == ids.unsqueeze(-2)  # (..., K, K)
    shares = (same * weights.unsqueeze(-2)).sum(-1)
    places = torch.arange(ids.shape[-1], device=ids.device)
    earlier = places.unsqueeze(0) < places.unsqueeze(1)
    return shares, ~(same & earlier).any(-1)
