"""The `Store` on disk: one LMDB environment per memory directory."""

from __future__ import annotations

import os
import uuid
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from storage_backends import (
    checksum,
    codec,
    folders,
    kept_packs,
    layout,
    lmdb_read,
    lmdb_verify,
    lmdb_write,
    opening,
    trust,
)
from storage_backends.environment import Environment
from storage_backends.errors import (
    StoreClosedError,
    StoreError,
    StoreReadOnlyError,
    StoreUsageError,
)
from storage_backends.lease import Lease
from storage_backends.locks import WriterLock
from storage_backends.opening import MAP_SIZE, Job, OpenMode, Tables, Transaction
from storage_backends.sweeping import AliasSweep
from storage_backends.types import Contents, Floats, Ids, Problem, Records, StoreStats, WriteBatch
from storage_backends.validation import PreparedBatch, prepare

#: Generations that the log keeps; a reader further behind loads all.
LOG_LENGTH = 4096
_DURABILITY = {"full": True, "normal": False}
_READER_CHECK_INTERVAL = 256

#: What handles held that were dropped unclosed. The garbage collector may find them in a thread
#: that is in the middle of anything, so they are released only when the next store is opened.
_abandoned: deque[tuple[Lease, WriterLock | None]] = deque()


class LMDBStore:
    """A memory directory, opened; made by `open`.

    A handle may be used from several threads. After a fork the child opens its own.

    Parameters
    ----------
    directory : Path
        The memory directory.
    lease : Lease
        The handle's share of its environment.
    lock : WriterLock, optional
        The writer's lock; None for a read-only handle.
    log_length : int
        Generations that the log keeps.
    """

    def __init__(
        self, directory: Path, lease: Lease, lock: WriterLock | None, log_length: int
    ) -> None:
        self._directory = directory
        self._lease = lease
        self._lock = lock
        self._log_length = log_length
        self._held: int | None = None
        self._sweep = AliasSweep()
        self._seen: tuple[Environment, lmdb_read.Seen] | None = None
        self._finalizer = weakref.finalize(self, _abandoned.append, (lease, lock))
        self._uuid = lease.read(lmdb_read.read_uuid)

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
            return cls(path, _lease_current(path, mode), None, log_length)
        if not create:
            layout.require_memory(path)
        lock = _lock_directory(path, lock_timeout)
        try:
            lease = Lease(layout.current_folder(path) or _make(path), mode)
        except BaseException:
            lock.release()
            raise
        folders.tidy(path)
        store = cls(path, lease, lock, log_length)
        kept_packs.sweep(path, lambda: lease.env.read(lmdb_read.read_settings))
        return store

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

    @property
    def folder(self) -> Path:
        """The folder of the data file, where files derived from it belong."""
        return self._lease.env.data_file.parent

    def is_current(self) -> bool:
        """Return whether the directory still leads to what this handle has open.

        False where it was moved, deleted or replaced, and after `close`.
        """
        env = self._lease.env
        return self._finalizer.alive and env.is_open and self._is_in_place(env)

    def generation(self) -> int:
        """Return the number of the last commit that readers can see; 0 for a new store."""
        return self._latest().generation

    def commit(self, batch: WriteBatch) -> int:
        """Apply a batch in one transaction and return the new generation; see `Store`.

        Edges that other concepts have to a deleted one are the caller's to rewrite: to find
        them here would take reading all edges. `verify` reports those that were left.
        """
        self._require_writable()
        prepared = prepare(batch)
        generation = self._write(lambda txn, tables: self._apply(txn, tables, prepared))
        if generation % _READER_CHECK_INTERVAL == 0:
            self._lease.env.check_readers()
        return generation

    def publish(self, manifest: bytes, generation: int) -> int:
        """Put a manifest in the place of the present one and return its number; see `Store`."""
        self._require_writable()
        return self._write(
            lambda txn, tables: lmdb_write.publish(txn, tables, manifest, generation)
        )

    def manifest(self) -> tuple[int, bytes] | None:
        """Return the number and the bytes of the manifest, None where there is none."""
        return self._opened().read(lmdb_read.read_manifest)

    def manifest_seq(self) -> int:
        """Return the greatest number that a manifest has had, 0 for none."""
        return self._latest().manifest_seq

    def hold_log(self, generation: int | None) -> None:
        """Let the log keep what changes after a generation; see `Store`."""
        self._require_writable()
        self._held = generation

    def load(self) -> Contents:
        """Read all live concepts and edges of one generation."""
        return self._opened().read(lmdb_read.read_contents)

    def changes(self, since: int) -> Contents | None:
        """Read what changed after generation ``since``, or None if the log no longer says."""
        return self._opened().read(lambda txn, tables: lmdb_read.read_changes(txn, tables, since))

    def keys(self, ids: Ids) -> Floats:
        """Return the keys of concepts as they were put, ``(N, D)`` float32."""
        wanted = np.asarray(ids, np.uint64)
        return self._opened().read(lambda txn, tables: lmdb_read.read_keys(txn, tables, wanted))

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each id; None where there is none."""
        wanted = np.asarray(ids, np.uint64)
        return self._opened().read(lambda txn, tables: lmdb_read.read_payloads(txn, tables, wanted))

    def resolved_payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of what each id stands for, in one transaction; see `Store`."""
        wanted = np.asarray(ids, np.uint64)
        return self._opened().read(
            lambda txn, tables: lmdb_read.read_resolved_payloads(txn, tables, wanted)
        )

    def resolve(self, ids: Ids) -> Ids:
        """Return the concept that each id stands for now, 0 where there is none; see `Store`."""
        wanted = np.asarray(ids, np.uint64)
        return self._opened().read(lambda txn, tables: lmdb_read.read_resolved(txn, tables, wanted))

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
        lease = self._opened()
        size = lease.use(Environment.size)
        return lease.read(lambda txn, tables: lmdb_read.read_stats(txn, tables, size))

    def follow(self) -> bool:
        """Move a read-only handle to the folder that ``CURRENT`` names now; see `Store`.

        Where the memory was replaced by another one the handle stays, and is not current.
        """
        env = self._opened().env
        env.require_open()
        folder = env.place.successor() if self.read_only else None
        while folder is not None:
            try:
                return self._lease.move(folder, self._is_of_this_memory)
            except StoreError:
                tried, folder = folder, env.place.successor()
                if folder in (None, tried):
                    raise
        return False

    def enter(self, folder: Path) -> None:
        """Move a handle that may write to the folder that it has let ``CURRENT`` name.

        Raises
        ------
        StoreError
            If the folder cannot be opened, or is of another memory. The handle can write no more.
        """
        self._require_writable()
        self._lease.move(folder, self._is_of_this_memory)
        if self.folder != folder:
            raise StoreError(f"{folder}: expected the next folder of this memory, got another")

    def copy_to(self, folder: Path, *, compact: bool) -> None:
        """Write a copy of the last commit into an existing, empty folder, durably.

        The files of an open memory must not be copied in any other way in the same process: to
        close one of them drops LMDB's locks.

        Parameters
        ----------
        folder : Path
            Where ``data.mdb`` is to be.
        compact : bool
            Whether to leave out the pages that are not in use, which takes about twice as long.

        Raises
        ------
        StoreFullError
            If there is no room for it.
        StoreError
            If the folder is missing or not empty.
        """
        self._opened().use(lambda env: env.copy_to(folder, compact=compact))

    def verify(self) -> Sequence[Problem]:
        """Examine every record of one generation; an empty list means that all is well."""
        return self._opened().read(lmdb_verify.find_problems)

    def close(self) -> None:
        """Release the store, durably; a second call, or one in a forked child, does nothing."""
        if self._finalizer.detach():
            _release(self._lease, self._lock)

    def __enter__(self) -> LMDBStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _latest(self) -> lmdb_read.Seen:
        return self._opened().use(self._latest_of)

    def _latest_of(self, env: Environment) -> lmdb_read.Seen:
        known = self._seen
        if known is None or known[0] is not env or known[1].transaction != env.last_transaction():
            known = self._seen = env, env.read(lmdb_read.read_seen)
        return known[1]

    def _require_writable(self) -> None:
        self._opened().env.require_open()
        if self.read_only:
            raise StoreReadOnlyError(
                f"{self._directory}: expected a handle that may write, got one opened with "
                "read_only=True"
            )

    def _apply(self, transaction: Transaction, tables: Tables, batch: PreparedBatch) -> int:
        generation = lmdb_write.apply(transaction, tables, batch, self._log_length, self._held)
        gone = max(len(batch.deleted), len(batch.alias_ids))  # who is absorbed is among both
        self._sweep.run(transaction, tables, gone, generation)
        return generation

    def _write(self, job: Job[int]) -> int:
        env = self._lease.env
        try:
            if not self._is_in_place(env):
                env.give_up(
                    "the directory was moved, deleted or replaced while it was open, or a file in "
                    "it; nothing was written"
                )
            return env.write(job)
        except StoreUsageError:
            raise
        except StoreError:
            self.close()  # the environment is closed, so let the next writer in
            raise

    def _is_in_place(self, env: Environment) -> bool:
        return env.place.is_ours() and (self._lock is None or self._lock.is_ours())

    def _is_of_this_memory(self, env: Environment) -> bool:
        return env.read(lmdb_read.read_uuid) == self._uuid

    def _opened(self) -> Lease:
        if not self._finalizer.alive:
            self._lease.env.require_open()  # which knows of a better reason, if there is one
            raise StoreClosedError(
                f"{self._directory}: expected an open store, but this handle was closed; "
                "open the directory again"
            )
        return self._lease


