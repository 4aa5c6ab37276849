"""Folders that appear whole: made beside their place, and then exchanged for what is there.

::

    epoch_2/                     the folder
    .epoch_2.saving-1f0c5a77/    while it is being replaced
        LOCK                     locked for as long as the process lives that made it
        new/                     the folder in the making
        old/                     the one before it, moved aside when the new one is whole

A process that dies leaves the hidden folder behind, unlocked. With both ``new`` and ``old`` in it,
and nothing in the place that they are for, the exchange was cut off between its two steps: then
``new`` belongs there. In all other cases it can go.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage_backends import layout
from storage_backends.errors import StoreError, StoreLockedError
from storage_backends.folders import remove
from storage_backends.locks import WriterLock

_LOCK, _NEW, _OLD = "LOCK", "new", "old"
_MARK = ".saving-"
#: The name of a hidden folder, and in it that of the folder it is for.
_HIDDEN = re.compile(r"\.(.+)\.saving-[0-9a-f]{8}", re.DOTALL)
#: The names in it; a `workplace` may also hold folders of eight hexadecimal digits.
_WITHIN = re.compile(f"{_LOCK}|{_NEW}|{_OLD}|[0-9a-f]{{8}}")
#: Seconds that a reader gives a living process to make an exchange.
_PATIENCE = 10.0


@contextmanager
def replaced(place: Path, accept: Callable[[Path], object]) -> Iterator[Path]:
    """Give a new folder to fill, and put it in its place when the block ends without an error.

    What the block writes must be durable when it ends. An error, or the end of the process, leaves
    what is in the place as it was.

    Parameters
    ----------
    place : Path
        Resolved. Missing, or a folder, which is replaced and removed.
    accept : callable
        Called with ``place`` where it exists, before anything is made and again before it is
        replaced; raises if that may not be replaced.

    Raises
    ------
    StoreError
        If the folder cannot be made or put there.
    """
    sweep(place.parent)
    if place.exists():
        accept(place)
    work, lock = workplace(place)
    try:
        try:
            (work / _NEW).mkdir()
            yield work / _NEW
            for folder in (work / _NEW, work, place.parent):
                layout.sync_folder(folder)
            _exchange(work, place, accept)
        finally:
            _settle(work, place)
    except OSError as error:
        raise layout.translate(error, place, "to put a folder there") from error
    finally:
        lock.release()


def discard(place: Path) -> None:
    """Remove a folder: in one step out of its place, and then file by file.

    Raises
    ------
    StoreError
        If it cannot be moved or removed.
    """
    work, lock = workplace(place)
    try:
        os.rename(place, work / _OLD)
        layout.sync_folder(place.parent)
    except OSError as error:
        raise layout.translate(error, place, "to remove it") from error
    finally:
        try:
            _settle(work, place)
        finally:
            lock.release()


def try_out(place: Path) -> None:
    """Make the folders above a place, and see whether one can be put there.

    Raises
    ------
    StoreError
        If it cannot.
    """
    work, lock = workplace(place)
    try:
        _settle(work, place)
    finally:
        lock.release()


def standing(place: Path) -> Path:
    """Return the folder that stands in a place, or for it where an exchange was cut off.

    A cut-off exchange is completed first, where the file system may be written.
    """
    if place.exists():
        return place
    for work in (each for name, each in _workplaces(place.parent) if name == place.name):
        try:
            _settle_dead(work, place, timeout=_PATIENCE)
        except (StoreError, OSError):
            if not place.exists() and (work / _OLD).exists() and (work / _NEW).exists():
                return work / _NEW
    return place


def sweep(parent: Path) -> None:
    """Complete exchanges in a folder that were cut off, and remove what dead processes left.

    What cannot be removed stays; what living processes work on is left alone.
    """
    for name, work in _workplaces(parent):
        with suppress(StoreError, OSError):
            _settle_dead(work, parent / name)


def _workplaces(parent: Path) -> list[tuple[str, Path]]:
    """Return the hidden folders in which folders are replaced, each behind the name it is for.

    One of such a name with anything else in it is somebody else's.
    """
    found = []
    with suppress(OSError):
        for each in sorted(os.listdir(parent)):
            named = _HIDDEN.fullmatch(each)
            if named and _is_ours(parent / each):
                found.append((named[1], parent / each))
    return found


def _is_ours(work: Path) -> bool:
    try:
        return all(map(_WITHIN.fullmatch, os.listdir(work)))
    except OSError:
        return False  # removed meanwhile, or no folder


def workplace(place: Path) -> tuple[Path, WriterLock]:
    """Make a hidden folder beside a place, and lock it before anybody takes it for one left behind.

    `sweep` removes it, as soon as the lock is released or its process has ended.

    Raises
    ------
    StoreError
        If it cannot be made.
    """
    while True:
        work = place.with_name(f".{place.name}{_MARK}{secrets.token_hex(4)}")
        try:
            _make(place.parent)
            work.mkdir()
        except OSError as error:
            raise layout.translate(error, work, "to make a folder there") from error
        try:
            return work, WriterLock.acquire(work / _LOCK)
        except (StoreLockedError, FileNotFoundError):
            continue  # a sweeping process was quicker
        except StoreError:
            if work.exists():
                raise


def _make(folder: Path) -> None:
    """Make a folder and those above it, all of them durable."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        layout.sync_folder(folder.parent)


def _exchange(work: Path, place: Path, accept: Callable[[Path], object]) -> None:
    while True:
        try:
            os.rename(work / _NEW, place)  # where nothing is, or an empty folder
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        accept(place)
        remove(work / _OLD)  # of a turn in which another process was quicker
        with suppress(FileNotFoundError):
            os.rename(place, work / _OLD)
    layout.sync_folder(place.parent)


def _settle_dead(work: Path, place: Path, timeout: float = 0.0) -> None:
    if not (work / _LOCK).exists():
        with suppress(OSError):
            work.rmdir()  # empty: its process is dead, or was about to lock it and makes another
            return
    lock = WriterLock.acquire(work / _LOCK, timeout)
    try:
        _settle(work, place)
    finally:
        lock.release()


def _settle(work: Path, place: Path) -> None:
    """Complete an exchange that stands between its two steps, and remove the hidden folder."""
    if (work / _NEW).exists() and (work / _OLD).exists() and not place.exists():
        try:
            os.rename(work / _NEW, place)
        except OSError:
            os.rename(work / _OLD, place)
            raise
        layout.sync_folder(place.parent)
    for name in (_NEW, _OLD, _LOCK):  # while anything is left in it, it can be locked
        remove(work / name)
    remove(work)
