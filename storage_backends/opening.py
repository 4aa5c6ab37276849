"""Opens data files of LMDB with the tables of a memory in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import lmdb

from storage_backends import codec, layout
from storage_backends.errors import StoreCorruptError, StoreError, StoreSchemaError
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
    snapshot: lmdb._Database
    alias: lmdb._Database | None

    def named(self) -> Iterator[tuple[str, lmdb._Database]]:
        """Yield the tables that there are, with their names."""
        for name, table in zip(codec.TABLES, self, strict=True):
            if table is not None:
                yield name, table


Job: TypeAlias = Callable[[Transaction, Tables], Result]


class OpenMode(NamedTuple):
    """How an environment is opened."""

    writable: bool
    metasync: bool
    map_size: int


def open_tables_in(folder: Path, mode: OpenMode) -> tuple[lmdb.Environment, Tables]:
    """Open the data file in a folder, and its tables.

    Raises
    ------
    StoreCorruptError, StoreSchemaError
        If a table is missing, or it was written under another schema.
    StoreReadOnlyError
        If its files may not be written.
    StoreError
        If LMDB cannot open it.
    """
    env = _open_file(folder, mode)
    try:
        env.reader_check()  # which frees the slots of readers that were killed
        tables = _find_tables(env, folder / layout.DATA, mode.writable)
    except BaseException:
        env.close()
        raise
    return env, tables


def _find_tables(env: lmdb.Environment, path: Path, writable: bool) -> Tables:
    try:
        while True:
            try:
                return _open_tables(env, path, writable)
            except lmdb.MapResizedError:  # a writer made the file longer since it was opened
                env.set_mapsize(roomy_size(env))
    except lmdb.NotFoundError as error:
        raise StoreCorruptError(
            f"{path}: expected the tables {', '.join(codec.TABLES)}, got {error}"
        ) from error
    except lmdb.Error as error:
        raise translate(error, path, "open") from error


def _open_tables(env: lmdb.Environment, path: Path, writable: bool) -> Tables:
    # Not in a transaction of ours: the binding ends one that reads by an abort, which closes
    # the tables opened in it.
    system = env.open_db(b"sys", create=False)
    with env.begin(db=system) as transaction:
        # Before the other tables: a newer release may have others.
        _check_schema(transaction.get(codec.SCHEMA), path)
    others = [env.open_db(name.encode(), create=False) for name in codec.TABLES[1:-1]]
    aliases = open_aliases(env, create=False)
    if aliases is None:
        _require_known_tables(env, path)  # else it may be there, under a name that is damaged
        aliases = open_aliases(env, create=writable)
    return Tables._make([system, *others, aliases])


def _require_known_tables(env: lmdb.Environment, path: Path) -> None:
    with env.begin() as transaction:
        names = list(transaction.cursor().iternext(values=False))
    unknown = [name for name in names if name not in {each.encode() for each in codec.TABLES}]
    if unknown:
        raise StoreCorruptError(
            f"{path}: expected the tables {', '.join(codec.TABLES)}, got {unknown[0][:40]!r}"
        )


def open_aliases(env: lmdb.Environment, *, create: bool) -> lmdb._Database | None:
    """Open the table of aliases, which earlier releases did not make; None where it is missing."""
    try:
        return env.open_db(codec.ALIAS.encode(), create=create)
    except lmdb.NotFoundError:
        return None


def roomy_size(env: lmdb.Environment) -> int:
    """Return a map size for a file that another process has made longer than the map."""
    return 2 * (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _check_schema(record: bytes | None, path: Path) -> None:
    if record is None or not record.isdigit():
        raise StoreCorruptError(f"{path}: expected a schema number in sys[schema], got {record!r}")
    if int(record) != codec.SCHEMA_VERSION:
        release = "a newer" if int(record) > codec.SCHEMA_VERSION else "an older"
        raise StoreSchemaError(
            f"{path}: expected schema {codec.SCHEMA_VERSION}, got {int(record)}: "
            f"written by {release} release"
        )


def _open_file(folder: Path, mode: OpenMode) -> lmdb.Environment:
    locked = not (layout.is_read_only(folder) and not mode.writable)
    if locked:
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
                lock=locked,  # where nobody can write there is nothing to keep readers from
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
