"""The counters of a memory, and the time of day."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Clock:
    """Counters of a memory.

    Parameters
    ----------
    next_id : int
        First concept id that was never given.
    epoch : int
        Consolidation epochs so far.
    tick : int
        Topology updates so far.
    """

    next_id: int = 1
    epoch: int = 0
    tick: int = 0


def microseconds() -> int:
    """Return the Unix time; 0 where the clock of the system stands before 1970."""
    return max(time.time_ns() // 1000, 0)
