"""The columns of a pack, gathered part by part from the view of a memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import unit
from aesg.graph.clock import Clock
from aesg.graph.consolidation import ages, edge_ages, relevances
from storage_backends.columns import Column, Slots
from storage_backends.types import Floats, ValueKind
from storage_backends.view import View

#: Sources whose edges are put in order together, and rows that are looked through together.
_CHUNK = 16_384

#: How far the square of the length of a unit key may be from 1.
_TOLERANCE = 5e-4

_MOST = np.iinfo(np.uint32).max


class Gathered:
    """Rows that are gathered when they are asked for.

    Parameters
    ----------
    rows : int
        How many there are.
    get : callable
        Returns the rows from one to before another, as an array that nobody else writes to.
    like : array
        One with a row of the same type and shape.
    """

    def __init__(
        self, rows: int, get: Callable[[int, int], NDArray[Any]], like: NDArray[Any]
    ) -> None:
        self.dtype: np.dtype[Any] = like.dtype
        self.shape: tuple[int, ...] = (rows, *like.shape[1:])
        self._get = get

    def __len__(self) -> int:
        return self.shape[0]

    def part(self, begin: int, end: int) -> NDArray[Any]:
        """Return rows ``begin`` to ``end``."""
        return self._get(begin, end)


def concept_columns(view: View, slots: Slots, clock: Clock, *, values: bool) -> dict[str, Gathered]:
    """Return what a pack says of each concept but for payloads and edges.

    Parameters
    ----------
    view : View
    slots : (N,) int64
        By ascending id, one or more.
    clock : Clock
        Relevance, age and updates are as of its epoch and tick.
    values : bool
        Whether values are in it; without, keys stand for them.
    """
    columns = {name: _column(getattr(view, name), slots) for name in ("ids", "norms")}
    columns["keys"] = Gathered(
        len(slots), lambda b, e: _unit(_rows(view.keys, slots[b:e])), view.keys.tail[:0]
    )
    columns |= _values(view, slots) if values else _no_values()
    for name in ("created", "modified", "origin", "frequency", "stability", "region"):
        columns[name] = _column(view.stats.field(name), slots)
    touched = {name: view.stats.field(name) for name in ("epoch", "relevance", "tick")}

    def rows(begin: int, end: int, *names: str) -> dict[str, NDArray[Any]]:
        return {name: _rows(touched[name], slots[begin:end]) for name in names}

    def relevance(begin: int, end: int) -> NDArray[Any]:
        return relevances(rows(begin, end, "epoch", "relevance"), clock.epoch)

    def age(begin: int, end: int) -> NDArray[Any]:
        return _bounded(ages(rows(begin, end, "epoch"), clock.epoch))

    def updates(begin: int, end: int) -> NDArray[Any]:
        return _since(rows(begin, end, "tick")["tick"], clock.tick)

    columns["relevance"] = Gathered(len(slots), relevance, np.empty(0, np.float32))
    columns["age"] = Gathered(len(slots), age, np.empty(0, np.uint32))
    columns["updates"] = Gathered(len(slots), updates, np.empty(0, np.uint64))
    return columns


def constant(row: NDArray[Any]) -> Gathered:
    """Return a column of one row, which stands for all."""
    return Gathered(1, lambda begin, end: row[begin:end], row)


def _values(view: View, slots: Slots) -> dict[str, Gathered]:
    columns = {name: _column(getattr(view, name), slots) for name in ("value_kinds", "value_ids")}
    if view.value_vectors is not None and _any_vector(columns["value_kinds"]):
        columns["value_vectors"] = _vectors(view.value_vectors, columns["value_kinds"], slots)
    return columns


def _vectors(vectors: Column[np.float32], kinds: Gathered, slots: Slots) -> Gathered:
    """Return vector values, zeros where the value is of another kind."""

    def part(begin: int, end: int) -> Floats:
        rows = _rows(vectors, slots[begin:end])
        is_vector = (kinds.part(begin, end) == ValueKind.VECTOR)[:, None]
        return rows if is_vector.all() else np.where(is_vector, rows, np.float32(0))

    return Gathered(len(slots), part, vectors.tail[:0])


def _no_values() -> dict[str, Gathered]:
    kind = np.array([ValueKind.KEY], np.uint8)
    return {"value_kinds": constant(kind), "value_ids": constant(np.zeros(1, np.int64))}


def _any_vector(kinds: Gathered) -> bool:
    parts = (kinds.part(b, min(b + _CHUNK, len(kinds))) for b in range(0, len(kinds), _CHUNK))
    return any((part == ValueKind.VECTOR).any() for part in parts)


def _column(column: Column[Any], slots: Slots) -> Gathered:
    return Gathered(len(slots), lambda begin, end: _rows(column, slots[begin:end]), column.tail[:0])


def _rows(column: Column[Any], slots: Slots) -> NDArray[Any]:
    """Return some rows of a column, not copied where they lie together."""
    if not len(slots):
        return column.tail[:0]
    first, last = int(slots[0]), int(slots[-1])
    if last - first + 1 == len(slots) and (slots[1:] > slots[:-1]).all():
        return column.part(first, last + 1)
    return column[slots]


def _unit(keys: Floats) -> Floats:
    """Return unit keys at a length of one; those of the shortest keys may be of another.

    What float32 can hardly hold was rounded when it was divided by its length.
    """
    squares = np.einsum("nd,nd->n", keys, keys)
    off = (np.abs(squares - 1) > _TOLERANCE) & (squares != 0)
    if off.any():
        keys = keys.copy()
        keys[off] = unit(keys[off])
    return keys


def _since(ticks: NDArray[np.uint64], tick: int) -> NDArray[np.uint64]:
    """Return the topology updates since some, 0 for those to come."""
    now = np.uint64(tick)
    return now - np.minimum(ticks, now)


def _bounded(counts: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return np.minimum(counts, np.uint64(_MOST)).astype(np.uint32)


class EdgesWithin:
    """The edges between some concepts, as columns of a pack.

    Parameters
    ----------
    view : View
    slots : (N,) int64
        By ascending id, one or more.
    epoch : int
        Consolidation epoch as of which confidences are stated.
    kept : float
        Confidence that an edge keeps per epoch without use.
    """

    def __init__(self, view: View, slots: Slots, epoch: int, kept: float) -> None:
        self._adjacency = view.adjacency
        #: What each row of edges has kept of its confidence.
        self._shares = np.float64(kept) ** edge_ages(view, slots, epoch)
        #: Position in the pack of each slot, -1 where it is not in it.
        self._position = np.full(view.size, -1, np.int32)
        self._position[slots] = np.arange(len(slots), dtype=np.int32)
        self.counts = np.zeros(len(slots), np.uint32)
        #: Places of the edges in the pool, in the order of the pack.
        self._places = self._ordered(slots)
        self._ends = np.cumsum(self.counts, dtype=np.int64)

    def columns(self) -> dict[str, Gathered]:
        """Return the columns that tell of edges."""
        rest = self._adjacency.rest
        counts, every = self.counts, len(self._places)
        return {
            "edge_counts": Gathered(len(counts), lambda b, e: counts[b:e], counts),
            "edge_weights": self._column(rest.field("weight")),
            "edge_confidences": Gathered(every, self._confidences, np.empty(0, np.float32)),
            "edge_uses": self._column(rest.field("use")),
            "edge_kinds": self._column(rest.field("kind")),
            "edge_targets": Gathered(every, self._targets, np.empty(0, np.uint32)),
        }

    @property
    def count(self) -> int:
        """Number of edges."""
        return len(self._places)

    def _column(self, column: Column[Any]) -> Gathered:
        return _column(column, self._places)

    def _targets(self, begin: int, end: int) -> NDArray[np.uint32]:
        slots = _rows(self._adjacency.leads.field("target"), self._places[begin:end])
        positions: NDArray[np.uint32] = self._position[slots].astype(np.uint32)
        return positions

    def _confidences(self, begin: int, end: int) -> NDArray[Any]:
        held = _rows(self._adjacency.rest.field("confidence"), self._places[begin:end])
        first, last = np.searchsorted(self._ends, (begin, end), side="right")
        sources = np.arange(first, min(last + 1, len(self._ends)))
        skipped = begin - int(self._ends[first] - self.counts[first]) if len(held) else 0
        shares = np.repeat(self._shares[sources], self.counts[sources])
        return _faded(held, shares[skipped : skipped + len(held)])

    def _ordered(self, slots: Slots) -> Slots:
        """Count the edges of each source, and return where they are in the pool."""
        parts = [np.empty(0, np.int64)]
        for begin in range(0, len(slots), _CHUNK):
            end = min(begin + _CHUNK, len(slots))
            owner, places = self._adjacency.positions(slots[begin:end])
            targets = self._position[_rows(self._adjacency.leads.field("target"), places)]
            inside = targets >= 0
            if not inside.all():
                owner, places, targets = owner[inside], places[inside], targets[inside]
            self.counts[begin:end] = np.bincount(owner, minlength=end - begin)
            strength = self._strengths(places, self._shares[begin:end][owner])
            parts.append(places[_order(owner, strength, targets)])
        return np.concatenate(parts)

    def _strengths(self, places: Slots, shares: NDArray[np.float64]) -> Floats:
        rest = self._adjacency.rest
        confidences = _faded(_rows(rest.field("confidence"), places), shares)
        product: Floats = _rows(rest.field("weight"), places) * confidences
        return product


def _faded(confidences: Floats, shares: NDArray[np.float64]) -> Floats:
    faded: Floats = (confidences * shares).astype(np.float32)
    return faded


def _order(owner: Slots, strength: Floats, targets: NDArray[np.int32]) -> Slots | slice:
    """Return the order: source after source, the strongest first, of equals the lowest target."""
    same, weaker = owner[1:] == owner[:-1], strength[1:] < strength[:-1]
    tied = strength[1:] == strength[:-1]
    if (~same | weaker | (tied & (targets[1:] > targets[:-1]))).all():
        return slice(None)
    return np.lexsort((targets, -strength, owner))
