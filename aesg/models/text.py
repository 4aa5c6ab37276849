"""Text models."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.errors import AESGConfigError, AESGTrainingError
from aesg.learning import UNKNOWN
from aesg.memory import AESGMemory
from aesg.models.base import TEXT_SIZES, AESGModel, Size, check_positive, make_memory
from aesg.nn import MemoryAttention, MemoryMixture
from aesg.nn.mixture import log_probabilities

_TOP_K = 32
_DROPOUT = 0.1
_EMBEDDING_STD = 0.02  # the embedding is the output projection too


class AESGDecoderLM(AESGModel):
    """A causal Transformer language model that remembers what came next.

    Every position queries the memory from its hidden state behind the last self-attention. The
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
    memory_dropout : float
        Share of training batches that run without the memory, so that the network does not come
        to lean on it, in [0, 1).

    Raises
    ------
    AESGConfigError
        If a size is out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        memory: AESGMemory,
        *,
        hidden_size: int = 128,
        num_layers: int = 1,
        nhead: int = 4,
        top_k: int = _TOP_K,
        memory_dropout: float = 0.3,
    ) -> None:
        check_positive(vocab_size=vocab_size, hidden_size=hidden_size, num_layers=num_layers)
        check_positive(nhead=nhead, top_k=top_k)
        if hidden_size % nhead:
            raise AESGConfigError(
                f"hidden_size must be divisible by nhead: got {hidden_size} and {nhead}"
            )
        if not 0 <= memory_dropout < 1:
            raise AESGConfigError(f"memory_dropout: got {memory_dropout}, expected [0, 1)")
        super().__init__(memory)
        self.vocab_size = vocab_size
        self.memory_dropout = memory_dropout
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)
        self.dropout = nn.Dropout(_DROPOUT)
        self.blocks = nn.ModuleList(_Block(hidden_size, nhead) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.memory_attention = MemoryAttention(hidden_size, memory, top_k)
        self.mixture = MemoryMixture(hidden_size)

    @classmethod
    def small(
        cls, vocab_size: int, storage_dir: str | os.PathLike[str] | None = None, **config: Any
    ) -> AESGDecoderLM:
        """128 hidden, 1 layer, 4 heads, 64-d memory; ``config`` are fields of `AESGConfig`."""
        return cls._preset("small", vocab_size, storage_dir, config)

    @classmethod
    def medium(
        cls, vocab_size: int, storage_dir: str | os.PathLike[str] | None = None, **config: Any
    ) -> AESGDecoderLM:
        """256 hidden, 2 layers, 8 heads, 128-d memory; ``config`` are fields of `AESGConfig`."""
        return cls._preset("medium", vocab_size, storage_dir, config)

    @classmethod
    def large(
        cls, vocab_size: int, storage_dir: str | os.PathLike[str] | None = None, **config: Any
    ) -> AESGDecoderLM:
        """512 hidden, 4 layers, 16 heads, 256-d memory; ``config`` are fields of `AESGConfig`."""
        return cls._preset("large", vocab_size, storage_dir, config)

    @classmethod
    def _preset(
        cls,
        name: str,
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None,
        config: dict[str, Any],
    ) -> AESGDecoderLM:
        check_positive(vocab_size=vocab_size)
        size: Size = TEXT_SIZES[name]
        return cls(
            vocab_size,
            make_memory(size, storage_dir, config),
            hidden_size=size.hidden_size,
            num_layers=size.num_layers,
            nhead=size.nhead,
        )

    def memory_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of memory, query, injection and gate."""
        parts = (self.memory, self.memory_attention, self.mixture)
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-probabilities of the next token, which serve as logits.

        Parameters
        ----------
        tokens : (B, T) integer tensor
            In ``0 .. vocab_size - 1``.

        Returns
        -------
        (B, T, V) tensor

        Raises
        ------
        AESGTrainingError
            If the tokens are of another type or shape, or out of range.
        """
        tokens = self._checked(tokens)
        hidden = self._encoded(tokens)
        query = self.memory_attention.query(hidden)
        if not self._uses_memory():
            return log_probabilities(self._logits(self._last.transform(hidden)))
        outcomes = F.pad(tokens[:, 1:], (0, 1), value=UNKNOWN)  # the input says what came next
        context = self.memory.recall(
            query,
            outcomes=outcomes,
            top_k=self.memory_attention.top_k,
            origins=_origins(tokens),
            vectors=False,
        )
        hidden = self.memory_attention(hidden, context, self.embedding.weight)
        hidden = self._last.transform(hidden)
        log_probs: Tensor = self.mixture(self._logits(hidden), hidden, context)
        self.memory.defer(context, outcomes, log_probs)
        return log_probs

    def queries(self, tokens: Tensor) -> Tensor:
        """Return the query that each position puts to the memory.

        Parameters
        ----------
        tokens : (B, T) integer tensor

        Returns
        -------
        (B, T, D) tensor

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        return self.memory_attention.query(self._encoded(self._checked(tokens)))

    def _encoded(self, tokens: Tensor) -> Tensor:
        """Return the hidden states behind the last self-attention, ``(B, T, H)``."""
        hidden = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        hidden = self.dropout(hidden + _positions(hidden))
        for block in self.blocks[:-1]:
            hidden = block(hidden)
        return self._last.attend(hidden)

    @property
    def _last(self) -> _Block:
        return cast(_Block, self.blocks[-1])

    def _checked(self, tokens: Tensor) -> Tensor:
        """Return tokens as int64, so that their origin does not depend on the type they came in."""
        dtype = tokens.dtype
        integer = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        if tokens.ndim != 2 or not integer or not tokens.numel():
            raise AESGTrainingError(
                f"Tokens: expected integers of shape (batch, time), at least one of each, "
                f"got {dtype} of shape {tuple(tokens.shape)}"
            )
        tokens = tokens.long()
        least, most = (int(bound) for bound in tokens.aminmax())
        if least < 0 or most >= self.vocab_size:
            raise AESGTrainingError(
                f"Token out of range: expected 0 to {self.vocab_size - 1}, "
                f"got {least if least < 0 else most}"
            )
        return tokens

    def _uses_memory(self) -> bool:
        if not self.memory_enabled:
            return False
        if not self.training or self.trunk_frozen:  # a frozen trunk cannot come to lean on it
            return True
        return float(torch.rand(())) >= self.memory_dropout

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.norm(hidden), self.embedding.weight)


class _Block(nn.Module):
    """A pre-norm Transformer block whose two halves are called apart."""

    def __init__(self, hidden_size: int, nhead: int) -> None:
        super().__init__()
        self.nhead = nhead
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.transform_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, hidden: Tensor) -> Tensor:
        """Both halves, ``(B, T, H)``."""
        return self.transform(self.attend(hidden))

    def attend(self, hidden: Tensor) -> Tensor:
        """Causal self-attention, ``(B, T, H)``."""
        batch, time, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(batch, time, 3, self.nhead, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, nhead, T, H / nhead) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        update: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, time, width))
        return hidden + cast(Tensor, self.dropout(update))

    def transform(self, hidden: Tensor) -> Tensor:
        """Position-wise feed-forward network, ``(B, T, H)``."""
        update: Tensor = self.feed_forward(self.transform_norm(hidden))
        return hidden + cast(Tensor, self.dropout(update))


def _positions(hidden: Tensor) -> Tensor:
    """Sinusoidal positions ``(T, H)`` (Vaswani et al., 2017, section 3.5)."""
    _, time, width = hidden.shape
    rate = torch.exp(
        torch.arange(0, width, 2, device=hidden.device) * (-math.log(10_000.0) / width)
    )
    angle = torch.arange(time, device=hidden.device).unsqueeze(1) * rate
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    return table[:, :width].to(hidden.dtype)


def _origins(tokens: Tensor) -> Tensor:
    """Return a 64-bit hash of each token row, ``(B,)`` int64."""
    rows = tokens.detach().cpu().numpy()
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return torch.from_numpy(np.frombuffer(b"".join(digests), np.int64).copy())
