"""Which concepts of a memory a pack is to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aesg.errors import AESGMemoryError
from aesg.graph.consolidation import ages, relevances
from aesg.payload import unpack_payload
from storage_backends.columns import Slots
from storage_backends.lazy import lazy
from storage_backends.progress import Progress, silent
from storage_backends.types import Floats, Ids, Records
from storage_backends.view import View

#: What the best concepts can be best by.
ORDERS = ("relevance", "frequency")

#: Concepts that are looked at together.
_CHUNK = 16_384

#: Regions that a message names.
_NAMED = 8

#: Returns the packed payload of each concept; None where there is none.
ReadPayloads: TypeAlias = Callable[[Ids], Sequence[bytes | None]]


class Candidates:
    """Some concepts that a predicate is asked about, as columns: row *i* of each is one concept.

    A column is read when it is asked for.

    Parameters
    ----------
    view : View
    slots : (N,) int64
    epoch : int
        The present consolidation epoch.
    read_payloads : callable
    """

    def __init__(self, view: View, slots: Slots, epoch: int, read_payloads: ReadPayloads) -> None:
        self._view = view
        self._slots = slots
        self._epoch = epoch
        self._read_payloads = read_payloads

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def ids(self) -> Ids:
        """Concept ids, ``(N,)`` uint64."""
        return self._view.ids[self._slots]

    @property
    def keys(self) -> Floats:
        """Keys as they were learned, ``(N, D)`` float32."""
        return self._view.raw_keys(self._slots)

    @property
    def value_kinds(self) -> NDArray[np.uint8]:
        """`ValueKind` of each: 0 the key itself, 1 an integer, 2 a vector, ``(N,)`` uint8."""
        return self._view.value_kinds[self._slots]

    @property
    def value_ids(self) -> NDArray[np.int64]:
        """Integer values, 0 where the kind is another, ``(N,)`` int64."""
        return self._view.value_ids[self._slots]

    @property
    def value_vectors(self) -> Floats:
        """Vector values, zeros where the kind is another, ``(N, D)`` float32."""
        vectors = self._view.value_vectors
        if vectors is None:
            return np.zeros((len(self), self._view.vector_dim), np.float32)
        return vectors[self._slots]

    @lazy
    def payloads(self) -> list[Any]:
        """The payload of each, decoded; None where there is none."""
        return [unpack_payload(each) for each in self._read_payloads(self.ids)]

    @property
    def created(self) -> Ids:
        """Unix microseconds, ``(N,)`` uint64."""
        return self._stats["created"]

    @property
    def modified(self) -> Ids:
        """Unix microseconds of the last use or change, ``(N,)`` uint64."""
        return self._stats["modified"]

    @property
    def origins(self) -> Ids:
        """Sample that each concept comes from, 0 for none, ``(N,)`` uint64."""
        return self._stats["origin"]

    @property
    def frequency(self) -> NDArray[np.uint32]:
        """Uses, ``(N,)`` uint32."""
        return self._stats["frequency"]

    @property
    def relevance(self) -> Floats:
        """Present relevance, in [0, 1], ``(N,)`` float32."""
        return relevances(self._stats, self._epoch)

    @property
    def stability(self) -> Floats:
        """Stability, ``(N,)`` float32."""
        return self._stats["stability"]

    @property
    def age(self) -> Ids:
        """Consolidation epochs since the last use, ``(N,)`` uint64."""
        return ages(self._stats, self._epoch)

    @property
    def regions(self) -> NDArray[np.uint32]:
        """Region, 0 for none, ``(N,)`` uint32."""
        return self._stats["region"]

    @lazy
    def _stats(self) -> Records:
        return self._view.stats[self._slots]


#: Tells which of some concepts are to be in a pack, ``(N,)`` bool.
Predicate: TypeAlias = Callable[[Candidates], ArrayLike]


@dataclass(frozen=True)
class Criteria:
    """What concepts must fulfil, all of it; None asks for nothing.

    Parameters
    ----------
    region_id : int, optional
        Their region; 0 for those of none.
    min_relevance : float, optional
        The least present relevance, in [0, 1].
    ids : (M,) uint64, optional
        Concepts to choose from.
    predicate : callable, optional
        Asked about many concepts at a time, in the order of their ids.
    top_n : int, optional
        Of those that fulfil all else, so many at most.
    by : {"relevance", "frequency"}
        What these are the best by; of equals the other decides, then the lowest id.

    Raises
    ------
    AESGMemoryError
        If one is out of its range.
    """

    region_id: int | None = None
    min_relevance: float | None = None
    ids: Ids | None = None
    predicate: Predicate | None = None
    top_n: int | None = None
    by: str = ORDERS[0]

    def __post_init__(self) -> None:
        _require_integer("region_id", self.region_id, 0)
        _require_integer("top_n", self.top_n, 1)
        least = self.min_relevance
        if least is not None and not (_is_number(least) and 0 <= least <= 1):
            raise AESGMemoryError(f"min_relevance: expected a number in [0, 1], got {least!r}")
        if self.predicate is not None and not callable(self.predicate):
            raise AESGMemoryError(f"predicate: expected a callable, got {self.predicate!r}")
        if self.by not in ORDERS:
            raise AESGMemoryError(f"by: expected one of {', '.join(ORDERS)}, got {self.by!r}")


def chosen(
    view: View,
    criteria: Criteria,
    epoch: int,
    read_payloads: ReadPayloads,
    progress: Progress = silent,
) -> Slots:
    """Return the slots of the concepts that fulfil all criteria, by ascending id, ``(N,)`` int64.

    Parameters
    ----------
    view : View
    criteria : Criteria
    epoch : int
        The present consolidation epoch.
    read_payloads : callable
        For the predicate.
    progress : callable
        Told how many concepts the predicate was asked about.

    Raises
    ------
    AESGMemoryError
        If there is none, or an id is that of no concept, or the predicate returns anything but one
        bool for each concept it is asked about.
    """
    slots = _all(view) if criteria.ids is None else _named(view, criteria.ids)
    if criteria.region_id is not None:
        slots = slots[view.regions[slots] == np.uint32(min(criteria.region_id, 2**32 - 1))]
    if criteria.min_relevance is not None:
        least, stats = criteria.min_relevance, partial(_relevances, view, epoch=epoch)
        slots = _filtered(slots, lambda part: stats(part) >= least)
    if criteria.predicate is not None:
        ask = criteria.predicate
        slots = _filtered(
            slots,
            lambda part: _answer(ask, Candidates(view, part, epoch, read_payloads)),
            progress,
        )
    if criteria.top_n is not None and criteria.top_n < len(slots):
        slots = slots[np.sort(_best(view, slots, epoch, criteria.by)[: criteria.top_n])]
    if not len(slots):
        raise AESGMemoryError(_nothing_left(view, criteria))
    return slots


def _all(view: View) -> Slots:
    slots = np.arange(view.size) if not view.dead else np.flatnonzero(view.alive.whole())
    ids = view.ids[slots]
    return slots if (ids[1:] > ids[:-1]).all() else slots[np.argsort(ids)]


def _named(view: View, ids: Ids) -> Slots:
    """Return the slots of concepts, by ascending id, each once."""
    ids = np.unique(ids)
    slots = view.slots(ids)
    if (slots < 0).any():
        missing = ids[slots < 0]
        raise AESGMemoryError(
            f"ids: expected concepts of the memory, born and committed, got {len(missing)} "
            f"that are none, the first is {missing[0]}"
        )
    return slots


def _filtered(
    slots: Slots, test: Callable[[Slots], NDArray[np.bool_]], progress: Progress = silent
) -> Slots:
    """Return the slots that pass a test, which is given many at a time."""
    kept = [slots[:0]]
    for begin in range(0, len(slots), _CHUNK):
        part = slots[begin : begin + _CHUNK]
        kept.append(part[test(part)])
        progress("choosing concepts", begin + len(part), len(slots))
    return np.concatenate(kept)


def _relevances(view: View, slots: Slots, *, epoch: int) -> Floats:
    names = ("epoch", "relevance")
    return relevances({name: view.stats.field(name)[slots] for name in names}, epoch)


def _answer(predicate: Predicate, candidates: Candidates) -> NDArray[np.bool_]:
    answer = np.asarray(predicate(candidates))
    if answer.dtype != np.bool_ or answer.shape != (len(candidates),):
        raise AESGMemoryError(
            f"predicate: expected bool of shape ({len(candidates)},), one for each concept that "
            f"it was asked about, got {answer.dtype} of shape {answer.shape}"
        )
    return answer


def _best(view: View, slots: Slots, epoch: int, by: str) -> Slots:
    """Return places in ``slots``, the best first; of equals the first."""
    columns: dict[str, NDArray[Any]] = {
        "relevance": -_relevances(view, slots, epoch=epoch),
        "frequency": -view.stats.field("frequency")[slots].astype(np.int64),
    }
    other = next(name for name in ORDERS if name != by)
    return np.lexsort((columns[other], columns[by]))


def _nothing_left(view: View, criteria: Criteria) -> str:
    """Say why nothing fulfils the criteria, as far as one of them alone explains it."""
    said = (
        "No concept to export: expected some that fulfil all criteria, got none of the "
        f"{view.node_count} there are"
    )
    regions = np.unique(view.regions[_all(view)])
    if criteria.region_id is not None and criteria.region_id not in regions.tolist():
        found = [str(each) for each in regions[regions > 0].tolist()]
        more = ", ..." if len(found) > _NAMED else ""
        return f"{said}; there is no region {criteria.region_id}, but " + (
            f"{len(found)}: {', '.join(found[:_NAMED])}{more}" if found else "none was found yet"
        )
    if criteria.min_relevance is not None and view.node_count:
        return f"{said}; min_relevance is {criteria.min_relevance}"
    return said


def _require_integer(name: str, given: Any, least: int) -> None:
    good = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if given is not None and not (good and given >= least):
        raise AESGMemoryError(f"{name}: expected an integer of {least} or more, got {given!r}")


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float | np.number) and not isinstance(given, bool)
