"""What one retrieval can see: the graph of one generation and the short-term memory.

Both are addressed by one range of slots: those of the view first, the short-term window behind
them. -1 stands for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aesg.graph.shortterm import ShortTermMemory
from storage_backends.columns import Column, Slots
from storage_backends.faiss_index import merge_by_cosine, nearest, padded
from storage_backends.types import Floats, Ids, ValueKind
from storage_backends.view import View

Scalar = TypeVar("Scalar", bound=np.generic)

#: A search that must leave concepts out looks this much further at first, and where too few
#: remain, so many times as far again.
_EXTRA = 16
_FURTHER = 4


@dataclass(frozen=True)
class Scope:
    """Columns of the graph and of the short-term window, by common slot.

    Parameters
    ----------
    view : View
    shortterm : ShortTermMemory
        Not changed while the scope is in use.
    """

    view: View
    shortterm: ShortTermMemory

    @property
    def empty(self) -> bool:
        """Whether there is nothing to find."""
        return not self.view.node_count and not len(self.shortterm)

    def is_provisional(self, slots: Slots) -> NDArray[np.bool_]:
        """Tell which slots belong to the short-term window."""
        return slots >= self.view.size

    def ids(self, slots: Slots) -> Ids:
        """Return concept ids; 0 for slot -1."""
        return self._column(self.view.ids, "id", slots)

    def origins(self, slots: Slots) -> Ids:
        """Return origins; 0 for slot -1."""
        return self._column(self.view.stats.field("origin"), "origin", slots)

    def ticks(self, slots: Slots) -> Ids:
        """Return the topology update at which each concept was written or last proved right."""
        return self._column(self.view.stats.field("tick"), "tick", slots)

    def value_kinds(self, slots: Slots) -> NDArray[np.uint8]:
        """Return the `ValueKind` of each concept; KEY for slot -1."""
        return self._column(self.view.value_kinds, "value_kind", slots)

    def value_ids(self, slots: Slots) -> NDArray[np.int64]:
        """Return integer values; 0 where a concept has none."""
        return self._column(self.view.value_ids, "value_id", slots)

    def keys(self, slots: Slots) -> Floats:
        """Return unit keys ``(..., D)``; zeros for slot -1."""
        keys: Floats = self._gather(self.view.keys, self.shortterm.keys, slots)
        return keys

    def vectors(self, slots: Slots) -> Floats:
        """Return what each concept stands for, ``(..., D)``.

        Its vector value where it has one, else its key with the length it came with; zeros for
        slot -1.
        """
        norms = self._gather(self.view.norms, self.shortterm.entries["norm"], slots)
        vectors: Floats = self.keys(slots) * norms[..., None]
        valued = (self.value_kinds(slots) == ValueKind.VECTOR) & (slots >= 0)
        if valued.any():
            width = self.shortterm.vector_dim
            none = np.empty((0, width), np.float32)
            provisional = self.shortterm.vectors
            vectors[valued] = self._gather(
                self.view.value_vectors or Column.of(none),
                none if provisional is None else provisional,
                slots[valued],
            )
        return vectors

    def find(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where the concept is no longer there."""
        graph = self.view.slots(ids)
        row = self.shortterm.find(ids)
        return np.where(graph >= 0, graph, np.where(row >= 0, row + self.view.size, -1))

    def search(self, queries: Floats, k: int, origins: Ids | None) -> tuple[Slots, Floats]:
        """Find the most similar concepts of each query.

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
        found = rows + self.view.size, cosines
        if self.view.node_count:
            found = merge_by_cosine(self.view.index.search(queries, k), found, k)
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
        if len(short) and reach < self.view.node_count + len(self.shortterm):
            slots[short], cosines[short] = self._nearest_others(
                queries[short], k, origins[short], reach * _FURTHER
            )
        return slots, cosines

    def _column(self, graph: Column[Scalar], name: str, slots: Slots) -> NDArray[Scalar]:
        return self._gather(graph, self.shortterm.entries[name], slots)

    def _gather(
        self, graph: Column[Scalar], window: NDArray[Scalar], slots: Slots
    ) -> NDArray[Scalar]:
        flat = slots.ravel()
        out = np.zeros((flat.size, *window.shape[1:]), window.dtype)
        size = self.view.size
        for column, chosen, first in (
            (graph, np.flatnonzero((flat >= 0) & (flat < size)), 0),
            (window, np.flatnonzero(flat >= size), size),
        ):
            if len(chosen) == flat.size:
                out = column[flat - first]
            elif len(chosen):
                out[chosen] = column[flat[chosen] - first]
        return out.reshape(*slots.shape, *window.shape[1:])


def _closed_up(slots: Slots, cosines: Floats) -> tuple[Slots, Floats]:
    """Move the entries that are left to the front of each row, in order."""
    order = np.argsort(slots < 0, axis=1, kind="stable")
    slots = np.take_along_axis(slots, order, 1)
    return slots, np.where(slots >= 0, np.take_along_axis(cosines, order, 1), np.float32(0))
