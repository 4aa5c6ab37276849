"""The folders of a memory directory: their files, the room they need, how one follows another.

Compaction and repair make the next folder inside a directory of its own, move it beside the one
in use when it is whole, and then let ``CURRENT`` name it. So whoever holds the writer's lock may
remove that directory, and the folders that ``CURRENT`` does not name: these are leftovers. But for
one with a higher number that was in use before: then an older ``CURRENT`` was put in the place of
a newer one, and what was committed since is in that folder.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from storage_backends import environment, layout
from storage_backends.environment import Environment
from storage_backends.errors import StoreError, StoreFullError
from storage_backends.opening import MAP_SIZE, OpenMode, Result, Tables, Transaction

_log = logging.getLogger("aesg.storage")

#: The directory in which the next folder is made.
WORK = "next"

#: What is wrong with a folder that `later` returns.
FORGOTTEN = (
    "expected CURRENT to name the folder that was last in use, it names an earlier one: to use "
    "this one, close the memory and write its name into CURRENT; else remove it"
)
#: In a folder that was never in use.
_UNPUBLISHED = "UNPUBLISHED"
_FOLDERS = "gen-[0-9]*"
_LEFTOVERS = (_FOLDERS, WORK, "quarantine-*.new")
_MARGIN = 1 << 20  # of room: for lock files, directories, and what else a file system needs
_REMOVALS = 10  # attempts
_META_PAGES = 2
_LIST_PAGES = 1  # LMDB's list of the tables, which are few


def leftovers(directory: Path) -> list[Path]:
    """Return what may be removed, in the order of the names; nothing where there is no memory."""
    current = layout.current_folder(directory)
    if current is None:
        return []
    found = [path for pattern in _LEFTOVERS for path in _listed(directory, pattern)]
    return sorted(path for path in found if path != current and not _is_later(path, current))


def later(directory: Path) -> list[Path]:
    """Return the folders that were in use after the one that ``CURRENT`` names now."""
    current = layout.current_folder(directory)
    if current is None:
        return []
    return [folder for folder in _listed(directory, _FOLDERS) if _is_later(folder, current)]


def _is_later(path: Path, current: Path) -> bool:
    """Return whether a path is a folder that was in use after the present one."""
    return (
        _number(path) > _number(current)
        and (path / layout.DATA).exists()
        and not (path / _UNPUBLISHED).exists()
    )


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("gen-")
    return int(digits) if digits.isdecimal() else 0


def _listed(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and directory.exists():
            return _listed(directory, pattern)  # a folder in it went meanwhile: look again
        raise layout.translate(error, directory, "to list what is in it") from error


def remove_leftovers(directory: Path) -> list[str]:
    """Remove all leftovers and return their names; the caller holds the writer's lock.

    Processes that still read a folder that is removed go on reading it: its files are gone only
    when the last of them lets go.

    Raises
    ------
    StoreError
        If one may not be removed.
    """
    found = leftovers(directory)
    for path in found:
        remove(path)
    return [path.name for path in found]


def tidy(directory: Path) -> None:
    """Remove all leftovers, if that is possible; the caller holds the writer's lock."""
    try:
        for name in remove_leftovers(directory):
            _log.info("%s: removed, left of an interrupted compaction or repair", directory / name)
        for folder in later(directory):
            _log.warning("%s was in use after the folder that CURRENT names: it is kept", folder)
    except StoreError as error:
        _log.warning("what is left of a compaction or repair stays: %s", error)


