"""From concept id to slot, over a big sorted part and what was added since."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from storage_backends.columns import Column, Slots
from storage_backends.lazy import lazy
from storage_backends.types import Ids


@dataclass(frozen=True)
class SortedIds:
    """Ids in ascending order and their slots.

    An id that was deleted and put again stands there more than once, if each has its slot beside
    it; the last one counts.

    Parameters
    ----------
    ids : (N,) uint64
        Ascending.
    slots : (N,) int64 or None
        Of equal ids ascending; None where the slot is the position.
    """

    ids: Ids
    slots: Slots | None = None

    @classmethod
    def of(cls, ids: Ids) -> SortedIds:
        """Sort the ids of slots 0, 1, ..."""
        if (ids[1:] > ids[:-1]).all():
            return cls(ids)
        order = np.argsort(ids, kind="stable")
        return cls(ids[order], order)

    def find(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where there is none."""
        if not len(self.ids):
            return np.full(np.shape(ids), -1, np.int64)
        if self._is_gapless:  # of an id below the first the difference is a huge number
            above = np.asarray(ids, np.uint64) - self.ids[0]
            place = np.minimum(above, np.uint64(len(self.ids) - 1)).astype(np.int64)
        else:
            place = np.maximum(np.searchsorted(self.ids, ids, side="right") - 1, 0)
        return np.where(self.ids[place] == ids, self.slots_at(place), -1)

    @lazy
    def _is_gapless(self) -> bool:
        """Whether each id is one above the one before it, as where nothing was ever deleted."""
        return self.slots is None and int(self.ids[-1]) - int(self.ids[0]) == len(self.ids) - 1

    def slots_at(self, places: Slots) -> Slots:
        """Return the slots of some positions."""
        return places if self.slots is None else self.slots[places]

    def greatest(self, alive: Column[np.bool_]) -> int:
        """Return the greatest id whose slot is alive, 0 if none is."""
        end, width = len(self.ids), 64
        while end:
            places = np.arange(max(end - width, 0), end)
            found = places[alive[self.slots_at(places)]]
            if len(found):
                return int(self.ids[found[-1]])
            end, width = int(places[0]), 2 * width
        return 0

    def extended(self, ids: Ids, slots: Slots) -> SortedIds:
        """Return the same with further ids, at slots above all those held."""
        order = np.argsort(ids, kind="stable")
        place = np.searchsorted(self.ids, ids[order], side="right")
        held = np.arange(len(self.ids)) if self.slots is None else self.slots
        return SortedIds(
            np.insert(self.ids, place, ids[order]), np.insert(held, place, slots[order])
        )


@dataclass(frozen=True)
class IdMap:
    """Slots of concept ids, those of tombstones included.

    Parameters
    ----------
    base : SortedIds
        Of the first slots; may be mapped.
    added : SortedIds
        Of the slots behind them.
    """

    base: SortedIds
    added: SortedIds = field(
        default_factory=lambda: SortedIds(np.empty(0, np.uint64), np.empty(0, np.int64))
    )

    def find(self, ids: Ids) -> Slots:
        """Return the slot of each id, -1 where there is none; of several slots the last."""
        slots = self.added.find(ids)
        if len(self.base.ids):
            slots = np.where(slots >= 0, slots, self.base.find(ids))
        return slots

    def following(self, after: int, count: int) -> Ids:
        """Return the ``count`` lowest ids above ``after``, ascending, each once."""
        parts = []
        for held in (self.base.ids, self.added.ids):
            first = np.searchsorted(held, np.uint64(after), side="right")
            parts.append(held[first : first + count])
        return np.unique(np.concatenate(parts))[:count]

    def greatest(self, alive: Column[np.bool_]) -> int:
        """Return the greatest id whose slot is alive, 0 if none is."""
        return max(self.base.greatest(alive), self.added.greatest(alive))

    def extended(self, ids: Ids, slots: Slots) -> IdMap:
        """Return the map with further ids, at slots above all those held."""
        return IdMap(self.base, self.added.extended(ids, slots))
