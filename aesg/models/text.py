"""The causal Transformer with a memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory
from aesg.models._block import DROPOUT, EMBEDDING_STD, Block, KeyValues, check_heads, positions
from aesg.models._sampling import Sampling, check_eos
from aesg.models._text_model import TextModel, next_tokens
from aesg.models.base import check_positive
from aesg.nn import MemoryAttention, MemoryMixture
from aesg.nn.origins import origins_of
from aesg.nn.query import check_query_every

_TOP_K = 32


@dataclass
class _Seen:
    """What a generation keeps of the positions behind it.

    Parameters
    ----------
    caches : list of KeyValues
        One for each block.
    context : RetrievedContext or None
        Of the positions that asked last; None before the first and without memory.
    """

    caches: list[KeyValues]
    context: RetrievedContext | None = None

    @property
    def length(self) -> int:
        """Positions so far."""
        return self.caches[0].length


class AESGDecoderLM(TextModel):
    """A causal Transformer language model that remembers what came next.

    Positions query the memory from their hidden states behind the last self-attention. The
    values of the retrieved concepts, tokens that followed similar states, are attended to, added
    to the hidden state and mixed into the output distribution. A position never sees concepts
    born from its own sequence.

    Parameters
    ----------
    vocab_size : int
        Tokens ``V``, at least 1.
    memory : AESGMemory
    hidden_size, num_layers, nhead : int
        ``hidden_size`` is divisible by ``nhead``.
    top_k : int
        Concepts retrieved for each position.
    query_every : int
        Positions from one that asks to the next: 1 lets all ask.
    memory_dropout : float
        As for `TextModel`.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    asks_first: bool = True
    mixture: MemoryMixture
    query_every: int

    def __init__(
        self,
        vocab_size: int,
        memory: AESGMemory,
        *,
        hidden_size: int = 128,
        num_layers: int = 1,
        nhead: int = 4,
        top_k: int = _TOP_K,
        query_every: int = 1,
        memory_dropout: float = 0.3,
    ) -> None:
        check_positive(num_layers=num_layers, top_k=top_k)
        check_heads(hidden_size, nhead)
        check_query_every(query_every, causal=True)
        super().__init__(vocab_size, memory, memory_dropout=memory_dropout)
        self.query_every = query_every
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block(hidden_size, nhead) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.memory_attention = MemoryAttention(hidden_size, memory, top_k, every=query_every)
        self.mixture = MemoryMixture(hidden_size)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return query, injection and gate."""
        return (self.memory_attention, self.mixture)

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
        of = self._wanted(of, tokens)
        hidden = self._encoded(tokens)
        query = self.memory_attention.query(hidden)
        if not self.uses_memory():
            return self._alone(self._last.transform(hidden), of)
        outcomes = self._known(tokens)
        context = self.memory.recall(
            query,
            outcomes=outcomes,
            top_k=self.memory_attention.top_k,
            origins=origins_of(tokens),
            vectors=False,
        )
        return self._spoken(self._read(hidden, context), context, outcomes, of)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        eos: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue token sequences, reading the memory and never writing it.

        Keys and values of the self-attention are kept, so that each new token costs one position.
        Successors of the concepts that were right are followed from token to token. Dropout is
        off.

        Parameters
        ----------
        prompt : (B, S) integer tensor
        max_new_tokens : int
            At least 1.
        temperature : float
            At least 0; 0 takes the likeliest token.
        top_k : int
            Draw among this many of the likeliest tokens; 0 among all.
        top_p : float
            Of those, draw among the fewest that hold this share of the probability, in (0, 1]
            (Holtzman et al., 2020, "The curious case of neural text degeneration").
        eos : int, optional
            Token that ends a sequence; it fills the rest of those that end before others.
        generator : torch.Generator, optional
            On the device of the model.

        Returns
        -------
        (B, S + N) int64 tensor
            The prompt and at most ``max_new_tokens`` more.

        Raises
        ------
        AESGTrainingError
            If the prompt is no batch of tokens.
        AESGConfigError
            If another argument is out of range.
        """
        check_positive(max_new_tokens=max_new_tokens)
        draw = Sampling(temperature, top_k, top_p, generator)
        check_eos(eos, self.vocab_size)
        prompt, training = self._checked(prompt), self.training
        self.eval()
        try:
            return self._continued(prompt, max_new_tokens, draw, eos)
        finally:
            self.train(training)

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return the targets ``(B, T)`` of the positions that ask, ``(B, T')``.

        Raises
        ------
        AESGTrainingError
            If they are no integers of shape ``(B, T)``.
        """
        return self._asked(self._each(targets))

    def queries(self, tokens: Tensor) -> Tensor:
        """Return the queries that positions put to the memory.

        Parameters
        ----------
        tokens : (B, T) integer tensor

        Returns
        -------
        (B, T', D) tensor
            Of every position, or of every ``query_every``-th from the first on.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        query: Tensor = self.memory_attention.query(self._encoded(self._checked(tokens)))
        return query

    def _encoded(self, tokens: Tensor, seen: _Seen | None = None) -> Tensor:
        """Return the hidden states behind the last self-attention, ``(B, T, H)``.

        With ``seen``, those of tokens that follow what was seen.
        """
        hidden = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        hidden = self.dropout(hidden + positions(hidden, seen.length if seen else 0))
        caches = seen.caches if seen else [None] * len(self.blocks)
        for block, cache in zip(self.blocks[:-1], caches, strict=False):
            hidden = block(hidden, cache)
        return self._last.attend(hidden, caches[-1])

    def _known(self, tokens: Tensor) -> Tensor:
        """Return what the input says came next where positions ask, ``(B, T')``."""
        return self._asked(next_tokens(tokens))

    def _asked(self, tokens: Tensor) -> Tensor:
        return self.memory_attention.query.at_places(tokens)

    def _read(self, hidden: Tensor, context: RetrievedContext) -> Tensor:
        """Return the last hidden states ``(B, T, H)``, of positions that read what they asked."""
        asking = self.memory_attention.query
        read = self.memory_attention(asking.at_places(hidden), context, self.embedding.weight)
        return self._last.transform(asking.put(hidden, read))

    def _continued(self, prompt: Tensor, count: int, draw: Sampling, eos: int | None) -> Tensor:
        """Return the prompt and at most ``count`` tokens more."""
        start = prompt.shape[1]
        tokens = F.pad(prompt, (0, count))
        seen = _Seen([KeyValues(start + count) for _ in self.blocks])
        ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        for place in range(start, start + count):
            token = draw(self._next(tokens[:, :place], seen))
            if eos is not None:
                token = token.masked_fill(ended, eos)
                ended = token == eos
            tokens[:, place] = token
            if eos is not None and bool(ended.all()):
                return tokens[:, : place + 1]
        return tokens

    def _next(self, tokens: Tensor, seen: _Seen) -> Tensor:
        """Return the log-probabilities behind tokens ``(B, T)`` of which some are new."""
        place = seen.length
        hidden = self._encoded(tokens[:, place:], seen)
        if not self.memory_enabled or place % self.query_every:
            return self._alone(self._last.transform(hidden[:, -1:]))[:, 0]
        before = seen.context
        seen.context = self.memory.recall(
            self.memory_attention.query(hidden),
            outcomes=self._known(tokens) if before is None else None,
            after=None if before is None else (before, tokens[:, place - self.query_every + 1]),
            top_k=self.memory_attention.top_k,
            vectors=False,
        )
        read = self._read(hidden, seen.context)
        return self._together(read, seen.context)[0][:, -1]

    @property
    def _last(self) -> Block:
        return cast(Block, self.blocks[-1])
