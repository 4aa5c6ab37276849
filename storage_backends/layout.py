"""What lies in a memory directory, and how its files appear whole.

::

    CURRENT           name of the folder in use, "gen-000001"
    WRITER.lock       see `locks`
    gen-000001/       data.mdb, lock.mdb, STAMP (see `trust`) and files derived from the records
    packs/            see `kept_packs`

``CURRENT`` is written last, so a directory without it is new, or its making was interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreSchemaError,
)

CURRENT = "CURRENT"
WRITER_LOCK = "WRITER.lock"
DATA = "data.mdb"
LOCK = "lock.mdb"
PACKS = "packs"
STAMP = "STAMP"
FIRST_GENERATION = "gen-000001"

#: Device and inode of a file, which name it while it is open.
FileKey: TypeAlias = tuple[int, int]

_FOLDER = re.compile(r"gen-\d{6,}")
_OWN_NAMES = {CURRENT, CURRENT + ".new", WRITER_LOCK, FIRST_GENERATION, PACKS}
_BLOCK = 512  # unit of st_blocks
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "fuse.sshfs", "fuse.glusterfs"}

# LMDB 0.9, a 64-bit build: page header (number, padding, flags), then magic, version, address,
# map size, two tables of 48 bytes (the first starts with the page size), last page, transaction.
_META = struct.Struct("<Q2xH4xII16xI44x48xQQ")
_MAGIC, _DATA_VERSION, _META_FLAG = 0xBEEFC0DE, 1, 0x08


def current_folder(directory: Path) -> Path | None:
    """Return the folder in use, None where ``CURRENT`` is missing.

    Raises
    ------
    NotAStoreError
        If the path is not a directory.
    StoreCorruptError
        If ``CURRENT`` names no folder of this directory.
    """
    name = current_name(directory)
    if name is None:
        return None
    text = name.decode("ascii", "replace").strip()
    if not _FOLDER.fullmatch(text):
        raise StoreCorruptError(
            f"{directory / CURRENT}: expected a name like {FIRST_GENERATION}, got {text[:80]!r}"
        )
    if not (directory / text / DATA).is_file():
        raise StoreCorruptError(
            f"{directory / text / DATA}: expected a file, found none{_other_data(directory)}"
        )
    return directory / text


def current_name(directory: Path) -> bytes | None:
    """Return what ``CURRENT`` holds, None where it is missing.

    Raises
    ------
    NotAStoreError
        If the path is not a directory.
    """
    try:
        return (directory / CURRENT).read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise NotAStoreError(f"{directory}: expected a directory, got a file") from error
    except OSError as error:
        raise translate(error, directory / CURRENT, "to read it") from error


def require_memory(directory: Path) -> Path:
    """Return the folder in use of a directory that must be a memory.

    Raises
    ------
    NotAStoreError
        If it is missing or something else.
    """
    folder = current_folder(directory)
    if folder is None:
        found = f"no file {CURRENT} in it{_other_data(directory)}{_earlier_release(directory)}"
        found = found if directory.exists() else "nothing"
        raise NotAStoreError(f"{directory}: expected a memory directory, found {found}")
    return folder


def _other_data(directory: Path) -> str:
    """Say what to do where there is a data file that ``CURRENT`` does not name."""
    found = sorted(directory.glob(f"gen-[0-9]*/{DATA}"))
    if not found:
        return ""
    return (
        f", but {found[-1].relative_to(directory)}: `python -m tools.verify {directory} --repair` "
        f"writes {CURRENT} anew"
    )


def _earlier_release(directory: Path) -> str:
    """Say what to do where release 3.0 wrote a memory."""
    if not (directory / "nodes.aesg").exists():
        return ""
    return f", a memory of release 3.0: `python -m tools.migrate {directory} NEW` brings it over"


def require_usable(directory: Path) -> None:
    """Check that a memory may be made in a directory, making the directory itself if need be.

    Raises
    ------
    NotAStoreError
        If there is a file, or a directory that holds something else.
    """
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            sync_folder(directory.parent)
        foreign = sorted(set(os.listdir(directory)) - _OWN_NAMES)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotAStoreError(f"{directory}: expected a directory, got a file") from error
    except OSError as error:
        raise translate(error, directory, "to make a directory there") from error
    foreign = [name for name in foreign if not name.startswith(".") and name != "lost+found"]
    if foreign:
        raise NotAStoreError(
            f"{directory}: expected a memory or an empty directory, found {foreign[:5]}"
            f"{_earlier_release(directory)}"
        )


def make_first_folder(directory: Path) -> Path:
    """Return the folder of a new memory, cleared of what an interrupted making left."""
    folder = directory / FIRST_GENERATION
    try:
        folder.mkdir(exist_ok=True)
        if _newest_meta(folder / DATA) is None:
            for name in os.listdir(folder):
                os.unlink(folder / name)
    except OSError as error:
        raise translate(error, folder, "to make the folder") from error
    return folder


def publish(folder: Path) -> None:
    """Make a finished folder the one in use."""
    directory = folder.parent
    try:
        sync_folder(folder)
        sync_folder(directory)
        name = folder.name.encode("ascii") + b"\n"
        replace_file(directory / CURRENT, name, like=folder / DATA)
    except OSError as error:
        raise translate(error, directory / CURRENT, "to write it") from error


def replace_file(path: Path, content: bytes, *, like: Path) -> None:
    """Write a file so that after a crash at any instant it is the old one or the new one.

    Owner, group and permissions stay what they are, or become those of the file ``like``.
    """
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        file.write(content)
        resemble(temporary, path if path.exists() else like)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def resemble(path: Path, model: Path) -> None:
    """Give a file or folder the owner, group and permissions of another, as far as is permitted.

    Else what the superuser writes into the memory of somebody, that one could not use.
    """
    try:
        wanted, found = model.stat(), path.stat()
    except FileNotFoundError:
        return
    if found.st_gid != wanted.st_gid:
        with suppress(PermissionError):
            os.chown(path, -1, wanted.st_gid)
    if found.st_uid != wanted.st_uid:
        with suppress(PermissionError):
            os.chown(path, wanted.st_uid, -1)
    if path.stat().st_mode != wanted.st_mode:  # read again: to change the owner may clear bits
        with suppress(PermissionError):
            path.chmod(stat.S_IMODE(wanted.st_mode))


def sync_file(path: Path) -> None:
    """Make what was written to a file durable, by whatever means; it must not be open here."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def key_of(path: str | os.PathLike[str]) -> FileKey:
    """Return what tells the file at a path from every other file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def reserve(path: Path, size: int) -> None:
    """Give a file that LMDB maps and writes all its blocks, making it if it is missing.

    LMDB leaves them to be found when they are written, and is killed by a signal where the file
    system has none left. The file must not be open in this process: to close it drops the locks.
    Where it may not be written nothing is done.

    Raises
    ------
    StoreFullError
        If there is no room for it.
    """
    try:
        if path.exists() and path.stat().st_blocks * _BLOCK >= size:
            return
        if not hasattr(os, "posix_fallocate"):
            return  # macOS has none
        made = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            if made:
                resemble(path, path.with_name(DATA))
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        failure = translate(error, path, f"room for {size} bytes")
        # Of all else LMDB knows better whether it matters.
        if isinstance(failure, StoreFullError):
            raise failure from error


class Meta(NamedTuple):
    """What a meta page of a data file says of the rest."""

    page_size: int
    last_page: int
    transaction: int


def newest_meta(path: Path) -> Meta:
    """Return what the newest meta page of a data file says.

    Raises
    ------
    StoreCorruptError
        If it has not two of them: LMDB would take it for a new one.
    StoreSchemaError
        If it is of another LMDB format.
    """
    try:
        found = _newest_meta(path)
    except OSError as error:
        raise translate(error, path, "to read it") from error
    if found is None:
        raise StoreCorruptError(f"{path}: expected an LMDB data file, got other content")
    return found


def _newest_meta(path: Path) -> Meta | None:
    if not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = _meta_page(descriptor, 0, path)
        second = None if first is None else _meta_page(descriptor, first.page_size, path)
    finally:
        os.close(descriptor)
    if first is None or second is None:
        return None
    return max(first, second, key=lambda meta: meta.transaction)


def _meta_page(descriptor: int, offset: int, path: Path) -> Meta | None:
    content = os.pread(descriptor, _META.size, offset)
    if len(content) < _META.size:
        return None
    _, flags, magic, version, page_size, last_page, transaction = _META.unpack(content)
    if magic != _MAGIC or not flags & _META_FLAG:
        return None
    if version != _DATA_VERSION:
        raise StoreSchemaError(f"{path}: expected LMDB data format {_DATA_VERSION}, got {version}")
    return Meta(page_size, last_page, transaction)


def is_read_only(folder: Path) -> bool:
    """Return whether a folder is on a file system that is mounted for reading only."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False  # whatever is wrong with it, its files will tell


def refuse_network_file_system(directory: Path) -> None:
    """Refuse a directory on a file system where LMDB's shared memory does not work.

    Raises
    ------
    StoreError
        If the directory is on a network file system.
    """
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return  # not Linux: nothing is known
    kind = file_system_of(directory, mounts)
    if kind in _NETWORK:
        raise StoreError(
            f"{directory}: expected a local file system, got {kind}, where memory shared between "
            "processes is not kept in step"
        )


def file_system_of(path: Path, mounts: Iterable[str]) -> str:
    """Return the type of the file system that holds a path.

    Parameters
    ----------
    path : Path
        Resolved path; it need not exist.
    mounts : iterable of str
        Lines of ``/proc/self/mounts``.

    Returns
    -------
    str
        The type, such as ``ext4``; empty where no mount holds the path.
    """
    found = Path(), ""
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))
        # Later mounts cover earlier ones at the same place.
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found[0].parts):
            found = mounted, kind
    return found[1]


def translate(error: OSError, path: Path, expected: str) -> StoreError:
    """Return the storage error that an error of the operating system stands for."""
    message = f"{path}: expected {expected}, got {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnlyError(message)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(message)
    return StoreError(message)
