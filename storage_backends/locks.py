"""The lock that keeps a memory directory to one writer.

The lock is a POSIX record lock (``fcntl.lockf``): the kernel drops it when its process dies,
however it dies, and a forked child does not inherit it, which it would with ``flock``. Two things
follow. Such locks do not hold within a process, so a set of the files locked by this process
stands beside them. And closing *any* descriptor of the file drops the lock, so a file locked by
this process is never opened again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

from storage_backends import layout
from storage_backends.errors import StoreLockedError
from storage_backends.layout import FileKey

_RETRY_SECONDS = 0.05

# The system's struct flock, and where in it the type of the lock is: of a whole file, exclusive.
if sys.platform == "darwin":
    _FLOCK, _TYPE = struct.Struct("qqihh"), 3
    _ANY_LOCK = _FLOCK.pack(0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
else:
    _FLOCK, _TYPE = struct.Struct("hhqqi0q"), 0
    _ANY_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

#: Descriptor and holder of each lock of this process, by device and inode of the file.
_held: dict[FileKey, tuple[int, str]] = {}
_guard = threading.RLock()


class WriterLock:
    """A lock that is held until `release`; made by `acquire`.

    Parameters
    ----------
    path : Path
        The locked file.
    key : (int, int)
        Its device and inode.
    """

    def __init__(self, path: Path, key: FileKey) -> None:
        self._path = path
        self._key = key
        self._pid = os.getpid()

    @classmethod
    def acquire(cls, path: Path, timeout: float = 0.0) -> WriterLock:
        """Lock the file at ``path``, which is made if it is missing.

        Parameters
        ----------
        path : Path
            The lock file; it stays when the lock is released.
        timeout : float
            Seconds to wait for another holder, 0 or more.

        Raises
        ------
        StoreLockedError
            If another handle, of this process or another, holds the lock; it names the holder.
        StoreReadOnlyError
            If the file may not be written.
        """
        deadline = time.monotonic() + timeout
        while True:
            with _guard:
                holder = _try_lock(path)
                if holder is None:
                    return cls(path, layout.key_of(path))
            if time.monotonic() >= deadline:
                raise StoreLockedError(
                    f"{path}: expected no other writer, but the memory is open for writing by "
                    f"{holder}. Close it there, or open it for reading only"
                )
            time.sleep(_RETRY_SECONDS)

    def release(self) -> None:
        """Give the lock up; a second call, or one in a forked child, does nothing."""
        with _guard:
            if self._pid == os.getpid() and self._key in _held:
                descriptor, _ = _held.pop(self._key)
                os.close(descriptor)

    def is_ours(self) -> bool:
        """Return whether the path still leads to the locked file; nothing is opened for it."""
        try:
            return layout.key_of(self._path) == self._key
        except OSError:
            return False


def writer_of(path: Path) -> str | None:
    """Return who holds the lock file at ``path``, without taking it; None where nobody does.

    Raises
    ------
    StoreReadOnlyError
        If the file may not be read.
    """
    with _guard:
        return _own_holder(path) or holder_elsewhere(path)


def holder_elsewhere(path: Path) -> str | None:
    """Return which other process holds the lock file at ``path``; None where none does.

    Raises
    ------
    StoreReadOnlyError
        If the file may not be read.
    """
    with _guard:
        if _own_holder(path) is not None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise layout.translate(error, path, "to see who holds it") from error
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _ANY_LOCK)
            held = _FLOCK.unpack(answer)[_TYPE] != fcntl.F_UNLCK
            return _describe(os.pread(descriptor, 65536, 0)) if held else None
        finally:
            os.close(descriptor)


def _own_holder(path: Path) -> str | None:
    # Not by opening it: to close it again would drop the lock.
    try:
        entry = _held.get(layout.key_of(path))
    except OSError:
        return None
    return None if entry is None else entry[1]


def _try_lock(path: Path) -> str | None:
    """Lock the file, or return who has it."""
    own = _own_holder(path)
    if own is not None:
        return own
    try:
        made = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        if made:
            layout.resemble(path, path.with_name(layout.CURRENT))
    except OSError as error:
        expected = "to be allowed to write it, or to open it for reading only"
        raise layout.translate(error, path, expected) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _describe(os.pread(descriptor, 65536, 0))
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return holder
        raise layout.translate(error, path, "to lock it") from error
    record = json.dumps(_own_record()).encode()
    with contextlib.suppress(OSError):  # on a full disk the lock holds without its record
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, record, 0)
    status = os.fstat(descriptor)
    _held[status.st_dev, status.st_ino] = descriptor, _describe(record)
    return None


def _own_record() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.orig_argv)[:500],
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _describe(content: bytes) -> str:
    # The holder writes its record after it has the lock: for a moment there is none, or an old one.
    try:
        record = json.loads(content)
        return (
            f"process {record['pid']} on {record['host']} ({record['command']}) "
            f"since {record['since']}"
        )
    except (ValueError, KeyError, TypeError):
        return "another process, whose record cannot be read"


def _after_fork_in_child() -> None:
    # The parent keeps its locks: closing here drops only locks of this process, which has none.
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()
    _guard.release()


os.register_at_fork(
    before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child
)
