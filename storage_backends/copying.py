"""Consistent copies of a memory that may be in use."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from storage_backends import kept_packs, layout, lmdb_read, lmdb_write, snapshot
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
)
from storage_backends.examination import examine
from storage_backends.folders import (
    environment_of,
    files_of,
    in_place,
    remove,
    require_room,
    used_bytes,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.manifest import Manifest
from storage_backends.progress import Progress, silent
from storage_backends.types import Problem, StoreStats

_log = logging.getLogger("aesg.storage")


@dataclass(frozen=True)
class CopyReport:
    """What `copy` did.

    Parameters
    ----------
    source, destination : str
        The two directories.
    sizes : StoreStats
        Numbers of records in the copy, and its generation.
    files : mapping of str to int
        Bytes on disk of each of its files, by its path in the directory.
    packs : tuple of str
        Names of the packs that the memory keeps.
    missing_packs : tuple of str
        Those of them whose files are missing.
    has_snapshot : bool
        Whether the copy opens from a snapshot, as quickly as the source. If not, its first writer
        makes one where it is worth it.
    verified : bool
        Whether the copy was examined.
    problems : tuple of Problem
        What is wrong with the copy.
    seconds : float
    """

    source: str
    destination: str
    sizes: StoreStats
    files: Mapping[str, int]
    packs: tuple[str, ...]
    missing_packs: tuple[str, ...]
    has_snapshot: bool
    verified: bool
    problems: tuple[Problem, ...]
    seconds: float


def copy(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    verify: bool = False,
    progress: Progress = silent,
) -> CopyReport:
    """Copy the last generation of a memory, beside its writer and its readers.

    The copy has the identity of the source, so it is a backup, not another memory. Until it is
    complete and on the disk it has no ``CURRENT`` and opens as nothing.

    Parameters
    ----------
    source : path
        The memory.
    destination : path
        A directory that is empty, or that does not exist.
    verify : bool
        Examine the copy.
    progress : callable
        Told of each step.

    Raises
    ------
    NotAStoreError
        If the source is no memory, or the destination is something else than an empty directory.
    StoreFullError
        If there is no room for the copy. What was written of it is removed.
    StoreError
        If the source cannot be read, or the destination written.
    """
    begin = time.monotonic()
    target = Path(os.path.realpath(destination))
    origin = Path(os.path.realpath(source))
    if target != origin and target.is_relative_to(origin):
        raise NotAStoreError(f"{target}: expected a place outside of the memory, got one in it")
    has_snapshot = in_place(origin, lambda: _copy(origin, target, progress))
    problems = tuple(examine(target, progress=progress).problems) if verify else ()
    with closing(LMDBStore.open(target, read_only=True, create=False)) as made:
        packs = _packs_in(made)
        return CopyReport(
            source=str(origin),
            destination=str(target),
            sizes=made.stats(),
            files=dict(files_of(target)),
            packs=tuple(packs),
            missing_packs=tuple(name for name, is_there in packs.items() if not is_there),
            has_snapshot=has_snapshot,
            verified=verify,
            problems=problems,
            seconds=time.monotonic() - begin,
        )


def _copy(source: Path, target: Path, progress: Progress) -> bool:
    with (
        closing(LMDBStore.open(source, read_only=True, create=False)) as store,
        _new_directory(target),
    ):
        folder = target / layout.FIRST_GENERATION
        folder.mkdir()
        with packs_carried(store, folder, target):
            has_snapshot = copy_records(store, folder, with_snapshot=True, progress=progress)
        layout.publish(folder)
        return has_snapshot


def copy_records(
    store: LMDBStore, folder: Path, *, with_snapshot: bool, progress: Progress = silent
) -> bool:
    """Copy the records of a store into an existing empty folder, without free pages.

    Parameters
    ----------
    store : LMDBStore
    folder : Path
    with_snapshot : bool
        Copy the snapshot, too, if there is one. It may be replaced meanwhile: then the copy has
        none.
    progress : callable

    Returns
    -------
    bool
        Whether the copy has a snapshot.

    Raises
    ------
    StoreFullError
        If there is no room.
    """
    with environment_of(store.folder) as env:
        require_room(folder, env.read(used_bytes))
    progress("copying the records", 0, 0)
    try:
        store.copy_to(folder, compact=True)
        progress("copying the records", 1, 1)
        return _complete(store, folder, with_snapshot)
    except StoreCorruptError as error:
        # Nothing is read but the source, and what was written from it a moment ago.
        raise blaming(store, error) from error


@contextmanager
def packs_carried(store: LMDBStore, folder: Path, target: Path) -> Iterator[None]:
    """Give a memory directory the files of the packs of another, whose records the block copies.

    Before the block, as a writer may drop one meanwhile, and after it, as one may be new. The
    logger ``aesg.storage`` warns of those that are missing.

    Parameters
    ----------
    store : LMDBStore
        Of the memory that has the files.
    folder : Path
        Where the records are after the block.
    target : Path
        The directory that is to have them.

    Raises
    ------
    StoreFullError
        If there is no room.
    """
    with environment_of(store.folder) as env:
        kept_packs.carry(store.directory, target, env.read(lmdb_read.read_settings))
    yield
    with environment_of(folder) as env:
        settings = env.read(lmdb_read.read_settings)
    for pack in kept_packs.carry(store.directory, target, settings):
        _log.warning(
            "%s: expected the file of pack '%s', found none; the copy in %s is without it",
            kept_packs.path_of(store.directory, pack),
            pack.name,
            target,
        )


def _packs_in(store: LMDBStore) -> dict[str, bool]:
    """Return for each pack that a memory keeps, by its name, whether its file is there."""
    with environment_of(store.folder) as env, suppress(StoreCorruptError):
        packs = kept_packs.decode(env.read(lmdb_read.read_settings))
        return {each.name: kept_packs.path_of(store.directory, each).is_file() for each in packs}
    return {}


def _complete(store: LMDBStore, folder: Path, with_snapshot: bool) -> bool:
    """Give the copied records the snapshot of the source, or none."""
    with environment_of(folder, writable=True) as env:
        newest = env.read(lmdb_read.read_manifest)
        if newest is None:
            return False
        manifest = _copied_snapshot(store.folder, newest[1], folder) if with_snapshot else None
        record, shown = (manifest.encode(), manifest.generation) if manifest else (b"", 0)
        env.write(lambda txn, tables: lmdb_write.publish(txn, tables, record, shown))
        return manifest is not None


def blaming(store: LMDBStore, error: StoreCorruptError) -> StoreCorruptError:
    """Return the error of a source that damage found in its copy stands for."""
    return StoreCorruptError(
        f"{store.folder / layout.DATA}: expected sound records to copy, got damage (in the copy: "
        f"{error}); `python -m tools.verify {store.directory}` lists it, and --repair mends it"
    )


@contextmanager
def _new_directory(directory: Path) -> Iterator[None]:
    """Make a directory, or take an empty one; clear it again if the block fails.

    Raises
    ------
    NotAStoreError
        If there is something in it, or it is a file.
    """
    layout.refuse_network_file_system(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in made:
            layout.sync_folder(path.parent)
        found = sorted(set(os.listdir(directory)) - {"lost+found"})
    except (FileExistsError, NotADirectoryError) as error:
        raise NotAStoreError(f"{directory}: expected a directory, got a file") from error
    except OSError as error:
        raise layout.translate(error, directory, "to make a directory there") from error
    if layout.FIRST_GENERATION in found and layout.CURRENT not in found:
        raise NotAStoreError(
            f"{directory}: expected an empty directory, found what an interrupted copy has left: "
            "remove the directory and repeat"
        )
    if found:
        raise NotAStoreError(f"{directory}: expected an empty directory, found {found[:5]}")
    try:
        yield
    except BaseException:
        with suppress(StoreError):
            remove(directory / layout.FIRST_GENERATION)
            remove(directory / layout.PACKS)
        with suppress(OSError):
            (directory / layout.CURRENT).unlink(missing_ok=True)
            if made:
                directory.rmdir()
        raise


def _copied_snapshot(source: Path, record: bytes, folder: Path) -> Manifest | None:
    try:
        return snapshot.copy_files(source, Manifest.decode(record), folder)
    except StoreFullError:
        raise
    except StoreError:
        return None  # replaced meanwhile, or damaged: a copy does without
