"""Whose turn it is to be looked at: concepts that changed, and all others once round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from aesg.graph.arrays import ids_of, live
from storage_backends.columns import Slots
from storage_backends.types import Ids
from storage_backends.view import View

#: Concepts that wait to be looked at; beyond, the oldest are given up.
_MOST_WAITING = 65_536


class Changed:
    """Concepts that changed and wait to be looked at, those first that have waited longest.

    Parameters
    ----------
    ids : iterable of int
        Those that wait already, in their order.
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids: dict[int, None] = dict.fromkeys(ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Ids:
        """Those that wait, in their order."""
        return ids_of(self._ids)

    def add(self, ids: Iterable[int]) -> None:
        """Let concepts wait, behind the others; one that waits already goes there."""
        for concept_id in ids:
            self._ids.pop(concept_id, None)
            self._ids[concept_id] = None
        self._take(len(self) - _MOST_WAITING)

    @contextmanager
    def taken(self, count: int | None = None) -> Iterator[Ids]:
        """Take out the first concepts, at most ``count``; they wait again if looking fails."""
        ids = self._take(len(self) if count is None else count)
        try:
            yield ids
        except BaseException:
            self.add(ids.tolist())
            raise

    def _take(self, count: int) -> Ids:
        taken = list(islice(self._ids, max(count, 0)))
        for concept_id in taken:
            del self._ids[concept_id]
        return np.array(taken, np.uint64)


@dataclass
class Tour:
    """Goes once round the concepts of a graph by ascending id, so many at a time.

    Parameters
    ----------
    reached : int
        The last id that it has passed; 0 before the first.
    end : int
        The greatest id that it goes to.
    """

    reached: int
    end: int

    @classmethod
    def of(cls, view: View) -> Tour:
        """Return a tour of all concepts that there are."""
        return cls(0, view.greatest_id)

    def stage(self, view: View, count: int) -> Slots:
        """Return the slots of the next ``count`` live concepts; fewer at its end, then none."""
        stages = [np.empty(0, np.int64)]
        while count > 0 and self.reached < self.end:
            ids = view.id_map.following(self.reached, count)
            ids = ids[ids <= self.end]
            self.reached = int(ids[-1]) if len(ids) else self.end
            stages.append(live(view, ids))
            count -= len(stages[-1])
        return np.concatenate(stages)
