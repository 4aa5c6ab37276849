"""Writes the memory directory that takes the place of one of release 3.0."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.config import AESGConfig
from aesg.graph.clock import Clock
from aesg.graph.consolidation import RELEVANCE_DECAY
from aesg.memory_stored import settings_of
from storage_backends import folders, layout
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreReadOnlyError,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.progress import Progress
from storage_backends.types import EDGE, STATS, Concepts, Records, WriteBatch

Columns = Mapping[str, NDArray[Any]]

#: The directory in which a memory is made: how its name begins, what lies in it from the first
#: instant on, and the memory.
_WORK, _MARKER, _MEMORY = "aesg-migrating-", "MIGRATING", "memory"
#: Consolidations since the last touch of a concept, at most. What is stored is the relevance at the
#: last touch, which is more by 0.95 to that power: a float32 does not hold that of long ago, and
#: release 3.0 counted ages from the making of a concept, however often it was used since.
MOST_EPOCHS = 1000
LONG_AGO = f"concepts older than {MOST_EPOCHS:,} consolidations, as if last used so long ago"

#: Concepts and events of one transaction.
_CONCEPTS, _EVENTS = 1 << 15, 1 << 18


@contextmanager
def new_memory(directory: Path) -> Iterator[LMDBStore]:
    """Make a memory that is there when the block ends, and not before.

    It is made in a directory of its own within the one that it is for, which has no ``CURRENT``
    until all is done; so a crash leaves nothing that opens as a memory. What the directory may
    hold before is what a migration left that was killed.

    Parameters
    ----------
    directory : Path
        Empty, or missing.

    Raises
    ------
    NotAStoreError
        If there is something else.
    StoreLockedError
        If another migration to it is at work.
    StoreError
        If it cannot be written.
    """
    with _made(directory):
        for path in _leftovers(directory):
            _remove_work(path)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=directory))
        try:
            (work / _MARKER).touch()
            with closing(LMDBStore.open(work / _MEMORY)) as store:
                yield store
            _publish(work)
        except BaseException:
            with suppress(StoreError):
                _remove_work(work)
            raise


def require_free(directory: Path) -> None:
    """Refuse a place that `new_memory` would refuse; nothing is written.

    Raises
    ------
    StoreError
        As `new_memory` does.
    """
    nearest = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise NotAStoreError(f"{nearest}: expected a directory, got a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreReadOnlyError(f"{nearest}: expected a directory that may be written, got none")
    if nearest == directory:
        with _held(directory):
            _leftovers(directory)


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Make a directory, and hold it while the block runs; where that fails it is gone again."""
    made: list[Path] = []
    try:
        for path in (*reversed(directory.parents), directory):
            if not path.exists():
                with suppress(FileExistsError):  # then another process has made it, and keeps it
                    path.mkdir()
                    made.append(path)
                    layout.sync_folder(path.parent)
        with _held(directory):
            yield
    except StoreLockedError:
        raise  # whoever holds it needs it
    except BaseException:
        with suppress(OSError):
            for path in reversed(made):
                path.rmdir()
        raise


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Keep other migrations, of this process too, out of a directory while the block runs."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), directory.stat()):
                raise BlockingIOError("one that failed has just removed it")
        except BlockingIOError as error:
            raise StoreLockedError(
                f"{directory}: expected no other migration to it, found one at work"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _leftovers(directory: Path) -> list[Path]:
    """Return what killed migrations left; the caller holds the directory.

    Raises
    ------
    NotAStoreError
        If there is anything else.
    """
    found = _found_in(directory)
    if foreign := [name for name in found if not _is_leftover(directory / name)]:
        raise NotAStoreError(f"{directory}: expected an empty directory, found {foreign[:5]}")
    return [directory / name for name in found]


def _is_leftover(path: Path) -> bool:
    if not path.name.startswith(_WORK) or path.is_symlink() or not path.is_dir():
        return False
    return (path / _MARKER).is_file() or not os.listdir(path)


def _remove_work(work: Path) -> None:
    """Remove the directory of a migration, what tells it from others' last."""
    folders.remove(work / _MEMORY)
    folders.remove(work)


def _publish(work: Path) -> None:
    """Let a memory that is whole take its place, or leave nothing of it there."""
    directory = work.parent
    if (found := _found_in(directory)) != [work.name]:
        foreign = sorted({*found} - {work.name})
        raise NotAStoreError(f"{directory}: expected nothing new in it, found {foreign[:5]}")
    folder = directory / layout.FIRST_GENERATION
    (work / _MEMORY / folder.name).rename(folder)
    try:
        _remove_work(work)
        layout.publish(folder)
    except BaseException:
        for name in (layout.CURRENT, layout.CURRENT + ".new", folder.name):
            with suppress(StoreError):
                folders.remove(directory / name)
        raise


def _found_in(directory: Path) -> list[str]:
    return sorted(set(os.listdir(directory)) - {"lost+found"})


def put_concepts(store: LMDBStore, columns: Columns, clock: Clock, progress: Progress) -> None:
    """Write all concepts."""
    count = len(columns["ids"])
    for begin in range(0, count, _CONCEPTS):
        rows = slice(begin, begin + _CONCEPTS)
        store.commit(WriteBatch(concepts=_concepts(columns, rows, clock)))
        progress("writing concepts", min(rows.stop, count), count)


def _concepts(columns: Columns, rows: slice, clock: Clock) -> Concepts:
    return Concepts(
        ids=columns["ids"][rows],
        keys=columns["keys"][rows] * columns["norms"][rows, None],
        value_kinds=columns["value_kinds"][rows],
        value_ids=columns["value_ids"][rows],
        value_vectors=None,
        stats=_stats(columns, rows, clock),
    )


def _stats(columns: Columns, rows: slice, clock: Clock) -> Records:
    ages = np.minimum(columns["age"][rows].astype(np.int64), MOST_EPOCHS)
    stats = np.zeros(len(ages), STATS)
    for name in ("created", "modified", "frequency", "region", "stability"):
        stats[name] = columns[name][rows]
    stats["epoch"] = clock.epoch - ages
    stats["tick"] = clock.tick - columns["updates"][rows].astype(np.int64)
    stats["edge_epoch"] = clock.epoch
    held = columns["relevance"][rows] / RELEVANCE_DECAY**ages
    stats["relevance"] = np.minimum(held, np.finfo(np.float32).max)
    return stats


def put_edges(store: LMDBStore, columns: Columns, progress: Progress) -> None:
    """Write all edges, between concepts that are there."""
    ids, counts = columns["ids"], columns["edge_counts"]
    ends = np.cumsum(counts, dtype=np.int64)
    for begin in range(0, len(ids), _CONCEPTS):
        end = min(begin + _CONCEPTS, len(ids))
        first, last = (int(ends[begin - 1]) if begin else 0), int(ends[end - 1])
        if first < last:
            edges = _edges(columns, slice(first, last))
            rows = np.split(edges, ends[begin : end - 1] - first)
            pairs = zip(ids[begin:end].tolist(), rows, strict=True)
            store.commit(WriteBatch(edges={source: row for source, row in pairs if len(row)}))
        progress("writing edges", last, len(columns["edge_targets"]))


def _edges(columns: Columns, part: slice) -> Records:
    edges = np.zeros(part.stop - part.start, EDGE)
    edges["target"] = columns["ids"][columns["edge_targets"][part]]
    for name, column in (
        ("weight", "edge_weights"),
        ("confidence", "edge_confidences"),
        ("use", "edge_uses"),
        ("kind", "edge_kinds"),
    ):
        edges[name] = columns[column][part]
    return edges


def put_history(store: LMDBStore, history: Records, progress: Progress) -> None:
    """Write events, oldest first."""
    for begin in range(0, len(history), _EVENTS):
        part = history[begin : begin + _EVENTS]
        store.commit(WriteBatch(events=part))
        progress("writing the history", begin + len(part), len(history))


def finish(store: LMDBStore, config: AESGConfig, clock: Clock) -> None:
    """Write what the memory knows of itself."""
    settings = settings_of(clock, config, 0, is_save=False)
    store.commit(WriteBatch(settings=settings))


def require_whole(store: LMDBStore, concepts: int, edges: int, events: int) -> None:
    """Compare what was written with what was read, and examine every record.

    Raises
    ------
    StoreCorruptError
        If they are not the same.
    """
    sizes, problems = store.stats(), store.verify()
    expected, got = (concepts, edges, events), (sizes.concepts, sizes.edges, sizes.events)
    if expected != got or problems:
        raise StoreCorruptError(
            f"{store.directory}: expected {concepts:,} concepts, {edges:,} edges and {events:,} "
            f"events, found {got} and the problems {[str(each) for each in problems[:3]]}"
        )
