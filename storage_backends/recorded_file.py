"""Files that are written once, appear whole, and are known again by size, time and hash.

A file gets its name only when all of it is on the disk, and is never written to again, so that it
may be mapped: to shorten or overwrite a mapped file would end the processes that map it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from storage_backends import layout
from storage_backends.errors import StoreCorruptError

#: Takes the next bytes of a file.
Put = Callable[[bytes | memoryview], object]

#: Ends the name of a file that is still being written.
UNFINISHED = ".new"

_CHUNK = 1 << 20
#: So much is written before the disk is waited for, or a commit beside it would wait for it all.
_SYNCED_AT_ONCE = 1 << 25


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """The caller's ``stop`` was set while a file was being written."""


@dataclass(frozen=True)
class FileRecord:
    """What a file was when it was written.

    Parameters
    ----------
    name : str
        Name in its folder.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, Unix nanoseconds.
    sha256 : str
        Hash of the content, 64 hexadecimal digits.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str


def write_file(
    path: Path, produce: Callable[[Put], object], stop: threading.Event | None = None
) -> FileRecord:
    """Write a file durably under a temporary name, then give it its own.

    The new name itself is durable once the folder has been synced.

    Parameters
    ----------
    path : Path
        A file that is there is replaced.
    produce : callable
        Called with a function that takes the content, piece by piece.
    stop : threading.Event, optional
        Once it is set, the next piece is refused.

    Raises
    ------
    Stopped
        If ``stop`` was set before the end. Nothing is left behind.
    StoreFullError
        If there is no room. Nothing is left behind.
    """
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        try:
            with open(temporary, "wb", buffering=0) as file:
                content = _Content(file.fileno(), stop)
                produce(content.put)
                layout.resemble(temporary, path.with_name(layout.DATA))
                os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise layout.translate(error, path, "to write it") from error
    return FileRecord(path.name, status.st_size, status.st_mtime_ns, content.sha256)


class _Content:
    """What is written to one file, and its hash."""

    def __init__(self, descriptor: int, stop: threading.Event | None) -> None:
        self._descriptor = descriptor
        self._stop = stop
        self._hash = hashlib.sha256()
        self._unsynced = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def put(self, piece: bytes | memoryview) -> None:
        rest = memoryview(piece)
        for begin in range(0, len(rest), _CHUNK):
            if self._stop is not None and self._stop.is_set():
                raise Stopped
            self._write(rest[begin : begin + _CHUNK])

    def _write(self, chunk: memoryview) -> None:
        self._hash.update(chunk)
        self._unsynced += len(chunk)
        while chunk:
            chunk = chunk[os.write(self._descriptor, chunk) :]
        if self._unsynced >= _SYNCED_AT_ONCE:
            os.fsync(self._descriptor)
            self._unsynced = 0


def record_of(path: Path) -> FileRecord:
    """Read a file that is finished, and return what it is.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    content = hashlib.sha256()
    for chunk in _chunks(path):
        content.update(chunk)
    status = os.stat(path)
    return FileRecord(path.name, status.st_size, status.st_mtime_ns, content.hexdigest())


def is_as_recorded(folder: Path, record: FileRecord) -> bool:
    """Return whether the size and the time of a file are those recorded."""
    try:
        status = os.stat(folder / record.name)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns)


def check_size(folder: Path, record: FileRecord) -> None:
    """Compare the size of a file with its record, as must be done before it is mapped.

    Raises
    ------
    StoreCorruptError
        If it is another one.
    StoreError
        If the file is gone.
    """
    path = folder / record.name
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise layout.translate(error, path, "to examine it") from error
    if size != record.size:
        raise StoreCorruptError(f"{path}: expected {record.size} bytes, got {size}")


def restamped(folder: Path, record: FileRecord) -> FileRecord:
    """Return the record with the present time of the file, whose content was just examined."""
    path = folder / record.name
    try:
        return replace(record, mtime_ns=os.stat(path).st_mtime_ns)
    except OSError as error:
        raise layout.translate(error, path, "to examine it") from error


def check_content(folder: Path, record: FileRecord, done: Callable[[int], object]) -> None:
    """Read a file and compare it with its record.

    Parameters
    ----------
    done : callable
        Told how many bytes were read since the last call. What it raises ends the reading.

    Raises
    ------
    StoreCorruptError
        If the content is another one.
    StoreError
        If the file cannot be read.
    """
    check_size(folder, record)
    path = folder / record.name
    content = hashlib.sha256()
    for chunk in _chunks(path):
        content.update(chunk)
        done(len(chunk))
    _check_hash(path, record, content.hexdigest())


def copy_file(folder: Path, record: FileRecord, to: Path) -> FileRecord:
    """Copy a file durably into another folder, comparing it with its record on the way.

    The copy shares no block with the original, so that no later damage can hit both.

    Raises
    ------
    StoreCorruptError
        If the content is another one than recorded; there is no copy then.
    """

    def produce(put: Put) -> None:
        for chunk in _chunks(folder / record.name):
            put(chunk)

    copy = write_file(to / record.name, produce)
    try:
        _check_hash(folder / record.name, record, copy.sha256)
    except StoreCorruptError:
        os.unlink(to / record.name)
        raise
    return copy


def _chunks(path: Path) -> Iterator[memoryview]:
    """Yield the content of a file; each piece is valid until the next."""
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise layout.translate(error, path, "to read it") from error


def _check_hash(path: Path, record: FileRecord, sha256: str) -> None:
    if sha256 != record.sha256:
        raise StoreCorruptError(f"{path}: expected sha256 {record.sha256}, got {sha256}")
