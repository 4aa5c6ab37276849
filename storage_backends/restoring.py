"""Puts what is found of a damaged data file into the tables of a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from storage_backends import checksum, codec
from storage_backends.errors import StoreCorruptError, StoreSchemaError
from storage_backends.lmdb_read import read_manifest
from storage_backends.manifest import Manifest
from storage_backends.opening import Tables, Transaction
from storage_backends.salvage import Found, found_anywhere
from storage_backends.sifting import Moved
from storage_backends.types import EDGE


def put(transaction: Transaction, tables: Tables, found: Found) -> Iterator[Moved]:
    """Put a record into its table; yield it where that is not possible.

    Raises
    ------
    StoreSchemaError
        If it says that the file is of another release.
    """
    table = found.table if found.table in codec.TABLES else _table_of(found)
    if (table, found.key) == ("sys", codec.SCHEMA):
        _require_this_schema(found.record)
    elif table not in codec.TABLES or not 0 < len(found.key) <= codec.MAX_NAME_BYTES:
        yield Moved(table, found.key, found.record, "expected a record of a table, got another")
    elif not transaction.put(found.key, found.record, db=getattr(tables, table), overwrite=False):
        yield Moved(table, found.key, found.record, "expected one record of this key, got two")


def _require_this_schema(record: bytes) -> None:
    if record.isdigit() and int(record) != codec.SCHEMA_VERSION:
        raise StoreSchemaError(
            f"sys[schema]: expected {codec.SCHEMA_VERSION}, got {int(record)}: written by another "
            "release, which must repair it"
        )


def _table_of(found: Found) -> str:
    """Return the table that a record's checksum tells, empty where it tells none."""
    if found.key == codec.SCHEMA:
        return "sys"
    return next((table for table in codec.TABLES if _is_of(table, found.key, found.record)), "")


def _is_of(table: str, key: bytes, record: bytes) -> bool:
    body, found = record[: -checksum.SIZE], record[-checksum.SIZE :]
    if table not in codec.NUMBERED:
        with suppress(StoreCorruptError):
            checksum.unseal(table, key, record)
            return True
        return False
    if len(key) != 8:
        return False
    ids, row = codec.decode_ids([key]), np.frombuffer(body, np.uint8)
    if table == "adjacency":
        if len(body) % EDGE.itemsize:
            return False
        items = row.reshape(-1, EDGE.itemsize)
        return checksum.of_lists(table, ids, np.array([len(items)]), items).tobytes() == found
    return checksum.of_rows(table, ids, row[None]).tobytes() == found


class Traces:
    """Settings and manifests on any page of a damaged file, in use or not.

    Parameters
    ----------
    path : Path
        The ``data.mdb``.
    """

    def __init__(self, path: Path) -> None:
        self.manifests: list[Manifest] = []
        self._settings: dict[bytes, set[bytes]] = {}
        for each in found_anywhere(path):
            if len(each.key) == 8 and _is_of("snapshot", each.key, each.record):
                self.manifests += _manifests(each.record[: -checksum.SIZE])
            elif _is_setting(each):
                self._settings.setdefault(each.key, set()).add(each.record[: -checksum.SIZE])

    def put_settings(self, transaction: Transaction, tables: Tables) -> Iterator[str]:
        """Put settings that are missing and of which there is no doubt; yield their names.

        Of numbers, which only grow, it is the greatest. Of other texts there must be one only.
        """
        for name, texts in sorted(self._settings.items()):
            if all(text.isdigit() for text in texts) and name != codec.UUID:
                texts = {max(texts, key=int)}
            if len(texts) == 1:
                record = checksum.seal("sys", name, *texts)
                if transaction.put(name, record, db=tables.sys, overwrite=False):
                    yield name.decode("ascii", "backslashreplace")


def manifests_in(transaction: Transaction, tables: Tables) -> list[Manifest]:
    """Return the manifest that the tables hold, if it can be read."""
    with suppress(StoreCorruptError):
        newest = read_manifest(transaction, tables)
        return [] if newest is None else _manifests(newest[1])
    return []


def _manifests(record: bytes) -> list[Manifest]:
    with suppress(StoreCorruptError):
        return [Manifest.decode(record)]
    return []


def _is_setting(found: Found) -> bool:
    own = codec.SYSTEM_NAMES - {codec.UUID}
    return found.key.isascii() and found.key not in own and _is_of("sys", found.key, found.record)


def names_in(transaction: Transaction, tables: Tables) -> set[str]:
    """Return the names in the ``sys`` table."""
    keys: Iterable[bytes] = transaction.cursor(db=tables.sys).iternext(values=False)
    return {key.decode("ascii", "backslashreplace") for key in keys}
