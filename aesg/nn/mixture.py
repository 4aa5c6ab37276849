"""Mixing what the memory expects into a distribution over integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aesg.context import RetrievedContext
from aesg.nn._gate import FIRST_BIAS, share_of
from aesg.nn.likelihood import LastLayer, log_probabilities
from aesg.outcomes import UNKNOWN

_FEATURES = 6

#: Log-probability that stands for none at all: minus infinity times a closed gate is not a number.
_NEVER = -1e3

#: The least share of the memory that has a logarithm here.
_FAINT = 1e-20


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
        if not context.value_ids.shape[-1]:
            return log_model + self._nothing()
        log_model = log_model.masked_fill(log_model.isneginf(), _NEVER)
        ids, weights = _expressible(context, logits.shape[-1], log_model.dtype)
        shares, first = _summed_by_value(ids, weights)
        at_values = log_model.gather(-1, ids)  # (..., K)
        peak, place = shares.max(-1, keepdim=True)
        sure = log_model.detach().amax(-1, keepdim=True)
        gate = self._gate(hidden, context, peak, sure, at_values.gather(-1, place))  # (..., 1)
        left = (1 - gate * weights.sum(-1, keepdim=True)).log()
        heard = (gate * shares).clamp_min(_FAINT).log()
        gain = torch.logaddexp(at_values + left, heard) - at_values - left
        gain = gain.masked_fill(~first | (shares <= 0), 0.0)
        return (log_model + left).scatter_add_(-1, ids, gain)

    def where_asked(
        self, every: int, logits: Tensor, hidden: Tensor, context: RetrievedContext
    ) -> tuple[Tensor, Tensor]:
        """Mix where positions asked, and let the model speak alone elsewhere.

        Parameters
        ----------
        every : int
            Positions from one that asks to the next: ``T'`` of ``T`` do.
        logits : (B, T, V) tensor
        hidden : (B, T, H) tensor
        context : RetrievedContext
            ``(B, T', K)``.

        Returns
        -------
        (B, T, V) tensor, (B, T', V) tensor
            Log-probabilities of all positions, and of those that asked, for `AESGMemory.defer`.
        """
        asked: Tensor = self(logits[:, ::every], hidden[:, ::every], context)
        if every == 1:
            return asked, asked
        return log_probabilities(logits).slice_scatter(asked, 1, step=every), asked

    def of_targets(
        self,
        targets: Tensor,
        every: int,
        layer: LastLayer,
        hidden: Tensor,
        context: RetrievedContext,
    ) -> tuple[Tensor, Tensor]:
        """Return what `where_asked` gives to targets, without making it of all other tokens.

        All that it depends on is what the model gives to the target, to its likeliest token and to
        the one that the memory gives most to; and only the first has a gradient.

        Parameters
        ----------
        targets : (B, T) int64 tensor
            `UNKNOWN` where there is none; the others are in ``0 .. V - 1``.
        every : int
        layer : LastLayer
            What makes the logits ``(B, T, V)``.
        hidden : (B, T, H) tensor
        context : RetrievedContext
            ``(B, T', K)``.

        Returns
        -------
        (B, T) tensor, (B, T) tensor
            Log-probabilities of the targets by the model alone and with the memory, equal to those
            of `where_asked` but for rounding; 0 where there is no target.
        """
        unknown = targets == UNKNOWN
        came = targets.masked_fill(unknown, 0)
        if not context.value_ids.shape[-1]:
            own = layer.of_targets(targets)
            return own, own + self._nothing()
        asked = slice(None, None, every)
        ids, weights = _expressible(context, len(layer.weight), layer.dtype)
        with torch.no_grad():
            place = _summed_by_value(ids, weights)[0].max(-1, keepdim=True).indices
            most = ids.gather(-1, place)  # (B, T', 1)
        other = came.slice_scatter(most.squeeze(-1), 1, step=every)
        given = layer.given_to(came, other)
        sure, agreed = (each[:, asked].unsqueeze(-1) for each in (given.peak, given.other))
        peak = (weights * (ids == most)).sum(-1, keepdim=True)
        gate = self._gate(hidden[:, asked], context, peak, sure, agreed).squeeze(-1)
        share = (weights * (ids == came[:, asked].unsqueeze(-1))).sum(-1)
        model = given.came[:, asked]
        left = model.masked_fill(model.isneginf(), _NEVER) + (1 - gate * weights.sum(-1)).log()
        heard = (gate * share).clamp_min(_FAINT).log()
        mixed = torch.where(share > 0, torch.logaddexp(left, heard), left)
        both = given.came.slice_scatter(mixed, 1, step=every)
        return given.came.masked_fill(unknown, 0.0), both.masked_fill(unknown, 0.0)

    def _nothing(self) -> Tensor:
        """Return a zero that is differentiable where all but the memory's part is frozen."""
        return 0 * self.gate.bias

    def _gate(
        self, hidden: Tensor, context: RetrievedContext, peak: Tensor, sure: Tensor, agreed: Tensor
    ) -> Tensor:
        """Return the share of the memory, ``(..., 1)``.

        ``peak`` is what the memory gives most, ``sure`` and ``agreed`` the logarithms of what the
        model gives most, and gives to the choice of the memory; ``(..., 1)`` each.
        """
        features = torch.cat(
            [
                self.norm(hidden),
                context.best_cosine.unsqueeze(-1),
                context.weights.sum(-1, keepdim=True),
                peak,
                (context.weights * context.ages.log1p()).sum(-1, keepdim=True),
                sure.exp(),
                agreed.detach().exp(),
            ],
            -1,
        )
        gate: Tensor = self.gate(features.to(self.gate.weight.dtype)).to(peak.dtype)
        return share_of(gate)


def _expressible(
    context: RetrievedContext, vocab_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return tokens and weights ``(..., K)``; 0 and 0 where a value is no token."""
    ids = context.value_ids
    expressible = (ids >= 0) & (ids < vocab_size)
    return ids.masked_fill(~expressible, 0), context.weights.masked_fill(~expressible, 0).to(dtype)


def _summed_by_value(ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed weight of each place's value, and where a value stands first."""
    same = ids.unsqueeze(-1) == ids.unsqueeze(-2)  # (..., K, K)
    shares = (same * weights.unsqueeze(-2)).sum(-1)
    places = torch.arange(ids.shape[-1], device=ids.device)
    earlier = places.unsqueeze(0) < places.unsqueeze(1)
    return shares, ~(same & earlier).any(-1)
