"""The file that holds the columns of one view, made to be mapped.

One page of header, then the columns one after another, each from the start of a page. All numbers
are little-endian. ``docs/snapshot-format.md`` gives every byte.

A mapped column takes no memory of the process: the page cache holds it, once for all processes.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storage_backends import layout
from storage_backends.errors import StoreCorruptError
from storage_backends.flat_columns import Arrays, Rows
from storage_backends.recorded_file import UNFINISHED, FileRecord, Put, record_of

PAGE = 4096
MAGIC = b"AESGCOLS"
VERSION = 2

_HEAD = struct.Struct("<8sIIQQ")  # magic, version, number of columns, generation, size of the file
_ENTRY = struct.Struct("<24s8sQQQQ")  # name, type, dimensions, rows, width, offset
_HASH_BYTES = 32
_MOST_COLUMNS = (PAGE - _HEAD.size - _HASH_BYTES) // _ENTRY.size
_CHUNK = 1 << 20

#: The types that a column may have, by their names in the file.
_TYPES: Mapping[str, np.dtype[Any]] = {
    "bool": np.dtype("?"),
    "uint8": np.dtype("u1"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
}

#: Type and shape of a column.
Shape: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]

_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def put_columns(put: Put, columns: Mapping[str, Rows], generation: int) -> None:
    """Write the content of a columns file, piece by piece, without copying a column.

    Parameters
    ----------
    put : callable
        Takes the next bytes.
    columns : mapping of name to (N,) or (N, D) rows
        At most 63, with names of 1 to 24 ASCII characters, of bool, uint8, uint32, uint64, int64
        or float32.
    generation : int
        The commit that the columns show.
    """
    entries = _placed((name, column.dtype, column.shape) for name, column in columns.items())
    put(_encode_header(entries, generation))
    for entry in entries:
        for piece in _pieces(columns[entry.name]):
            put(piece)
        put(bytes(-entry.size % PAGE))


class ColumnsDraft:
    """A columns file that is filled in its place, through arrays that are mapped from it.

    It has another name until it is finished, and all its blocks from the beginning: where the disk
    is full, the first write to a mapped block that is missing would end the process.

    Parameters
    ----------
    path : Path
        What the file is to be called; one that is there is replaced.
    columns : mapping of name to (type, shape)
        As `put_columns` takes them.

    Attributes
    ----------
    arrays : mapping of name to array
        To be written to, until `finish`.

    Raises
    ------
    StoreFullError
        If there is no room.
    StoreError
        If the file cannot be made.
    """

    def __init__(self, path: Path, columns: Mapping[str, Shape]) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + UNFINISHED)
        self._entries = _placed((name, *column) for name, column in columns.items())
        try:
            self._content = self._make(_end(self._entries))
        except OSError as error:
            self.discard()
            raise layout.translate(error, path, "to make it") from error
        self.arrays: Arrays = {
            entry.name: np.ndarray(entry.shape, entry.dtype, self._content, entry.offset)
            for entry in self._entries
        }

    def finish(self, generation: int) -> FileRecord:
        """Make the file durable and give it its name, which is durable once its folder is synced.

        Parameters
        ----------
        generation : int
            The commit that the columns show.

        Raises
        ------
        StoreError
            If that fails; nothing is left behind.
        """
        self.arrays = {}
        with ExitStack() as undo:
            undo.callback(self.discard)
            try:
                self._content[:PAGE] = _encode_header(self._entries, generation)
                self._content.flush()
                layout.sync_file(self._temporary)
                record = record_of(self._temporary)
                os.replace(self._temporary, self._path)
            except OSError as error:
                raise layout.translate(error, self._path, "to write it") from error
            undo.pop_all()
        return replace(record, name=self._path.name)

    def discard(self) -> None:
        """Remove the file, unless it is finished."""
        with suppress(OSError):  # another error is being told
            os.unlink(self._temporary)

    def _make(self, size: int) -> mmap.mmap:
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._temporary, flags, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:  # macOS has none
                os.ftruncate(descriptor, size)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)


def map_columns(path: Path, generation: int) -> Arrays:
    """Map the columns of a file; none can be written to.

    Only the header is read. That the columns hold what was written, only the hash of the whole
    file can tell.

    Parameters
    ----------
    generation : int
        The commit that the columns must show.

    Raises
    ------
    StoreCorruptError
        If the file is cut short, or its header is not one that this release writes.
    StoreError
        If the file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < PAGE:
                raise StoreCorruptError(f"{path}: expected {PAGE} bytes or more, got {size}")
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise layout.translate(error, path, "to map it") from error
    try:
        entries = _decode_header(content[:PAGE], size, generation)
    except StoreCorruptError as error:
        raise StoreCorruptError(f"{path}: {error}") from error
    return {
        entry.name: np.ndarray(entry.shape, entry.dtype, content, entry.offset) for entry in entries
    }


