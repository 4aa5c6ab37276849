"""Packs that processes share: mapped from files that were made once on this machine.

A pack that is large is decoded into a file of its columns, which every process of the user maps:
the page cache holds them once for all. One with many concepts gets a seed index when it is first
attached, which is shared in the same way. Where that cannot be, each process holds the pack for
itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.packs.columns import COLUMNS
from aesg.packs.entries import CacheUnusable, Entry
from aesg.packs.graph import Runs, fill, kept_view, view_of, view_over, with_view
from aesg.packs.head import ColumnHead, Head
from aesg.packs.pack import Columns, Pack
from aesg.packs.reading import Allocate, in_memory, read_pack
from storage_backends.adjacency import LEAD, REST, ROW
from storage_backends.column_file import Shape
from storage_backends.columns import Slots
from storage_backends.faiss_index import EXACT_BELOW
from storage_backends.flat_columns import Arrays
from storage_backends.hnsw import HnswBase
from storage_backends.housekeeping import built
from storage_backends.progress import Progress, silent
from storage_backends.view import View

#: Packs whose columns take so many bytes are mapped when they are loaded.
MAPPED_FROM = 64 << 20

_log = logging.getLogger("aesg.memory")

#: Where a pack keeps the entry that its columns are mapped from; None where that was refused.
_ENTRY = "_entry"

#: What a mapped pack has beside its columns: `Runs`, as bytes.
_ROWS, _LEADS, _REST = "edge_rows", "leads", "rest"


def load(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    vector_dim: int | None = None,
    public_key: bytes | None = None,
    progress: Progress = silent,
) -> Pack:
    """Read a pack as `read_pack` does; the columns of a large one are mapped.

    Parameters
    ----------
    path, name, vector_dim, public_key, progress
        As there.

    Raises
    ------
    AESGStorageError
        As there. That the cache cannot be used is no error.
    """
    found: list[tuple[Entry, Arrays]] = []
    refused: list[CacheUnusable] = []

    def hold(head: Head, decode: Callable[[Allocate], Columns]) -> Columns:
        if head.nbytes < MAPPED_FROM:  # one of many concepts is mapped when it is attached
            return in_memory(head, decode)
        try:
            # The digest is that of all bytes of the body, which was just compared with it.
            entry = Entry.of(head.digest)
            arrays = _decoded(entry, head, decode, progress)
        except CacheUnusable as reason:
            _say(path, reason)
            refused.append(reason)
            return in_memory(head, decode)
        found.append((entry, arrays))
        return {name: arrays[name] for name in COLUMNS if name in arrays}

    pack = read_pack(
        path, name=name, vector_dim=vector_dim, public_key=public_key, hold=hold, progress=progress
    )
    if found:
        return _mapped_pack(pack, *found[0])
    if pack.version == 1 and _bytes_of(pack.columns) >= MAPPED_FROM:
        try:
            return _mapped(pack, progress)[0]
        except CacheUnusable as reason:
            _say(path, reason)
            refused.append(reason)
    if refused:
        vars(pack)[_ENTRY] = None
    return pack


def indexed(pack: Pack, progress: Progress = silent) -> Pack:
    """Return an equal pack that is ready to be attached.

    One of more than `EXACT_BELOW` concepts is mapped, and has a seed index. To build that takes
    about a minute of one core for 300,000 concepts of width 64, once on a machine.

    Parameters
    ----------
    pack : Pack
    progress : callable
        Told how far the index is. What it raises ends the work.
    """
    view = kept_view(pack)
    if pack.node_count <= EXACT_BELOW or (view is not None and view.base is not None):
        return pack
    try:
        if vars(pack).get(_ENTRY, pack) is not None:
            return _indexed(pack, progress)
    except CacheUnusable as reason:
        _say(pack.path or pack.name, reason)
    return with_view(pack, _over(view_of(pack), _graph(pack, progress)))


def _indexed(pack: Pack, progress: Progress) -> Pack:
    pack, entry = _mapped(pack, progress)
    keys = pack.columns["keys"]
    graph = entry.graph(keys)
    if graph is None:
        with entry.alone(progress):
            graph = entry.graph(keys) or _kept_graph(pack, entry, progress)
    indexed = with_view(pack, _over(view_of(pack), graph))
    vars(indexed)[_ENTRY] = entry
    return indexed


def _kept_graph(pack: Pack, entry: Entry, progress: Progress) -> tuple[HnswBase, Slots]:
    """Build a graph and map what was kept of it, or use it as it is where it cannot be kept."""
    graph = _graph(pack, progress)
    try:
        entry.put_graph(*graph)
    except CacheUnusable as reason:
        _say(pack.path or pack.name, reason)
        return graph
    return entry.graph(pack.columns["keys"]) or graph


def _graph(pack: Pack, progress: Progress) -> tuple[HnswBase, Slots]:
    def told(step: str, done: int, total: int) -> None:
        progress(f"{step} of pack '{pack.name}', once on this machine", done, total)

    return built(view_of(pack), progress=told)


def _over(view: View, graph: tuple[HnswBase, Slots]) -> View:
    base, moved = graph
    return replace(view, base=base, moved=moved)


def _decoded(
    entry: Entry, head: Head, decode: Callable[[Allocate], Columns], progress: Progress
) -> Arrays:
    """Return the mapped columns of a file, decoded into their place if that was not done before."""

    def make(arrays: Arrays) -> None:
        decode(lambda name, dtype, shape: arrays[name])

    shapes = {column.name: _shape_of(column) for column in head.columns}
    return _arrays(entry, shapes, make, progress)


def _shape_of(column: ColumnHead) -> Shape:
    kind = COLUMNS[column.name]
    return kind.dtype, (column.rows, column.width) if kind.wide else (column.rows,)


def _mapped(pack: Pack, progress: Progress) -> tuple[Pack, Entry]:
    """Return an equal pack whose columns are mapped, and the entry that they are mapped from."""
    entry: Entry | None = vars(pack).get(_ENTRY)
    if entry is not None:
        return pack, entry
    short = {name: _short(rows) for name, rows in pack.columns.items()}

    def make(arrays: Arrays) -> None:
        for name, rows in short.items():
            arrays[name][:] = rows

    # Not the digest that it has: of version 1 that leaves some out, and anybody can make a pack.
    entry = Entry.of(_hash_of(short))
    shapes = {name: (rows.dtype, rows.shape) for name, rows in short.items()}
    arrays = _arrays(entry, shapes, make, progress)
    columns = {
        name: np.broadcast_to(arrays[name], rows.shape) for name, rows in pack.columns.items()
    }
    return _mapped_pack(replace(pack, columns=columns), entry, arrays), entry


def _mapped_pack(pack: Pack, entry: Entry, arrays: Arrays) -> Pack:
    """Return a pack whose columns are mapped, with the view of what else is there."""
    mapped = with_view(pack, view_over(pack.columns, _runs_of(arrays)))
    vars(mapped)[_ENTRY] = entry
    return mapped


def _hash_of(columns: Columns) -> str:
    """Return the hash of all that columns are, 64 hexadecimal digits."""
    found = hashlib.sha256(b"columns of a pack\n")
    for name, rows in columns.items():
        found.update(f"{name} {rows.dtype.str} {rows.shape}\n".encode())
        found.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _arrays(
    entry: Entry, shapes: Mapping[str, Shape], make: Callable[[Arrays], None], progress: Progress
) -> Arrays:
    """Return the columns of an entry, mapped, with what follows from them; made if need be."""
    wanted = _with_runs(shapes)
    arrays = _known(entry, wanted)
    if arrays is not None:
        return arrays
    with entry.alone(progress):
        arrays = _known(entry, wanted)
        if arrays is not None:
            return arrays
        with entry.making_columns(wanted) as places:
            make(places)
            fill(_runs_of(places), places)
        entry.sweep()
    arrays = _known(entry, wanted)
    if arrays is None:
        raise CacheUnusable(f"{entry.folder}: expected the columns just written, got others")
    return arrays


def _with_runs(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes of all columns that are mapped, from those that the pack has."""
    numbers = {_ROWS: ("ids", ROW), _LEADS: ("edge_targets", LEAD), _REST: ("edge_targets", REST)}
    wanted = dict(shapes)
    for name, (column, record) in numbers.items():
        wanted[name] = (np.dtype(np.uint8), (shapes[column][1][0], record.itemsize))
    return wanted


def _known(entry: Entry, shapes: Mapping[str, Shape]) -> Arrays | None:
    """Return the columns of an entry if they are of these shapes."""
    arrays = entry.columns()
    if arrays is None or {name: (a.dtype, a.shape) for name, a in arrays.items()} != shapes:
        return None
    return arrays


def _runs_of(arrays: Arrays) -> Runs:
    records = ((_ROWS, ROW), (_LEADS, LEAD), (_REST, REST))
    return Runs(*(arrays[name].reshape(-1).view(record) for name, record in records))


def _short(rows: NDArray[Any]) -> NDArray[Any]:
    """Return one row instead of many that are one in memory."""
    return rows[:1] if rows.ndim == 1 and rows.strides == (0,) else rows


def _bytes_of(columns: Columns) -> int:
    return sum(_short(rows).nbytes for rows in columns.values())


def _say(pack: str | os.PathLike[str], reason: CacheUnusable) -> None:
    _log.info(
        "%s: held by this process for itself, because its cache cannot be used: %s", pack, reason
    )
