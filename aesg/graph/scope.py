"""What one retrieval can see: the graph of one generation, guests and the short-term memory.

All are addressed by one range of slots: those of the view first, then those of one guest after
another, the short-term window behind them. -1 stands for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesg.graph.shortterm import ShortTermMemory
from storage_backends.columns import Column, Slots
from storage_backends.faiss_index import merge_by_cosine, nearest, padded
from storage_backends.lazy import lazy
from storage_backends.types import STATS, Floats, Ids, Records, ValueKind
from storage_backends.view import View

Scalar = TypeVar("Scalar", bound=np.generic)

#: The least id of a concept of a guest: those that a memory gives itself are lower.
PACK_ID = 1 << 63

#: Activation of a seed that points away from the query: found, but as good as silent.
_FAINT = np.float32(1e-3)

#: A search that must leave concepts out looks this much further at first, and where too few
#: remain, so many times as far again.
_EXTRA = 16
_FURTHER = 4

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

    def ids(self, slots: Slots) -> Ids:
        """Return concept ids; 0 for slot -1."""
        window = self.shortterm.entries["id"]
        guests = [_Numbered(guest.first_id) for guest in self.guests]
        return self._gather([self.view.ids, *guests, window], slots, window)

    def origins(self, slots: Slots) -> Ids:
        """Return origins; 0 for slot -1."""
        return self._column(lambda view: view.stats.field("origin"), "origin", slots)

    def ages(self, slots: Slots, tick: int) -> Ids:
        """Return the topology updates since concepts were written or last proved right.

        Parameters
        ----------
        slots : (...,) int64
        tick : int
            The present topology update. Guests do not age.
        """
        ticks = self._column(lambda view: view.stats.field("tick"), "tick", slots)
        now = np.uint64(tick)
        ages = np.where(slots >= 0, now - np.minimum(ticks, now), np.uint64(0))
        return np.where(self.is_guest(slots), ticks, ages) if self.guests else ages

    def stats(self, slots: Slots) -> Records:
        """Return the statistics of concepts of the graph and of guests; else zeros."""
        columns = [view.stats for view in self.views]
        records: Records = self._gather(columns, slots, np.empty(0, STATS))
        return records

    def edge_kinds(self, slots: Slots) -> NDArray[np.uint32]:
        """Return the `EdgeKind` flags of the out-edges of concepts; 0 where there is none."""
        columns = [view.adjacency.rows.field("kinds") for view in self.views]
        kinds: NDArray[np.uint32] = self._gather(columns, slots, np.empty(0, np.uint32))
        return kinds

    def value_kinds(self, slots: Slots) -> NDArray[np.uint8]:
        """Return the `ValueKind` of each concept; KEY for slot -1."""
        return self._column(lambda view: view.value_kinds, "value_kind", slots)

    def value_ids(self, slots: Slots) -> NDArray[np.int64]:
        """Return integer values; 0 where a concept has none."""
        return self._column(lambda view: view.value_ids, "value_id", slots)

    def keys(self, slots: Slots) -> Floats:
        """Return unit keys ``(..., D)``; zeros for slot -1."""
        window = self.shortterm.keys
        keys: Floats = self._gather([*(view.keys for view in self.views), window], slots, window)
        return keys

    def vectors(self, slots: Slots) -> Floats:
        """Return what each concept stands for, ``(..., D)``.

        Its vector value where it has one, else its key with the length it came with; zeros for
        slot -1.
        """
        norms = self._column(lambda view: view.norms, "norm", slots)
        vectors: Floats = self.keys(slots) * norms[..., None]
        valued = (self.value_kinds(slots) == ValueKind.VECTOR) & (slots >= 0)
        if valued.any():
            none = np.empty((0, self.shortterm.vector_dim), np.float32)
            provisional = self.shortterm.vectors
            columns = [view.value_vectors or Column.of(none) for view in self.views]
            vectors[valued] = self._gather(
                [*columns, none if provisional is None else provisional], slots[valued], none
            )
        return vectors

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
        rows, cosines = nearest(queries, self.shortterm.keys, k)
        found = rows + self.firsts[-1], cosines
        if self.view.node_count:
            found = merge_by_cosine(self.view.index.search(queries, k), found, k)
        for guest, first, _ in self._placed():
            rows, cosines = guest.view.index.search(queries, k)
            found = merge_by_cosine(found, (np.where(rows >= 0, first + rows, -1), cosines), k)
        return found

    def _nearest_others(
        self, queries: Floats, k: int, origins: Ids, reach: int
    ) -> tuple[Slots, Floats]:
        """Search among the ``reach`` nearest, and further where fewer than ``k`` are left."""
        slots, cosines = self._nearest(queries, reach)
        slots = np.where(self.excluded(slots, origins[:, None]), -1, slots)
        slots, cosines = padded(*_closed_up(slots, cosines), k)
        slots, cosines = slots[:, :k], cosines[:, :k]
        short = np.flatnonzero(slots[:, -1] < 0)
        if len(short) and reach < self.count:
            slots[short], cosines[short] = self._nearest_others(
                queries[short], k, origins[short], reach * _FURTHER
            )
        return slots, cosines

    @lazy
    def _bounds(self) -> tuple[tuple[int, int], ...]:
        """Where the slots of each view, and of the window, begin and end."""
        return tuple(pairwise((*self.firsts, _NO_END)))

    def _placed(self) -> Iterator[tuple[Guest, int, int]]:
        """Yield each guest with the slot that it begins at, and the one behind its last."""
        for guest, (first, end) in zip(self.guests, pairwise(self.firsts[1:]), strict=True):
            yield guest, first, end

    def _column(
        self, of: Callable[[View], Column[Scalar]], name: str, slots: Slots
    ) -> NDArray[Scalar]:
        window = self.shortterm.entries[name]
        rows: NDArray[Scalar] = self._gather([*map(of, self.views), window], slots, window)
        return rows

    def _gather(self, columns: Iterable[Any], slots: Slots, like: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of slots from the columns of the views, and of the window if given.

        They have type and shape of the rows of ``like``; zeros where no column has the slot.
        """
        flat = slots.ravel()
        out = np.zeros((flat.size, *like.shape[1:]), like.dtype)
        for column, (first, end) in zip(columns, self._bounds, strict=False):
            chosen = np.flatnonzero((flat >= first) & (flat < end))
            if len(chosen) == flat.size:
                out = column[flat - first]
                break
            if len(chosen):
                out[chosen] = column[flat[chosen] - first]
        return out.reshape(*slots.shape, *like.shape[1:])


@dataclass(frozen=True)
class _Numbered:
    """A column of ids that count on from the first."""

    first: int

    def __getitem__(self, slots: Slots) -> Ids:
        return np.uint64(self.first) + slots.astype(np.uint64)


def _closed_up(slots: Slots, cosines: Floats) -> tuple[Slots, Floats]:
    """Move the entries that are left to the front of each row, in order."""
    order = np.argsort(slots < 0, axis=1, kind="stable")
    slots = np.take_along_axis(slots, order, 1)
    return slots, np.where(slots >= 0, np.take_along_axis(cosines, order, 1), np.float32(0))
