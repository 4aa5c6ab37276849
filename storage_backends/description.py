"""What a memory directory holds, how large it is, and who uses it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from storage_backends import codec, kept_packs, layout, locks, trust
from storage_backends.errors import StoreCorruptError
from storage_backends.folders import environment_of, files_of, in_place, used_bytes
from storage_backends.lmdb_read import (
    count_regions,
    read_event_times,
    read_manifest,
    read_settings,
    read_shortterm,
    read_stats,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.manifest import Manifest
from storage_backends.opening import Tables, Transaction
from storage_backends.types import StoreStats


@dataclass(frozen=True)
class Pages:
    """How the data file is used.

    Parameters
    ----------
    size : int
        Bytes of a page.
    total, free : int
        Pages of the file, and those of them that hold nothing: later commits use them, and
        compaction gives them back.
    """

    size: int
    total: int
    free: int


@dataclass(frozen=True)
class SnapshotDescription:
    """The snapshot that an open starts from.

    Parameters
    ----------
    number, generation : int
        Its number, and the generation that it shows.
    behind : int
        Generations since, which an open replays from the log.
    graph_size : int
        Concepts in its seed graph; 0 where it has none.
    bytes : int
        Size of its files.
    age_seconds : float
        Time since it was written.
    """

    number: int
    generation: int
    behind: int
    graph_size: int
    bytes: int
    age_seconds: float


@dataclass(frozen=True)
class Reader:
    """A process that reads the memory.

    Parameters
    ----------
    pid : int
    transaction : int or None
        The transaction that it is reading at this moment, whose pages cannot be used again until
        it is done; None where it is between two.
    """

    pid: int
    transaction: int | None


@dataclass(frozen=True)
class PackDescription:
    """A pack that the memory keeps.

    Parameters
    ----------
    name : str
        By which it is attached.
    priority : int
        From 0 to 100.
    file : str
        Path of its file in the directory.
    bytes : int or None
        Size of the file; None where it is missing.
    """

    name: str
    priority: int
    file: str
    bytes: int | None


@dataclass(frozen=True)
class Description:
    """What `describe` found.

    Parameters
    ----------
    directory, folder, uuid : str
        The memory, the folder in use in it, and its identity.
    schema : int
        Number of the record layouts.
    sizes : StoreStats
        Numbers of records, and the generation.
    vector_dim : int
        Width of the keys; 0 where there is none yet.
    settings : mapping of str to str
        What the memory has stored of its parameters and counters.
    regions : int
        Regions that at least one concept belongs to.
    event_times : tuple of int, or None
        When the oldest and the newest event of the log were, in Unix seconds; None for no events.
    provisional : int
        Provisional concepts in the short-term memory, as it was last saved.
    total_bytes : int
        Bytes on disk of all files.
    files : mapping of str to int
        Bytes on disk of each file, by its path in the directory.
    pages : Pages
    snapshot : SnapshotDescription or None
    packs : tuple of PackDescription
        Those that it keeps.
    durability : str
        How the last commit was made: "full" if it survives a power cut, "normal" if that is sure
        only since its writer closed, and "unknown" where nothing tells.
    writer : str or None
        Who has the memory open for writing.
    readers : tuple of Reader
        Processes that have it open for reading, other than this one.
    """

    directory: str
    folder: str
    uuid: str
    schema: int
    sizes: StoreStats
    vector_dim: int
    settings: Mapping[str, str]
    regions: int
    event_times: tuple[int, int] | None
    provisional: int
    total_bytes: int
    files: Mapping[str, int]
    pages: Pages
    snapshot: SnapshotDescription | None
    packs: tuple[PackDescription, ...]
    durability: str
    writer: str | None
    readers: tuple[Reader, ...]


class _Shape(NamedTuple):
    """What one transaction sees: between two a writer may commit."""

    sizes: StoreStats
    manifest: tuple[int, bytes] | None
    shortterm: Mapping[str, bytes]
    regions: int
    event_times: tuple[int, int] | None
    width: int
    settings: Mapping[str, bytes]
    page_size: int
    used_bytes: int


def describe(directory: str | os.PathLike[str]) -> Description:
    """Describe a memory without changing it; its writer may be at work.

    Raises
    ------
    StoreError
        If the path is not a memory of this release, or cannot be read.
    """
    path = Path(os.path.realpath(directory))
    return in_place(path, lambda: _describe(path))


def _describe(directory: Path) -> Description:
    with closing(LMDBStore.open(directory, read_only=True, create=False)) as store:
        with environment_of(store.folder) as env:
            size = env.size()
            shape = env.read(lambda txn, tables: _read_shape(txn, tables, size))
            readers = tuple(_readers_of(store.folder, env.readers()))
        sizes, files = shape.sizes, dict(files_of(store.directory))
        total = sizes.file_bytes // shape.page_size
        return Description(
            directory=str(store.directory),
            folder=store.folder.name,
            uuid=store.uuid,
            schema=codec.SCHEMA_VERSION,
            sizes=sizes,
            vector_dim=shape.width,
            settings={name: _text(value) for name, value in shape.settings.items()},
            regions=shape.regions,
            event_times=shape.event_times,
            provisional=_count_provisional(shape),
            total_bytes=sum(files.values()),
            files=files,
            pages=Pages(shape.page_size, total, total - shape.used_bytes // shape.page_size),
            snapshot=_describe_snapshot(shape),
            packs=tuple(_packs_of(store.directory, shape.settings)),
            durability=_durability(store.folder),
            writer=locks.writer_of(store.directory / layout.WRITER_LOCK),
            readers=readers,
        )


def _read_shape(transaction: Transaction, tables: Tables, file_bytes: int) -> _Shape:
    cursor = transaction.cursor(db=tables.key)
    return _Shape(
        sizes=read_stats(transaction, tables, file_bytes),
        manifest=read_manifest(transaction, tables),
        shortterm=read_shortterm(transaction, tables),
        regions=count_regions(transaction, tables),
        event_times=read_event_times(transaction, tables),
        width=codec.width_of(cursor.value()) if cursor.first() else 0,
        settings=read_settings(transaction, tables),
        page_size=transaction.stat(tables.sys)["psize"],
        used_bytes=used_bytes(transaction, tables),
    )


def _durability(folder: Path) -> str:
    stamp = trust.read_stamp(folder)
    if stamp is None or not stamp.size:
        return "unknown"
    return "full" if stamp.durable else "normal"


def _count_provisional(shape: _Shape) -> int:
    """Return how many keys there are, of the width of the memory or, before any, of its config."""
    width = shape.width
    with suppress(ValueError, KeyError, TypeError):
        width = width or int(json.loads(shape.settings["config"])["vector_dim"])
    return len(shape.shortterm.get("keys", b"")) // (4 * width) if width > 0 else 0


def _describe_snapshot(shape: _Shape) -> SnapshotDescription | None:
    newest = shape.manifest
    if newest is None:
        return None
    try:
        manifest = Manifest.decode(newest[1])
    except StoreCorruptError:
        return None  # no open uses it either; `verify` says so
    return SnapshotDescription(
        number=newest[0],
        generation=manifest.generation,
        behind=shape.sizes.generation - manifest.generation,
        graph_size=manifest.graph_size,
        bytes=sum(file.size for file in manifest.files),
        age_seconds=max(0.0, time.time() - manifest.columns.mtime_ns / 1e9),
    )


def _packs_of(directory: Path, settings: Mapping[str, bytes]) -> Iterator[PackDescription]:
    with suppress(StoreCorruptError):  # which `verify` tells
        for pack in kept_packs.decode(settings):
            path = kept_packs.path_of(directory, pack)
            size = path.stat().st_size if path.is_file() else None
            file = str(path.relative_to(directory))
            yield PackDescription(pack.name, pack.priority, file, size)


def _readers_of(folder: Path, table: str) -> Iterator[Reader]:
    """Yield who has the memory open, other than this process and the writer.

    LMDB's table has a line for each transaction that reads: process, thread, transaction. That a
    process has the file open between two transactions shows in the locks that it holds.
    """
    reading: dict[int, list[int]] = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0].isdigit():
            numbers = [int(fields[2])] if fields[2].isdigit() else []
            reading.setdefault(int(fields[0]), []).extend(numbers)
    writers = _holders_of(folder.parent / layout.WRITER_LOCK)
    others = reading.keys() | _holders_of(folder / layout.LOCK)
    for pid in sorted(others - writers - {os.getpid()}):
        yield Reader(pid, min(reading.get(pid, ()), default=None))


def _holders_of(path: Path) -> set[int]:
    """Return the processes that hold a record lock on a file, as far as Linux tells."""
    try:
        lines, status = Path("/proc/locks").read_text().splitlines(), path.stat()
    except OSError:
        return set()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    held = [line.split() for line in lines if device in line.split()]
    return {int(fields[4]) for fields in held if fields[4].isdigit() and int(fields[4])}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
