"""The nearest keys to queries, in C: in a graph, or by comparison with each key.

It is optional, and `why_not` says what is missing. Cosines are those of
`storage_backends.cosines`, to the bit; of equally near keys the lower slot comes first.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage_backends import native
from storage_backends.columns import Slots
from storage_backends.cosines import laid_out
from storage_backends.native import OUT_OF_BOUNDS, OUT_OF_MEMORY, address
from storage_backends.spreading.dispatch import kernel_name
from storage_backends.types import Floats

__all__ = ["Links", "compare", "explained", "is_used", "search", "why_not"]

#: What `aesg_layout` of a library returns that goes with this module.
_LAYOUT = 1
#: Queries of a millisecond of work: fewer are not worth a thread.
_QUERIES_PER_THREAD = 16
#: Multiply-adds of a millisecond of work.
_THREAD_WORK = 20_000_000


class _Graph(ctypes.Structure):
    _fields_ = (
        ("links", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("room", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("link_count", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("entry", ctypes.c_int64),
        ("top_level", ctypes.c_int64),
    )


class _Rows(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("chosen", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("width", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Links:
    """A graph (Malkov and Yashunin, 2018) as FAISS lays it out.

    The links of key ``n`` on level ``l`` are ``links[offsets[n] + room[l] : offsets[n] +
    room[l + 1]]``, up to the first -1.

    Parameters
    ----------
    links : (L,) int32
    offsets : (N + 1,) uint64
    room : (levels + 1,) int32
    keys : (N, D) float32
        Contiguous.
    entry : int
        Key at which a search begins.
    top_level : int
        Of the entry.
    kept : object
        What owns the arrays.
    """

    links: NDArray[np.int32]
    offsets: NDArray[np.uint64]
    room: NDArray[np.int32]
    keys: Floats
    entry: int
    top_level: int
    kept: object = field(repr=False, compare=False)
    described: _Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        described = _Graph(
            links=address(self.links),
            offsets=address(self.offsets),
            room=address(self.room),
            keys=address(self.keys),
            link_count=len(self.links),
            size=len(self.keys),
            width=self.keys.shape[1],
            entry=self.entry,
            top_level=self.top_level,
        )
        object.__setattr__(self, "described", described)


@lru_cache(maxsize=1)
def _loaded() -> ctypes.CDLL | str:
    """Return the library, or why there is none."""
    library = native.load(Path(__file__).parent, "_lookup", _LAYOUT)
    if not isinstance(library, str):
        array, number = ctypes.c_void_p, ctypes.c_int64
        library.aesg_search_graph.restype = number
        library.aesg_search_graph.argtypes = (
            *(ctypes.POINTER(_Graph), array, array),
            *(number, number, number, array, array),
        )
        library.aesg_search_rows.restype = None
        library.aesg_search_rows.argtypes = (
            *(ctypes.POINTER(_Rows), array),
            *(number, number, array, array),
        )
    return library


def why_not() -> str:
    """Return why there is no library; empty where there is one."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else ""


def explained() -> str:
    """Return what seed lookup runs on, and why, as one line."""
    if is_used():
        return "seed lookup: C"
    reason = why_not() or "AESG_KERNEL is set to numpy"
    return f"seed lookup: FAISS and numpy, slower ({reason})"


def is_used() -> bool:
    """Tell whether lookups run here: the library is there and the kernels in C are not declined."""
    return not why_not() and kernel_name() == "C"


def search(
    links: Links, queries: Floats, effort: int, k: int, enough: Floats | None = None
) -> tuple[Slots, Floats]:
    """Find keys in a graph.

    Parameters
    ----------
    links : Links
    queries : (N, D) float32
    effort : int
        Candidates that are kept in view, at least ``k``.
    k : int
    enough : (N,) float32, optional
        A query that has found a key as near as this looks no further.

    Returns
    -------
    slots : (N, k) int64
        Descending by cosine; -1 pads.
    cosines : (N, k) float32
        0 where padded.

    Raises
    ------
    ValueError
        If the queries have another width than the keys.
    IndexError
        If a link leads to no key.
    """
    filled = _filled(queries, links.keys)
    slots, cosines = np.empty((len(filled), k), np.int64), np.empty((len(filled), k), np.float32)
    outcomes: list[int] = []

    def run(mine: slice) -> None:
        asked = filled[mine]
        outcome = _library().aesg_search_graph(
            *(links.described, address(asked)),
            *(None if enough is None else address(enough[mine]), len(asked), effort, k),
            *(address(slots[mine]), address(cosines[mine])),
        )
        outcomes.append(outcome)

    threads = native.threads_for(len(filled), _QUERIES_PER_THREAD)
    native.run_together(run, len(filled), threads)
    if OUT_OF_MEMORY in outcomes:
        raise MemoryError("seed lookup: no memory for the concepts that it met")
    if OUT_OF_BOUNDS in outcomes:
        raise IndexError("expected links that lead to keys, got one that leads beyond them")
    return slots, cosines


def compare(
    found: tuple[Slots, Floats], queries: Floats, keys: Floats, first: int, chosen: Slots | None
) -> None:
    """Compare each query with each key, and put those that are nearer in the place of others.

    Parameters
    ----------
    found : (N, K) int64 and (N, K) float32
        The best so far, as `search` returns them; changed.
    queries : (N, D) float32
    keys : (M, D) float32
    first : int
    chosen : (M,) int64 or None
        Key ``i`` is of slot ``first + chosen[i]``; None stands for ``first + i``.

    Raises
    ------
    ValueError
        If the queries have another width than the keys.
    """
    filled, keys = _filled(queries, keys), np.ascontiguousarray(keys, np.float32)
    chosen = None if chosen is None else np.ascontiguousarray(chosen, np.int64)
    slots, cosines = found

    def run(mine: slice) -> None:
        places = None if chosen is None else address(chosen)
        rows, asked = _Rows(address(keys), places, first, *keys.shape), filled[mine]
        _library().aesg_search_rows(
            *(rows, address(asked), len(asked), slots.shape[1]),
            *(address(slots[mine]), address(cosines[mine])),
        )

    if not slots.size:
        return
    least = _THREAD_WORK // max(keys.size, 1) + 1
    native.run_together(run, len(filled), native.threads_for(len(filled), least))


def _library() -> ctypes.CDLL:
    library = _loaded()
    if isinstance(library, str):
        raise RuntimeError(f"expected the lookup in C, but {library}")
    return library


def _filled(queries: Floats, keys: Floats) -> Floats:
    if queries.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"expected queries of width {keys.shape[1]}, got an array {queries.shape}")
    return laid_out(queries)
