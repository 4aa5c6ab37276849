"""Spreading activation, by the kernel in C where there is one, else by its twin in numpy."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal

from storage_backends.columns import Slots
from storage_backends.errors import StoreUsageError
from storage_backends.spreading import kernel, twin
from storage_backends.spreading.model import Part, Spread, Spreading
from storage_backends.types import Floats

Name = Literal["C", "numpy"]

#: Where this is set to "numpy" in the environment, the twin is used; "C" is as good as unset.
_VARIABLE = "AESG_KERNEL"

_chosen: ContextVar[Name | None] = ContextVar("_chosen", default=None)
_log = logging.getLogger("storage_backends.spreading")


def spread(
    parts: Sequence[Part], seeds: Slots, activations: Floats, settings: Spread, top: int
) -> Spreading:
    """Propagate activation from seeds and return the most active slots.

    Parameters
    ----------
    parts : sequence of Part
        At least one. The slots of each are counted on from those of the parts before it; edges
        stay inside a part.
    seeds : (N, S) int64
        Seed slots of each query; -1 pads.
    activations : (N, S) float32
        Activation of each seed, in [0, 1].
    settings : Spread
    top : int
        Slots to return for each query.

    Returns
    -------
    Spreading

    Raises
    ------
    IndexError
        If a seed or the target of an edge is no slot.
    """
    if kernel_name() == "C" and kernel.fits(parts):
        return kernel.spread(parts, seeds, activations, settings, top)
    return twin.spread(parts, seeds, activations, settings, top)


def kernel_name() -> Name:
    """Return "C" where the kernel is used, "numpy" where its twin is.

    Raises
    ------
    StoreUsageError
        If the environment names neither.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    wanted = os.environ.get(_VARIABLE, "C")
    if wanted not in ("C", "numpy"):
        raise StoreUsageError(f"{_VARIABLE}: expected C or numpy, got {wanted!r}")
    return "numpy" if wanted == "numpy" else _at_hand()


@contextmanager
def use(name: Name) -> Iterator[None]:
    """Use one of the two inside, in this thread.

    Raises
    ------
    RuntimeError
        If the kernel is asked for and there is none.
    """
    if name == "C" and kernel.why_not():
        raise RuntimeError(f"expected the kernel, but {kernel.why_not()}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def explained() -> str:
    """Return which of the two is used, and why, as one line."""
    if kernel_name() == "C":
        return "spreading activation: C kernel"
    reason = kernel.why_not() or f"{_VARIABLE} is set to it"
    return f"spreading activation: numpy, slower by an order of magnitude ({reason})"


@lru_cache(maxsize=1)
def _at_hand() -> Name:
    """Return what can be used; say so once where that is the slower one."""
    reason = kernel.why_not()
    if reason:
        _log.info("spreading activation runs in numpy: %s", reason)
    return "numpy" if reason else "C"
