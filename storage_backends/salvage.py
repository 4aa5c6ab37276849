"""Reads what is left of a damaged LMDB data file, without LMDB.

LMDB trusts its pages, and is killed by a signal where they are wrong. Here every number read from
the file is checked before it is used, and a page that cannot be what it should be is left out,
with all that only it led to.

Two things bring much of that back. A file that is at rest consists of meta pages, free pages and
pages in use; so a page that is neither free nor reached belongs to what was cut off. And a record
carries a checksum over its table, so that one found on such a page can be told where it belongs.

The layout is that of LMDB 0.9 on a 64-bit machine: a page begins with its number (8 bytes), two
bytes of padding, its flags, and the bounds of its free space (2 bytes each); offsets of the nodes
follow. A node has a size (4 bytes), flags and the length of its key (2 bytes each), key and data.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from storage_backends import layout
from storage_backends.errors import StoreCorruptError

_PAGE = struct.Struct("<Q2xHHH")  # number, flags, lower and upper bound of the free space
_EXTENT = struct.Struct("<Q2xHI")  # of a large record: number, flags, pages
_NODE = struct.Struct("<HHHH")
_DATABASE = struct.Struct("<I2xH4QQ")  # page size, depth, four counts, root
_META = struct.Struct("<II16x48s48sQQ")  # magic, version, free list, tables, last page, transaction
_NUMBER = struct.Struct("<Q")

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _LARGE, _META_FLAG = 0x01, 0x02, 0x04, 0x08
_IN_EXTENT, _IS_TABLE = 0x01, 0x02
_METAS, _NO_PAGE, _DEEPEST = 2, 2**64 - 1, 32
_PAGE_SIZES = [1 << bits for bits in range(8, 17)]


class Found(NamedTuple):
    """A record as it was found.

    Parameters
    ----------
    table : str
        Its table; empty where nothing but its checksum says it.
    key, record : bytes
    """

    table: str
    key: bytes
    record: bytes


class _Meta(NamedTuple):
    transaction: int
    page_size: int
    last_page: int
    free_root: int
    table_root: int


class _Node(NamedTuple):
    flags: int
    key: bytes
    data: bytes
    child: int


class DataFile:
    """A data file that nothing writes to, read page by page.

    Parameters
    ----------
    path : Path
        The ``data.mdb``.

    Raises
    ------
    StoreCorruptError
        If neither meta page is whole: nothing then tells what is in use from what is old.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        #: Whether it is known which commit was the last.
        self.is_last = True
        #: Numbers of records of the tables that `records` has found in the list of tables.
        self.entries: dict[str, int] = {}
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise layout.translate(error, path, "to read it") from error
        try:
            self._meta = self._newest_meta()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._size = self._meta.page_size
        there = os.fstat(self._descriptor).st_size // self._size
        self._pages = min(self._meta.last_page + 1, there)
        if self._pages <= self._meta.last_page:
            missing = self._meta.last_page + 1 - self._pages
            self.damage.append(f"the last {missing} pages are missing")
        self._seen = bytearray(self._pages)

    @property
    def transaction(self) -> int:
        """Number of the last transaction that the file tells of."""
        return self._meta.transaction

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def records(self) -> Iterator[Found]:
        """Yield every record that can be reached, then those that were cut off.

        What is damaged is told in `damage` when the iterator is exhausted.
        """
        roots = dict(self._tables())
        for name, root in roots.items():
            for node in self._nodes(root, f"table {name}"):
                yield from self._found(name, node)
        before = len(self.damage)
        free = self._free_pages()
        if not self.damage:
            return
        if len(self.damage) > before:
            self.damage.append(
                "what damaged pages led to cannot be told from what is free, and is left out"
            )
        else:
            yield from self._cut_off(free)

    def ill_fitting(self) -> list[str]:
        """Return which pages in use LMDB would garble when it deletes from them, and more of such.

        It trusts the sizes in a page, and moves the records of others by them.
        """
        before = len(self.damage)
        for name, root in self._tables():
            for _ in self._nodes(root, f"table {name}"):
                pass
        return self.damage[before:]

    def _tables(self) -> Iterator[tuple[str, int]]:
        for node in self._nodes(self._meta.table_root, "the list of tables"):
            if node.flags & _IS_TABLE and len(node.data) == _DATABASE.size:
                *_, entries, root = _DATABASE.unpack(node.data)
                name = node.key.decode("ascii", "replace")
                if entries <= self._pages * self._meta.page_size:
                    self.entries[name] = entries
                yield name, root

    def _free_pages(self) -> set[int]:
        free: set[int] = set()
        for node in self._nodes(self._meta.free_root, "the list of free pages"):
            record = self._data_of(node)
            if record is None or len(record) < 8 or len(record) % 8:
                self.damage.append("the list of free pages holds a damaged entry")
            else:
                free.update(number for (number,) in _NUMBER.iter_unpack(record[8:]))
        return free

    def _cut_off(self, free: set[int]) -> Iterator[Found]:
        """Yield the records of pages that are in use and were not reached."""
        for number in range(_METAS, self._pages):
            if not self._seen[number] and number not in free:
                page = self._page(number)
                if page is not None and _PAGE.unpack_from(page)[1] == _LEAF:
                    for node in _nodes_of(page):
                        yield from self._found("", node)

    def _found(self, table: str, node: _Node) -> Iterator[Found]:
        if not node.flags & _IS_TABLE:
            record = self._data_of(node)
            if record is not None:
                yield Found(table, node.key, record)

    def _nodes(self, root: int, of: str) -> Iterator[_Node]:
        """Yield the nodes of the leaves below a page, in order."""
        waiting = [] if root == _NO_PAGE else [(root, 0)]
        while waiting:
            number, depth = waiting.pop()
            page = self._page(number)
            if page is None or depth > _DEEPEST or self._seen[number]:
                self.damage.append(f"page {number} of {of} cannot be read")
                continue
            self._seen[number] = 1
            nodes = list(_nodes_of(page))
            _, flags, lower, upper = _PAGE.unpack_from(page)
            filled = sum(map(_room_of, nodes))  # nodes lie side by side, up to the end of the page
            if len(nodes) != (lower - _PAGE.size) // 2 or filled != len(page) - upper:
                self.damage.append(f"page {number} of {of} holds damaged records")
            if flags == _BRANCH:
                waiting += [(node.child, depth + 1) for node in reversed(nodes)]
            else:
                yield from nodes

    def _page(self, number: int) -> bytes | None:
        """Return a branch or leaf page; None where the bytes at its place are none."""
        if not _METAS <= number < self._pages:
            return None
        page = self._read(number * self._size, self._size)
        return page if len(page) == self._size and _is_page(page, number) else None

    def _data_of(self, node: _Node) -> bytes | None:
        """Return the record of a node, which may have pages of its own."""
        if not node.flags & _IN_EXTENT:
            return node.data
        size = node.child  # the same bytes say how long the record is
        (number,) = _NUMBER.unpack(node.data)
        if _METAS <= number < self._pages:
            extent = self._read(number * self._size, _PAGE.size + size)
            if len(extent) == _PAGE.size + size:
                stored, flags, pages = _EXTENT.unpack_from(extent)
                # More pages than the record needs, where it took the place of a longer one.
                roomy = len(extent) <= pages * self._size <= self._pages * self._size
                if stored == number and flags == _LARGE and roomy:
                    end = min(number + pages, self._pages)
                    self._seen[number:end] = b"\1" * (end - number)
                    return extent[_PAGE.size :]
        self.damage.append(f"the large record at page {number} cannot be read")
        return None

    def _newest_meta(self) -> _Meta:
        first = self._meta_at(0, None)
        sizes = _PAGE_SIZES if first is None else [first.page_size]
        second = next(filter(None, (self._meta_at(size, size) for size in sizes)), None)
        metas = [meta for meta in (first, second) if meta is not None]
        if not metas:
            raise StoreCorruptError(
                f"{self.path}: expected a whole meta page, got two damaged ones; without them "
                "nothing tells the records in use from old ones: restore a copy"
            )
        if len(metas) == 1:
            self.is_last = False
            self.damage.append("one of the two meta pages is damaged: the last commit may be lost")
        return max(metas, key=lambda meta: meta.transaction)

    def _meta_at(self, offset: int, page_size: int | None) -> _Meta | None:
        content = self._read(offset, _PAGE.size + _META.size)
        if len(content) < _PAGE.size + _META.size:
            return None
        number, flags, _, _ = _PAGE.unpack_from(content)
        magic, version, free, main, last, transaction = _META.unpack_from(content, _PAGE.size)
        size, *_, free_root = _DATABASE.unpack(free)
        *_, table_root = _DATABASE.unpack(main)
        known = (magic, version, flags, number) == (_MAGIC, _VERSION, _META_FLAG, int(offset > 0))
        if not known or size not in _PAGE_SIZES or page_size not in (None, size):
            return None
        return _Meta(transaction, size, last, free_root, table_root)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:  # a bad sector: the rest of the file may be fine
            self.damage.append(f"{size} bytes at {offset} cannot be read ({error.strerror})")
            return b""


