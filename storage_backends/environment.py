"""LMDB environments: opened once in a process, shared by its handles, and let go of by its forks.

LMDB must not open a file twice in one process, so handles on one memory share one environment.
All its transactions are short and run under one lock. That lock is what makes it safe to grow
the map and to fork: neither happens while a transaction is open. A forked child closes the
environments that it inherited, which touches nothing of the parent's, and may open them anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import lmdb

from storage_backends import layout, trust
from storage_backends.errors import StoreClosedError, StoreError, StoreFullError
from storage_backends.layout import FileKey
from storage_backends.lmdb_errors import translate
from storage_backends.lmdb_read import read_generation
from storage_backends.lmdb_verify import require_sound_records
from storage_backends.opening import (
    Job,
    OpenMode,
    Result,
    Transaction,
    open_aliases,
    open_tables_in,
    roomy_size,
)
from storage_backends.place import Place

_log = logging.getLogger("aesg.storage")


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
        self._env, self._tables = open_tables_in(folder, mode)
        self.key = layout.key_of(self.data_file)
        self.place = Place(self.data_file, self.key)

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
                        result = self._run(job, write=True)
                        self._stamp()
                        return result
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

    def size(self) -> int:
        """Return the bytes of the data file, or of its pages where its name is gone."""
        with self.lock:
            self.require_open()
            try:
                return self.data_file.stat().st_size
            except OSError:
                return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

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

    def copy_to(self, folder: Path, *, compact: bool) -> None:
        """Write a copy of the last commit into an empty folder; see `LMDBStore.copy_to`."""
        copy = folder / layout.DATA
        with self.lock:
            self.require_open()
            try:
                generation = self._run(read_generation, write=False)
                self._env.copy(os.fspath(folder), compact=compact)
                layout.sync_file(copy)
                trust.write_stamp(folder, generation, durable=True)
                layout.sync_folder(folder)
            except lmdb.Error as error:
                raise translate(error, copy, "write") from error
            except OSError as error:
                raise layout.translate(error, copy, "to write it") from error

    def check_readers(self) -> None:
        """Free the slots of readers that died."""
        with self.lock:
            self.require_open()
            self._env.reader_check()

    def readers(self) -> str:
        """Return LMDB's table of readers, a line for each: process, thread, transaction."""
        with self.lock:
            self.require_open()
            return self._env.readers()

    def give_up(self, reason: str) -> None:
        """Close the environment under all its handles.

        Another call does what Ctrl-C has kept an earlier one from doing.
        """
        with self.lock:
            self._closed_because = self._closed_because or reason
            self._env.close()
            if _shared.get(self.key) is self:
                del _shared[self.key]

    def release(self, *, sync: bool) -> None:
        """End the use by one handle, with all commits durable; the last one closes.

        In a forked child, and after `give_up`, nothing happens.
        """
        with guard, self.lock:
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
            if mode.writable:
                if mode[:2] != self._mode[:2]:
                    self._reopen(mode)
                if not trust.is_as_stamped(self._folder):
                    self._stamp()
            self._handles += 1

    def _reopen(self, mode: OpenMode) -> None:
        try:
            self._env.close()
            self._env, self._tables = open_tables_in(self._folder, mode)
            self._mode = mode
        except StoreError:
            self._env, self._tables = open_tables_in(self._folder, self._mode)
            raise
        except BaseException:
            self.give_up("opening it for writing was interrupted")
            raise

    @property
    def in_use(self) -> bool:
        """Whether any handle shares it."""
        return self._handles > 0

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._mode.writable

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

    def _stamp(self) -> None:
        generation = self._run(read_generation, write=False)
        trust.write_stamp(self._folder, generation, durable=self._mode.metasync)

    def _run(self, job: Job[Result], *, write: bool) -> Result:
        while True:
            try:
                if self._tables.alias is None:  # a writer may have made it since
                    aliases = open_aliases(self._env, create=False)
                    self._tables = self._tables._replace(alias=aliases)
                with self._begin(write=write) as transaction:
                    return job(transaction, self._tables)
            except lmdb.MapResizedError:
                self._resize(roomy_size(self._env))

    def _begin(self, *, write: bool) -> Transaction:
        try:
            return self._env.begin(write=write)
        except lmdb.ReadersFullError:
            self._env.reader_check()  # readers that were killed left their slots
            return self._env.begin(write=write)

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
#: Held while handles come and go. Taken before the lock of an environment, never after it.
guard = threading.RLock()
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
    with guard:
        try:
            return _acquire(folder, mode)
        except OSError as error:
            raise layout.translate(error, folder / layout.DATA, "to open it") from error


def _acquire(folder: Path, mode: OpenMode) -> Environment:
    begun, examined = time.monotonic(), False
    environment = _shared.get(layout.key_of(folder / layout.DATA))
    if environment is not None and not environment.is_open:
        environment.give_up("closing it was interrupted")
        environment = None
    if environment is None or (mode.writable and not environment.writable):
        examined = trust.require_sound_pages(folder, writing=mode.writable)
    if environment is None:
        environment = Environment(folder, mode)
        _shared[environment.key] = environment
    try:
        if examined:
            environment.read(require_sound_records)
            stamp = trust.read_stamp(folder)
            trust.require_commits(folder, stamp, environment.read(read_generation))
            _log.info(
                "%s was not as its last commit left it: examined in %.1f s, nothing is wrong",
                environment.data_file,
                time.monotonic() - begun,
            )
        environment.attach(mode)
    except BaseException as error:  # after Ctrl-C, too, nobody has examined it
        if not environment.in_use:
            environment.give_up(f"it could not be opened ({error})")
        raise
    return environment


def _before_fork() -> None:
    guard.acquire()
    _forking[:] = _shared.values()
    for environment in _forking:
        environment.lock.acquire()


def _after_fork_in_parent() -> None:
    for environment in _forking:
        environment.lock.release()
    guard.release()


def _after_fork_in_child() -> None:
    # No transaction is open, so closing unmaps and closes what this process has, and no more:
    # the slots in the reader table and the record locks are the parent's by its process id.
    for environment in _forking:
        environment._env.close()
        environment.lock.release()
    _shared.clear()
    guard.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
