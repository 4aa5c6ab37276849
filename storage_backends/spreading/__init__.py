"""Spreading activation over cached adjacency."""

from storage_backends.spreading.spread import Spread, Spreading, spread

__all__ = ["Spread", "Spreading", "spread"]
