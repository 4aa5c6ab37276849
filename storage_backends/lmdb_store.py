"""The `Store` on disk: one LMDB environment per memory directory."""

from __future__ import annotations

import os
import uuid
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from storage_backends import codec, environment, layout, lmdb_read, lmdb_verify, lmdb_write
from storage_backends.environment import MAP_SIZE, Environment, OpenMode
from storage_backends.errors import (
    StoreClosedError,
    StoreError,
    StoreReadOnlyError,
    StoreUsageError,
)
from storage_backends.locks import WriterLock
from storage_backends.place import Place
from storage_backends.types import Contents, Ids, Problem, Records, StoreStats, WriteBatch
from storage_backends.validation import prepare

#: Generations that the log keeps; a reader further behind loads all.
LOG_LENGTH = 4096
_DURABILITY = {"full": True, "normal": False}
_READER_CHECK_INTERVAL = 256

#: What handles held that were dropped unclosed. The garbage collector may find them in a thread
#: that is in the middle of anything, so they are released only when the next store is opened.
_abandoned: deque[tuple[Environment, WriterLock | None]] = deque()


class LMDBStore:
    """A memory directory, opened; made by `open`.

    A handle may be used from several threads. After a fork the child opens its own.

    Parameters
    ----------
    directory : Path
        The memory directory.
    env : Environment
        Its environment, already counting this handle.
    lock : WriterLock, optional
        The writer's lock; None for a read-only handle.
    log_length : int
        Generations that the log keeps.
    """

    def __init__(
        self, directory: Path, env: Environment, lock: WriterLock | None, log_length: int
    ) -> None:
        self._directory = directory
        self._env = env
        self._lock = lock
        self._log_length = log_length
        self._seen = (-1, 0)  # transaction, and the generation that it made
        self._finalizer = weakref.finalize(self, _abandoned.append, (env, lock))
        files = {env.data_file: env.key}
        if lock is not None:
            files[directory / layout.WRITER_LOCK] = lock.key
        self._place = Place(env.data_file.parent, files)
        self._uuid = env.read(lmdb_read.read_uuid)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        read_only: bool = False,
        create: bool = True,
        durability: str = "full",
        lock_timeout: float = 0.0,
        map_size: int = MAP_SIZE,
        log_length: int = LOG_LENGTH,
    ) -> LMDBStore:
        """Open a memory directory.

        Parameters
        ----------
        directory : path
            Where the memory is, or is to be.
        read_only : bool
            Open beside a writer, and write nothing but LMDB's table of readers.
        create : bool
            Make the memory where the directory is missing or empty; never if read-only.
        durability : {"full", "normal"}
            Whether a commit survives a power cut. With "normal" the last commits before one may
            be undone; those that remain are whole, and `close` makes all of them durable.
        lock_timeout : float
            Seconds to wait for another writer to close, 0 or more.
        map_size : int
            Bytes of address space to begin with, 1 or more; grown when needed.
        log_length : int
            How many generations `changes` can go back, 1 or more.

        Raises
        ------
        NotAStoreError
            If the directory is no memory and may not become one.
        StoreLockedError
            If there is another writer.
        StoreReadOnlyError
            If the directory may not be written and ``read_only`` is False.
        StoreSchemaError, StoreCorruptError
            If the memory was written by a newer release, or is damaged.
        StoreUsageError
            If an argument is out of its range.
        """
        if durability not in _DURABILITY or log_length < 1 or map_size < 1 or lock_timeout < 0:
            raise StoreUsageError(
                "expected durability 'full' or 'normal', log_length and map_size above 0 and "
                f"lock_timeout 0 or more, got {durability!r}, {log_length}, {map_size} and "
                f"{lock_timeout}"
            )
        _release_abandoned()
        path = Path(os.path.realpath(directory))
        layout.refuse_network_file_system(path)
        mode = OpenMode(not read_only, read_only or _DURABILITY[durability], map_size)
        if read_only:
            env = environment.acquire(layout.require_memory(path), mode)
            return cls(path, env, None, log_length)
        if not create:
            layout.require_memory(path)
        lock = _lock_directory(path, lock_timeout)
        try:
            env = environment.acquire(layout.current_folder(path) or _make(path), mode)
        except BaseException:
            lock.release()
            raise
        return cls(path, env, lock, log_length)

    @property
    def read_only(self) -> bool:
        """Whether `commit` is refused."""
        return self._lock is None

    @property
    def uuid(self) -> str:
        """Identity of the memory, 32 hexadecimal digits, given at creation."""
        return self._uuid

    @property
    def directory(self) -> Path:
        """The memory directory, resolved."""
        return self._directory

    def is_current(self) -> bool:
        """Return whether the directory still leads to what this handle has open.

        False where it was moved, deleted or replaced, and after `close`.
        """
        return self._finalizer.alive and self._env.is_open and self._place.is_ours()

    def generation(self) -> int:
        """Return the number of the last commit that readers can see; 0 for a new store."""
        if self._opened().last_transaction() != self._seen[0]:
            self._seen = self._env.read(lmdb_read.read_transaction)
        return self._seen[1]

    def commit(self, batch: WriteBatch) -> int:
        """Apply a batch in one transaction and return the new generation; see `Store`.

        Edges that other concepts have to a deleted one are the caller's to rewrite: to find
        them here would take reading all edges. `verify` reports those that were left.
        """
        env = self._opened()
        env.require_open()
        if self.read_only:
            raise StoreReadOnlyError(
                f"{self._directory}: expected a handle that may write, got one opened with "
                "read_only=True"
            )
        prepared = prepare(batch)
        try:
            self._require_current()
            generation = env.write(
                lambda txn, tables: lmdb_write.apply(txn, tables, prepared, self._log_length)
            )
        except StoreUsageError:
            raise
        except StoreError:
            self.close()  # the environment is closed, so let the next writer in
            raise
        if generation % _READER_CHECK_INTERVAL == 0:
            env.check_readers()
        return generation

    def load(self) -> Contents:
        """Read all live concepts and edges of one generation."""
        return self._opened().read(lmdb_read.read_contents)

    def changes(self, since: int) -> Contents | None:
        """Read what changed after generation ``since``, or None if the log no longer says."""
        return self._opened().read(lambda txn, tables: lmdb_read.read_changes(txn, tables, since))

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each id; None where there is none."""
        wanted = np.asarray(ids, np.uint64)
        return self._opened().read(lambda txn, tables: lmdb_read.read_payloads(txn, tables, wanted))

    def events(self, start: int = 0, limit: int | None = None) -> Records:
        """Return events ``start`` and later, oldest first, at most ``limit`` of them."""
        if start < 0 or (limit is not None and limit < 0):
            raise StoreUsageError(
                f"events: expected start and limit of 0 or more, got {start} and {limit}"
            )
        return self._opened().read(
            lambda txn, tables: lmdb_read.read_events(txn, tables, start, limit)
        )

    def shortterm(self) -> Mapping[str, bytes]:
        """Return the short-term table as last written."""
        return self._opened().read(lmdb_read.read_shortterm)

    def stats(self) -> StoreStats:
        """Return the sizes of the store."""
        env = self._opened()
        try:
            size = env.data_file.stat().st_size
        except OSError as error:
            raise layout.translate(error, env.data_file, "to see its size") from error
        return env.read(lambda txn, tables: lmdb_read.read_stats(txn, tables, size))

    def verify(self) -> Sequence[Problem]:
        """Examine every record of one generation; an empty list means that all is well."""
        return self._opened().read(lmdb_verify.find_problems)

    def close(self) -> None:
        """Release the store, durably; a second call, or one in a forked child, does nothing."""
        if self._finalizer.detach():
            _release(self._env, self._lock)

    def __enter__(self) -> LMDBStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_current(self) -> None:
        if not self._place.is_ours():
            self._env.give_up(
                "the directory was moved, deleted or replaced while it was open, or a file in it; "
                "nothing was written"
            )
            self._env.require_open()

    def _opened(self) -> Environment:
        if not self._finalizer.alive:
            self._env.require_open()  # which knows of a better reason, if there is one
            raise StoreClosedError(
                f"{self._directory}: expected an open store, but this handle was closed; "
                "open the directory again"
            )
        return self._env


def _lock_directory(directory: Path, timeout: float) -> WriterLock:
    if layout.current_folder(directory) is None:
        layout.require_usable(directory)
    return WriterLock.acquire(directory / layout.WRITER_LOCK, timeout)


def _make(directory: Path) -> Path:
    folder = layout.make_first_folder(directory)
    entries = {
        codec.SCHEMA: str(codec.SCHEMA_VERSION).encode(),
        codec.UUID: uuid.uuid4().hex.encode(),
        codec.GENERATION: codec.encode_number(0),
        codec.EDGE_COUNT: codec.encode_number(0),
    }
    environment.initialise(folder, entries)
    layout.publish(folder)
    return folder


def _release_abandoned() -> None:
    while _abandoned:
        _release(*_abandoned.popleft())


def _release(env: Environment, lock: WriterLock | None) -> None:
    try:
        env.release(sync=lock is not None)
    finally:
        if lock is not None:
            lock.release()
