"""Shared libraries in C that know nothing of Python, called through ctypes.

One build of such a library serves every version of Python, and other threads go on while it runs.
Each is optional: where it is missing, something slower does the same.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import faiss
from numpy.typing import NDArray

__all__ = ["OUT_OF_BOUNDS", "OUT_OF_MEMORY", "address", "load", "run_together", "threads_for"]

#: What functions of the libraries return that went wrong.
OUT_OF_MEMORY, OUT_OF_BOUNDS = -1, -2


def load(folder: Path, name: str, layout: int) -> ctypes.CDLL | str:
    """Return a library, or why there is none.

    Parameters
    ----------
    folder : Path
    name : str
        Of the file, without what the platform adds.
    layout : int
        What ``aesg_layout`` of a library returns that goes with the caller.
    """
    if sys.byteorder != "little":
        return "the records in memory are little-endian, this machine is not"
    found = [folder / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in found if path.exists()), None)
    if path is None:
        return "it was not built: no C compiler was there when this was installed"
    try:
        library = ctypes.CDLL(str(path))
        library.aesg_layout.restype = ctypes.c_int64
        got = library.aesg_layout()
    except (OSError, AttributeError) as error:
        return f"{path}: {error}"
    if got != layout:
        return f"{path}: expected layout {layout}, got {got}: it is of another version"
    return library


def address(array: NDArray[Any]) -> int:
    """Return where the rows of an array begin, valid as long as the array is held."""
    begin: int = array.__array_interface__["data"][0]  # several times as quick as ``ctypes.data``
    return begin


def threads_for(queries: int, least: int) -> int:
    """Return how many threads queries are worth, at least ``least`` for each of several."""
    if queries < 2 * least:
        return 1
    return max(min(faiss.omp_get_max_threads(), queries // least), 1)


def run_together(run: Callable[[slice], None], queries: int, threads: int) -> None:
    """Call a function with each thread's share of the queries, in threads, and wait for all.

    What the threads work on is held by themselves. So where even the wait is interrupted, they may
    go on alone, and those that are still at it when the process ends are not waited for.
    """
    if threads == 1:
        run(slice(0, queries))
        return
    ends = [queries * end // threads for end in range(threads + 1)]
    shares = [slice(ends[thread], ends[thread + 1]) for thread in range(threads)]
    running: list[threading.Event] = []

    def run_other(share: slice, over: threading.Event) -> None:
        try:
            run(share)
        finally:
            over.set()

    try:
        for share in shares[1:]:
            over = threading.Event()
            threading.Thread(target=run_other, args=(share, over), daemon=True).start()
            running.append(over)
        run(shares[0])
    finally:
        for over in running:
            over.wait()
