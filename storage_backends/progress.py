"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Called with the name of a step, how much of it is done, and how much there is to do; the total
#: is 0 where it is not known.
Progress: TypeAlias = Callable[[str, int, int], None]


def silent(step: str, done: int, total: int) -> None:
    """Say nothing: for whoever does not ask."""