def _lease_current(directory: Path, mode: OpenMode) -> Lease:
    """Return a lease of the folder in use, also while another one takes its place."""
    while True:
        name = layout.current_name(directory)
        try:
            return Lease(layout.require_memory(directory), mode)
        except StoreError:
            if layout.current_name(directory) == name:
                raise


def _lock_directory(directory: Path, timeout: float) -> WriterLock:
    if layout.current_folder(directory) is None:
        layout.require_usable(directory)
    return WriterLock.acquire(directory / layout.WRITER_LOCK, timeout)


def _make(directory: Path) -> Path:
    folder = layout.make_first_folder(directory)
    opening.initialise(folder, _first_entries())
    trust.write_stamp(folder, 0, durable=True)
    layout.publish(folder)
    return folder


def _first_entries() -> dict[bytes, bytes]:
    counters = (codec.GENERATION, codec.EDGE_COUNT, codec.SNAPSHOT)
    entries = dict.fromkeys(counters, codec.encode_number(0))
    entries[codec.UUID] = uuid.uuid4().hex.encode()
    sealed = {name: checksum.seal("sys", name, record) for name, record in entries.items()}
    return {codec.SCHEMA: str(codec.SCHEMA_VERSION).encode(), **sealed}


def _release_abandoned() -> None:
    while _abandoned:
        _release(*_abandoned.popleft())


def _release(lease: Lease, lock: WriterLock | None) -> None:
    try:
        lease.release(sync=lock is not None)
    finally:
        if lock is not None:
            lock.release()
