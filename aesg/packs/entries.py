"""The folder in which the processes of a user keep what they share of packs.

::

    packs/<digest>-v1/     one entry: a pack
        LOCK               held by who makes something in it, see `storage_backends.locks`
        COLUMNS            manifest of a file of columns, written when that is complete
        GRAPH              manifest of a seed graph, likewise
        columns-000001.aesg, columns-000002.aesg, index-000002.faiss

Everything in it can be made again from the file of the pack, so that it may be deleted at any time.
A file is written under another name and never changed: who has mapped it keeps it.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from storage_backends import layout, recorded_file
from storage_backends.column_file import ColumnsDraft, Shape, map_columns, put_columns
from storage_backends.columns import Slots
from storage_backends.errors import StoreError, StoreLockedError
from storage_backends.flat_columns import Arrays
from storage_backends.hnsw import HnswBase
from storage_backends.locks import WriterLock
from storage_backends.manifest import Manifest, columns_name, graph_name
from storage_backends.progress import Progress
from storage_backends.recorded_file import UNFINISHED, Put, write_file
from storage_backends.types import Floats

#: Of what an entry holds. Another release that needs other files takes another number.
VERSION = 1

#: Entries that nobody has used for so long are removed when another one is made.
UNUSED_SECONDS = 30 * 24 * 3600

_COLUMNS, _GRAPH, _LOCK = "COLUMNS", "GRAPH", "LOCK"
_DIGEST = re.compile("[0-9a-f]{64}")

#: Names of entries, and of the files in one. Nothing else is ever removed.
_ENTRY = re.compile(r"[0-9a-f]{64}-v[0-9]+")
_FILE = re.compile(
    rf"{_LOCK}|({_COLUMNS}|{_GRAPH}|columns-\d{{6}}\.aesg|index-\d{{6}}\.faiss)"
    rf"({re.escape(UNFINISHED)})?"
)
_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 3600.0


class CacheUnusable(Exception):  # noqa: N818 - no error: the process goes on without the cache
    """The cache folder cannot be used; the message says why."""


def cache_folder() -> Path:
    """Return the folder of the cache: ``AESG_CACHE``, ``XDG_CACHE_HOME/aesg`` or ``~/.cache/aesg``.

    Raises
    ------
    CacheUnusable
        If none of the three is known, or the folder depends on where the process was started.
    """
    if chosen := os.environ.get("AESG_CACHE"):
        return _absolute(Path(os.path.expanduser(chosen)), "AESG_CACHE")
    # Its specification says that a relative one is to be ignored.
    if (shared := os.environ.get("XDG_CACHE_HOME", "")) and os.path.isabs(shared):
        return Path(shared, "aesg")
    try:
        home = Path.home()
    except RuntimeError as error:
        raise CacheUnusable("AESG_CACHE is not set, and there is no home folder") from error
    return _absolute(home, "AESG_CACHE is not set, and HOME") / ".cache" / "aesg"


def _absolute(path: Path, what: str) -> Path:
    if not path.is_absolute():
        raise CacheUnusable(f"{what}: expected an absolute path, got {os.fspath(path)!r}")
    return path


class Entry:
    """What is kept of one pack.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, digest: str, *, make: bool = True) -> Entry:
        """Return the entry of a pack.

        Parameters
        ----------
        digest : str
            64 hexadecimal digits.
        make : bool
            Whether the folder is made if it is missing.

        Raises
        ------
        CacheUnusable
            If there is no folder, or it is not the user's own, or lies where memory cannot be
            shared.
        """
        if not _DIGEST.fullmatch(digest):
            raise CacheUnusable(
                f"expected a pack of a file, got one with the digest {digest!r:.80}"
            )
        packs = cache_folder() / "packs"
        folder = packs / f"{digest}-v{VERSION}"
        with _usable():
            if make:
                packs.parent.mkdir(parents=True, exist_ok=True)
                for each in (packs, folder):
                    each.mkdir(mode=0o700, exist_ok=True)
            for each in (packs, folder):
                _require_own(each)
            layout.refuse_network_file_system(folder.resolve())
        return cls(folder)

    def columns(self) -> Arrays | None:
        """Return the columns, mapped; None where there are none, or they are damaged."""
        return self._found(_COLUMNS)

    def graph(self, keys: Floats) -> tuple[HnswBase, Slots] | None:
        """Return the seed graph, mapped, and the slots that it does not lead to.

        None where there is none, or it is damaged.

        Parameters
        ----------
        keys : (N, D) float32
            What it was built over.
        """
        arrays = self._found(_GRAPH)
        if arrays is None:
            return None
        try:
            manifest = self._manifest(_GRAPH)
            if manifest.graph is None or manifest.graph_size != len(keys):
                return None
            recorded_file.check_content(self.folder, manifest.graph, lambda size: None)
            return HnswBase.read(self.folder / manifest.graph.name, keys), arrays["moved"]
        except (StoreError, KeyError):
            return None

    @contextmanager
    def alone(self, progress: Progress) -> Iterator[None]:
        """Keep others from making the same; those who only read go on.

        Raises
        ------
        CacheUnusable
            If somebody else is at it for too long, or files cannot be locked there.
        """
        lock = self._locked(progress)
        try:
            yield
        finally:
            if not any((self.folder / name).exists() for name in (_COLUMNS, _GRAPH)):
                _clear(self.folder)
            lock.release()

    @contextmanager
    def making_columns(self, columns: Mapping[str, Shape]) -> Iterator[Arrays]:
        """Give the arrays of a new file of columns, which counts once they are filled.

        Raises
        ------
        CacheUnusable
            If there is no room, or the folder cannot be written to.
        """
        path = self.folder / columns_name(1)
        with _usable():
            _require_room(path.parent, _bytes_of(columns))
            draft = ColumnsDraft(path, columns)
        try:
            yield draft.arrays
        except BaseException:
            draft.discard()
            raise
        with _usable():
            self._publish(_COLUMNS, Manifest(0, draft.finish(0), None, 0, {}))

    def put_graph(self, base: HnswBase, moved: Slots) -> None:
        """Keep a seed graph.

        Raises
        ------
        CacheUnusable
            If there is no room, or the folder cannot be written to.
        """

        def put_moved(put: Put) -> None:
            put_columns(put, {"moved": moved}, 0)

        with _usable():
            columns = write_file(self.folder / columns_name(2), put_moved)
            graph = write_file(self.folder / graph_name(2), base.write)
            self._publish(_GRAPH, Manifest(0, columns, graph, base.size, base.parameters))

    def sweep(self) -> None:
        """Remove other entries that nobody has used for a month."""
        with suppress(OSError):
            for other in self.folder.parent.iterdir():
                if other != self.folder and _is_unused_entry(other):
                    _remove(other)

    def _found(self, name: str) -> Arrays | None:
        """Return the columns that a manifest names, if they are what was written."""
        try:
            manifest = self._manifest(name)
            if not recorded_file.is_as_recorded(self.folder, manifest.columns):
                recorded_file.check_content(self.folder, manifest.columns, lambda size: None)
            arrays = map_columns(self.folder / manifest.columns.name, 0)
            with suppress(OSError):
                os.utime(self.folder / name)
        except (StoreError, OSError):
            return None
        return arrays

    def _manifest(self, name: str) -> Manifest:
        return Manifest.decode((self.folder / name).read_bytes())

    def _publish(self, name: str, manifest: Manifest) -> None:
        layout.sync_folder(self.folder)
        write_file(self.folder / name, lambda put: put(manifest.encode()))
        layout.sync_folder(self.folder)

    def _locked(self, progress: Progress) -> WriterLock:
        path, deadline = self.folder / _LOCK, time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            with _usable(), suppress(StoreLockedError):
                return WriterLock.acquire(path, _WAIT_SECONDS)
            if time.monotonic() > deadline:
                raise CacheUnusable(
                    f"{path}: expected it to be free by now, got it held by another"
                )
            progress("waiting for another process that prepares the same pack", 0, 0)


