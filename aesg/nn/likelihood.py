"""What a last layer gives to the tokens that came, without saying what it gives to all others."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from aesg.outcomes import UNKNOWN

#: Scores that are worked on at once. Tensors of 16 MB are made of memory that the process has; one
#: of all rows would be asked of the system in every step, which costs as much as a matrix product.
_AT_ONCE = 1 << 22


class Given(NamedTuple):
    """Log-probabilities ``(...)``, in float32 at least.

    Parameters
    ----------
    came : tensor
        Of what came.
    other : tensor
        Of another token, without gradient.
    peak : tensor
        Of the likeliest token, without gradient.
    """

    came: Tensor
    other: Tensor
    peak: Tensor


class LastLayer(NamedTuple):
    """What makes the logits ``states @ weight.T``, before it makes them.

    Parameters
    ----------
    states : (..., H) tensor
    weight : (V, H) tensor
    """

    states: Tensor
    weight: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """In what log-probabilities are counted."""
        return torch.promote_types(self.states.dtype, torch.float32)

    def of_targets(self, targets: Tensor) -> Tensor:
        """Return log-probabilities of targets ``(...)``, 0 where they are `UNKNOWN`."""
        unknown = targets == UNKNOWN
        came = targets.masked_fill(unknown, 0)
        return self.given_to(came, came).came.masked_fill(unknown, 0.0)

    def given_to(self, came: Tensor, other: Tensor) -> Given:
        """Return what ``log_softmax`` of the logits gives to two tokens for each state.

        The gradient of the first by its state is ``weight[came] - softmax @ weight``, and is made
        while the logits are at hand. A step costs three products with ``weight``, and no more where
        it goes backward to the states several times.

        Parameters
        ----------
        came, other : (...) int64 tensor
            In ``0 .. V - 1``.
        """
        tokens = torch.stack([came, other], -1)
        if not self._is_plain():
            log_probs = log_probabilities(F.linear(self.states, self.weight))
            first, second = log_probs.gather(-1, tokens).unbind(-1)
            return Given(first, second.detach(), log_probs.detach().amax(-1))
        given = _given_to(tokens.flatten(0, -2), self.states.flatten(0, -2), self.weight)
        return Given(*(each.view(came.shape) for each in given))

    def _is_plain(self) -> bool:
        """Tell whether states are computed with as they are, in full precision, here and now."""
        return (
            not torch.compiler.is_compiling()
            and self.states.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled(self.states.device.type)
        )


def log_probabilities(logits: Tensor) -> Tensor:
    """Return ``log_softmax`` over the last axis, in float32 at least."""
    return logits.log_softmax(-1, torch.promote_types(logits.dtype, torch.float32))


def _given_to(tokens: Tensor, states: Tensor, weight: Tensor) -> Given:
    """Return what states ``(N, H)`` give to tokens ``(N, 2)``."""
    rows = max(_AT_ONCE // len(weight), 1)
    learns = [torch.is_grad_enabled() and each.requires_grad for each in (states, weight)]
    parts = [
        _part(some, weight, its, *learns)
        for some, its in zip(torch.split(states, rows), torch.split(tokens, rows), strict=True)
    ]
    came, other = torch.cat([part.given for part in parts]).unbind(-1)
    if learns[0]:
        pulls = torch.cat([cast(Tensor, part.pulls) for part in parts])
        came = _ByStates.apply(states, came, pulls)  # type: ignore[no-untyped-call]
    if learns[1]:
        misses = (part.misses for part in parts)
        came = came + _ByWeight.apply(  # type: ignore[no-untyped-call]
            weight, states.detach(), *misses
        )
    return Given(came, other, torch.cat([part.peak for part in parts]))


class _Part(NamedTuple):
    """What is known of some rows.

    Parameters
    ----------
    given : (N, 2) tensor
        Log-probabilities of what came and of another token.
    peak : (N,) tensor
        That of the likeliest.
    misses : (N, V) tensor or None
        The probabilities less what came, as one among zeros: the gradient of the first by the
        scores, but for its sign.
    pulls : (N, H) tensor or None
        The gradient of the first by the states.
    """

    given: Tensor
    peak: Tensor
    misses: Tensor | None
    pulls: Tensor | None


@torch.no_grad()
def _part(
    states: Tensor, weight: Tensor, tokens: Tensor, by_states: bool, by_weight: bool
) -> _Part:
    """Return what is known of rows ``(N, H)`` and tokens ``(N, 2)``, where gradients need it."""
    scores = states @ weight.T  # (N, V)
    shares = scores.softmax(-1)
    peak = shares.amax(-1).log()
    given = scores.gather(-1, tokens) - scores.amax(-1, keepdim=True) + peak.unsqueeze(-1)
    if not (by_states or by_weight):
        return _Part(given, peak, None, None)
    came = tokens[:, :1]
    misses = shares.scatter_add_(-1, came, -torch.ones_like(came, dtype=shares.dtype))
    pulls = -(misses @ weight) if by_states else None
    return _Part(given, peak, misses if by_weight else None, pulls)


class _ByStates(Function):
    """Log-probabilities ``(N,)`` as a function of states ``(N, H)``."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, log_probs: Tensor, pulls: Tensor) -> Tensor:
        ctx.save_for_backward(pulls)
        return log_probs.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (pulls,) = ctx.saved_tensors
        return gradient.unsqueeze(-1) * pulls, None, None


class _ByWeight(Function):
    """Zeros ``(N,)`` that have the gradient of log-probabilities by the weight ``(V, H)``.

    Apart from `_ByStates`, since who goes backward to the states alone need not pay for this.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, states: Tensor, *misses: Tensor) -> Tensor:
        ctx.save_for_backward(states, *misses)
        return states.new_zeros(len(states))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, *misses = ctx.saved_tensors
        scaled = (-gradient.unsqueeze(-1) * states).split([len(each) for each in misses])
        products = (each.T @ some for each, some in zip(misses, scaled, strict=True))
        return sum(products), *(None for _ in range(1 + len(misses)))
