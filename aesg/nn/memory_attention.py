"""A layer that queries the memory from hidden states and brings what it finds back into them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory

#: Share of the running mean that a training batch replaces.
_MEAN_MOMENTUM = 0.01


class MemoryAttention(nn.Module):
    """Per-position memory query and gated injection.

    The query is a projection of the normalised hidden state, centred: hidden states of a trained
    network crowd into a narrow cone, and without the running mean removed every concept would
    resemble every query.

    Parameters
    ----------
    hidden_size : int
        Width ``H`` of the hidden states.
    memory : AESGMemory
        Of width ``D``.
    top_k : int
        Concepts ``K`` retrieved for each position.
    """

    mean: Tensor
    batches: Tensor

    def __init__(self, hidden_size: int, memory: AESGMemory, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.query_norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.query_proj = nn.Linear(hidden_size, memory.vector_dim, bias=False)
        nn.init.orthogonal_(self.query_proj.weight)
        self.inject = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.zeros_(self.inject.weight)
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def query(self, hidden: Tensor) -> Tensor:
        """Return the memory queries of hidden states, ``(..., H)`` to ``(..., D)``.

        In training the running mean follows, from the next call on: a sample's query does not
        depend on its batch.
        """
        normed = self.query_norm(hidden)
        query: Tensor = self.query_proj(normed - self.mean)
        if self.training:
            self._follow(normed.detach().flatten(0, -2).mean(0))
        return query

    def _follow(self, mean: Tensor) -> None:
        """Let the running mean follow that of a batch; one that is not finite leaves no trace."""
        if not bool(mean.isfinite().all()):
            return
        self.batches += 1
        self.mean.lerp_(mean, max(_MEAN_MOMENTUM, 1 / float(self.batches)))

    def forward(self, hidden: Tensor, context: RetrievedContext, values: Tensor) -> Tensor:
        """Add what the concepts stand for to the hidden states.

        Parameters
        ----------
        hidden : (..., H) tensor
        context : RetrievedContext
            Of the queries of ``hidden``.
        values : (V, H) tensor
            Embedding of integer values; concepts with any other value add nothing.

        Returns
        -------
        (..., H) tensor
            Equal to ``hidden`` where nothing was retrieved, and at initialisation.
        """
        if not context.mask.shape[-1]:
            return hidden
        flat = context.weights.flatten(0, -2)  # (N, K)
        ids = context.value_ids.view(flat.shape)
        embedded = (ids >= 0) & (ids < len(values))
        weights = flat.masked_fill(~embedded, 0.0).to(values.dtype)
        ids = ids.masked_fill(~embedded, 0)
        read = F.embedding_bag(ids, values, per_sample_weights=weights, mode="sum")
        update: Tensor = self.inject(read).view(hidden.shape)
        return hidden + update
