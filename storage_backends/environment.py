"""LMDB environments: opened once in a process, shared by its handles, and let go of by its forks.

LMDB must not open a file twice in one process, so handles on one memory share one environment.
All its transactions are short and run under one lock. That lock is what makes it safe to grow
the map and to fork: neither happens while a transaction is open. A forked child closes the
environments that it inherited, which touches nothing of the parent's, and may open them anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import lmdb
import lmdb.verify as lmdb_verify

from storage_backends import codec, layout
from storage_backends.errors import (
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreSchemaError,
)
from storage_backends.layout import FileKey
from storage_backends.lmdb_errors import translate

MAP_SIZE = 64 << 30
_LEAST_MAP_SIZE = 1 << 26
_MAX_READERS = 1024
_LOCK_SIZE = 64 * (_MAX_READERS + 2)  # LMDB's header and one line of the cache for each reader
_MAX_TABLES = 16
_ENGINE = 0  # LMDB 0.9, whatever newer formats the binding offers

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Result = TypeVar("Result")


class Tables(NamedTuple):
    """The opened tables of an environment, see `codec`."""

    sys: lmdb._Database
    key: lmdb._Database
    value: lmdb._Database
    meta: lmdb._Database
    payload: lmdb._Database
    adjacency: lmdb._Database
    shortterm: lmdb._Database
    log: lmdb._Database
    evolution: lmdb._Database


Job: TypeAlias = Callable[[Transaction, Tables], Result]


class OpenMode(NamedTuple):
    """How an environment is opened."""

    writable: bool
    metasync: bool
    map_size: int


class Environment:
    """One open data file and the handles that share it; made by `acquire`.

    Parameters
    ----------
    folder : Path
        Folder of ``data.mdb``.
    mode : OpenMode
        How to open it.
    """

    def __init__(self, folder: Path, mode: OpenMode) -> None:
        self.lock = threading.RLock()
        self.data_file = folder / layout.DATA
        self._folder = folder
        self._mode = mode
        self._pid = os.getpid()
        self._closed_because: str | None = None
        self._handles = 0
        self._env, self._tables = _open(folder, mode)
        self.key = layout.key_of(self.data_file)

    def read(self, job: Job[Result]) -> Result:
        """Return what ``job`` returns in one read transaction.

        Raises
        ------
        StoreClosedError
            If the environment is closed, or inherited through a fork.
        StoreError
            If LMDB fails.
        """
        with self.lock:
            self.require_open()
            try:
                return self._run(job, write=False)
            except lmdb.Error as error:
                raise translate(error, self.data_file, "read") from error

    def write(self, job: Job[Result]) -> Result:
        """Return what ``job`` returns in one write transaction, which is committed.

        An exception of the job leaves all as it was. Where the map is full it is grown and the
        job run again.

        Raises
        ------
        StoreClosedError
            If the environment is closed, or inherited through a fork.
        StoreFullError, StoreError
            If LMDB fails: the environment is closed, the earlier commit stays.
        """
        with self.lock:
            self.require_open()
            try:
                while True:
                    try:
                        return self._run(job, write=True)
                    except lmdb.MapFullError:
                        self._resize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                # After a failed write or sync nobody knows what reached the disk: LMDB's own
                # idea of it, and the kernel's, are given up and read again at the next open.
                failure = translate(error, self.data_file, "write")
                self.give_up(f"a write failed ({error})")
                raise failure from error

    def last_transaction(self) -> int:
        """Return the number of the last committed transaction, without opening one."""
        with self.lock:  # the call gives up the interpreter lock, and may not meet a fork
            self.require_open()
            return self._env.info()["last_txnid"]

    def sync(self) -> None:
        """Make all commits durable."""
        with self.lock:
            self.require_open()
            try:
                self._env.sync(True)
            except lmdb.Error as error:
                failure = translate(error, self.data_file, "sync")
                self.give_up(f"a sync failed ({error})")
                raise failure from error

    def check_readers(self) -> None:
        """Free the slots of readers that died."""
        with self.lock:
            self.require_open()
            self._env.reader_check()

    def give_up(self, reason: str) -> None:
        """Close the environment under all its handles."""
        with self.lock:
            if self._closed_because is None:
                self._closed_because = reason
                self._env.close()
                _shared.pop(self.key, None)

    def release(self, *, sync: bool) -> None:
        """End the use by one handle, with all commits durable; the last one closes.

        In a forked child, and after `give_up`, nothing happens.
        """
        with _guard, self.lock:
            if self._pid != os.getpid() or self._closed_because is not None:
                return
            self._handles -= 1
            if sync and not self._mode.metasync:
                self.sync()
            if not self._handles:
                self.give_up("it was closed")

    def attach(self, mode: OpenMode) -> None:
        """Begin the use by one handle, reopening the file where the mode asks for more."""
        with self.lock:
            self.require_open()
            if mode.writable and mode[:2] != self._mode[:2]:
                self._reopen(mode)
            self._handles += 1

    def _reopen(self, mode: OpenMode) -> None:
        self._env.close()
        try:
            self._env, self._tables = _open(self._folder, mode)
            self._mode = mode
        except StoreError:
            self._env, self._tables = _open(self._folder, self._mode)
            raise

    @property
    def is_open(self) -> bool:
        """Whether the environment is open and of this process."""
        return self._pid == os.getpid() and self._closed_because is None

    def require_open(self) -> None:
        """Check that the environment is open and of this process.

        Raises
        ------
        StoreClosedError
            If it is not.
        """
        where = self._folder.parent
        if self._pid != os.getpid():
            raise StoreClosedError(
                f"{where}: expected a handle of this process, got one inherited through a fork; "
                "open the directory again in the child"
            )
        if self._closed_because is not None:
            raise StoreClosedError(
                f"{where}: expected an open store, but {self._closed_because}; "
                "open the directory again"
            )

    def _run(self, job: Job[Result], *, write: bool) -> Result:
        while True:
            try:
                with self._env.begin(write=write) as transaction:
                    return job(transaction, self._tables)
            except lmdb.MapResizedError:
                self._resize(_roomy_size(self._env))

    def _resize(self, size: int) -> None:
        try:
            self._env.set_mapsize(size)
        except lmdb.Error as error:
            self.give_up(f"its map could not be grown to {size} bytes ({error})")
            raise StoreFullError(
                f"{self.data_file}: expected {size} bytes of address space, got {error}; "
                "earlier commits are intact, open the directory again"
            ) from error


#: Open environments of this process by device and inode of their data file. The inode cannot be
#: another file's while the environment is open, which a path, or a folder's inode, could be.
_shared: dict[FileKey, Environment] = {}
# Taken before the lock of an environment, never after it.
_guard = threading.RLock()
_forking: list[Environment] = []


def acquire(folder: Path, mode: OpenMode) -> Environment:
    """Return the environment of a folder for one more handle.

    Raises
    ------
    StoreCorruptError, StoreSchemaError
        If the data file is damaged, or of another format.
    StoreReadOnlyError
        If its files may not be written.
    StoreError
        If LMDB cannot open it.
    """
    with _guard:
        environment = _shared.get(layout.key_of(folder / layout.DATA))
        if environment is None:
            _check_data_file(folder / layout.DATA)
            environment = Environment(folder, mode)
            _shared[environment.key] = environment
        try:
            environment.attach(mode)
        except StoreError as error:
            if not environment._handles:
                environment.give_up(f"it could not be opened ({error})")
            raise
        return environment


def initialise(folder: Path, entries: dict[bytes, bytes]) -> None:
    """Make the tables of a new memory, with first entries of the ``sys`` table.

    What an interrupted making left is completed.
    """
    env = _open_file(folder, OpenMode(writable=True, metasync=True, map_size=_LEAST_MAP_SIZE))
    try:
        with env.begin(write=True) as transaction:
            tables = [env.open_db(name.encode(), txn=transaction) for name in codec.TABLES]
            if transaction.get(codec.SCHEMA, db=tables[0]) is None:
                for name, record in entries.items():
                    transaction.put(name, record, db=tables[0])
    except lmdb.Error as error:
        raise translate(error, folder / layout.DATA, "write") from error
    finally:
        env.close()


def _check_data_file(path: Path) -> None:
    # Pages at the end that were never more than free need not have been written: a short file is
    # damaged only if a page in use is missing.
    if layout.is_short(path):
        try:
            problems = lmdb_verify.verify(os.fspath(path))  # type: ignore[no-untyped-call]
        except lmdb_verify.VerifyError as error:
            problems = [str(error)]
        if problems:
            raise StoreCorruptError(
                f"{path}: expected all pages of an LMDB data file, got a shorter one: {problems[0]}"
            )


def _open(folder: Path, mode: OpenMode) -> tuple[lmdb.Environment, Tables]:
    env = _open_file(folder, mode)
    try:
        tables = _find_tables(env, folder / layout.DATA)
        env.reader_check()
    except BaseException:
        env.close()
        raise
    return env, tables


def _find_tables(env: lmdb.Environment, path: Path) -> Tables:
    try:
        while True:
            try:
                return _open_tables(env, path)
            except lmdb.MapResizedError:  # a writer made the file longer since it was opened
                env.set_mapsize(_roomy_size(env))
    except lmdb.NotFoundError as error:
        raise StoreCorruptError(
            f"{path}: expected the tables {', '.join(codec.TABLES)}, got {error}"
        ) from error
    except lmdb.Error as error:
        raise translate(error, path, "open") from error


def _open_tables(env: lmdb.Environment, path: Path) -> Tables:
    # Not in a transaction of ours: the binding ends one that reads by an abort, which closes
    # the tables opened in it.
    system = env.open_db(b"sys", create=False)
    with env.begin(db=system) as transaction:
        # Before the other tables: a newer release may have others.
        _check_schema(transaction.get(codec.SCHEMA), path)
    others = [env.open_db(name.encode(), create=False) for name in codec.TABLES[1:]]
    return Tables(system, *others)


def _roomy_size(env: lmdb.Environment) -> int:
    """Return a map size for a file that another process has made longer than the map."""
    return 2 * (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _check_schema(record: bytes | None, path: Path) -> None:
    if record is None or not record.isdigit():
        raise StoreCorruptError(f"{path}: expected a schema number in sys[schema], got {record!r}")
    if int(record) > codec.SCHEMA_VERSION:
        raise StoreSchemaError(
            f"{path}: expected schema {codec.SCHEMA_VERSION} or lower, got {int(record)}: "
            "written by a newer release"
        )


def _open_file(folder: Path, mode: OpenMode) -> lmdb.Environment:
    layout.reserve(folder / layout.LOCK, _LOCK_SIZE)
    size = mode.map_size
    while True:
        try:
            return lmdb.open(
                os.fspath(folder),
                map_size=size,
                readonly=not mode.writable,
                metasync=mode.metasync,
                create=False,
                mode=0o664,  # the umask decides whether the group may write
                max_readers=_MAX_READERS,
                max_dbs=_MAX_TABLES,
                lib_version=_ENGINE,
            )
        except lmdb.MemoryError as error:
            # A limit on address space, not on memory: the map is mostly never touched.
            if size <= _LEAST_MAP_SIZE:
                raise StoreError(
                    f"{folder}: expected {size} bytes of address space for the map, got none"
                ) from error
            size = max(size // 2, _LEAST_MAP_SIZE)
        except lmdb.Error as error:
            raise translate(error, folder / layout.DATA, "open") from error


def _before_fork() -> None:
    _guard.acquire()
    _forking[:] = _shared.values()
    for environment in _forking:
        environment.lock.acquire()


def _after_fork_in_parent() -> None:
    for environment in _forking:
        environment.lock.release()
    _guard.release()


def _after_fork_in_child() -> None:
    # No transaction is open, so closing unmaps and closes what this process has, and no more:
    # the slots in the reader table and the record locks are the parent's by its process id.
    for environment in _forking:
        environment._env.close()
        environment.lock.release()
    _shared.clear()
    _guard.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
