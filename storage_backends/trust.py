"""Whether a data file may be used as it is found, or must be examined first.

LMDB maps its file and believes what is in it: damage ends in a signal or in wrong answers. To
examine a file takes seconds, so ``STAMP`` beside it says how the last commit left it. A file of
the stamped size and time is used at once. Another one was copied, restored or damaged, or its
last writer was killed, or the power failed, and its pages are examined before LMDB maps it.

While a writer commits, file and stamp differ for a moment. So a live writer, whose lock is held,
vouches for its file, but not before it has examined it itself: until then the stamp says so.

The stamp is not synced. After a power cut it may be older than the file, which only costs an
examination.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

import lmdb.verify as lmdb_verify

from storage_backends import layout, locks
from storage_backends.errors import StoreCorruptError


class Stamp(NamedTuple):
    """How a commit left the data file.

    Parameters
    ----------
    size, mtime_ns : int
        Size and time of the file; both 0 while a writer examines it.
    generation : int
        The generation that it holds.
    durable : bool
        Whether that survives a power cut.
    """

    size: int
    mtime_ns: int
    generation: int
    durable: bool


def is_as_stamped(folder: Path) -> bool:
    """Return whether the data file in a folder has the size and time that its stamp says."""
    stamp = read_stamp(folder)
    return stamp is not None and stamp[:2] == _state_of(folder)


def write_stamp(folder: Path, generation: int, *, durable: bool) -> None:
    """Record that the data file in a folder is as the commit of a generation left it.

    Where that is not possible, the next one to open the file examines it.
    """
    with contextlib.suppress(OSError):
        _write(folder, Stamp(*_state_of(folder), generation, durable))


def require_sound_pages(folder: Path, *, writing: bool) -> bool:
    """Examine the pages of a data file, if it is not as stamped and no live writer vouches.

    The file must not be open for writing in this process.

    Parameters
    ----------
    folder : Path
        Folder of the file.
    writing : bool
        Whether the caller holds the writer's lock.

    Returns
    -------
    bool
        Whether the file was examined.

    Raises
    ------
    StoreCorruptError
        If something is wrong with it.
    StoreSchemaError
        If it is of another LMDB format.
    """
    # A writer that closed meanwhile has stamped it: hence the second look.
    while not (
        is_as_stamped(folder)
        or (not writing and (_is_vouched_for(folder) or is_as_stamped(folder)))
    ):
        if writing:
            _disown(folder)
        before = _state_of(folder)
        problem = _find_problem(folder / layout.DATA)
        if problem is None:
            return True
        # What was read while another process began to write is no evidence.
        if writing or (_state_of(folder) == before and not _is_vouched_for(folder)):
            raise StoreCorruptError(problem)
    return False


def require_commits(folder: Path, stamp: Stamp | None, generation: int) -> None:
    """Check that an examined file has the commits that its stamp said it has.

    LMDB takes the newest of two meta pages. Damage can make it take the other one, which shows
    an earlier state without a fault in it.

    Parameters
    ----------
    folder : Path
        Folder of the file.
    stamp : Stamp, optional
        Read before the generation was: a writer may be at work.
    generation : int
        The generation that the file holds.

    Raises
    ------
    StoreCorruptError
        If the file holds an earlier generation than the one stamped, though that was durable.
    """
    if stamp is not None and stamp.durable and generation < stamp.generation:
        raise StoreCorruptError(
            f"{folder / layout.DATA}: expected generation {stamp.generation} or a later one, got "
            f"{generation}: the last commits are lost, or an older file was put in its place (to "
            f"use it all the same, delete {layout.STAMP} beside it)"
        )


def _find_problem(path: Path) -> str | None:
    layout.newest_meta(path)
    try:
        problems = lmdb_verify.verify(os.fspath(path))  # type: ignore[no-untyped-call]
    except (lmdb_verify.VerifyError, struct.error) as error:  # it stops where a page is cut off
        problems = [str(error)]
    return f"{path}: expected sound pages, got damage: {problems[0]}" if problems else None


def _is_vouched_for(folder: Path) -> bool:
    stamp = read_stamp(folder)
    if stamp is None or not stamp.size:
        return False
    return locks.holder_elsewhere(folder.parent / layout.WRITER_LOCK) is not None


def _disown(folder: Path) -> None:
    stamp = read_stamp(folder)
    if stamp is not None:
        with contextlib.suppress(OSError):
            _write(folder, stamp._replace(size=0, mtime_ns=0))


def _state_of(folder: Path) -> tuple[int, int]:
    status = os.stat(folder / layout.DATA)
    return status.st_size, status.st_mtime_ns


def read_stamp(folder: Path) -> Stamp | None:
    """Return the stamp in a folder, None where there is none, or it cannot be read."""
    try:
        size, time, generation, durable = (folder / layout.STAMP).read_bytes().split()
        return Stamp(int(size), int(time), int(generation), durable == b"full")
    except (OSError, ValueError):
        return None


def _write(folder: Path, stamp: Stamp) -> None:
    # One write of always the same length, so that no reader finds a part of it.
    word = "full" if stamp.durable else "normal"
    line = f"{stamp.size:020} {stamp.mtime_ns:020} {stamp.generation:020} {word:6}\n"
    descriptor = os.open(folder / layout.STAMP, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        os.write(descriptor, line.encode("ascii"))
    finally:
        os.close(descriptor)
