"""Spreading activation over cached adjacency."""

from storage_backends.spreading.dispatch import explained, kernel_name, spread, use
from storage_backends.spreading.model import Part, Spread, Spreading

__all__ = ["Part", "Spread", "Spreading", "explained", "kernel_name", "spread", "use"]
