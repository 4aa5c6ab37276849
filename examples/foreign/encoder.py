"""PyTorch's own Transformer encoder with a memory behind it.

What the memory needs of it stands in the lines that name it; the rest is the network as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aesg import AESGMemory
from aesg.nn import MemoryCrossAttention
from aesg.nn.origins import origins_of

_HIDDEN, _HEADS = 32, 4


class MemoryEncoder(nn.Module):
    """Classifies token sequences; the memory holds which class such sequences had.

    Parameters
    ----------
    memory : AESGMemory
    vocab_size, num_classes, length : int
        ``length`` is that of the sequences.
    """

    def __init__(self, memory: AESGMemory, vocab_size: int, num_classes: int, length: int) -> None:
        super().__init__()
        self.memory = memory  # where the trainer looks for it
        self.tokens = nn.Embedding(vocab_size, _HIDDEN)
        self.places = nn.Parameter(torch.randn(length, _HIDDEN))
        layer = nn.TransformerEncoderLayer(_HIDDEN, _HEADS, 2 * _HIDDEN, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1)
        self.classes = nn.Embedding(num_classes, _HIDDEN)
        self.read = MemoryCrossAttention(
            _HIDDEN, memory, _HEADS, every="sample", value_size=_HIDDEN
        )
        self.fc = nn.Linear(_HIDDEN, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of classes, ``(B, T)`` to ``(B, num_classes)``."""
        hidden = self.encoder(self.tokens(tokens) + self.places)
        hidden = self.read(hidden, self.classes.weight, origins=origins_of(tokens))
        scores: Tensor = self.fc(hidden.mean(1))
        return scores

    def observe(self, targets: Tensor) -> None:
        """Tell the memory the classes ``(B,)``; the trainer calls it."""
        self.memory.observe(targets)
