"""The numbers of an epoch, as callbacks get them."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor

from aesg.trainable import Memory, Rated


class Average:
    """The mean loss of some batches, each with the weight of its samples."""

    def __init__(self) -> None:
        self.samples = 0
        self._sum = 0.0

    def add(self, loss: float, targets: Tensor) -> int:
        """Count a batch; return its samples."""
        samples = len(targets) if targets.ndim else 1
        self._sum += loss * samples
        self.samples += samples
        return samples

    @property
    def value(self) -> float:
        """The mean; NaN without samples."""
        return self._sum / self.samples if self.samples else math.nan


class MemoryReport:
    """What a memory did since this was made.

    Parameters
    ----------
    memory : Memory or None
    """

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory
        self._before: Any = copy.copy(memory.rates) if isinstance(memory, Rated) else None

    @property
    def has_learned_nothing(self) -> bool:
        """Whether there were retrievals, none of which was learned from."""
        before, memory = self._before, self._memory
        if not isinstance(memory, Rated):
            return False
        now = memory.rates
        return bool(now.retrievals > before.retrievals and now.queries == before.queries)

    def logs(self) -> dict[str, Any]:
        """Return its counts now, and what was born, pruned and retrieved meanwhile."""
        memory = self._memory
        if memory is None:
            return {}
        storage = memory.storage
        counts = {"concepts": storage.node_count, "edges": storage.edge_count}
        if not isinstance(memory, Rated):
            return counts
        before, now = self._before, memory.rates
        retrievals = now.retrievals - before.retrievals
        seconds = now.retrieval_seconds - before.retrieval_seconds
        return {
            **counts,
            "provisional": memory.provisional_count,
            "births": now.born - before.born,
            "prunes": now.pruned - before.pruned,
            "retrieval_ms": 1e3 * seconds / retrievals if retrievals else 0.0,
        }
