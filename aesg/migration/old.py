"""A memory directory of release 3.0, opened to be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aesg.migration.meta import Meta, read_meta
from aesg.packs.columns import MOST_ROWS, MOST_WIDTH
from aesg.packs.earlier import EDGE_RECORD, Graph, RecordsIn, graph_of, node_record
from aesg.packs.version1 import regular_file
from storage_backends.errors import NotAStoreError, StoreCorruptError
from storage_backends.progress import Progress, silent
from storage_backends.types import EVENT, EventType, Records

NODES, EDGES, META, LOG = "nodes.aesg", "edges.aesg", "meta.npy", "evolution.aesglog"

UNFINISHED = "events whose writing was interrupted"
UNKNOWN = "events of no known type"


@dataclass(frozen=True)
class OldMemory:
    """The records of a directory.

    Parameters
    ----------
    meta : Meta
    nodes, edges, events : RecordsIn
        Nodes and edges as far as they are counted.
    unsaved_nodes, unsaved_edges : int
        Records behind those that are counted, which came after the last save.
    left_over : int
        Bytes at the end of the log that are no whole event.
    """

    meta: Meta
    nodes: RecordsIn
    edges: RecordsIn
    events: RecordsIn
    unsaved_nodes: int
    unsaved_edges: int
    left_over: int

    def graph(self, progress: Progress) -> Graph:
        """Return concepts and edges."""
        return graph_of(self.nodes, self.edges, progress)

    def history(self, left_out: Counter[str], progress: Progress) -> Iterator[Records]:
        """Yield the events, oldest first, some at a time.

        Parameters
        ----------
        left_out : Counter
            Told how many are no events.
        progress : callable
        """
        left_out[UNFINISHED] += bool(self.left_over)
        for part in self.events.parts("reading the history", progress):
            known = part["type"] <= max(EventType)
            left_out[UNKNOWN] += int((~known).sum())
            yield part[known]


@contextmanager
def opened(directory: Path, *, unsaved: bool) -> Iterator[OldMemory]:
    """Open a directory for as long as the block runs; nothing in it is changed.

    Parameters
    ----------
    directory : Path
    unsaved : bool
        Count records that came after the last save, too.

    Raises
    ------
    NotAStoreError
        If there is no memory of release 3.0.
    StoreCorruptError
        If its files do not go together.
    """
    missing = [name for name in (NODES, EDGES, META) if not (directory / name).is_file()]
    if missing:
        raise NotAStoreError(f"{directory}: expected a memory of release 3.0, found no {missing}")
    meta = read_meta(directory / META)
    if meta.vector_dim > MOST_WIDTH or max(meta.node_count, meta.edge_count) > MOST_ROWS:
        raise StoreCorruptError(
            f"{directory / META}: expected a width of at most {MOST_WIDTH:,} and at most "
            f"{MOST_ROWS:,} records, got {meta}"
        )
    log = directory / LOG
    if os.path.lexists(log) and not log.is_file():
        raise NotAStoreError(f"{log}: expected a file, got something else or a link to nothing")
    with ExitStack() as stack:
        paths = [directory / NODES, directory / EDGES, *([log] if log.is_file() else [])]
        files = [stack.enter_context(regular_file(path)) for path in paths]
        node = node_record(meta.vector_dim)
        # A kill while the room for nodes is doubled leaves the file with it and META without.
        _require_size(paths[0], files[0], node.itemsize, meta.cap_nodes, 2 * meta.cap_nodes)
        _require_size(paths[1], files[1], EDGE_RECORD.itemsize, meta.cap_edges)
        nodes = RecordsIn(files[0], 0, meta.node_count, node)
        edges = RecordsIn(files[1], 0, meta.edge_count, EDGE_RECORD)
        more = _written_behind(nodes, files[0]), _written_behind(edges, files[1])
        if unsaved:
            nodes = RecordsIn(files[0], 0, len(nodes) + more[0], node)
            edges = RecordsIn(files[1], 0, len(edges) + more[1], EDGE_RECORD)
        whole, left_over = divmod(_size(files[2]) if files[2:] else 0, EVENT.itemsize)
        events = RecordsIn(files[-1], 0, whole, EVENT)
        yield OldMemory(meta, nodes, edges, events, *more, left_over)


def _require_size(path: Path, file: BinaryIO, record: int, *rooms: int) -> None:
    """Compare the size of a file with the room that release 3.0 always made for all records."""
    if (size := _size(file)) not in {room * record for room in rooms}:
        raise StoreCorruptError(
            f"{path}: expected {rooms[0] * record:,} bytes, {rooms[0]:,} records of {record} as "
            f"{META} says, got {size:,}"
        )


def _written_behind(records: RecordsIn, file: BinaryIO) -> int:
    """Return how many records behind the last one look as if they had been written.

    The files have room for more, which is zeros.
    """
    size, count = records.dtype.itemsize, len(records)
    behind = RecordsIn(file, count * size, _size(file) // size - count, records.dtype)
    found = 0
    for part in behind.parts("looking for what was not saved", silent):
        written = part.view(np.uint8).reshape(-1, size).any(axis=1)
        found += len(part) if written.all() else int(np.argmin(written))
        if not written.all():
            break
    return found


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
