"""Reads a pack that may come from anybody."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aesg._seam import storage_errors
from aesg.errors import AESGStorageError
from aesg.packs import version1
from aesg.packs.blocks import LENGTH, MOST_GROWTH, Decoder, most_frame, padding_of, rows_in_block
from aesg.packs.columns import COLUMNS, is_one_row
from aesg.packs.head import (
    HEADER_BYTES,
    MOST_HEAD,
    TRAILER_BYTES,
    ColumnHead,
    Head,
    Header,
    decode_head,
    decode_header,
    name_after,
    version_of,
)
from aesg.packs.pack import Columns, Pack, Provenance
from aesg.packs.signature import checked_signer
from aesg.packs.validation import validate
from storage_backends.errors import StoreCorruptError, StoreError, StoreFullError
from storage_backends.progress import Progress, silent

#: Gives an array that a column is read into: takes its name, type and shape.
Allocate: TypeAlias = Callable[[str, np.dtype[Any], tuple[int, ...]], NDArray[Any]]

#: Gives the columns of a pack whose hash is right. Takes its head, and what decodes and validates
#: them, into arrays of the caller's choice.
Hold: TypeAlias = Callable[[Head, Callable[[Allocate], Columns]], Columns]

_CHUNK = 1 << 20
_COMPARING = "comparing the pack with its hash"
_READING = "reading the pack"


def read_head(path: str | os.PathLike[str]) -> Head:
    """Read what a pack says of itself, which nothing else confirms: no hash is compared.

    One of version 1 says only how large it is.

    Raises
    ------
    AESGStorageError
        If the file cannot be read, or is no pack.
    """
    with reading(path), _opened(path) as file:
        if version_of(file.read(HEADER_BYTES)) == version1.VERSION:
            return _head_of_version1(file)
        header = _read_header(file)
        return _read_head(_Body(file, header), header)


def read_pack(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    vector_dim: int | None = None,
    public_key: bytes | None = None,
    hold: Hold | None = None,
    progress: Progress = silent,
) -> Pack:
    """Read a pack of either version; all of it is compared with its hash before it is decoded.

    Parameters
    ----------
    path : str or path
    name : str, optional
        Another one than that in the file, or than the file's own where there is none in it.
    vector_dim : int, optional
        The width that it must have.
    public_key : bytes, optional
        The key that must have signed it, 32 bytes.
    hold : callable, optional
        Gives the columns, as `Hold` says: decoded into arrays that it gives, or by now at hand.
        By default they are decoded into memory of this process. Packs of version 1 always are.
    progress : callable
        Told of each step.

    Raises
    ------
    AESGStorageError
        ``Failed to read pack file '<path>': expected ..., got ...``: if the file cannot be read,
        is no pack, is damaged, is not signed as it must be, or has another width.
    """
    with reading(path), _opened(path) as file:
        given = Path(os.fsdecode(path))
        if version_of(file.read(HEADER_BYTES)) == version1.VERSION:
            if public_key is not None:
                raise StoreError("expected a signed pack, got one of version 1, which has none")
            return version1.read_version1(
                given, name=name or name_after(given), vector_dim=vector_dim, progress=progress
            )
        header = _read_header(file)
        signer = _signer(file, header, public_key)
        _compare_hash(file, header, progress)
        head = _read_head(_Body(file, header), header)
        if vector_dim not in (None, head.vector_dim):
            raise StoreCorruptError(f"expected vector_dim {vector_dim}, got {head.vector_dim}")

        def decode(allocate: Allocate) -> Columns:
            return _read_columns(file, header, allocate, progress)

        columns = (hold or in_memory)(head, decode)
        return Pack(
            name=name or head.name or name_after(given),
            vector_dim=head.vector_dim,
            columns=_long(columns, head),
            provenance=head.provenance,
            digest=head.digest,
            path=given,
            version=head.version,
            signer=signer,
        )


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Translate what goes wrong with a file into errors that name it.

    Raises
    ------
    AESGStorageError
    """
    try:
        named = os.fsdecode(path)
    except (TypeError, UnicodeError) as error:
        raise AESGStorageError(
            f"Failed to read pack file {path!r:.200}: expected a path of text"
        ) from error
    with storage_errors(f"read pack file '{named}'"):
        try:
            yield
        except MemoryError as error:
            raise StoreCorruptError("expected a pack that fits into memory") from error


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        # A pipe would keep the caller waiting for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise StoreCorruptError(f"expected the path of a file ({error})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreCorruptError("expected a regular file, got something else")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    if len(content) < size:
        raise StoreCorruptError(f"expected {size} bytes more, got {len(content)}")
    return content


