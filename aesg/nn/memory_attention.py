"""A layer that queries the memory from hidden states and brings what it finds back into them."""

from __future__ import annotations

from torch import Tensor, nn

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory
from aesg.nn.query import MemoryQuery, QueryPolicy
from aesg.nn.values import embedded_values


class MemoryAttention(nn.Module):
    """Per-position memory query and gated injection.

    Parameters
    ----------
    hidden_size : int
        Width ``H`` of the hidden states.
    memory : AESGMemory
        Of width ``D``.
    top_k : int
        Concepts ``K`` retrieved for each position.
    every : int or "sample"
        Which positions ask; see `MemoryQuery`. ``query(hidden)`` returns their queries.
    """

    def __init__(
        self, hidden_size: int, memory: AESGMemory, top_k: int, *, every: QueryPolicy = 1
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.query = MemoryQuery(hidden_size, memory, every=every)
        self.inject = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.zeros_(self.inject.weight)

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
        update: Tensor = self.inject(embedded_values(context, values))
        return hidden + update