def generation_of(path: Path) -> int:
    """Return the generation that the header of a file says, which nothing else confirms.

    Raises
    ------
    StoreCorruptError
        If the file has no header.
    StoreError
        If the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD.size)
    except OSError as error:
        raise layout.translate(error, path, "to read it") from error
    if len(head) < _HEAD.size:
        raise StoreCorruptError(f"{path}: expected {_HEAD.size} bytes or more, got {len(head)}")
    generation: int = _HEAD.unpack(head)[3]
    return generation


@dataclass(frozen=True)
class _Entry:
    """What the header says of one column."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def end(self) -> int:
        """Where the next column starts."""
        return self.offset + self.size + -self.size % PAGE

    def encode(self) -> bytes:
        rows, width = (*self.shape, 1)[:2]
        name, kind = self.name.encode("ascii"), _NAMES[self.dtype].encode("ascii")
        return _ENTRY.pack(name, kind, len(self.shape), rows, width, self.offset)


def _placed(columns: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> list[_Entry]:
    """Return the entries of columns; their places follow from their sizes."""
    entries: list[_Entry] = []
    for name, dtype, shape in columns:
        entries.append(_Entry(name, dtype, shape, _end(entries)))
    return entries


def _end(entries: Sequence[_Entry]) -> int:
    return entries[-1].end if entries else PAGE


def _encode_header(entries: Sequence[_Entry], generation: int) -> bytes:
    head = _HEAD.pack(MAGIC, VERSION, len(entries), generation, _end(entries))
    page = head + b"".join(entry.encode() for entry in entries)
    page = page.ljust(PAGE - _HASH_BYTES, b"\0")
    return page + hashlib.sha256(page).digest()


def _decode_header(page: bytes, size: int, generation: int) -> list[_Entry]:
    magic, version, count, found, _ = _HEAD.unpack_from(page)
    if (magic, version) != (MAGIC, VERSION):
        raise StoreCorruptError(
            f"expected {MAGIC!r} and version {VERSION}, got {magic!r} and version {version}"
        )
    if hashlib.sha256(page[:-_HASH_BYTES]).digest() != page[-_HASH_BYTES:]:
        raise StoreCorruptError("expected a header with its hash behind it, got another hash")
    if found != generation:
        raise StoreCorruptError(f"expected columns of generation {generation}, got {found}")
    entries = _placed(_decode_entries(page, count))
    if _end(entries) != size:
        raise StoreCorruptError(f"expected {_end(entries)} bytes of columns, got {size}")
    # The same columns have one header only, so that nothing in it is left unread.
    if _encode_header(entries, generation) != page:
        raise StoreCorruptError("expected columns one after another, got others")
    return entries


def _decode_entries(
    page: bytes, count: int
) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    if count > _MOST_COLUMNS:
        raise StoreCorruptError(f"expected at most {_MOST_COLUMNS} columns, got {count}")
    for number in range(count):
        fields = _ENTRY.unpack_from(page, _HEAD.size + number * _ENTRY.size)
        name, kind = (text.rstrip(b"\0").decode("ascii", "replace") for text in fields[:2])
        if not name.isascii() or kind not in _TYPES:
            raise StoreCorruptError(f"expected a column of a known type, got {name!r} of {kind!r}")
        dimensions, rows, width, _ = fields[2:]
        yield name, _TYPES[kind], (rows, width) if dimensions == 2 else (rows,)


def _pieces(column: Rows) -> Iterator[memoryview]:
    """Yield the bytes of a column; rows are copied only where they do not lie end to end."""
    size = len(column)
    step = max(1, _CHUNK // max(1, column.dtype.itemsize * math.prod(column.shape[1:])))
    for begin in range(0, size, step):
        end = min(begin + step, size)
        rows = column[begin:end] if isinstance(column, np.ndarray) else column.part(begin, end)
        yield np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
