"""Where edges come from: the sources of the in-edges of a slot, without looking at all edges.

Nothing here is exact. What it knows of an edge it knows for good, so that a source whose row has
changed since is still named; whoever asks looks at the row. Edges of a snapshot are found through
two mapped columns. Edges added since are sorted into runs when they are first asked for, so that a
process that never asks has no memory for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from storage_backends.columns import Slots, ragged_positions

#: An earlier run that is at most so many times as long as the next is merged with it.
_MERGED_UP_TO = 4

#: The source in a pair of target and source.
_LOW = np.uint64(0xFFFFFFFF)

_NONE: NDArray[np.uint32] = np.empty(0, np.uint32)


@dataclass(frozen=True)
class Incoming:
    """Sources by target.

    Parameters
    ----------
    start : (B,) uint32
        Where the sources of each of the first slots begin in ``source``.
    source : (E,) uint32
        Sources of the edges that a snapshot has, in the order of their targets; may be mapped.
    runs : tuple of (M,) uint64
        Edges added since, as ``target << 32 | source``, ascending.
    covered : int
        How many edges of the pool's tail are in the runs.
    """

    start: NDArray[np.uint32] = field(default_factory=lambda: _NONE, repr=False)
    source: NDArray[np.uint32] = field(default_factory=lambda: _NONE, repr=False)
    runs: tuple[NDArray[np.uint64], ...] = ()
    covered: int = 0

    def sources_of(self, targets: Slots) -> Slots:
        """Return the slots that have or once had an edge to any of ``targets``, ascending."""
        first = np.unique(targets).astype(np.uint64) << np.uint64(32)
        found = [self._in_base(targets)]
        for run in self.runs:
            begins = np.searchsorted(run, first)
            ends = np.searchsorted(run, first | _LOW, side="right")
            found.append((run[ragged_positions(begins, ends - begins)] & _LOW).astype(np.int64))
        return np.unique(np.concatenate(found))

    def _in_base(self, targets: Slots) -> Slots:
        size = len(self.start)
        targets = targets[targets < size]
        begins = self.start[targets].astype(np.int64)
        ends = self.start[np.minimum(targets + 1, size - 1)].astype(np.int64)
        ends = np.where(targets + 1 < size, ends, len(self.source))
        return self.source[ragged_positions(begins, ends - begins)].astype(np.int64)

    def extended(self, targets: NDArray[np.uint32], sources: NDArray[np.uint32]) -> Incoming:
        """Return the same with the next edges of the pool's tail."""
        if not len(targets):
            return self
        run = pairs(targets, sources)
        run.sort()
        runs = list(self.runs)
        while runs and len(runs[-1]) <= _MERGED_UP_TO * len(run):
            run = np.concatenate([runs.pop(), run])
            run.sort(kind="stable")  # two ascending runs: merged in linear time
        return replace(self, runs=(*runs, run), covered=self.covered + len(targets))

    def restarted(self) -> Incoming:
        """Return what it knows of the snapshot alone."""
        return replace(self, runs=(), covered=0)


def pairs(targets: NDArray[np.uint32], sources: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return each edge as one number, ``target << 32 | source``."""
    both: NDArray[np.uint64] = targets.astype(np.uint64) << np.uint64(32)
    both |= sources.astype(np.uint64)
    return both
