"""Short-term memory: the most recent novel queries, before they have proved their use.

A *provisional* concept is retrievable at once and cheap to lose: it lives in a bounded window in
RAM, is searched exactly, and is written to disk only when the whole memory is saved. Its id is the
one it keeps when it is born into the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import renamed
from storage_backends.columns import Scalar, Slots
from storage_backends.types import Floats, Ids, ValueKind

_log = logging.getLogger("aesg.memory")

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


class _Window(NamedTuple):
    """Arrays, and the rows of them that are held."""

    entries: NDArray[np.void]
    keys: Floats
    vectors: Floats | None
    begin: int
    end: int


class ShortTermMemory:
    """A window over the last ``capacity`` provisional concepts.

    Entries stand in ascending order of id. The arrays are twice as long as the window, so that it
    can slide without moving at every step. Whatever moves entries replaces the window in one
    assignment, so that an interrupt leaves it as it was before or as it is after.

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
        rows = 2 * capacity
        keys = np.zeros((rows, vector_dim), np.float32)
        self._window = _Window(np.zeros(rows, ENTRY), keys, None, 0, 0)

    def __len__(self) -> int:
        return self._window.end - self._window.begin

    @property
    def entries(self) -> NDArray[np.void]:
        """The window, oldest first."""
        window = self._window
        return window.entries[window.begin : window.end]

    @property
    def keys(self) -> Floats:
        """Unit keys ``(N, D)`` of the window."""
        window = self._window
        return window.keys[window.begin : window.end]

    @property
    def vectors(self) -> Floats | None:
        """Vector values ``(N, D)`` of the window; None while no entry has one."""
        window = self._window
        return None if window.vectors is None else window.vectors[window.begin : window.end]

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
        window = self._with_room(len(entries))
        end = window.end + len(entries)
        rows = slice(window.end, end)
        window.entries[rows] = entries
        window.keys[rows] = keys[-self.capacity :]
        values = window.vectors
        if values is None and vectors is not None:
            values = np.zeros_like(window.keys)
        if values is not None:
            values[rows] = 0 if vectors is None else vectors[-self.capacity :]
        begin = max(window.begin, end - self.capacity)
        self._window = window._replace(vectors=values, begin=begin, end=end)

    def confirm(self, ids: Ids, counts: NDArray[np.int64], tick: int) -> None:
        """Count that provisional concepts proved right; ids that are not held are ignored."""
        rows = self.find(ids)
        held = rows >= 0
        entries = self.entries
        entries["confirmations"][rows[held]] += counts[held].astype(np.uint32)
        entries["tick"][rows[held]] = tick

    def refine(self, ids: Ids, towards: Floats, share: float) -> None:
        """Move vector values part of the way; other concepts are ignored."""
        rows = self.find(ids)
        held = np.flatnonzero(rows >= 0)
        held = held[self.entries["value_kind"][rows[held]] == ValueKind.VECTOR]
        if self.vectors is not None:
            values = self.vectors[rows[held]]
            self.vectors[rows[held]] = values + np.float32(share) * (towards[held] - values)

    def rekey(self, ids: Ids, keys: Floats, norms: Floats) -> None:
        """Give concepts other keys; ids that are not held are ignored.

        Parameters
        ----------
        ids : (M,) uint64
        keys : (M, D) float32
            Unit vectors.
        norms : (M,) float32
            Length of the raw keys.
        """
        rows = self.find(ids)
        held = rows >= 0
        self.keys[rows[held]] = keys[held]
        self.entries["norm"][rows[held]] = norms[held]

    def link(self, pairs: Ids) -> None:
        """Note that concepts followed one another, ``(L, 2)`` ids in order of time."""
        before, after = self.find(pairs[:, 0]), self.find(pairs[:, 1])
        self.entries["next"][before[before >= 0]] = pairs[before >= 0, 1]
        self.entries["previous"][after[after >= 0]] = pairs[after >= 0, 0]

    def rename(self, gone: Ids, stands: Ids) -> None:
        """Let links to concepts lead to those that stand for them now, ``(M,)`` ids each."""
        for name in ("previous", "next"):
            ends = self.entries[name]
            ends[:] = renamed(ends, gone, stands)

    def remove(self, ids: Ids) -> None:
        """Take concepts out of the window; ids that it does not hold are ignored."""
        gone = np.isin(self.entries["id"], ids)
        if gone.any():
            self._window = self._moved(np.flatnonzero(~gone))

    def dump(self) -> dict[str, bytes]:
        """Return the entries as the columns of the short-term table."""
        columns = {"entries": self.entries.tobytes(), "keys": self.keys.tobytes()}
        if self.vectors is not None and (self.entries["value_kind"] == ValueKind.VECTOR).any():
            columns["vectors"] = self.vectors.tobytes()
        return columns

    def load(self, columns: Mapping[str, bytes], next_id: int) -> None:
        """Take in what `dump` returned; a table that cannot be one is ignored, with a warning.

        Provisional concepts are a cache of recent experience: a release that stores them in
        another form may drop them.

        Parameters
        ----------
        columns : mapping of name to bytes
        next_id : int
            First concept id that was never given.
        """
        if not columns.get("entries"):
            return
        count, rest = divmod(len(columns["entries"]), ENTRY.itemsize)
        keys = self._stored_rows(columns.get("keys"), count)
        vectors = self._stored_rows(columns.get("vectors"), count)
        if rest or keys is None or (vectors is None and "vectors" in columns):
            problem = f"expected whole rows of width {self.vector_dim}, finite"
        else:
            entries = np.frombuffer(columns["entries"], ENTRY)
            problem = _problem_of(entries, vectors is not None, next_id)
            if not problem:
                self.append(entries, keys, vectors)
        if problem:
            _log.warning("the stored short-term memory is ignored: %s", problem)

    def _stored_rows(self, column: bytes | None, count: int) -> Floats | None:
        if column is None or len(column) != count * self.vector_dim * 4:
            return None
        rows = np.frombuffer(column, np.float32).reshape(count, self.vector_dim)
        return rows if np.isfinite(rows).all() else None

    def _with_room(self, count: int) -> _Window:
        """Return the window, moved to fresh arrays where ``count`` more would not fit."""
        window = self._window
        if window.end + count <= len(window.entries):
            return window
        return self._moved(np.arange(len(self)))

    def _moved(self, rows: Slots) -> _Window:
        """Return a window of its own arrays that holds some rows of the present one."""
        old, from_start = self._window, rows + self._window.begin
        entries, keys = _taken(old.entries, from_start), _taken(old.keys, from_start)
        vectors = None if old.vectors is None else _taken(old.vectors, from_start)
        return _Window(entries, keys, vectors, 0, len(rows))


def _taken(array: NDArray[Scalar], rows: Slots) -> NDArray[Scalar]:
    """Return an array as long whose first rows are some of the given one's."""
    taken = np.zeros(array.shape, array.dtype)  # of which the rest takes no memory until it is used
    # Without bounds to check there is no copy of a copy; rows are never out of bounds.
    np.take(array, rows, axis=0, out=taken[: len(rows)], mode="clip")
    return taken


def _problem_of(entries: NDArray[np.void], has_vectors: bool, next_id: int) -> str:
    """Return what is wrong with stored entries, "" if nothing is."""
    ids, kinds = entries["id"], entries["value_kind"]
    if not (ids[1:] > ids[:-1]).all() or ids[0] < 1 or int(ids[-1]) >= next_id:
        return f"expected ascending ids from 1 to {next_id - 1}"
    if not np.isin(kinds, list(ValueKind)).all():
        return f"expected kinds of value among {sorted(map(int, ValueKind))}"
    if (kinds == ValueKind.VECTOR).any() and not has_vectors:
        return "expected vectors of the entries that have one"
    if not np.isfinite(entries["norm"]).all():
        return "expected finite norms"
    return ""
