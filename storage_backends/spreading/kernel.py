"""Spreading activation in C. It is optional, and `why_not` says what is missing."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from storage_backends import native
from storage_backends.columns import Column, Fields, Slots
from storage_backends.native import OUT_OF_BOUNDS, OUT_OF_MEMORY, address
from storage_backends.spreading.model import Part, Spread, Spreading
from storage_backends.types import Floats

#: What `aesg_layout` of a kernel returns that goes with this module.
_LAYOUT = 1

#: Queries of a millisecond of work: fewer are not worth a thread.
_QUERIES_PER_THREAD = 64

#: Slots are 32 bits wide in the kernel, and the last two numbers stand for something else.
_MOST_SLOTS = 2**32 - 2


class _Column(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_void_p),
        ("tail", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("changed", ctypes.c_void_p),
        ("base_size", ctypes.c_int64),
        ("tail_size", ctypes.c_int64),
        ("changed_size", ctypes.c_int64),
        ("base_stride", ctypes.c_int64),
        ("tail_stride", ctypes.c_int64),
        ("rows_stride", ctypes.c_int64),
    )


class _Part(ctypes.Structure):
    _fields_ = (
        ("rows", _Column),
        ("leads", _Column),
        ("rest", _Column),
        ("ids", _Column),
        ("regions", _Column),
        ("first", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("weight", ctypes.c_double),
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        ("decay", ctypes.c_double),
        ("multiplier", ctypes.c_double),
        ("fading", ctypes.c_void_p),
        ("ages", ctypes.c_int64),
        ("epoch", ctypes.c_int64),
        ("hops", ctypes.c_int64),
        ("frontier", ctypes.c_int64),
        ("least", ctypes.c_int64),
        ("kinds", ctypes.c_uint32),
        ("part_count", ctypes.c_uint32),
    )


@lru_cache(maxsize=1)
def _loaded() -> ctypes.CDLL | str:
    """Return the kernel, or why there is none."""
    library = native.load(Path(__file__).parent, "_kernel", _LAYOUT)
    if not isinstance(library, str):
        array, number = ctypes.c_void_p, ctypes.c_int64
        library.aesg_spread.restype = number
        library.aesg_spread.argtypes = (
            *(ctypes.POINTER(_Part), ctypes.POINTER(_Settings), array, array),
            *(number, number, number, array, array, array),
        )
    return library


def why_not() -> str:
    """Return why there is no kernel; empty where there is one."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else ""


def fits(parts: Sequence[Part]) -> bool:
    """Tell whether the kernel can count the slots of these parts."""
    return sum(len(part) for part in parts) <= _MOST_SLOTS


def spread(
    parts: Sequence[Part], seeds: Slots, activations: Floats, settings: Spread, top: int
) -> Spreading:
    """Propagate activation from seeds, as `storage_backends.spreading.spread` says."""
    shape = len(seeds), top
    found = Spreading(
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
        np.empty((*shape, settings.hops), np.int64),
    )
    spread_into(found, parts, seeds, activations, settings)
    return found


def spread_into(
    found: Spreading, parts: Sequence[Part], seeds: Slots, activations: Floats, settings: Spread
) -> int:
    """Fill in what `spread` returns.

    Returns
    -------
    int
        Bytes of scratch that the thread which needed most of it used.
    """
    seeds = np.ascontiguousarray(seeds, np.int64)
    activations = np.ascontiguousarray(activations, np.float32)
    threads = native.threads_for(len(seeds), _QUERIES_PER_THREAD)
    outcomes: list[int] = []

    def run(mine: slice) -> None:
        found_here = _part(found, mine)
        outcomes.append(_called(parts, seeds[mine], activations[mine], settings, found_here))

    native.run_together(run, len(seeds), threads)
    return _checked(outcomes)


def _part(found: Spreading, queries: slice) -> Spreading:
    return Spreading(found.slots[queries], found.activations[queries], found.paths[queries])


def _called(
    parts: Sequence[Part], seeds: Slots, activations: Floats, settings: Spread, found: Spreading
) -> int:
    library = _loaded()
    if isinstance(library, str):
        raise RuntimeError(f"expected the kernel, but {library}")
    fading = settings.fading  # held while the kernel reads it
    graph, how = _described(parts), _settings(settings, fading, len(parts))
    inputs = (address(seeds), address(activations), *seeds.shape, found.slots.shape[1])
    outputs = (address(found.slots), address(found.activations), address(found.paths))
    result: int = library.aesg_spread(graph, ctypes.byref(how), *inputs, *outputs)
    return result


def _checked(outcomes: Sequence[int]) -> int:
    if OUT_OF_MEMORY in outcomes:
        raise MemoryError("spreading activation: no memory for the concepts that it reached")
    if OUT_OF_BOUNDS in outcomes:
        raise IndexError("expected seeds and targets of edges that are slots, got one beyond them")
    return max(outcomes)


def _settings(settings: Spread, fading: NDArray[np.float64], parts: int) -> _Settings:
    return _Settings(
        decay=settings.decay,
        multiplier=settings.region_multiplier,
        fading=address(fading),
        ages=len(fading),
        epoch=settings.epoch,
        hops=settings.hops,
        frontier=settings.frontier,
        least=settings.least,
        kinds=settings.kinds,
        part_count=parts,
    )


def _described(parts: Sequence[Part]) -> ctypes.Array[_Part]:
    """Return where the arrays of some parts are; valid as long as the parts are held."""
    graph = (_Part * len(parts))()
    first = 0
    for described, part in zip(graph, parts, strict=True):
        described.rows = _column(part.adjacency.rows)
        described.leads = _column(part.adjacency.leads)
        described.rest = _column(part.adjacency.rest)
        described.ids, described.regions = _column(part.ids), _column(part.regions)
        described.first, described.size, described.weight = first, len(part), part.weight
        first += len(part)
    return graph


#: Columns stay the same from call to call, and asking numpy for addresses is slow.
_COLUMNS: WeakKeyDictionary[Column[Any], _Column] = WeakKeyDictionary()


def _column(column: Column[Any]) -> _Column:
    """Return where the rows of a column are."""
    described = _COLUMNS.get(column)
    if described is None:
        base = column.tail[:0] if column.base is None else column.base
        if isinstance(base, Fields):
            raise TypeError("expected records that lie together, got their fields apart")
        described = _COLUMNS[column] = _Column(
            base=address(base),
            tail=address(column.tail),
            rows=address(column.rows),
            changed=address(column.changed),
            base_size=len(base),
            tail_size=len(column.tail),
            changed_size=len(column.changed),
            base_stride=base.strides[0],
            tail_stride=column.tail.strides[0],
            rows_stride=column.rows.strides[0],
        )
    return described
