"""The Transformer encoder with memory cross-attention in each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory
from aesg.models._block import DROPOUT, EMBEDDING_STD, Block, check_heads, positions
from aesg.models._text_model import TextModel, next_tokens
from aesg.models.base import check_positive
from aesg.nn.cross_attention import MemoryCrossAttention
from aesg.nn.likelihood import LastLayer
from aesg.nn.mixture import MemoryMixture
from aesg.nn.origins import origins_of
from aesg.nn.query import MemoryQuery, QueryPolicy, check_query_every

_TOP_K = 32
_CODES_SEED = 20  # of directions that stand for tokens: the same in every process


class AESGTransformer(TextModel):
    """A Transformer encoder that attends to individual concepts in each layer.

    In each layer, self-attention is followed by a question to the memory, multi-head attention
    over the concepts that it retrieves, and the feed-forward network. What the last layer asks is
    what the memory learns, with the target of the position as its value; the targets that are
    retrieved are mixed into the output distribution too.

    A position sees the whole sequence, so a target must not stand in the input: a bidirectional
    encoder that is trained on its own next tokens copies them and learns nothing else. For those
    there is ``causal``.

    Parameters
    ----------
    vocab_size : int
        Tokens ``V`` of input and targets, at least 1.
    memory : AESGMemory
    hidden_size, num_layers, nhead : int
        ``hidden_size`` is divisible by ``nhead``.
    top_k : int
        Concepts retrieved for each query.
    query_every : int or "sample"
        Positions from one that asks to the next; positions in between attend to what the last one
        retrieved. "sample" asks once, with the mean of all positions; its value is a vector that
        tells which targets the sample had, and nothing is mixed into the output.
    causal : bool
        Whether a position sees none behind it, as next-token prediction needs. The input then
        says what came next.
    memory_dropout : float
        As for `TextModel`.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    codes: Tensor
    query_every: QueryPolicy

    def __init__(
        self,
        vocab_size: int,
        memory: AESGMemory,
        *,
        hidden_size: int = 128,
        num_layers: int = 1,
        nhead: int = 4,
        top_k: int = _TOP_K,
        query_every: QueryPolicy = 1,
        causal: bool = False,
        memory_dropout: float = 0.3,
    ) -> None:
        check_positive(num_layers=num_layers, top_k=top_k)
        check_heads(hidden_size, nhead)
        check_query_every(query_every, causal=causal)
        super().__init__(vocab_size, memory, memory_dropout=memory_dropout)
        self.causal = causal
        self.query_every = query_every
        self.asks_first = num_layers == 1  # further layers ask behind what the first has read
        self.per_sample = query_every == "sample"
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.output = _output(self.embedding, tied=causal)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(
            Block(hidden_size, nhead, causal=causal) for _ in range(num_layers)
        )
        self.cross_attentions = nn.ModuleList(
            MemoryCrossAttention(
                hidden_size,
                memory,
                nhead,
                top_k=top_k,
                every=query_every,
                value_size=None if self.per_sample else hidden_size,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.mixture = None if self.per_sample else MemoryMixture(hidden_size)
        codes = _codes(vocab_size, memory.vector_dim) if self.per_sample else torch.empty(0)
        self.register_buffer("codes", codes, persistent=False)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return the cross-attentions and the gate."""
        spoken = self.cross_attentions
        return (spoken,) if self.mixture is None else (spoken, self.mixture)

    def forward(self, tokens: Tensor, *, of: Tensor | None = None) -> Tensor:
        """Return log-probabilities of each position's target, which serve as logits.

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
        of = self._wanted(of, tokens)
        known = self._known(tokens)
        hidden, _, context = self._encoded(tokens, known, self.uses_memory())
        if context is not None and not self.per_sample:
            return self._spoken(hidden, context, known, of)
        if context is not None:
            self.memory.defer(context, expected=context.aggregate())
        return self._alone(hidden, of)

    def queries(self, tokens: Tensor) -> Tensor:
        """Return what the last layer asks, behind all that the layers before it have read.

        Parameters
        ----------
        tokens : (B, T) integer tensor

        Returns
        -------
        (B, T', D) tensor
            Of every position, or of every ``query_every``-th from the first on, or of the sample.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        tokens = self._checked(tokens)
        return self._encoded(tokens, self._known(tokens), self.memory_enabled)[1]

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return what targets ``(B, T)`` say of the queries.

        The targets of the positions that ask, ``(B, T')``; for one query of the sample the sum of
        the directions that stand for them, ``(B, 1, D)``.

        Raises
        ------
        AESGTrainingError
            If they are no integers of shape ``(B, T)``.
        """
        targets = self._each(targets)
        if not self.per_sample:
            return self._asking.at_places(targets)
        known = (targets >= 0) & (targets < self.vocab_size)
        codes = self.codes[targets.masked_fill(~known, 0)] * known.unsqueeze(-1)
        return codes.sum(1, keepdim=True)

    def _encoded(
        self, tokens: Tensor, known: Tensor | None, uses_memory: bool
    ) -> tuple[Tensor, Tensor, RetrievedContext | None]:
        """Return the last hidden states, what the last layer asked, and what it was told."""
        hidden = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        hidden = self.dropout(hidden + positions(hidden))
        origins = origins_of(tokens) if uses_memory else None
        query, context = hidden, None
        for block, cross in self._layers:
            hidden = block.attend(hidden)
            query = cross.query(hidden)
            if uses_memory:
                context = self.memory.recall(
                    query,
                    outcomes=known,
                    top_k=cross.top_k,
                    origins=origins,
                    vectors=self.per_sample,
                )
                hidden = cross.attend(hidden, context, self._values)
            hidden = block.transform(hidden)
        return hidden, query, context

    def _known(self, tokens: Tensor) -> Tensor | None:
        """Return what the input says of the targets where positions ask, ``(B, T')``."""
        if not self.causal:
            return None
        return self._asking.at_places(next_tokens(tokens))

    def _last_modules(self) -> tuple[nn.Module, ...]:
        return (self.output, *super()._last_modules())

    def _last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(self.norm(hidden), self.output.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.output(self.norm(hidden)))

    @property
    def _layers(self) -> Iterator[tuple[Block, MemoryCrossAttention]]:
        blocks = cast(Iterable[Block], self.blocks)
        return zip(blocks, cast(Iterable[MemoryCrossAttention], self.cross_attentions), strict=True)

    @property
    def _asking(self) -> MemoryQuery:
        return cast(MemoryCrossAttention, self.cross_attentions[-1]).query

    @property
    def _values(self) -> Tensor | None:
        """Embeddings of integer values; None where values are vectors."""
        return None if self.per_sample else self.output.weight


def _output(embedding: nn.Embedding, *, tied: bool) -> nn.Linear:
    """Return the projection to the vocabulary, with the weights of the embedding or its own.

    Where targets are not the text's own next tokens, tying would move all tokens that are no
    target the same way, also those never read, until no query tells one of them from another.
    """
    vocab_size, hidden_size = embedding.weight.shape
    output = nn.Linear(hidden_size, vocab_size, bias=False)
    if tied:
        output.weight = embedding.weight
    else:
        nn.init.normal_(output.weight, std=EMBEDDING_STD)
    return output


def _codes(vocab_size: int, vector_dim: int) -> Tensor:
    """Return a direction for each token, ``(V, D)``: random, fixed, and so never stale."""
    dice = torch.Generator().manual_seed(_CODES_SEED)
    return F.normalize(torch.randn(vocab_size, vector_dim, generator=dice), dim=-1)
