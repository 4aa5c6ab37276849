"""Writes a pack, part by part, so that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from aesg._seam import storage_errors
from aesg.packs.blocks import LENGTH, Encoder, rows_in_block
from aesg.packs.columns import (
    COLUMNS,
    Kind,
    Rows,
    is_one_row,
    part_of,
    require_shapes,
    sizes_of,
)
from aesg.packs.head import HEADER_BYTES, MAGIC, ColumnHead, Head, Header, checked
from aesg.packs.pack import Provenance
from aesg.packs.validation import check_part
from storage_backends.errors import StoreUsageError
from storage_backends.layout import resemble, sync_folder
from storage_backends.progress import Progress, silent

#: So much is written before the disk is waited for, or a commit beside it would wait for it all.
_SYNCED_AT_ONCE = 1 << 25

_STEP = "writing the pack"


def write_pack(
    path: str | os.PathLike[str],
    columns: Mapping[str, Rows],
    *,
    name: str | None = None,
    vector_dim: int,
    provenance: Provenance,
    progress: Progress = silent,
) -> None:
    """Write a pack durably; the same content gives the same bytes.

    The columns are taken in parts and none is held whole.

    Parameters
    ----------
    path : str or path
        A pack that is there is replaced, by one that is whole, or stays. A link is followed. A
        folder that is missing is made.
    columns : mapping of name to rows
        Those of ``docs/pack-format.md``, of which each may have one row that stands for all.
    name : str, optional
        Written into the pack; None for one that is named after its file.
    vector_dim : int
        Width D of keys and vector values.
    provenance : Provenance
    progress : callable
        Told how many bytes of the columns are written.

    Raises
    ------
    AESGStorageError
        If the columns are not those of a pack, the file cannot be written, or there is one that
        is no pack. Nothing is left behind.
    """
    with storage_errors(f"write pack file '{os.fsdecode(path)}'"):
        require_shapes(columns, vector_dim)
        columns = {name: columns[name] for name in COLUMNS if name in columns}
        columns = {name: _short(rows, COLUMNS[name]) for name, rows in columns.items()}
        head = checked(_head_of(columns, name or "", vector_dim, provenance))
        with appearing(target_of(path)) as descriptor:
            _File(descriptor, head, progress).write(columns)


def _head_of(
    columns: Mapping[str, Rows], name: str, vector_dim: int, provenance: Provenance
) -> Head:
    sizes = sizes_of(columns)
    described = [
        ColumnHead(
            name=column,
            dtype=rows.dtype.name,
            rows=rows.shape[0],
            width=vector_dim if COLUMNS[column].wide else 1,
            coding=COLUMNS[column].coding,
        )
        for column, rows in columns.items()
    ]
    return Head(
        name, vector_dim, sizes["concept"], sizes["edge"], sizes["byte"], provenance, described
    )


def _short(rows: Rows, kind: Kind) -> Rows:
    """Return one row instead of many that are all the same."""
    if kind.short and rows.shape[0] > 1 and is_one_row(rows):
        return np.array(part_of(rows, 0, 1))
    return rows


class _File:
    """A pack that is being written."""

    def __init__(self, descriptor: int, head: Head, progress: Progress) -> None:
        self._descriptor = descriptor
        self._head = head
        self._progress = progress
        self._hash = hashlib.sha256()
        self._written = 0
        self._unsynced = 0

    def write(self, columns: Mapping[str, Rows]) -> None:
        self._put(bytes(HEADER_BYTES))  # its place: what it says is known at the end
        self._hash, self._written = hashlib.sha256(), 0
        packed = self._head.encode()
        self._put(LENGTH.pack(len(packed)) + packed)
        encoder, done = Encoder(), 0
        for column in self._head.columns:
            step = rows_in_block(column.row_bytes)
            for begin in range(0, column.rows, step):
                end = min(begin + step, column.rows)
                rows = part_of(columns[column.name], begin, end)
                check_part(column.name, rows, begin)
                self._put(encoder.encode(rows, COLUMNS[column.name].coding))
                done += (end - begin) * column.row_bytes
                self._progress(_STEP, done, self._head.nbytes)
        header = Header(0, self._written, self._hash.digest()).encode()
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, header)
        os.fsync(self._descriptor)

    def _put(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._written += len(piece)
        self._unsynced += len(piece)
        write_all(self._descriptor, piece)
        if self._unsynced >= _SYNCED_AT_ONCE:
            os.fsync(self._descriptor)
            self._unsynced = 0


def write_all(descriptor: int, piece: bytes) -> None:
    """Write all of a piece, however many calls that takes."""
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def appearing(target: Path) -> Iterator[int]:
    """Give the descriptor of a file that takes the place of ``target`` once the block is through.

    The block has to sync it. If it raises, nothing is left and what was there stays.
    """
    temporary = target.with_name(f".aesg-{secrets.token_hex(8)}")  # nobody else has a file of it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        resemble(temporary, target)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == os.fspath(temporary):
            error.filename = os.fspath(target)  # the name that the caller knows
        raise
    sync_folder(target.parent)


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to, if a pack may be written there.

    Raises
    ------
    StoreUsageError
        If there is something else than a pack, or the path is one of a folder.
    """
    if not os.path.basename(os.fsdecode(path)):
        raise StoreUsageError("expected the path of a file, got one of a folder")
    try:
        target = Path(os.path.realpath(os.fsdecode(path)))
        target.parent.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise StoreUsageError(f"expected the path of a file ({error})") from error
    if target.is_file():
        # A slip of the hand must not cost a file that is something else.
        with open(target, "rb") as file:
            start = file.read(len(MAGIC))
        if start not in (MAGIC, b""):
            raise StoreUsageError(f"expected no file or a pack to replace, got {start!r}...")
    elif target.exists():
        raise StoreUsageError("expected the path of a file, got something else")
    return target
