"""Multi-head attention over the individual concepts that a memory retrieves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.errors import AESGConfigError
from aesg.memory import AESGMemory
from aesg.nn.query import MemoryQuery, QueryPolicy

_LEAST = 1e-6  # share of attention below which log() and its gradient would take over


class MemoryCrossAttention(nn.Module):
    """Attention of hidden states to concepts, each by itself.

    The memory's own attention, in which the query competes with a null slot, is where all heads
    start from; each head then prefers the concepts whose keys suit a query of its own. What the
    concepts stand for is added to the hidden states, through a layer that is zero at first.

    One call asks, attends and learns::

        hidden = layer(hidden, origins=origins)

    A module that knows more about the outcome asks by itself: ``layer.query``, `AESGMemory.recall`,
    `attend`, `AESGMemory.defer`.

    Parameters
    ----------
    hidden_size : int
        Width ``H`` of the hidden states, divisible by ``nhead``.
    memory : AESGMemory
        Of width ``D``.
    nhead : int
        Attention heads.
    top_k : int
        Concepts ``K`` retrieved for each query.
    every : int or "sample"
        Which positions ask; see `MemoryQuery`. All positions attend: to what the last that asked
        has retrieved, or to what the sample has.
    value_size : int, optional
        Width ``E`` of the embeddings of integer values that each call brings. None takes the
        vectors that concepts stand for.

    Raises
    ------
    AESGConfigError
        If ``nhead`` or ``every`` does not fit.
    """

    def __init__(
        self,
        hidden_size: int,
        memory: AESGMemory,
        nhead: int,
        *,
        top_k: int = 32,
        every: QueryPolicy = 1,
        value_size: int | None = None,
    ) -> None:
        super().__init__()
        if nhead < 1 or hidden_size % nhead:
            raise AESGConfigError(
                f"hidden_size must be divisible by nhead: got {hidden_size} and {nhead}"
            )
        self.memory = memory
        self.nhead = nhead
        self.top_k = top_k
        self.integers = value_size is not None
        self.query = MemoryQuery(hidden_size, memory, every=every)
        self.norm = nn.LayerNorm(hidden_size)
        self.heads = nn.Linear(hidden_size, nhead * memory.vector_dim, bias=False)
        self.null = nn.Parameter(torch.zeros(nhead))
        self.values = nn.Linear(value_size or memory.vector_dim, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        hidden: Tensor,
        values: Tensor | None = None,
        *,
        origins: Tensor | None = None,
        outcomes: Tensor | None = None,
    ) -> Tensor:
        """Ask the memory, add what it says, and queue what the questions teach.

        Parameters
        ----------
        hidden : (B, T, H) tensor
        values : (V, E) tensor, optional
            Embeddings of integer values, for a layer with a ``value_size``.
        origins : (B,) int64 tensor, optional
            Sample that each row belongs to; see `AESGMemory.retrieve`.
        outcomes : (B, T') int64 or (B, T', D) float tensor, optional
            What is known already of what came where positions ask; `AESGMemory.observe` may
            replace it.

        Returns
        -------
        (B, T, H) tensor
            Equal to ``hidden`` where nothing was retrieved, and at initialisation.

        Raises
        ------
        AESGConfigError
            If ``values`` are missing, or the layer reads vectors.
        """
        context = self.memory.recall(
            self.query(hidden), top_k=self.top_k, origins=origins, vectors=not self.integers
        )
        self.memory.defer(context, outcomes)
        return self.attend(hidden, context, values)

    def attend(
        self, hidden: Tensor, context: RetrievedContext, values: Tensor | None = None
    ) -> Tensor:
        """Add what concepts stand for to the hidden states.

        Parameters
        ----------
        hidden, values
            As for `forward`.
        context : RetrievedContext
            ``(B, T', K)``, of the queries of ``hidden``.

        Returns
        -------
        (B, T, H) tensor

        Raises
        ------
        AESGConfigError
            As for `forward`.
        """
        said, speaks = self._said(context, values)  # (B, T', K, E), (B, T', K)
        if not speaks.shape[-1]:
            return hidden
        shares = self._shares(self._grouped(self.norm(hidden), speaks.shape[1]), context, speaks)
        read = torch.einsum("bpnhk,bpke->bpnhe", shares, said.to(shares.dtype))
        split = self.values.weight.view(self.nhead, -1, said.shape[-1]).to(read.dtype)
        mixed = torch.einsum("bpnhe,hve->bpnhv", read, split).flatten(-2).flatten(1, 2)
        update: Tensor = self.out(mixed.to(self.out.weight.dtype))[:, : hidden.shape[1]]
        return hidden + update.to(hidden.dtype)

    def _said(self, context: RetrievedContext, values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what each concept stands for, and which of them can be heard."""
        if (values is not None) != self.integers:
            wanted, got = ("(V, E)", "none") if self.integers else ("none", "some")
            raise AESGConfigError(
                f"values: expected {wanted}, since the layer reads "
                f"{'integers' if self.integers else 'vectors'}, got {got}"
            )
        if values is None:
            return context.vectors, context.mask
        ids = context.value_ids
        speaks = (ids >= 0) & (ids < len(values))
        return F.embedding(ids.masked_fill(~speaks, 0), values), speaks

    def _shares(self, asking: Tensor, context: RetrievedContext, speaks: Tensor) -> Tensor:
        """Return the attention ``(B, T', n, nhead, K)`` of ``(B, T', n, H)`` hidden states."""
        heads = self.heads(asking).view(*asking.shape[:3], self.nhead, -1)  # (B, T', n, nhead, D)
        liking = torch.einsum("bpnhd,bpkd->bpnhk", heads, context.keys.to(heads.dtype)).float()
        known = context.weights.clamp_min(_LEAST).log().masked_fill(~speaks, -torch.inf)
        null = self.null.float() + (1 - context.weights.sum(-1)).clamp_min(_LEAST).log()[..., None]
        null = null[:, :, None, :, None].expand(*liking.shape[:-1], 1)
        scores = torch.cat([liking + known[:, :, None, None], null], -1)
        return scores.softmax(-1)[..., :-1]

    def _grouped(self, hidden: Tensor, places: int) -> Tensor:
        """Return the positions that share a place, ``(B, T, H)`` to ``(B, T', n, H)``."""
        time = hidden.shape[1]
        each = self.query.every if isinstance(self.query.every, int) else time
        padded = F.pad(hidden, (0, 0, 0, places * each - time))
        return padded.view(hidden.shape[0], places, each, -1)