def remove(path: Path) -> None:
    """Remove a file, or a folder and what is in it; one that is missing is no error.

    Raises
    ------
    StoreError
        If it may not be removed.
    """
    try:
        if path.is_dir():
            _remove_folder(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise layout.translate(error, path, "to remove it") from error


def _remove_folder(path: Path) -> None:
    for attempts_left in reversed(range(_REMOVALS)):
        try:
            shutil.rmtree(path)
            return
        except OSError as error:
            # A reader that is just opening it made its lock file anew.
            if error.errno != errno.ENOTEMPTY or not attempts_left:
                raise


@contextmanager
def next_folder(directory: Path, current: Path) -> Iterator[Path]:
    """Make the folder after the present one in a directory of its own, for as long as the block.

    The caller holds the writer's lock. What the block has not put in its place with `adopt` is
    removed at its end.

    Raises
    ------
    StoreError
        If the directory may not be written, or a folder in it was in use after the present one.
    """
    if forgotten := later(directory):
        raise StoreError(f"{forgotten[0]}: {FORGOTTEN}")
    work = directory / WORK
    folder = work / f"gen-{_number(current) + 1:06}"
    remove(work)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise layout.translate(error, work, "to make the next folder there") from error
    try:
        yield folder
    finally:
        remove(work)


def adopt(directory: Path, made: Path, current: Path) -> Path:
    """Move a finished folder beside the one in use and let ``CURRENT`` name it; return its path.

    It gets owner, group and permissions of the one in use: whoever could read or write that, can
    this one, whoever made it.

    Raises
    ------
    StoreError
        If the directory may not be written. Then the folder in use stays in use.
    """
    folder = directory / made.name
    try:
        for path in made.iterdir():
            model = current / path.name
            layout.resemble(path, model if model.exists() else current / layout.DATA)
        layout.resemble(made, current)
        (made / _UNPUBLISHED).touch()
        layout.sync_folder(made)
        made.rename(folder)
    except OSError as error:
        raise layout.translate(error, folder, "to put the finished folder there") from error
    layout.publish(folder)
    with contextlib.suppress(OSError):  # it says nothing of the folder in use
        (folder / _UNPUBLISHED).unlink()
    return folder


def in_place(directory: Path, call: Callable[[], Result]) -> Result:
    """Return what ``call`` returns, again if it failed while another folder came into use."""
    while True:
        name = layout.current_name(directory)
        try:
            return call()
        except (StoreError, OSError):
            if layout.current_name(directory) == name:
                raise


@contextmanager
def environment_of(folder: Path, *, writable: bool = False) -> Iterator[Environment]:
    """Give access to the tables in a folder, whether or not ``CURRENT`` names it."""
    env = environment.acquire(folder, OpenMode(writable, True, MAP_SIZE))
    try:
        yield env
    finally:
        env.release(sync=writable)


def files_of(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield the path within a directory, and the bytes on disk, of every file below it."""
    for path in _listed(directory, "**/*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # a writer removes files that it has replaced
        if not path.is_dir():
            # LMDB leaves holes in its files: what counts is what is allocated.
            yield str(path.relative_to(directory)), min(status.st_size, status.st_blocks * 512)


def used_bytes(transaction: Transaction, tables: Tables) -> int:
    """Return the size of the pages in use: that of the data file after compaction."""
    page_size = transaction.stat(tables.sys)["psize"]
    used = sum(table_bytes(transaction, table) for _, table in tables.named())
    return used + (_META_PAGES + _LIST_PAGES) * page_size


def table_bytes(transaction: Transaction, table: lmdb._Database) -> int:
    """Return the size of the pages of a table."""
    stat = transaction.stat(table)
    pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return int(pages * stat["psize"])


def with_margin(size: int) -> int:
    """Return the room that is asked for before files of so many bytes are written."""
    return size + _MARGIN


def require_room(folder: Path, needed: int) -> None:
    """Check that a file system has room for so many bytes more.

    Raises
    ------
    StoreFullError
        If it has not.
    """
    available = room_in(folder)
    if available < with_margin(needed):
        raise StoreFullError(
            f"{folder}: expected room for {with_margin(needed):,} bytes, found {available:,}; "
            "nothing was changed"
        )


def room_in(folder: Path) -> int:
    """Return the bytes that may still be written to the file system of a folder.

    Raises
    ------
    StoreError
        If the folder is gone.
    """
    try:
        system = os.statvfs(folder)
    except OSError as error:
        raise layout.translate(error, folder, "to see what room there is") from error
    return system.f_bavail * system.f_frsize