class _Body:
    """The body of a file, taken piece by piece from its start and hashed on the way."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        file.seek(HEADER_BYTES)
        self._file = file
        self._header = header
        self._hash = hashlib.sha256()
        self.rest = header.body_bytes

    def take(self, size: int) -> bytes:
        if size > self.rest:
            raise StoreCorruptError(f"expected {size} bytes more in the body, got {self.rest}")
        content = _exactly(self._file, size)
        self._hash.update(content)
        self.rest -= size
        return content

    def length(self) -> int:
        """Take a number that says how long something is."""
        return int(LENGTH.unpack(self.take(LENGTH.size))[0])

    def finish(self) -> None:
        """Check that all was taken, and that it is what the header says."""
        if self.rest:
            raise StoreCorruptError(f"expected the end of the body, got {self.rest} bytes more")
        if self._hash.digest() != self._header.sha256:
            expected = self._header.sha256.hex()
            raise StoreCorruptError(f"expected SHA-256 {expected}, got {self._hash.hexdigest()}")


def _read_header(file: BinaryIO) -> Header:
    file.seek(0)
    header = decode_header(file.read(HEADER_BYTES))
    size = os.fstat(file.fileno()).st_size
    if header.file_bytes != size:
        raise StoreCorruptError(f"expected a file of {header.file_bytes} bytes, got {size}")
    return header


def _head_of_version1(file: BinaryIO) -> Head:
    file.seek(0)
    header = version1.read_header(file)
    return Head(
        name="",
        vector_dim=header.vector_dim,
        concepts=header.node_count,
        edges=header.edge_count,
        payload_bytes=0,
        provenance=Provenance("", 0, 0, version1.LIBRARY),
        columns=(),
        version=version1.VERSION,
        digest=header.digest.hex(),
        file_bytes=header.file_size,
    )


def _compare_hash(file: BinaryIO, header: Header, progress: Progress) -> None:
    body, size = _Body(file, header), header.body_bytes
    while body.rest:
        body.take(min(body.rest, _CHUNK))
        progress(_COMPARING, size - body.rest, size)
    body.finish()


def _read_head(body: _Body, header: Header) -> Head:
    length = body.length()
    if length > MOST_HEAD:
        raise StoreCorruptError(f"expected a head of at most {MOST_HEAD} bytes, got {length}")
    head = decode_head(body.take(length))
    most = MOST_GROWTH * header.body_bytes
    if head.nbytes > most:
        raise StoreCorruptError(f"expected columns of at most {most} bytes, got {head.nbytes}")
    return replace(
        head,
        digest=header.sha256.hex(),
        file_bytes=header.file_bytes,
        is_signed=header.is_signed,
    )


def _read_columns(
    file: BinaryIO, header: Header, allocate: Allocate, progress: Progress
) -> Columns:
    """Decode all columns, and check that they are sound."""
    # The file is read again, and may have been changed since: it is compared with its hash again.
    body = _Body(file, header)
    head = _read_head(body, header)
    decoder, columns, done = Decoder(), {}, 0
    for column in head.columns:
        kind = COLUMNS[column.name]
        shape = (column.rows, column.width) if kind.wide else (column.rows,)
        rows = allocate(column.name, kind.dtype, shape)
        for block in _blocks(rows, column):
            decoder.decode(_frame(body, block.nbytes), block, kind.coding)
            done += block.nbytes
            progress(_READING, done, head.nbytes)
        if kind.short and column.rows > 1 and is_one_row(rows):
            raise StoreCorruptError(
                f"column '{column.name}': expected one row that stands for all, "
                f"got {column.rows} equal ones"
            )
        columns[column.name] = rows
    body.finish()
    validate(columns, head.vector_dim)
    return columns


def _blocks(rows: NDArray[Any], column: ColumnHead) -> Iterator[NDArray[Any]]:
    step = rows_in_block(column.row_bytes)
    return (rows[begin : begin + step] for begin in range(0, column.rows, step))


def _frame(body: _Body, raw_bytes: int) -> bytes:
    length = body.length()
    if length > most_frame(raw_bytes):
        raise StoreCorruptError(f"expected a block of {raw_bytes} bytes, got {length} for it")
    frame = body.take(length)
    if body.take(padding_of(length, raw_bytes)).strip(b"\0"):
        raise StoreCorruptError("expected zeros behind a short block, got others")
    return frame


def in_memory(head: Head, decode: Callable[[Allocate], Columns]) -> Columns:
    """Refuse what no memory of this machine could hold, before the system ends the process."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if head.nbytes > physical:
        raise StoreFullError(f"expected columns of at most {physical} bytes, got {head.nbytes}")
    return decode(lambda name, dtype, shape: np.empty(shape, dtype))


def _long(columns: Columns, head: Head) -> Columns:
    """Return as many rows as there are concepts or edges; none can be written to."""
    sizes = head.sizes
    return {
        name: np.broadcast_to(rows, (sizes[COLUMNS[name].per], *rows.shape[1:]))
        for name, rows in columns.items()
    }


def _signer(file: BinaryIO, header: Header, public_key: bytes | None) -> bytes | None:
    """Return the key that signed the file, if any, once its signature was checked."""
    trailer = None
    if header.is_signed:
        file.seek(HEADER_BYTES + header.body_bytes)
        trailer = _exactly(file, TRAILER_BYTES)
    return checked_signer(header.encode(), trailer, public_key)
