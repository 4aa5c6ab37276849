"""What one retrieval can see: the graph of one generation, guests and the short-term memory.

All are addressed by one range of slots: those of the view first, then those of one guest after
another, the short-term window behind them. -1 stands for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.graph.places import Places
from aesg.graph.shortterm import ENTRY, ShortTermMemory
from storage_backends.adjacency import ROW
from storage_backends.columns import Column, Slots
from storage_backends.faiss_index import merge_by_cosine, nearest, padded
from storage_backends.lazy import lazy
from storage_backends.types import STATS, Floats, Ids, Records, ValueKind
from storage_backends.view import View

#: The least id of a concept of a guest: those that a memory gives itself are lower.
PACK_ID = 1 << 63

#: Activation of a seed that points away from the query: found, but as good as silent.
_FAINT = np.float32(1e-3)

#: A search that must leave concepts out looks this much further at first, and where too few
#: remain, so many times as far again.
_EXTRA = 16
_FURTHER = 4

_FLOAT = np.dtype(np.float32)

#: Behind every slot.
_NO_END = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Guest:
    """The graph of a pack, which takes part in retrieval and never changes.

    Parameters
    ----------
    view : View
        Without tombstones. Statistics are as of the export: ``tick`` counts the topology updates
        since a concept was written or last proved right, ``epoch`` the consolidations since it was
        last of use.
    weight : float
        Factor of the activation of seeds in it, in (0, 1].
    first_id : int
        Id of the concept in its first slot, at least `PACK_ID`; the others count on from there.
    """

    view: View
    weight: float
    first_id: int


@dataclass(frozen=True)
class Scope:
    """Columns of the graph, of guests and of the short-term window, by common slot.

    Parameters
    ----------
    view : View
    shortterm : ShortTermMemory
        Not changed while the scope is in use.
    guests : tuple of Guest
        In the order of their ids.
    """

    view: View
    shortterm: ShortTermMemory
    guests: tuple[Guest, ...] = ()

    @lazy
    def views(self) -> tuple[View, ...]:
        """The graph, and those of the guests."""
        return (self.view, *(guest.view for guest in self.guests))

    @lazy
    def firsts(self) -> tuple[int, ...]:
        """The slot that each of the views begins at, and then the short-term window."""
        return tuple(accumulate((view.size for view in self.views), initial=0))

    @property
    def count(self) -> int:
        """Number of concepts that can be found."""
        return sum(view.node_count for view in self.views) + len(self.shortterm)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to find."""
        return not self.count

    def is_provisional(self, slots: Slots) -> NDArray[np.bool_]:
        """Tell which slots belong to the short-term window."""
        return slots >= self.firsts[-1]

    def is_guest(self, slots: Slots) -> NDArray[np.bool_]:
        """Tell which slots belong to guests."""
        guest: NDArray[np.bool_] = (slots >= self.view.size) & (slots < self.firsts[-1])
        return guest

    def at(self, slots: Slots) -> Located:
        """Return the concepts of some slots, to gather several columns of them."""
        return Located(self, slots)

    def ids(self, slots: Slots) -> Ids:
        """Return concept ids; 0 for slot -1."""
        return self.at(slots).ids

    def origins(self, slots: Slots) -> Ids:
        """Return origins; 0 for slot -1."""
        return self.at(slots).origins

    def ages(self, slots: Slots, tick: int) -> Ids:
        """Return the topology updates since concepts were written or last proved right.

        Parameters
        ----------
        slots : (...,) int64
        tick : int
            The present topology update. Guests do not age.
        """
        return self.at(slots).ages(tick)

    def stats(self, slots: Slots) -> Records:
        """Return the statistics of concepts of the graph and of guests; else zeros."""
        return self.at(slots).stats

    def edge_kinds(self, slots: Slots) -> NDArray[np.uint32]:
        """Return the `EdgeKind` flags of the out-edges of concepts; 0 where there is none."""
        return self.at(slots).edge_kinds

    def value_kinds(self, slots: Slots) -> NDArray[np.uint8]:
        """Return the `ValueKind` of each concept; KEY for slot -1."""
        return self.at(slots).value_kinds

    def value_ids(self, slots: Slots) -> NDArray[np.int64]:
        """Return integer values; 0 where a concept has none."""
        return self.at(slots).value_ids

    def keys(self, slots: Slots) -> Floats:
        """Return unit keys ``(..., D)``; zeros for slot -1."""
        return self.at(slots).keys

    def vectors(self, slots: Slots) -> Floats:
        """Return what each concept stands for, ``(..., D)``; see `Located.vectors`."""
        return self.at(slots).vectors

    def find(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where the concept is no longer there."""
        graph = self.view.slots(ids)
        row = self.shortterm.find(ids)
        found = np.where(graph >= 0, graph, np.where(row >= 0, row + self.firsts[-1], -1))
        for guest, first, end in self._placed():
            place = ids - np.uint64(guest.first_id)  # of a lower id it is a huge number
            inside = place < np.uint64(end - first)
            found = np.where(inside, first + place.astype(np.int64), found)
        return found

    def seed_activations(self, slots: Slots, cosines: Floats) -> Floats:
        """Return the activation that seeds begin with; 0 for slot -1.

        It is their cosine, or next to nothing where that is lower; in a guest times its weight.
        """
        begun = np.where(slots >= 0, np.maximum(cosines, _FAINT), np.float32(0))
        for guest, first, end in self._placed():
            begun[(slots >= first) & (slots < end)] *= np.float32(guest.weight)
        return begun

    def search(self, queries: Floats, k: int, origins: Ids | None) -> tuple[Slots, Floats]:
        """Find the most similar concepts of each query.

        What a guest weighs has no part in it: that would silence light guests beside heavy ones.

        Parameters
        ----------
        queries : (N, D) float32
            Unit vectors.
        k : int
            Concepts for each query, at least 1.
        origins : (N,) uint64 or None
            A query does not find concepts of its own origin; None or 0 excludes nothing.

        Returns
        -------
        slots : (N, k) int64
            Descending by cosine; -1 pads.
        cosines : (N, k) float32
        """
        if origins is None:
            slots, cosines = self._nearest(queries, k)
        else:
            slots, cosines = self._nearest_others(queries, k, origins, k + _EXTRA)
        return padded(slots[:, :k], cosines[:, :k], k)

    def excluded(self, slots: Slots, origins: Ids) -> NDArray[np.bool_]:
        """Tell which slots a query of the given origin must not see."""
        own: NDArray[np.bool_] = (self.origins(slots) == origins) & (origins != 0)
        return own

    def _nearest(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        found = self._nearest_own(queries, k)
        for guest, first, _ in self._placed():
            rows, cosines = guest.view.index.search(queries, k)
            found = merge_by_cosine(found, (np.where(rows >= 0, first + rows, -1), cosines), k)
        return found

    def _nearest_own(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Search graph and window."""
        held = bool(self.view.node_count)
        if held and not len(self.shortterm):
            return self.view.index.search(queries, k)
        rows, cosines = nearest(queries, self.shortterm.keys, k)
        found = rows + self.firsts[-1], cosines
        return merge_by_cosine(self.view.index.search(queries, k), found, k) if held else found

    def _nearest_others(
        self, queries: Floats, k: int, origins: Ids, reach: int
    ) -> tuple[Slots, Floats]:
        """Search among the ``reach`` nearest, and further where fewer than ``k`` are left."""
        slots, cosines = self._nearest(queries, reach)
        own = self.excluded(slots, origins[:, None])
        met = np.flatnonzero(own.any(axis=1))
        if len(met):
            others = np.where(own[met], -1, slots[met])
            slots[met], cosines[met] = _closed_up(others, cosines[met])
        slots, cosines = padded(slots[:, :k], cosines[:, :k], k)
        short = np.flatnonzero(slots[:, -1] < 0)
        if len(short) and reach < self.count:
            slots[short], cosines[short] = self._nearest_others(
                queries[short], k, origins[short], reach * _FURTHER
            )
        return slots, cosines

    @lazy
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Where the slots of each view, and of the window, begin and end."""
        return tuple(pairwise((*self.firsts, _NO_END)))

    def _placed(self) -> Iterator[tuple[Guest, int, int]]:
        """Yield each guest with the slot that it begins at, and the one behind its last."""
        for guest, (first, end) in zip(self.guests, pairwise(self.firsts[1:]), strict=True):
            yield guest, first, end


class Located:
    """The concepts of some slots of a scope, valid as long as the scope is.

    Each column is gathered when it is first asked for, in the shape of the slots.

    Parameters
    ----------
    scope : Scope
    slots : (...,) int64
        -1 stands for nothing.
    """

    def __init__(self, scope: Scope, slots: Slots) -> None:
        self.slots = slots
        self._scope = scope
        self._places = Places(slots, scope.bounds)

    @lazy
    def ids(self) -> Ids:
        """Concept ids; 0 for slot -1."""
        return self._places.gather(self._ids_in, ENTRY["id"])

    @lazy
    def origins(self) -> Ids:
        """Origins; 0 for slot -1."""
        return self._statistic("origin")

    @lazy
    def edge_kinds(self) -> NDArray[np.uint32]:
        """The `EdgeKind` flags of the out-edges of concepts; 0 where there is none."""
        return self._in_views(lambda view: view.adjacency.rows.field("kinds"), ROW["kinds"])

    @lazy
    def stats(self) -> Records:
        """The statistics of concepts of the graph and of guests; else zeros."""
        return self._in_views(lambda view: view.stats, STATS)

    @lazy
    def value_kinds(self) -> NDArray[np.uint8]:
        """The `ValueKind` of each concept; KEY for slot -1."""
        return self._column(lambda view: view.value_kinds, "value_kind")

    @lazy
    def value_ids(self) -> NDArray[np.int64]:
        """Integer values; 0 where a concept has none."""
        return self._column(lambda view: view.value_ids, "value_id")

    @lazy
    def keys(self) -> Floats:
        """Unit keys, ``(..., D)``; zeros for slot -1."""
        return self._rows(lambda view: view.keys, self._scope.shortterm.keys)

    @lazy
    def vectors(self) -> Floats:
        """What each concept stands for, ``(..., D)``.

        Its vector value where it has one, else its key with the length it came with; zeros for
        slot -1.
        """
        norms = self._column(lambda view: view.norms, "norm")
        vectors: Floats = self.keys * norms[..., None]
        valued = self.value_kinds == ValueKind.VECTOR
        if valued.any():
            vectors[valued] = Located(self._scope, self.slots[valued])._values
        return vectors

    @property
    def _values(self) -> Floats:
        """Vector values, where all have one."""
        window = self._scope.shortterm.vectors
        none = np.empty((0, self._scope.shortterm.vector_dim), np.float32)
        return self._rows(
            lambda view: none if view.value_vectors is None else view.value_vectors,
            none if window is None else window,
        )

    def ages(self, tick: int) -> Ids:
        """Return the topology updates since concepts were written or last proved right.

        Parameters
        ----------
        tick : int
            The present topology update. Guests do not age.
        """
        ticks, now = self._statistic("tick"), np.uint64(tick)
        ages = np.where(self.slots >= 0, now - np.minimum(ticks, now), np.uint64(0))
        return (
            np.where(self._scope.is_guest(self.slots), ticks, ages) if self._scope.guests else ages
        )

    def _statistic(self, name: str) -> Ids:
        return self._column(lambda view: view.stats.field(name), name)

    def _column(self, of: Callable[[View], Column[Any]], name: str) -> NDArray[Any]:
        views, window = self._scope.views, self._scope.shortterm.entries

        def column_of(table: int) -> Any:
            return of(views[table]) if table < len(views) else window[name]

        return self._places.gather(column_of, ENTRY[name])

    def _in_views(self, of: Callable[[View], Column[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Gather what provisional concepts do not have."""
        views = self._scope.views

        def column_of(table: int) -> Any:
            return of(views[table]) if table < len(views) else _Zeros(dtype)

        return self._places.gather(column_of, dtype)

    def _rows(self, of: Callable[[View], Column[np.float32] | Floats], window: Floats) -> Floats:
        views = self._scope.views

        def column_of(table: int) -> Any:
            return of(views[table]) if table < len(views) else window

        dim = self._scope.shortterm.vector_dim
        rows: Floats = self._places.gather(column_of, _FLOAT, (dim,))
        return rows

    def _ids_in(self, table: int) -> Any:
        guests = self._scope.guests
        if not table:
            return self._scope.view.ids
        if table > len(guests):
            return self._scope.shortterm.entries["id"]
        return _Numbered(guests[table - 1].first_id)


@dataclass(frozen=True)
class _Numbered:
    """A column of ids that count on from the first."""

    first: int

    def __getitem__(self, slots: Slots) -> Ids:
        return np.uint64(self.first) + slots.astype(np.uint64)


@dataclass(frozen=True)
class _Zeros:
    """A column that says nothing of any slot."""

    dtype: np.dtype[Any]

    def __getitem__(self, slots: Slots) -> NDArray[Any]:
        return np.zeros(slots.shape, self.dtype)


def _closed_up(slots: Slots, cosines: Floats) -> tuple[Slots, Floats]:
    """Move the entries that are left to the front of each row, in order."""
    order = np.argsort(slots < 0, axis=1, kind="stable")
    slots = np.take_along_axis(slots, order, 1)
    return slots, np.where(slots >= 0, np.take_along_axis(cosines, order, 1), np.float32(0))
