"""Layers that read a memory inside any PyTorch module."""

from aesg.nn.memory_attention import MemoryAttention
from aesg.nn.mixture import MemoryMixture

__all__ = ["MemoryAttention", "MemoryMixture"]
