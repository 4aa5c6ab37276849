"""Layers that read a memory inside any PyTorch module."""

from aesg.nn.blend import MemoryBlend
from aesg.nn.conv import MemoryConv2d
from aesg.nn.cross_attention import MemoryCrossAttention
from aesg.nn.memory_attention import MemoryAttention
from aesg.nn.mixture import MemoryMixture
from aesg.nn.query import MemoryQuery
from aesg.nn.recurrent import MemoryGRUCell, MemoryLSTMCell

__all__ = [
    "MemoryAttention",
    "MemoryBlend",
    "MemoryConv2d",
    "MemoryCrossAttention",
    "MemoryGRUCell",
    "MemoryLSTMCell",
    "MemoryMixture",
    "MemoryQuery",
]
