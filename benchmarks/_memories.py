"""Memories of many concepts that several benchmarks read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._large import CLUSTER, fill, vectors
from benchmarks.suite import Settings
from storage_backends.columns import Column
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.spreading import Part, Spread, spread
from storage_backends.types import Floats, Ids
from storage_backends.view import View

DIM, EDGES = 64, 12
#: From here on a memory is kept between runs: its seed index takes minutes.
_KEPT_FROM = 500_000
_KEPT = Path("build/memories")
_NOISE = 0.15


def memory_of(concepts: int, settings: Settings) -> Path:
    """Return the directory of a memory of clustered concepts with its seed index.

    A million takes five minutes of CPU time, nearly all for the index, on all cores. It is kept in
    ``build/memories`` and used again; remove it there where storage has changed.
    """
    folder = _KEPT if concepts >= _KEPT_FROM else settings.scratch
    made = folder / f"{concepts}x{DIM}x{EDGES}"
    if not made.exists():
        settings.say(f"making {concepts:,} concepts with {EDGES} edges each")
        beginning = made.with_suffix(".part")
        shutil.rmtree(beginning, ignore_errors=True)
        fill(beginning, concepts, DIM, EDGES)
        beginning.rename(made)
    return made


def copied(directory: Path, settings: Settings, name: str) -> Path:
    """Return a copy to write to."""
    copy = settings.scratch / name
    shutil.copytree(directory, copy)
    return copy


def queries_near(concepts: int, count: int, seed: int = 0) -> Tensor:
    """Return queries near concepts that lie anywhere, ``(count, DIM)``."""
    rng = np.random.default_rng(seed)
    clusters, row = np.unique(rng.integers(0, concepts // CLUSTER, count), return_inverse=True)
    keys = np.stack([vectors(each * CLUSTER, CLUSTER, DIM) for each in clusters.tolist()])
    near = keys[row, rng.integers(0, CLUSTER, count)]
    return torch.from_numpy(near + _NOISE * rng.standard_normal(near.shape, np.float32))


@contextmanager
def viewed(directory: Path) -> Iterator[View]:
    """Open the store of a memory read-only."""
    with closing(Engine(LMDBStore.open(directory, read_only=True))) as engine:
        yield engine.view()


def part_of(view: View, *, regions: bool = False) -> Part:
    """Return what activation spreads in, with the regions of its concepts or without."""
    none = Column.over(np.broadcast_to(np.zeros(1, np.uint32), view.size))
    return Part(view.adjacency, view.ids, view.regions if regions else none)


def finder(view: View, how: Spread, top: int) -> Callable[[Floats], Ids]:
    """Return what finds the concepts of a retrieval, and no more: seed search and spreading.

    It takes one unit query ``(1, D)`` and returns ids, the most active first.
    """
    part = part_of(view)

    def find(query: Floats) -> Ids:
        slots, cosines = view.index.search(query, top)
        found = spread([part], slots, np.maximum(cosines, 0), how, top).slots[0]
        ids: Ids = view.ids[found]
        return ids

    return find
