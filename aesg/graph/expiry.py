"""Ids that wait for a consolidation epoch, in one bucket for each."""

from __future__ import annotations

import heapq
from array import array

import numpy as np

from aesg.graph.decay import NEVER, Epochs
from storage_backends.types import Ids

#: Hints that are not worth thinning out.
_LITTLE = 65_536


class Expiry:
    """Buckets of ids by the epoch before which they need no look."""

    def __init__(self) -> None:
        self._buckets: dict[int, array[int]] = {}
        self._epochs: list[int] = []  # of the buckets, as a heap
        self._count = 0
        self._crowded = _LITTLE  # count beyond which repeats are taken out

    def __len__(self) -> int:
        return self._count

    def add(self, ids: Ids, epochs: Epochs) -> None:
        """Note that ids need no look before epochs; those of `NEVER` are not kept.

        Parameters
        ----------
        ids : (M,) uint64
        epochs : (M,) int64
        """
        passing = epochs != NEVER
        ids, epochs = ids[passing], epochs[passing]
        if not len(ids):
            return
        order = np.argsort(epochs, kind="stable")
        ids, epochs = ids[order], epochs[order]
        first = np.flatnonzero(np.diff(epochs, prepend=-1))
        for epoch, part in zip(epochs[first].tolist(), np.split(ids, first[1:]), strict=True):
            self._bucket(epoch).frombytes(part.tobytes())
        self._count += len(ids)
        if self._count > self._crowded:
            self._thin_out()

    def due(self, epoch: int) -> Ids:
        """Take out and return the ids that need a look by now, ascending, each once."""
        found = []
        while self._epochs and self._epochs[0] <= epoch:
            found.append(np.frombuffer(self._buckets.pop(heapq.heappop(self._epochs)), np.uint64))
        if not found:
            return np.empty(0, np.uint64)
        ids = np.concatenate(found)
        self._count -= len(ids)
        return np.unique(ids)

    def _bucket(self, epoch: int) -> array[int]:
        if epoch not in self._buckets:
            self._buckets[epoch] = array("Q")
            heapq.heappush(self._epochs, epoch)
        return self._buckets[epoch]

    def _thin_out(self) -> None:
        """Keep of each id the earliest hint."""
        held = {epoch: self._buckets[epoch] for epoch in sorted(self._buckets)}
        ids = np.concatenate([np.frombuffer(bucket, np.uint64) for bucket in held.values()])
        epochs = np.repeat(list(held), [len(bucket) for bucket in held.values()])
        ids, first = np.unique(ids, return_index=True)
        self._buckets, self._epochs, self._count = {}, [], 0
        self._crowded = max(2 * len(ids), _LITTLE)
        self.add(ids, epochs[first])
