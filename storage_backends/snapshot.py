"""Snapshots: a view in two files, from which a process opens without reading it.

A snapshot is a copy; the records of the store are the truth. It consists of the columns of a view
and the links of its seed graph, and the store keeps a `Manifest` that names both. The files are
made durable first, then their manifest is published: a crash leaves the earlier snapshot or this
one, and perhaps files that no manifest names, which `remove_strays` removes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from storage_backends import layout, recorded_file
from storage_backends.column_file import map_columns, put_columns
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.hnsw import HnswBase
from storage_backends.manifest import Manifest, columns_name, graph_name, is_snapshot_file
from storage_backends.progress import Progress, silent
from storage_backends.recorded_file import UNFINISHED, FileRecord, Put, write_file
from storage_backends.types import Problem
from storage_backends.view import View

__all__ = [
    "Manifest",
    "copy_files",
    "find_problems",
    "is_as_recorded",
    "open_view",
    "remove_strays",
    "restamped",
    "write",
]

_TABLE = "snapshot"


def write(
    folder: Path,
    seq: int,
    view: View,
    *,
    earlier: Manifest | None = None,
    stop: threading.Event | None = None,
) -> Manifest:
    """Write a snapshot of a view, durably; nobody opens it before its manifest is published.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    seq : int
        Number that the manifest will have. It names the files.
    view : View
        Its columns are written piece by piece and not copied.
    earlier : Manifest, optional
        The snapshot that has the very graph of the view. Its file is used again if it is still
        there; else, and by default, the graph is written.
    stop : threading.Event, optional
        Set it to give up.

    Raises
    ------
    Stopped
        If ``stop`` was set before the end.
    StoreFullError
        If there is no room.
    StoreError
        If the folder cannot be written to. What was written is removed after any error.
    """
    with ExitStack() as undo:

        def written(name: str, produce: Callable[[Put], object]) -> FileRecord:
            record = write_file(folder / name, produce, stop)
            undo.callback(_remove, folder / name)
            return record

        columns = written(
            columns_name(seq), lambda put: put_columns(put, view.columns(), view.generation)
        )
        base = view.base
        graph = None if base is None else _graph_of(folder, earlier, base)
        if graph is None and base is not None:
            graph = written(graph_name(seq), base.write)
        _sync(folder)
        undo.pop_all()
    return Manifest(
        generation=view.generation,
        columns=columns,
        graph=graph,
        graph_size=base.size if base is not None else 0,
        parameters=base.parameters if base is not None else {},
    )


def open_view(folder: Path, manifest: Manifest, settings: Mapping[str, bytes]) -> View:
    """Return the view that a snapshot holds, mapped: what is not looked at is not read.

    But for the graph, which is compared with its hash. FAISS reads all of a graph anyway, page by
    page as it comes upon them, so that to read it in one go first is several times faster where it
    is not in the page cache; and damaged links might end the process.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    manifest : Manifest
        One whose files are as recorded, or were found without problems.
    settings : mapping of name to bytes
        The caller's ``sys`` entries of that generation; a snapshot has none.

    Raises
    ------
    StoreCorruptError
        If a file is not what the manifest says, as far as its header shows.
    StoreError
        If a file cannot be read, for example because the next snapshot replaced it.
    """
    if manifest.graph is not None:
        recorded_file.check_content(folder, manifest.graph, lambda size: None)
    return _open(folder, manifest, settings, check_links=False)


def is_as_recorded(folder: Path, manifest: Manifest) -> bool:
    """Return whether size and time of the files are those that the manifest says."""
    return all(recorded_file.is_as_recorded(folder, record) for record in manifest.files)


def find_problems(folder: Path, manifest: Manifest, progress: Progress = silent) -> list[Problem]:
    """Read all of a snapshot and return what is wrong with it.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    manifest : Manifest
        What its files must be.
    progress : callable
        Told the bytes read and those to read. What it raises ends the examination.
    """
    problems: list[Problem] = []
    total, read = sum(record.size for record in manifest.files), 0

    def count(size: int) -> None:
        nonlocal read
        read += size
        progress("reading the snapshot", read, total)

    for record in manifest.files:
        try:
            recorded_file.check_content(folder, record, count)
        except StoreError as error:
            problems.append(Problem(_TABLE, record.name, str(error)))
    if not problems:  # a graph with another hash may end the process that opens it
        try:
            _open(folder, manifest, {}, check_links=True)
        except StoreError as error:
            problems.append(Problem(_TABLE, "", str(error)))
    return problems


def restamped(folder: Path, manifest: Manifest) -> Manifest:
    """Return the manifest with the present times of its files, which were just examined.

    Raises
    ------
    StoreError
        If a file is gone.
    """
    columns, *graph = (recorded_file.restamped(folder, record) for record in manifest.files)
    return replace(manifest, columns=columns, graph=graph[0] if graph else None)


def copy_files(folder: Path, manifest: Manifest, to: Path) -> Manifest:
    """Copy a snapshot durably into the folder of another memory; return the manifest of the copy.

    Raises
    ------
    StoreCorruptError
        If a file is not the one that was written.
    StoreFullError
        If there is no room.
    StoreError
        If a file cannot be read or written. What was written is removed after any error.
    """
    with ExitStack() as undo:
        copies = []
        for record in manifest.files:
            copies.append(recorded_file.copy_file(folder, record, to))
            undo.callback(_remove, to / record.name)
        _sync(to)
        undo.pop_all()
    columns, *graph = copies
    return replace(manifest, columns=columns, graph=graph[0] if graph else None)


def remove_strays(folder: Path, keep: Manifest | None) -> list[str]:
    """Remove the files of all snapshots but one, and what interrupted writing left.

    Who has them mapped keeps them. Only the writer may call this, and not while it writes a
    snapshot.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    keep : Manifest or None
        The published manifest.

    Returns
    -------
    list of str
        The names that were removed, in order.

    Raises
    ------
    StoreError
        If the folder cannot be written to.
    """
    kept = {record.name for record in keep.files} if keep is not None else set()
    try:
        strays = sorted(
            name
            for name in set(os.listdir(folder)) - kept
            if is_snapshot_file(name.removesuffix(UNFINISHED))
        )
        for name in strays:
            os.unlink(folder / name)
    except OSError as error:
        raise layout.translate(error, folder, "to remove old snapshots") from error
    return strays


def _open(
    folder: Path, manifest: Manifest, settings: Mapping[str, bytes], *, check_links: bool
) -> View:
    for record in manifest.files:
        recorded_file.check_size(folder, record)
    path = folder / manifest.columns.name
    columns = map_columns(path, manifest.generation)
    base = None
    if manifest.graph is not None:
        if "keys" not in columns:
            raise StoreCorruptError(f"{path}: expected a column of keys, got {list(columns)}")
        base = HnswBase.read(folder / manifest.graph.name, columns["keys"], check_links=check_links)
        if base.size != manifest.graph_size:
            raise StoreCorruptError(
                f"{folder / manifest.graph.name}: expected a graph over {manifest.graph_size} "
                f"slots, got {base.size}"
            )
    return View.of_columns(columns, manifest.generation, settings, base)


def _graph_of(folder: Path, earlier: Manifest | None, base: HnswBase) -> FileRecord | None:
    """Return the graph file of an earlier snapshot if it lies in this folder."""
    graph = earlier.graph if earlier is not None and earlier.graph_size == base.size else None
    if graph is not None and recorded_file.is_as_recorded(folder, graph):
        return graph
    return None


def _sync(folder: Path) -> None:
    try:
        layout.sync_folder(folder)
    except OSError as error:
        raise layout.translate(error, folder, "to make its names durable") from error


def _remove(path: Path) -> None:
    with suppress(OSError):  # another error is being told; the next writer removes it
        os.unlink(path)
