"""What spreading activation is given and what it returns.

A concept passes on ``activation * decay * share``. The shares of its out-edges are their strengths
(``weight * confidence``, weakened for their age, times the region multiplier where the target lies
in the query's dominant region), divided by their sum where that exceeds one. Without this
normalisation activation multiplies on dense graphs until the seeds fall out of the result (the fan
effect: Anderson, 1983, "A spreading activation theory of memory"). Each hop sends only what arrived
in the hop before.

Activations are summed as integers, so that the result depends neither on the order of summation,
nor on the other queries of the batch, nor on the number of threads, nor on the language: the kernel
in C and its twin in numpy agree to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Adjacency
from storage_backends.columns import Column, Slots
from storage_backends.types import Floats

#: Units of one whole activation. Float64 holds every sum that occurs exactly (below 2**53).
ONE = float(2**32)

#: Ages that edges of a memory can be told apart by; older ones count as this old.
_MOST_AGES = 1 << 16

#: Less than a unit of all that ever arrives.
_NOTHING = 2.0**-64


@dataclass(frozen=True)
class Part:
    """One graph of those that activation travels in.

    Parameters
    ----------
    adjacency : Adjacency
        Out-edges of ``M`` slots, of strengths of at least 0.
    ids : column of (M,) uint64
        Concept id of each slot, which breaks ties.
    regions : column of (M,) uint32
        Region of each slot; 0 means none.
    weight : float
        Factor of the activation of seeds in this part, in [0, 1].
    """

    adjacency: Adjacency
    ids: Column[np.uint64]
    regions: Column[np.uint32]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Spread:
    """How activation travels.

    Parameters
    ----------
    hops : int
        Propagation steps, at least 0.
    decay : float
        Share kept per hop, in [0, 1].
    floor : float
        Transfers below this activation are dropped, in (0, 1].
    region_multiplier : float
        Factor of edges into the query's dominant region, at least 0; 1 switches it off.
    kinds : int
        `EdgeKind` flags of the edges to follow.
    frontier : int
        In one hop only so many concepts of a query pass activation on, those where most has just
        arrived; 0 lets all.
    weakening : float
        Factor of a strength for each epoch of age, in [0, 1].
    epoch : int
        Present epoch, from which the age of a row counts.
    """

    hops: int
    decay: float
    floor: float = 1e-3
    region_multiplier: float = 1.0
    kinds: int = 0xFFFFFFFF
    frontier: int = 0
    weakening: float = 1.0
    epoch: int = 0

    def along(self, kinds: int) -> Spread:
        """Return the same settings for other kinds of edges."""
        return replace(self, kinds=kinds)

    @property
    def least(self) -> int:
        """Units of the smallest transfer that is not dropped."""
        return math.ceil(self.floor * ONE)

    @property
    def fading(self) -> NDArray[np.float64]:
        """Factor of strengths by age; the last one holds for all greater ages."""
        return _fading(self.weakening)


@dataclass(frozen=True)
class Spreading:
    """The most active slots of each query.

    Parameters
    ----------
    slots : (N, K) int64
        Descending by activation, then ascending by part and concept id; -1 pads.
    activations : (N, K) float32
        Zero where padded.
    paths : (N, K, H) int64
        How activation first came to each slot in at most ``H`` hops: the slot that sent it there
        (the one that sent most in that hop, then the one of the lowest concept id), the slot that
        had sent it to that one, and so on to a seed. -1 follows the seed, and is all that a seed
        has itself.
    """

    slots: Slots
    activations: Floats
    paths: Slots


@lru_cache(maxsize=8)
def _fading(weakening: float) -> NDArray[np.float64]:
    """Return the powers of a number in [0, 1] from the first on, as far as they matter."""
    factors = np.full(1 if weakening == 1.0 else _MOST_AGES, weakening)
    factors[0] = 1.0
    # One product after another: what libraries make of a power differs in the last bit.
    powers: NDArray[np.float64] = np.multiply.accumulate(factors)
    powers = powers[: np.count_nonzero(powers > _NOTHING) + 1].copy()
    powers.flags.writeable = False
    return powers
