"""A layer that asks the memory from the cells of a feature map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory
from aesg.nn.query import MemoryQuery, QueryPolicy, check_query_every
from aesg.nn.values import embedded_values

#: Concepts for each cell, unless told otherwise.
DEFAULT_TOP_K = 16


class MemoryInjection2d(nn.Module):
    """Adds what concepts stand for, projected, to the cells of a feature map.

    Parameters
    ----------
    channels : int
        Channels ``C`` of the feature maps.
    vector_dim : int
        Width ``D`` of the memory.
    every : int or "sample"
        See `MemoryConv2d`.
    values : nn.Embedding, optional
        See `MemoryConv2d`.

    Raises
    ------
    AESGConfigError
        If ``every`` is no such policy.
    """

    def __init__(
        self,
        channels: int,
        vector_dim: int,
        *,
        every: QueryPolicy = 1,
        values: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        check_query_every(every, causal=False)
        self.every = every
        self.values = values
        width = vector_dim if values is None else values.embedding_dim
        self.projection = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.projection.weight)

    def forward(self, features: Tensor, context: RetrievedContext) -> Tensor:
        """Return features ``(B, C, h, w)`` and, added, what a context ``(B, h', w', K)`` tells.

        They are as before where nothing was retrieved, and at initialisation.
        """
        update: Tensor = self.projection(self._read(context)).permute(0, 3, 1, 2)  # (B, C, h', w')
        if isinstance(self.every, int) and self.every > 1:
            height, width = features.shape[2:]
            update = update.repeat_interleave(self.every, 2).repeat_interleave(self.every, 3)
            update = update[:, :, :height, :width]
        return features + update

    def cells(self, features: Tensor) -> Tensor:
        """Return the means of the cells that ask, ``(B, C, h, w)`` to ``(B, h', w', C)``."""
        if self.every == "sample":
            features = features.mean((2, 3), keepdim=True)
        elif self.every > 1:
            features = F.avg_pool2d(features, self.every, ceil_mode=True)
        return features.permute(0, 2, 3, 1)

    def _read(self, context: RetrievedContext) -> Tensor:
        if self.values is None:
            return context.aggregate().to(self.projection.weight.dtype)
        return embedded_values(context, self.values.weight)


class MemoryConv2d(nn.Module):
    """Asks the memory from each cell of a feature map and adds what it holds to that cell.

    The cells of a sample ask for themselves: its result does not depend on its batch. The cells of
    a row form a sequence, so that what was seen side by side is connected by successor edges.

    Parameters
    ----------
    channels : int
        Channels ``C`` of the feature maps.
    memory : AESGMemory
        Of width ``D``.
    top_k : int
        Concepts ``K`` retrieved for each query.
    every : int or "sample"
        ``n`` asks once for each ``n`` x ``n`` cells, with their mean; "sample" once for each
        sample.
    values : nn.Embedding, optional
        What integer values stand for. Without it concepts speak through their vector values, or
        their keys; see `RetrievedContext.aggregate`.

    Raises
    ------
    AESGConfigError
        If ``every`` is no such policy.
    """

    def __init__(
        self,
        channels: int,
        memory: AESGMemory,
        *,
        top_k: int = DEFAULT_TOP_K,
        every: QueryPolicy = 1,
        values: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.top_k = top_k
        self.injection = MemoryInjection2d(channels, memory.vector_dim, every=every, values=values)
        self.ask = MemoryQuery(channels, memory)

    def forward(
        self, features: Tensor, *, origins: Tensor | None = None, outcomes: Tensor | None = None
    ) -> Tensor:
        """Ask, add what was found, and let the memory learn from it at `update_topology`.

        Parameters
        ----------
        features : (B, C, h, w) tensor
        origins : (B,) int64 tensor, optional
            Sample that each map belongs to; see `aesg.nn.origins.origins_of`.
        outcomes : tensor, optional
            What came at each query, if it is known; see `AESGMemory.defer`.

        Returns
        -------
        (B, C, h, w) tensor
            Equal to ``features`` where nothing was retrieved, and at initialisation.

        Raises
        ------
        AESGNavigationError
            If features are not finite, or the origins do not fit.
        """
        query = self.query(features)
        context = recall_cells(self.memory, query, top_k=self.top_k, origins=origins)
        self.memory.defer(context, outcomes)
        injected: Tensor = self.injection(features, context)
        return injected

    def query(self, features: Tensor) -> Tensor:
        """Return the queries of a feature map, ``(B, C, h, w)`` to ``(B, h', w', D)``.

        In training the running mean of the cells follows, from the next call on.
        """
        return query_cells(self.ask, self.injection.cells(features))


def query_cells(ask: MemoryQuery, cells: Tensor) -> Tensor:
    """Return the queries of cells, ``(B, h', w', C)`` to ``(B, h', w', D)``."""
    query = ask.project(cells)
    if ask.training:
        ask.follow(cells)
    return query


def recall_cells(
    memory: AESGMemory, query: Tensor, *, top_k: int, origins: Tensor | None
) -> RetrievedContext:
    """Return what a memory holds about the cells of samples, ``(B, h', w', K)``; learn nothing.

    Parameters
    ----------
    memory : AESGMemory
    query : (B, h', w', D) tensor
    top_k : int
    origins : (B,) int64 tensor or None
        Sample that each row of cells belongs to.
    """
    if origins is not None:
        origins = origins.repeat_interleave(query.shape[1])  # each row is a sequence
    return memory.recall(query, top_k=top_k, origins=origins)
