"""Short-term memory: the most recent novel queries, before they have proved their use.

A *provisional* concept is retrievable at once and cheap to lose: it lives in a bounded window in
RAM, is searched exactly, and is written to disk only when the whole memory is saved. Its id is the
one it keeps when it is born into the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from storage_backends.adjacency import Slots
from storage_backends.types import Floats, Ids

#: One provisional concept without its vectors. ``previous`` and ``next`` are the ids of its
#: neighbours in the sequence it came from, 0 where there is none.
ENTRY = np.dtype(
    [
        ("id", "<u8"),
        ("origin", "<u8"),
        ("previous", "<u8"),
        ("next", "<u8"),
        ("tick", "<u8"),
        ("value_id", "<i8"),
        ("norm", "<f4"),
        ("confirmations", "<u4"),
        ("value_kind", "u1"),
        ("alive", "?"),
    ]
)

DEFAULT_CAPACITY = 16_384


class ShortTermMemory:
    """A window over the last ``capacity`` provisional concepts.

    Entries stand in ascending order of id. The arrays are twice as long as the window, so that it
    can slide without moving at every step.

    Parameters
    ----------
    vector_dim : int
        Width of keys and vector values.
    capacity : int
        Entries held at most; the oldest yield.
    """

    def __init__(self, vector_dim: int, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self.vector_dim = vector_dim
        self._begin = 0
        self._end = 0
        self._entries = np.zeros(2 * capacity, ENTRY)
        self._keys = np.zeros((2 * capacity, vector_dim), np.float32)
        self._vectors: Floats | None = None

    def __len__(self) -> int:
        return int(self.entries["alive"].sum())

    @property
    def entries(self) -> NDArray[np.void]:
        """The window, oldest first; entries that left it early have ``alive`` False."""
        return self._entries[self._begin : self._end]

    @property
    def keys(self) -> Floats:
        """Unit keys ``(N, D)`` of the window; those of entries that left are zero."""
        return self._keys[self._begin : self._end]

    @property
    def vectors(self) -> Floats | None:
        """Vector values ``(N, D)`` of the window; None while no entry has one."""
        return None if self._vectors is None else self._vectors[self._begin : self._end]

    def find(self, ids: Ids) -> Slots:
        """Return the row of each id in the window, -1 where there is none."""
        held = self.entries
        if not len(held):
            return np.full(np.shape(ids), -1, np.int64)
        place = np.minimum(np.searchsorted(held["id"], ids), len(held) - 1)
        here = (held["id"][place] == ids) & held["alive"][place]
        return np.where(here, place, -1)

    def append(self, entries: NDArray[np.void], keys: Floats, vectors: Floats | None) -> None:
        """Add provisional concepts with ids above all those held.

        Parameters
        ----------
        entries : (M,) ENTRY
        keys : (M, D) float32
            Unit vectors.
        vectors : (M, D) float32 or None
            Vector values; rows of another kind are ignored.
        """
        entries = entries[-self.capacity :]
        self._make_room(len(entries))
        rows = slice(self._end, self._end + len(entries))
        self._entries[rows] = entries
        self._keys[rows] = keys[-self.capacity :]
        if vectors is not None:
            if self._vectors is None:
                self._vectors = np.zeros_like(self._keys)
            self._vectors[rows] = vectors[-self.capacity :]
        self._end += len(entries)
        self._begin = max(self._begin, self._end - self.capacity)

    def confirm(self, ids: Ids, counts: NDArray[np.int64], tick: int) -> None:
        """Count that provisional concepts proved right; ids that are not held are ignored."""
        rows = self.find(ids)
        held = rows >= 0
        entries = self.entries
        entries["confirmations"][rows[held]] += counts[held].astype(np.uint32)
        entries["tick"][rows[held]] = tick

    def link(self, pairs: Ids) -> None:
        """Note that concepts followed one another, ``(L, 2)`` ids in order of time."""
        before, after = self.find(pairs[:, 0]), self.find(pairs[:, 1])
        self.entries["next"][before[before >= 0]] = pairs[before >= 0, 1]
        self.entries["previous"][after[after >= 0]] = pairs[after >= 0, 0]

    def remove(self, ids: Ids) -> None:
        """Take concepts out of the window; ids that it does not hold are ignored."""
        rows = self.find(ids)
        rows = rows[rows >= 0]
        self.entries["alive"][rows] = False
        self.keys[rows] = 0

    def clear(self) -> None:
        """Forget every entry."""
        self._begin = self._end

    def dump(self, without: Ids) -> dict[str, bytes]:
        """Return the live entries, but for some ids, as the columns of the short-term table."""
        alive = self.entries["alive"] & ~np.isin(self.entries["id"], without)
        columns = {"entries": self.entries[alive].tobytes(), "keys": self.keys[alive].tobytes()}
        if self.vectors is not None:
            columns["vectors"] = self.vectors[alive].tobytes()
        return columns

    def load(self, columns: Mapping[str, bytes]) -> None:
        """Take in what `dump` returned; a table of another width or layout is ignored.

        Provisional concepts are a cache of recent experience: a release that stores them in
        another form may drop them.
        """
        entries = np.frombuffer(columns.get("entries", b""), np.uint8)
        keys = np.frombuffer(columns.get("keys", b""), np.uint8)
        count, rest = divmod(entries.size, ENTRY.itemsize)
        if rest or keys.size != count * self.vector_dim * 4 or not count:
            return
        vectors = columns.get("vectors")
        self.append(
            entries.view(ENTRY),
            keys.view(np.float32).reshape(count, self.vector_dim),
            None
            if vectors is None
            else np.frombuffer(vectors, np.float32).reshape(count, self.vector_dim),
        )

    def _make_room(self, count: int) -> None:
        """Slide the window to the front of the arrays where ``count`` more would not fit."""
        if self._end + count <= len(self._entries):
            return
        window = slice(self._begin, self._end)
        held = self._end - self._begin
        self._entries[:held] = self._entries[window].copy()
        self._keys[:held] = self._keys[window].copy()
        if self._vectors is not None:
            self._vectors[:held] = self._vectors[window].copy()
        self._begin, self._end = 0, held
