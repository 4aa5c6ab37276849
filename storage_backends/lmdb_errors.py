"""Says what an error of LMDB means for a store."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import lmdb

from storage_backends.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreSchemaError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LITTLE_ROOM = 65536


def translate(error: lmdb.Error, path: Path, action: str) -> StoreError:
    """Return the storage error that an error of LMDB stands for."""
    message = f"{path}: expected to {action} it, got {error}"
    code = getattr(error, "code", 0)
    if isinstance(error, lmdb.VersionMismatchError):
        return StoreSchemaError(message)
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)):
        return StoreCorruptError(message)
    if isinstance(error, (lmdb.DiskError, lmdb.MapFullError)) or code in _FULL:
        return StoreFullError(f"{message}; earlier commits are intact")
    if code == errno.EIO and _out_of_room(path):
        return StoreFullError(f"{message}, with no room left; earlier commits are intact")
    if isinstance(error, lmdb.ReadersFullError):
        return StoreError(
            f"{message}: as many processes read it as there are slots in lock.mdb; close some"
        )
    if isinstance(error, lmdb.ReadonlyError) or code in _DENIED:
        return StoreReadOnlyError(f"{message}; readers, too, must be allowed to write lock.mdb")
    return StoreError(message)


def _out_of_room(path: Path) -> bool:
    # LMDB reports a write cut short, which is how a full disk may begin, as an input/output error.
    file_limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limited = (
        file_limit != resource.RLIM_INFINITY and path.stat().st_size >= file_limit - _LITTLE_ROOM
    )
    system = os.statvfs(path.parent)
    return limited or system.f_bavail * system.f_frsize < _LITTLE_ROOM
