"""How many concepts hold each integer value."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from aesg.graph.scope import Scope
from storage_backends.columns import Column, Slots
from storage_backends.types import Floats, ValueKind
from storage_backends.view import View


@dataclass(frozen=True)
class _Counted:
    """Integer values ``(M,)``, ascending, and how many concepts hold each.

    ``state`` tells of which contents they were counted.
    """

    state: tuple[int, ...] = ()
    values: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many concepts hold each of some values."""
        if not len(self.values):
            return np.zeros(values.shape, np.int64)
        place = np.minimum(np.searchsorted(self.values, values), len(self.values) - 1)
        return np.where(self.values[place] == values, self.counts[place], 0)


class Crowding:
    """Counts of the concepts that share a value, kept until graph or short-term memory change.

    For one memory: a commit counts both anew, a provisional concept the window alone. Concepts of
    guests count in full: what they weigh is in their activations, and would be undone here.
    """

    def __init__(self) -> None:
        self._graph = _Counted()
        self._window = _Counted()

    def counts(self, scope: Scope, slots: Slots) -> Floats:
        """Return how many concepts hold the integer value of each slot, at least 1.

        1 for slot -1, and for a concept without an integer value.
        """
        values = scope.value_ids(slots)
        graph, window = self._counted(scope)
        held = graph.of(values) + window.of(values)
        for guest in scope.guests:
            held += _counted_guest(guest.view).of(values)
        integer = (scope.value_kinds(slots) == ValueKind.INTEGER) & (slots >= 0)
        return np.maximum(np.where(integer, held, 1), 1).astype(np.float32)

    def _counted(self, scope: Scope) -> tuple[_Counted, _Counted]:
        view, entries = scope.view, scope.shortterm.entries
        graph, window = self._graph, self._window
        state: tuple[int, ...] = (view.generation,)
        if graph.state != state:
            graph = self._graph = _counted(state, _integers(view))
        # Ids ascend and are never given twice: what has the same ends and length is the same,
        # unless a copy of the memory has come back meanwhile.
        ends = entries["id"][[0, -1]].tolist() if len(entries) else []
        state = (view.generation, len(entries), *ends)
        if window.state != state:
            held = entries["value_kind"] == ValueKind.INTEGER
            window = self._window = _counted(state, entries["value_id"][held])
        return graph, window


#: Of guests, by their columns of values, as long as those are in use.
_GUESTS: WeakKeyDictionary[Column[np.int64], _Counted] = WeakKeyDictionary()


def _counted_guest(view: View) -> _Counted:
    counted = _GUESTS.get(view.value_ids)
    if counted is None:
        counted = _GUESTS[view.value_ids] = _counted((), _integers(view))
    return counted


def _integers(view: View) -> NDArray[np.int64]:
    """Return the integer values of a graph, with repeats."""
    held = view.alive.whole() & (view.value_kinds.whole() == ValueKind.INTEGER)
    values: NDArray[np.int64] = view.value_ids.whole()[held]
    return values


def _counted(state: tuple[int, ...], values: NDArray[np.int64]) -> _Counted:
    distinct, counts = np.unique(values, return_counts=True)
    return _Counted(state, distinct, counts)
