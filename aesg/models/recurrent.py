"""Recurrent language models."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from aesg.memory import AESGMemory
from aesg.memory_reading import DEFAULT_TOP_K
from aesg.models._text_model import TextModel, next_tokens
from aesg.models.base import check_positive
from aesg.nn.likelihood import LastLayer
from aesg.nn.mixture import MemoryMixture
from aesg.nn.origins import origins_of
from aesg.nn.query import check_query_every
from aesg.nn.recurrent import MemoryGRUCell, MemoryLSTMCell, Unrolled

_DROPOUT = 0.1
_EMBEDDING_STD = 0.02  # the embedding is the output projection too


class RecurrentModel(TextModel):
    """Plain recurrent layers with a memory cell on top, whose output the memory is mixed into.

    Parameters
    ----------
    vocab_size : int
        Tokens ``V``, at least 1.
    memory : AESGMemory
    hidden_size : int
        Width ``H`` of embedding and states.
    num_layers : int
        The memory cell included.
    top_k : int
        Concepts retrieved at each step.
    query_every : int
        Steps from one that asks the memory to the next.
    memory_dropout : float
        As for `AESGModel`.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    layers: ClassVar[type[nn.GRU] | type[nn.LSTM]] = nn.GRU
    top: ClassVar[type[MemoryGRUCell] | type[MemoryLSTMCell]] = MemoryGRUCell
    mixture: MemoryMixture
    query_every: int

    def __init__(
        self,
        vocab_size: int,
        memory: AESGMemory,
        *,
        hidden_size: int = 128,
        num_layers: int = 1,
        top_k: int = DEFAULT_TOP_K,
        query_every: int = 1,
        memory_dropout: float = 0.3,
    ) -> None:
        check_positive(hidden_size=hidden_size, num_layers=num_layers, top_k=top_k)
        check_query_every(query_every, causal=True)
        super().__init__(vocab_size, memory, memory_dropout=memory_dropout)
        self.num_layers = num_layers
        self.query_every = query_every
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)
        self.dropout = nn.Dropout(_DROPOUT)
        self.lower = self._plain(num_layers - 1)
        self.cell = self.top(hidden_size, hidden_size, memory, top_k=top_k, values=self.embedding)
        self.norm = nn.LayerNorm(hidden_size)
        self.mixture = MemoryMixture(hidden_size)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return query, injection and gate."""
        return (self.cell.query, self.cell.inject, self.mixture)

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return the targets of the steps that asked, ``(B, T)`` to ``(B, T')``.

        Raises
        ------
        AESGTrainingError
            If they are no integers of shape ``(B, T)``.
        """
        return self._each(targets)[:, :: self.query_every]

    def _plain(self, num_layers: int) -> nn.Module | None:
        width = self.embedding.embedding_dim
        return self.layers(width, width, num_layers, batch_first=True) if num_layers else None

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Return the input that tokens are, ``(...)`` to ``(..., H)``."""
        embedded: Tensor = self.dropout(
            self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        )
        return embedded

    def _last_layer(self, hidden: Tensor) -> LastLayer:
        return super()._last_layer(self.dropout(hidden))

    def _said(self, unrolled: Unrolled[Any], came: Tensor, of: Tensor | None) -> Tensor:
        """Return log-probabilities ``(B, T, V)`` of what may come at each step, or ``(B, T)``.

        Those of some tokens ``of`` where they are given. The memory learns what came.
        """
        if unrolled.context is None:
            return self._alone(unrolled.hidden, of)
        return self._spoken(unrolled.hidden, unrolled.context, came[:, :: self.query_every], of)


class _RecurrentText(RecurrentModel):
    """What the two language models share."""

    def forward(self, tokens: Tensor, *, of: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of the next token, which serve as logits.

        Parameters
        ----------
        tokens : (B, T) integer tensor
            In ``0 .. vocab_size - 1``.
        of : (B, T) integer tensor, optional
            The tokens whose log-probabilities are wanted, -100 where none is.

        Returns
        -------
        (B, T, V) tensor
            Or ``(B, T)``, those of the tokens ``of``, 0 where there is none.

        Raises
        ------
        AESGTrainingError
            If the tokens are of another type or shape, or out of range.
        """
        tokens = self._checked(tokens)
        of, came = self._wanted(of, tokens), next_tokens(tokens)
        return self._said(self._unrolled(tokens, came, self.uses_memory()), came, of)

    def queries(self, tokens: Tensor) -> Tensor:
        """Return the query that each position puts to the memory.

        A query depends on what the positions before it read.

        Parameters
        ----------
        tokens : (B, T) integer tensor

        Returns
        -------
        (B, T', D) tensor
            Of the positions that ask.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        tokens = self._checked(tokens)
        return cast(Tensor, self._unrolled(tokens, next_tokens(tokens), ask=True).queries)

    def _unrolled(self, tokens: Tensor, came: Tensor, ask: bool) -> Unrolled[Any]:
        inputs = self._embedded(tokens)
        if self.lower is not None:
            inputs, _ = self.lower(inputs)
        return self.cell.unroll(
            inputs, came=came, origins=origins_of(tokens), every=self.query_every, ask=ask
        )


class AESGGRUText(_RecurrentText):
    """A GRU language model that asks its memory at every step and remembers what came next.

    A step asks with the state before it and the present token. The values of the retrieved
    concepts, tokens that followed similar states, are concatenated with the input of the last
    layer's cell (`aesg.nn.MemoryGRUCell`) and mixed into the output distribution. The successors
    of concepts that were right are followed before anything is searched. In training, a step never
    sees concepts of its own sequence.

    Parameters
    ----------
    vocab_size, memory, hidden_size, num_layers, top_k, query_every, memory_dropout
        As for `RecurrentModel`.
    """


class AESGLSTMText(_RecurrentText):
    """An LSTM language model that asks its memory at every step; otherwise as `AESGGRUText`.

    Parameters
    ----------
    vocab_size, memory, hidden_size, num_layers, top_k, query_every, memory_dropout
        As for `RecurrentModel`.
    """

    layers = nn.LSTM
    top = MemoryLSTMCell
