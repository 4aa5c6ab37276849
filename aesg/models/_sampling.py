"""The choice of a next token from a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aesg.errors import AESGConfigError


def check_eos(eos: int | None, vocab_size: int) -> None:
    """Raise `AESGConfigError` unless the token that ends a sequence, if any, is one."""
    if eos is None:
        return
    if isinstance(eos, bool) or not isinstance(eos, int) or not 0 <= eos < vocab_size:
        raise AESGConfigError(f"eos: expected an integer from 0 to {vocab_size - 1}, got {eos!r}")


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Parameters
    ----------
    temperature : float
        At least 0; 0 takes the likeliest token.
    top_k : int
        Draw among this many of the likeliest tokens; 0 among all.
    top_p : float
        Of those, draw among the fewest that hold this share of the probability, in (0, 1]
        (Holtzman et al., 2020, "The curious case of neural text degeneration").
    generator : torch.Generator, optional

    Raises
    ------
    AESGConfigError
        If a number is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise AESGConfigError(
                f"temperature: expected a finite number >= 0, got {self.temperature}"
            )
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise AESGConfigError(f"top_k: expected an integer >= 0, got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise AESGConfigError(f"top_p: expected a number in (0, 1], got {self.top_p}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Draw a token of each distribution, ``(B, V)`` to ``(B,)`` int64."""
        if self.temperature == 0:
            return logits.argmax(-1)
        chances = self.chances(logits)
        return torch.multinomial(chances, 1, generator=self.generator).squeeze(-1)

    def chances(self, logits: Tensor) -> Tensor:
        """Return the probability with which each token is drawn, ``(B, V)``; temperature > 0."""
        scores = logits.float() / self.temperature
        likely, tokens = scores.sort(stable=True, dim=-1, descending=True)
        if self.top_k:
            likely[:, self.top_k :] = -torch.inf
        chances = likely.softmax(-1)
        before = chances.cumsum(-1) - chances  # held by the likelier ones; 0 for the first
        chances = chances.masked_fill(before >= self.top_p, 0.0)
        chances = chances / chances.sum(-1, keepdim=True)
        return torch.zeros_like(chances).scatter(-1, tokens, chances)