def found_anywhere(path: Path) -> Iterator[Found]:
    """Yield the small records on any leaf of a file, be it in use, free, or of no known state.

    Most are old ones. The pages must have the size that this machine has.
    """
    with open(path, "rb") as file, suppress(OSError):  # a bad sector: what is after it is left
        for number in count():
            page = file.read(mmap.PAGESIZE)
            if len(page) < mmap.PAGESIZE:
                return
            if _is_page(page, number) and _PAGE.unpack_from(page)[1] == _LEAF:
                for node in _nodes_of(page):
                    if not node.flags & (_IN_EXTENT | _IS_TABLE):
                        yield Found("", node.key, node.data)


def _is_page(page: bytes, number: int) -> bool:
    """Return whether the bytes may be the branch or leaf page of a number."""
    stored, flags, lower, upper = _PAGE.unpack_from(page)
    sound = stored == number and flags in (_BRANCH, _LEAF)
    return sound and _PAGE.size <= lower <= upper <= len(page)


def _room_of(node: _Node) -> int:
    """Return how many bytes of a page a node takes, which is an even number."""
    size = _NODE.size + len(node.key) + len(node.data)
    return size + size % 2


def _nodes_of(page: bytes) -> Iterator[_Node]:
    """Yield the nodes of a page that lie within it."""
    _, flags, lower, upper = _PAGE.unpack_from(page)
    for at in range(_PAGE.size, lower - 1, 2):
        (offset,) = struct.unpack_from("<H", page, at)
        if not upper <= offset <= len(page) - _NODE.size:
            continue
        low, high, kind, key_size = _NODE.unpack_from(page, offset)
        start = offset + _NODE.size
        key = page[start : start + key_size]
        size, child = low | high << 16, low | high << 16 | kind << 32
        if flags == _BRANCH:
            yield _Node(0, key, b"", child)
            continue
        begin = start + key_size
        end = begin + (_NUMBER.size if kind & _IN_EXTENT else size)
        if end <= len(page):
            yield _Node(kind, key, page[begin:end], size)
