"""Which concepts of a memory are those of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.graph.merging import same_value
from storage_backends.columns import Slots, ragged_positions
from storage_backends.progress import Progress, silent
from storage_backends.types import Floats, Ids, ValueKind
from storage_backends.view import View

#: Neighbours of a concept that are looked at, beside those whose keys are the same.
_NEIGHBOURS = 16

#: Concepts that are looked at together.
_CHUNK = 4_096

#: Those of a pack that are compared with `_CHUNK` others each.
_ROWS = 256

#: A unit key that was written and read again has moved by less, in each number and in all.
ROUNDING = 1e-6
_WINDOW = 5e-7

#: Concepts of one value and one key that are looked at: honest packs have few.
_MOST_SAME = 64

#: What stands for the values that are no integers.
_NO_INTEGER = {ValueKind.KEY: -1, ValueKind.VECTOR: -2}

_STEP = "looking for what is known"
_STEP_FARTHER = "looking for what is known in a crowd"


@dataclass(frozen=True)
class Match:
    """What of a pack a memory has already.

    Parameters
    ----------
    stands : (N,) int64
        Slot of the memory that is the same as each concept of the pack; -1 where there is none.
    rival : (N,) int64
        Slot with the same key and another value, where none is the same; -1 where there is none.
    cosines : (N,) float32
        Similarity of the keys where one stands; else 0.
    """

    stands: Slots
    rival: Slots
    cosines: Floats


@dataclass(frozen=True)
class _Pairs:
    """Concepts of a pack, and concepts of a memory whose keys are alike, two by two.

    Parameters
    ----------
    positions, slots : (P,) int64
        In the pack, and in the view of the memory.
    ids : (P,) uint64
        Of the slots.
    cosines : (P,) float32
    """

    positions: Slots
    slots: Slots
    ids: Ids
    cosines: Floats

    @classmethod
    def of_slots(cls, base: View, positions: Slots, slots: Slots, cosines: Floats) -> _Pairs:
        return cls(positions, slots, base.ids[slots], cosines)

    @classmethod
    def joined(cls, parts: Sequence[_Pairs]) -> _Pairs:
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(each, name) for each in parts]) for name in names))

    def of(self, rows: Slots | NDArray[np.bool_]) -> _Pairs:
        return _Pairs(self.positions[rows], self.slots[rows], self.ids[rows], self.cosines[rows])

    def best(self, late: NDArray[np.bool_]) -> _Pairs:
        """Return one pair of each position, none of the late ones where there is another.

        Of the others that of the greatest cosine, of the late ones that of the lowest id.
        """
        cosines = np.where(late, 0, -self.cosines)
        rows = self.of(np.lexsort((self.ids, cosines, late, self.positions)))
        return rows.of(np.unique(rows.positions, return_index=True)[1])


def match(base: View, pack: View, similarity: float, progress: Progress = silent) -> Match:
    """Find the concepts of a memory that are the same as those of a pack.

    Two are the same where their values agree and the cosine of their keys is great enough, as for
    ``aesg.graph.merging.duplicates``. Those of the same key are found for certain, one for each
    concept of the pack where there are several. Then comes what is most alike among the nearest;
    what is the very same as another concept of the pack comes last, the oldest first, so that a
    pack which is merged again finds what it found before. Where all of the nearest are alike and
    it is not certain that the best is one of them, all that have the value are looked at.

    Parameters
    ----------
    base : View
        Of the memory.
    pack : View
        Of the pack, of the same width.
    similarity : float
        Cosine from which two keys are the same, in (0, 1].
    progress : callable
    """
    stands = np.full(pack.size, -1, np.int64)
    rival, cosines = stands.copy(), np.zeros(pack.size, np.float32)
    if not base.node_count or not pack.size:
        return Match(stands, rival, cosines)
    live = np.flatnonzero(base.alive.whole())
    same = _one_each(_identical(base, live, pack, np.arange(pack.size)))
    stands[same.positions], cosines[same.positions] = same.slots, 1
    alike = _alike(base, pack, similarity, np.flatnonzero(stands < 0), progress)
    agree = same_value(base, alike.slots, pack, alike.positions, similarity)
    agreeing = alike.of(agree)
    crowded = _crowded(alike, agreeing, same.slots, pack.size)
    farther = _farther(base, live, pack, crowded, similarity, same.slots, progress)
    agreeing = _Pairs.joined([agreeing, farther])
    found = _best(base, pack, agreeing, similarity, same.slots)
    stands[found.positions], cosines[found.positions] = found.slots, found.cosines
    others = alike.of(stands[alike.positions] < 0)
    others = _best(base, pack, others, similarity, same.slots[:0])
    rival[others.positions] = others.slots
    return Match(stands, rival, cosines)


def _crowded(alike: _Pairs, agreeing: _Pairs, taken: Slots, size: int) -> Slots:
    """Return the positions for which a better pair may be farther than the nearest.

    The last of the nearest may be one of several that are equally far.
    """
    crowded = np.bincount(alike.positions, minlength=size) >= _NEIGHBOURS
    farthest = np.ones(size, np.float32)
    np.minimum.at(farthest, alike.positions, alike.cosines)
    clear = agreeing.cosines > farthest[agreeing.positions] + 2 * ROUNDING
    clear &= ~np.isin(agreeing.slots, taken)
    crowded[agreeing.positions[clear]] = False
    return np.flatnonzero(crowded)


def _best(base: View, pack: View, pairs: _Pairs, similarity: float, taken: Slots) -> _Pairs:
    """Return the best pair of each position that is similar enough, those of ``taken`` last.

    A product of matrices rounds a cosine in one way or another, depending on what else is in them;
    where that might decide, the cosine is computed again, from the two keys alone.
    """
    late = np.isin(pairs.slots, taken)
    top = np.full(pack.size, -np.inf, np.float32)
    np.maximum.at(top, pairs.positions[~late], pairs.cosines[~late])
    doubtful = ~late & (pairs.cosines >= top[pairs.positions] - 2 * ROUNDING)
    doubtful |= np.abs(pairs.cosines - similarity) <= 2 * ROUNDING
    rows, cosines = np.flatnonzero(doubtful), pairs.cosines.copy()
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK]
        one = base.keys[pairs.slots[part]].astype(np.float64)
        cosines[part] = (one * pack.keys[pairs.positions[part]]).sum(axis=1)
    enough = cosines >= similarity
    exact = _Pairs(pairs.positions, pairs.slots, pairs.ids, cosines)
    return exact.of(enough).best(late[enough])


def _alike(
    base: View, pack: View, similarity: float, positions: Slots, progress: Progress
) -> _Pairs:
    """Return the pairs of keys that are alike, among the nearest of some concepts of the pack."""
    found = [_Pairs.of_slots(base, positions[:0], positions[:0], np.empty(0, np.float32))]
    for begin in range(0, len(positions), _CHUNK):
        part = positions[begin : begin + _CHUNK]
        slots, cosines = base.index.search(pack.keys[part], _NEIGHBOURS)
        row, column = np.nonzero((slots >= 0) & (cosines >= similarity - ROUNDING))
        found.append(_Pairs.of_slots(base, part[row], slots[row, column], cosines[row, column]))
        progress(_STEP, begin + len(part), len(positions))
    return _Pairs.joined(found)


def _farther(
    base: View,
    live: Slots,
    pack: View,
    positions: Slots,
    similarity: float,
    taken: Slots,
    progress: Progress,
) -> _Pairs:
    """Return the pairs among which `_best` finds that of each position, of all of its value."""
    values = _values(base, live)
    order = np.argsort(values, kind="stable")
    live, values = live[order], values[order]
    wanted = _values(pack, positions)
    found = [_Pairs.of_slots(base, live[:0], live[:0], np.empty(0, np.float32))]
    done = 0
    for value in np.unique(wanted).tolist():
        rows = positions[wanted == value]
        slots = live[slice(*np.searchsorted(values, (value, value + 1)))]
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
            for first in range(0, len(slots), _CHUNK):
                some = slots[first : first + _CHUNK]
                pairs = _agreeing(base, some, pack, part, similarity)
                found.append(_best(base, pack, pairs, similarity, taken))
            done += len(part)
            progress(_STEP_FARTHER, done, len(positions))
    return _Pairs.joined(found)


def _agreeing(base: View, slots: Slots, pack: View, positions: Slots, similarity: float) -> _Pairs:
    """Return the pairs of some concepts that are the same but for rounding, all with all."""
    cosines = pack.keys[positions] @ base.keys[slots].T
    row, column = np.nonzero(cosines >= similarity - ROUNDING)
    pairs = _Pairs.of_slots(base, positions[row], slots[column], cosines[row, column])
    return pairs.of(same_value(base, pairs.slots, pack, pairs.positions, similarity))


def identical(base: View, slots: Slots, pack: View, positions: Slots) -> tuple[Slots, Slots]:
    """Return which concepts have the same key, but for rounding, and the same value.

    Parameters
    ----------
    base, pack : View
        Of one width.
    slots, positions : (M,) int64 and (L,) int64
        What is compared of them.

    Returns
    -------
    slots, positions : (P,) int64
        Two by two; none of either occurs twice.
    """
    pairs = _one_each(_identical(base, slots, pack, positions))
    _, first = np.unique(pairs.slots, return_index=True)
    pairs = pairs.of(np.sort(first))
    return pairs.slots, pairs.positions


def _identical(base: View, slots: Slots, pack: View, positions: Slots) -> _Pairs:
    """Return the pairs whose keys are the same but for rounding, and whose values agree.

    Keys are compared where they reach equally far along one direction, which is certain: an index
    of neighbours may miss one, and gives no more than so many.
    """
    found = [_Pairs.of_slots(base, slots[:0], slots[:0], np.empty(0, np.float32))]
    if not len(slots):
        return found[0]
    direction = np.random.default_rng(0).normal(size=base.keys.shape[1])
    direction /= np.linalg.norm(direction)
    values, group = np.unique(_values(base, slots), return_inverse=True)
    reach = _apart(group, _along(base, slots, direction))
    order = np.argsort(reach, kind="stable")
    reach, slots = reach[order], slots[order]
    for begin in range(0, len(positions), _CHUNK):
        part = positions[begin : begin + _CHUNK]
        wanted = _values(pack, part)
        group = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
        middle = _apart(group, _along(pack, part, direction))
        low = np.searchsorted(reach, middle - _WINDOW)
        counts = np.searchsorted(reach, middle + _WINDOW, side="right") - low
        counts = np.where(values[group] == wanted, np.minimum(counts, _MOST_SAME), 0)
        owner = np.repeat(part, counts)
        found.append(_compared(base, slots[ragged_positions(low, counts)], pack, owner))
    return _Pairs.joined(found)


def _compared(base: View, slots: Slots, pack: View, positions: Slots) -> _Pairs:
    """Return those of some pairs whose keys are the same and whose values agree."""
    moved = np.abs(base.keys[slots] - pack.keys[positions]).max(axis=1, initial=0)
    same = moved <= ROUNDING
    slots, positions = slots[same], positions[same]
    agree = same_value(base, slots, pack, positions, 1 - ROUNDING)
    slots, positions = slots[agree], positions[agree]
    return _Pairs.of_slots(base, positions, slots, np.ones(len(slots), np.float32))


def _one_each(pairs: _Pairs) -> _Pairs:
    """Return one pair of each position: with a slot that no other has, as far as there are."""
    order = np.lexsort((pairs.ids, pairs.positions)).tolist()
    positions, slots = pairs.positions.tolist(), pairs.slots.tolist()
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for row in order:
        if positions[row] not in chosen and slots[row] not in taken:
            chosen[positions[row]] = row
            taken.add(slots[row])
    for row in order:  # what is left shares the first
        chosen.setdefault(positions[row], row)
    return pairs.of(np.array(list(chosen.values()), np.int64))


def _values(view: View, slots: Slots) -> NDArray[np.int64]:
    """Return a number for the value of each slot; those that are no integers share one."""
    kinds, values = view.value_kinds[slots], view.value_ids[slots].copy()
    for kind, number in _NO_INTEGER.items():
        values[kinds == kind] = number
    return values


def _along(view: View, slots: Slots, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far unit keys reach along a direction, in [-1, 1]."""
    parts = [np.empty(0)]
    for begin in range(0, len(slots), _CHUNK):
        parts.append(view.keys[slots[begin : begin + _CHUNK]].astype(np.float64) @ direction)
    return np.concatenate(parts)


def _apart(groups: NDArray[np.int64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that are near each other only where two of one group are."""
    return 4.0 * groups + reach
