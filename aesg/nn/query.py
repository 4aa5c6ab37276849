"""How hidden states ask the memory: which of them ask, and with what query."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from aesg.errors import AESGConfigError
from aesg.memory import AESGMemory

#: Which positions ask: every n-th, or one for the whole sample, with its mean.
QueryPolicy: TypeAlias = int | Literal["sample"]

#: Share of the running mean that a training batch replaces.
_MEAN_MOMENTUM = 0.01


def check_query_every(every: Any, *, causal: bool) -> None:
    """Raise `AESGConfigError` unless ``every`` is a policy that a model can follow.

    Parameters
    ----------
    every : int or "sample"
    causal : bool
        Whether a position must not know what comes after it.
    """
    if every == "sample":
        if causal:
            raise AESGConfigError(
                "query_every='sample' asks with the mean of all positions, which holds what comes "
                "after each of them: expected an integer >= 1 for a causal model"
            )
    elif isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise AESGConfigError(f"query_every: expected an integer >= 1 or 'sample', got {every!r}")


class MemoryQuery(nn.Module):
    """The queries of hidden states: normalised, centred and projected.

    Hidden states of a trained network crowd into a narrow cone; without their running mean removed,
    every concept would resemble every query.

    Parameters
    ----------
    hidden_size : int
        Width ``H`` of the hidden states.
    memory : AESGMemory
        Of width ``D``.
    every : int or "sample"
        Which positions of ``(B, T, H)`` ask: 1 for all of them, ``n`` for those at ``t % n == 0``,
        "sample" for one query of their mean.

    Raises
    ------
    AESGConfigError
        If ``every`` is none of these.
    """

    mean: Tensor
    batches: Tensor

    def __init__(self, hidden_size: int, memory: AESGMemory, *, every: QueryPolicy = 1) -> None:
        super().__init__()
        check_query_every(every, causal=False)
        self.every = every
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.projection = nn.Linear(hidden_size, memory.vector_dim, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the queries of the places that ask, ``(B, T, H)`` to ``(B, T', D)``.

        In training the running mean follows, from the next call on: a sample's query does not
        depend on its batch.
        """
        asking = self.places(hidden)
        query = self.project(asking)
        if self.training:
            self.follow(asking)
        return query

    def project(self, hidden: Tensor) -> Tensor:
        """Return the query of every hidden state, ``(..., H)`` to ``(..., D)``."""
        query: Tensor = self.projection(self.norm(hidden) - self.mean)
        return query

    def follow(self, hidden: Tensor) -> None:
        """Let the running mean follow hidden states ``(..., H)``.

        A batch whose mean is not finite leaves no trace. A recurrent layer calls this once for all
        steps, behind the last: in between, a sample's query would depend on its batch.
        """
        with torch.no_grad():
            mean = self.norm(hidden).flatten(0, -2).mean(0).to(self.mean.dtype)
            finite = mean.isfinite().all()
            self.batches += finite
            share = (1 / self.batches.clamp_min(1)).clamp_min(_MEAN_MOMENTUM).to(mean.dtype)
            self.mean.copy_(torch.where(finite, self.mean.lerp(mean, share), self.mean))

    def places(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that ask, ``(B, T, H)`` to ``(B, T', H)``."""
        if self.every == "sample":
            return hidden.mean(1, keepdim=True)
        return self.at_places(hidden)

    def at_places(self, rows: Tensor) -> Tensor:
        """Return what belongs to the positions that ask, ``(B, T, ...)`` to ``(B, T', ...)``.

        Raises
        ------
        AESGConfigError
            If no position asks, since the mean does.
        """
        if isinstance(self.every, int):
            return rows if self.every == 1 else rows[:, :: self.every]
        raise AESGConfigError("query_every='sample': no position of its own asks")

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return ``(B, T, ...)`` with the places that ask replaced by ``part`` ``(B, T', ...)``.

        Raises
        ------
        AESGConfigError
            As for `at_places`.
        """
        if isinstance(self.every, int):
            if self.every == 1:
                return part
            return torch.slice_scatter(whole, part.to(whole.dtype), 1, step=self.every)
        raise AESGConfigError("query_every='sample': no position of its own asks")
