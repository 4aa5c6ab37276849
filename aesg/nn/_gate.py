"""What all gates between a model and its memory have in common."""

from __future__ import annotations

from torch import Tensor

#: First bias: near closed, so that an untrained memory changes little.
FIRST_BIAS = -2.0
_LEAST = 0.01


def share_of(logit: Tensor) -> Tensor:
    """Return the share that a gate gives the memory, neither none nor all."""
    return logit.sigmoid().clamp(_LEAST, 1 - _LEAST)