@contextmanager
def _usable() -> Iterator[None]:
    """Translate what goes wrong with the folder."""
    try:
        yield
    except (StoreError, OSError) as error:
        raise CacheUnusable(str(error)) from error


def _require_own(folder: Path) -> None:
    """Check that nobody but the user can have put anything into a folder.

    Raises
    ------
    CacheUnusable
        If not.
    """
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise CacheUnusable(f"{folder}: expected a folder of user {os.geteuid()}, got another's")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise CacheUnusable(f"{folder}: expected that others cannot write to it, got {mode:04o}")


def _bytes_of(columns: Mapping[str, Shape]) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in columns.values())


def _require_room(folder: Path, size: int) -> None:
    """Check that as much room again is left beside a file: a cache is not to fill a disk.

    Raises
    ------
    CacheUnusable
        If not.
    """
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise CacheUnusable(f"{folder}: expected {2 * size} free bytes, got {free}")


def _is_unused_entry(folder: Path) -> bool:
    """Return whether a folder is an entry, of which nobody has made use for a month."""
    if not _ENTRY.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False  # whoever chose the folder of the cache may have others in it
    return _unused_since(folder) > UNUSED_SECONDS and _is_ours(folder)


def _is_ours(folder: Path) -> bool:
    """Return whether a folder holds only what an entry holds."""
    with os.scandir(folder) as found:
        return all(
            _FILE.fullmatch(each.name) and each.is_file(follow_symlinks=False) for each in found
        )


def _clear(folder: Path) -> None:
    with suppress(OSError):
        if _is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _unused_since(folder: Path) -> float:
    """Return for how many seconds nobody has used an entry."""
    times = [folder.stat().st_mtime]
    for name in (_COLUMNS, _GRAPH):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return time.time() - max(times)


def _remove(folder: Path) -> None:
    """Remove an entry that nobody is making."""
    try:
        lock = WriterLock.acquire(folder / _LOCK)
    except StoreError:
        return
    try:
        # The manifests first: what is half removed is not there.
        for name in (_COLUMNS, _GRAPH):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()
