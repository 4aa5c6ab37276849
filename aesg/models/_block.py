"""The Transformer block that the text models share, and what it keeps while generating."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.errors import AESGConfigError
from aesg.models.base import check_positive

DROPOUT = 0.1
EMBEDDING_STD = 0.02  # the embedding is the output projection too


def check_heads(hidden_size: int, nhead: int) -> None:
    """Raise `AESGConfigError` unless ``nhead`` heads share ``hidden_size`` evenly."""
    check_positive(hidden_size=hidden_size, nhead=nhead)
    if hidden_size % nhead:
        raise AESGConfigError(
            f"hidden_size must be divisible by nhead: got {hidden_size} and {nhead}"
        )


class KeyValues:
    """Keys and values of the positions that a block has seen.

    Parameters
    ----------
    room : int
        Positions that it can hold: memory is taken once, and no position is copied again.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.length = 0
        self._held: Tensor | None = None

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take in new positions ``(B, nhead, t, d)``; return all seen, ``(B, nhead, T, d)``."""
        batch, nhead, time, width = key.shape
        if self._held is None:
            self._held = key.new_empty(2, batch, nhead, self.room, width)
        end = self.length + time
        self._held[:, :, :, self.length : end] = torch.stack([key, value])
        self.length = end
        return self._held[0, :, :, :end], self._held[1, :, :, :end]


class Block(nn.Module):
    """A pre-norm Transformer block whose two halves are called apart.

    Parameters
    ----------
    hidden_size, nhead : int
        ``hidden_size`` is divisible by ``nhead``.
    causal : bool
        Whether a position sees none behind it.
    """

    def __init__(self, hidden_size: int, nhead: int, *, causal: bool = True) -> None:
        super().__init__()
        self.nhead = nhead
        self.causal = causal
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.transform_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden: Tensor, seen: KeyValues | None = None) -> Tensor:
        """Both halves, ``(B, T, H)``."""
        return self.transform(self.attend(hidden, seen))

    def attend(self, hidden: Tensor, seen: KeyValues | None = None) -> Tensor:
        """Self-attention, ``(B, T, H)``.

        With ``seen``, which takes them in, the positions follow those seen before: many at first,
        one at a time from then on.
        """
        batch, time, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(batch, time, 3, self.nhead, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, nhead, T, H / nhead) each
        behind = seen is not None and seen.length > 0
        if seen is not None:
            key, value = seen.extended(key, value)
        # A position behind others sees them all. The length is not asked for: it may be symbolic.
        causal = self.causal and not behind
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        update: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, time, width))
        return hidden + cast(Tensor, self.dropout(update))

    def transform(self, hidden: Tensor) -> Tensor:
        """Position-wise feed-forward network, ``(B, T, H)``."""
        update: Tensor = self.feed_forward(self.transform_norm(hidden))
        return hidden + cast(Tensor, self.dropout(update))


def positions(hidden: Tensor, start: int = 0) -> Tensor:
    """Return sinusoidal positions ``(T, H)`` from ``start`` on (Vaswani et al., 2017, section 3.5).

    They are as large as scaled embeddings are at first: were they larger, hidden states would tell
    where a token stands and hardly which it is, and queries of the same place would all be alike.
    """
    _, time, width = hidden.shape
    rate = torch.exp(
        torch.arange(0, width, 2, device=hidden.device) * (-math.log(10_000.0) / width)
    )
    angle = torch.arange(start, start + time, device=hidden.device).unsqueeze(1) * rate
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    return (EMBEDDING_STD * math.sqrt(width) * table[:, :width]).to(hidden.dtype)
