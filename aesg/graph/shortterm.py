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
        return self._end - self._begin

    @property
    def entries(self) -> NDArray[np.void]:
        """The window, oldest first."""
        return self._entries[self._begin : self._end]

    @property
    def keys(self) -> Floats:
        """Unit keys ``(N, D)`` of the window."""
        return self._keys[self._begin : self._end]

    @property
    def vectors(self) -> Floats | None:
        """Vector values ``(N, D)`` of the window; None while no entry has one."""
        return None if self._vectors is None else self._vectors[self._begin : self._end]

    def find(self, ids: Ids) -> Slots:
        """Return the row of each id in the window, -1 where there is none."""
        held = self.entries["id"]
        if not len(held):
            return np.full(np.shape(ids), -1, np.int64)
        place = np.minimum(np.searchsorted(held, ids), len(held) - 1)
        return np.where(held[place] == ids, place, -1)

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
        if self._vectors is None and vectors is not None:
            self._vectors = np.zeros_like(self._keys)
        if self._vectors is not None:
            self._vectors[rows] = 0 if vectors is None else vectors[-self.capacity :]
        self._end += len(entries)
        self._begin = max(self._begin, self._end - self.capacity)

    def confirm(self, ids: Ids, counts: NDArray[np.int64], tick: int) -> None:
        """Count that provisional concepts proved right; ids that are not held are ignored."""
        rows = self.find(ids)
        held = rows >= 0
        entries = self.entries
        entries["confirmations"][rows[held]] += counts[held].astype(np.uint32)
        entries["tick"][rows[held]] = tick

    def refine(self, ids: Ids, towards: Floats, share: float) -> None:
        """Move vector values part of the way; ids that are not held are ignored."""
        rows = self.find(ids)
        held = rows >= 0
        if self.vectors is not None:
            values = self.vectors[rows[held]]
            self.vectors[rows[held]] = values + np.float32(share) * (towards[held] - values)

    def link(self, pairs: Ids) -> None:
        """Note that concepts followed one another, ``(L, 2)`` ids in order of time."""
        before, after = self.find(pairs[:, 0]), self.find(pairs[:, 1])
        self.entries["next"][before[before >= 0]] = pairs[before >= 0, 1]
        self.entries["previous"][after[after >= 0]] = pairs[after >= 0, 0]

    def remove(self, ids: Ids) -> None:
        """Take concepts out of the window; ids that it does not hold are ignored."""
        kept = ~np.isin(self.entries["id"], ids)
        left = int(kept.sum())
        for column in (self.entries, self.keys, self.vectors):
            if column is not None:
                column[:left] = column[kept]
        self._end = self._begin + left

    def clear(self) -> None:
        """Forget every entry."""
        self._begin = self._end

    def dump(self, without: Ids) -> dict[str, bytes]:
        """Return the entries, but for those of some ids, as the columns of the short-term table."""
        kept = ~np.isin(self.entries["id"], without)
        columns = {"entries": self.entries[kept].tobytes(), "keys": self.keys[kept].tobytes()}
        if self.vectors is not None:
            columns["vectors"] = self.vectors[kept].tobytes()
        return columns

    def load(self, columns: Mapping[str, bytes]) -> None:
        """Take in what `dump` returned; a table of another width or layout is ignored.

        Provisional concepts are a cache of recent experience: a release that stores them in
        another form may drop them.
        """
        table = columns.get("entries", b"")
        count, rest = divmod(len(table), ENTRY.itemsize)
        keys = self._stored_rows(columns.get("keys"), count)
        vectors = self._stored_rows(columns.get("vectors"), count)
        if rest or keys is None or (vectors is None and "vectors" in columns):
            return
        entries = np.frombuffer(table, ENTRY)
        if (entries["id"][1:] > entries["id"][:-1]).all():
            self.append(entries, keys, vectors)

    def _stored_rows(self, column: bytes | None, count: int) -> Floats | None:
        if column is None or len(column) != count * self.vector_dim * 4:
            return None
        return np.frombuffer(column, np.float32).reshape(count, self.vector_dim)

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
