"""Brings what release 3.0 wrote over to this release; what it wrote stays as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.graph.clock import Clock
from aesg.migration import new, old
from aesg.packs import Columns, Pack, read_pack, write_pack
from aesg.packs.earlier import Graph, pack_columns
from aesg.packs.version1 import read_with_losses
from aesg.validation import validate
from storage_backends.errors import NotAStoreError, StoreCorruptError, StoreUsageError
from storage_backends.progress import Progress, silent
from storage_backends.types import EVENT, EventType, Records

#: Room for edges that release 3.0 made for each concept that a memory might have.
_EDGES_PER_CONCEPT = 5


@dataclass(frozen=True)
class MigrationReport:
    """What `migrate` did, or would do.

    Parameters
    ----------
    source, destination : str
        The two paths.
    dry_run : bool
        Whether nothing was written.
    vector_dim : int
    concepts, edges, events : int
        What came over.
    left_out : mapping of str to int
        How many records did not, by what they are.
    changed : mapping of str to int
        How many came over in another form, by what was changed.
    unsaved_concepts, unsaved_edges : int
        Records behind those that the directory counts: of a process that ended before it saved.
    unsaved : bool
        Whether these came over, too.
    seconds : float
    """

    source: str
    destination: str
    dry_run: bool
    vector_dim: int
    concepts: int
    edges: int
    events: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    unsaved_concepts: int = 0
    unsaved_edges: int = 0
    unsaved: bool = False
    seconds: float = 0.0


def migrate(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    unsaved: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> MigrationReport:
    """Bring a memory directory or a pack of release 3.0 over.

    Parameters
    ----------
    source : path
        A directory with ``nodes.aesg``, ``edges.aesg``, ``meta.npy`` and, where anything has
        happened, ``evolution.aesglog``; or a version-1 pack. It is only read. No process may be
        writing to it.
    destination : path
        For a directory one that is empty or missing, for a pack a file that is missing. It appears
        whole or not at all.
    unsaved : bool
        Bring over records that a directory holds and does not count, too: release 3.0 counted what
        it had written when it saved.
    dry_run : bool
        Read everything, and write nothing.
    progress : callable
        Told of each step.

    Raises
    ------
    AESGStorageError
        If the source is nothing that release 3.0 wrote, or the destination cannot be written.
    """
    begin = time.monotonic()
    given = Path(os.fspath(source)), Path(os.fspath(destination))
    with storage_errors(f"migrate '{given[0]}' to '{given[1]}'"):
        _require_there(given)
        if given[0].is_dir():
            job = _Directory(*_apart(*given), unsaved, dry_run, progress)
            return job.run(begin)
        if unsaved:
            raise StoreUsageError("unsaved: expected a directory, got a pack, which is whole")
        _require_free(os.fspath(destination))
        return _rewrite(*given, dry_run, progress, begin)


def _require_there(given: tuple[Path, Path]) -> None:
    if any("\0" in str(path) for path in given):
        raise StoreUsageError("expected paths, got a null byte in one")
    if not given[0].exists():
        raise NotAStoreError(
            f"{given[0]}: expected a directory or a pack of release 3.0, found neither a "
            "directory nor a file"
        )


def _apart(source: Path, destination: Path) -> tuple[Path, Path]:
    """Return the two paths, resolved, unless one is in the other."""
    origin, target = Path(os.path.realpath(source)), Path(os.path.realpath(destination))
    if target.is_relative_to(origin):
        raise NotAStoreError(f"{destination}: expected a place outside of {source}, got one in it")
    if origin.is_relative_to(target):
        raise NotAStoreError(f"{destination}: expected a place that {source} does not lie in")
    return origin, target


@dataclass(frozen=True)
class _Directory:
    """The migration of one directory."""

    source: Path
    destination: Path
    unsaved: bool
    dry_run: bool
    progress: Progress

    def run(self, begin: float) -> MigrationReport:
        new.require_free(self.destination)  # before much is read
        with old.opened(self.source, unsaved=self.unsaved) as memory:
            graph = memory.graph(self.progress)
            old_ones = graph.columns["age"] > new.MOST_EPOCHS
            graph.changed[new.LONG_AGO] += int(old_ones.sum())
            parts = list(memory.history(graph.left_out, self.progress))
            history = np.concatenate(parts, dtype=EVENT)
            if not self.dry_run:
                self._write(memory, graph, history)
        return MigrationReport(
            source=str(self.source),
            destination=str(self.destination),
            dry_run=self.dry_run,
            vector_dim=memory.meta.vector_dim,
            concepts=len(graph.columns["ids"]),
            edges=len(graph.columns["edge_targets"]),
            events=len(history),
            left_out=dict(+graph.left_out),
            changed=dict(+graph.changed),
            unsaved_concepts=memory.unsaved_nodes,
            unsaved_edges=memory.unsaved_edges,
            unsaved=self.unsaved,
            seconds=time.monotonic() - begin,
        )

    def _write(self, memory: old.OldMemory, graph: Graph, history: Records) -> None:
        columns = pack_columns(graph)
        clock = _clock(columns, history)
        config = _config(memory, len(columns["ids"]), len(history))
        with new.new_memory(self.destination) as store:
            new.put_concepts(store, columns, clock, self.progress)
            new.put_edges(store, columns, self.progress)
            new.put_history(store, history, self.progress)
            new.finish(store, config, clock)
            sizes = len(columns["ids"]), len(columns["edge_targets"]), len(history)
            new.require_whole(store, *sizes)


def _clock(columns: Columns, history: Records) -> Clock:
    """Return the counters that a memory of this release would have.

    Release 3.0 consolidated at each topology update, and began to count anew in each process.
    """
    greatest, oldest = (int(columns[name].max(initial=0)) for name in ("ids", "age"))
    consolidations = int((history["type"] == EventType.CONSOLIDATE).sum())
    epoch = max(oldest, consolidations)
    return Clock(next_id=greatest + 1, epoch=epoch, tick=epoch)


def _config(memory: old.OldMemory, concepts: int, events: int) -> AESGConfig:
    """Return parameters that fit, of which release 3.0 stored the width and, as room, one more."""
    room = memory.meta.cap_edges // _EDGES_PER_CONCEPT
    config = AESGConfig(
        vector_dim=memory.meta.vector_dim,
        max_concepts=max(room, concepts, 1),
        max_events=max(AESGConfig.max_events, events),
    )
    try:
        validate(config)
    except AESGConfigError as error:
        raise StoreCorruptError(str(error)) from error
    return config


def _require_free(destination: str) -> None:
    """Refuse a path at which no pack can be made."""
    folder, name = os.path.split(destination)
    if not name:
        raise StoreUsageError(f"{destination}: expected the path of a file, got a folder's")
    if os.path.lexists(destination):
        raise NotAStoreError(f"{destination}: expected a name that is free, found something there")
    if not os.path.isdir(folder or "."):
        raise StoreUsageError(f"{destination}: expected a path in a folder that is there")


def _rewrite(
    source: Path, destination: Path, dry_run: bool, progress: Progress, begin: float
) -> MigrationReport:
    """Write a version-1 pack anew, as one of version 2."""
    graph, pack = read_with_losses(source, progress=progress)
    if not dry_run:
        write_pack(
            destination,
            pack.columns,
            vector_dim=pack.vector_dim,
            provenance=pack.provenance,
            progress=progress,
        )
        _require_same(pack, read_pack(destination, progress=progress))
    return MigrationReport(
        source=str(source),
        destination=str(destination),
        dry_run=dry_run,
        vector_dim=pack.vector_dim,
        concepts=pack.node_count,
        edges=pack.edge_count,
        events=0,
        left_out=dict(+graph.left_out),
        changed=dict(+graph.changed),
        seconds=time.monotonic() - begin,
    )


def _require_same(pack: Pack, written: Pack) -> None:
    for name, column in pack.columns.items():
        if not np.array_equal(column, written.columns[name]):
            raise StoreCorruptError(f"column '{name}': expected what was written, got others")
