"""The file of columns: what goes in comes out, mapped, and nothing else is taken for it."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from storage_backends.column_file import PAGE, ColumnsDraft, map_columns, put_columns
from storage_backends.columns import Column
from storage_backends.errors import StoreCorruptError, StoreError, StoreFullError
from storage_backends.recorded_file import record_of, write_file

Arrays = dict[str, NDArray[Any]]

GENERATION = 7


def arrays() -> Arrays:
    """Return one column of every type, empty ones and wide ones among them."""
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(1, 2**64, 300, np.uint64),
        "alive": rng.random(300) < 0.5,
        "keys": rng.normal(size=(300, 5)).astype(np.float32),
        "kinds": rng.integers(0, 256, 300, np.uint8),
        "start": rng.integers(-(2**63), 2**63, 300),
        "use": rng.integers(0, 2**32, 1024, np.uint32),  # exactly a page
        "pool": rng.integers(0, 256, (200, 24), np.uint8),
        "none": np.empty(0, np.uint32),
        "no_rows": np.empty((0, 3), np.float32),
        "no_width": np.empty((3, 0), np.float32),
    }


def write(path: Path, columns: Any, generation: int = GENERATION) -> Path:
    write_file(path, lambda put: put_columns(put, columns, generation))
    return path


def same(found: Any, expected: Any) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == column.dtype and found[name].tobytes() == column.tobytes()
        for name, column in expected.items()
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "columns", arrays())


def with_header(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change the header of a file, and its hash with it."""
    content = bytearray(path.read_bytes())
    change(content)
    content[PAGE - 32 : PAGE] = hashlib.sha256(content[: PAGE - 32]).digest()
    path.write_bytes(content)


def test_columns_come_back_as_they_were(path: Path) -> None:
    found = map_columns(path, GENERATION)
    assert list(found) == list(arrays())
    assert same(found, arrays())
    assert {name: column.shape for name, column in found.items()} == {
        name: column.shape for name, column in arrays().items()
    }


def test_whoever_goes_by_the_documented_bytes_reads_the_columns(path: Path) -> None:
    content = path.read_bytes()
    magic, version, count, generation, size = struct.unpack_from("<8sIIQQ", content)
    assert (magic, version, generation, size) == (b"AESGCOLS", 2, GENERATION, len(content))
    assert hashlib.sha256(content[:4064]).digest() == content[4064:4096]
    read = {}
    for number in range(count):
        entry = struct.unpack_from("<24s8sQQQQ", content, 32 + 64 * number)
        name, kind = (text.rstrip(b"\0").decode() for text in entry[:2])
        dimensions, *shape, offset = entry[2:]
        numbers = np.frombuffer(content, kind, shape[0] * shape[1], offset)
        read[name] = numbers.reshape(shape[:dimensions])
    assert same(read, arrays())


def test_no_columns_make_a_file_too(tmp_path: Path) -> None:
    assert map_columns(write(tmp_path / "columns", {}), GENERATION) == {}


def test_as_many_columns_as_the_header_has_room_for(tmp_path: Path) -> None:
    many = {f"column number {number:010}": np.arange(number) for number in range(63)}
    assert same(map_columns(write(tmp_path / "columns", many), GENERATION), many)


def test_mapped_columns_cannot_be_written_to(path: Path) -> None:
    for column in map_columns(path, GENERATION).values():
        assert not column.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            column.setflags(write=True)


def test_every_column_starts_a_page(path: Path) -> None:
    for column in map_columns(path, GENERATION).values():
        assert column.ctypes.data % PAGE == 0
    assert path.stat().st_size % PAGE == 0


def test_mapped_columns_outlive_the_name_of_their_file(path: Path) -> None:
    found = map_columns(path, GENERATION)
    path.unlink()
    assert same(found, arrays())


def test_columns_over_a_base_are_written_as_they_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base, tail = rng.normal(size=(2, 400_000, 2)).astype(np.float32)
    column = (
        Column.over(base)
        .appended(tail, in_place=False)
        .replaced(np.array([3, 399_999, 400_001]), np.ones((3, 2), np.float32))
    )
    expected = np.concatenate([base, tail])
    expected[[3, 399_999, 400_001]] = 1
    found = map_columns(write(tmp_path / "columns", {"keys": column}), GENERATION)
    assert same(found, {"keys": expected})


def test_rows_that_do_not_lie_end_to_end_are_written_in_order(tmp_path: Path) -> None:
    wide = np.arange(1_000_000, dtype=np.int64).reshape(-1, 4)
    found = map_columns(
        write(tmp_path / "columns", {"half": wide[::2], "turned": wide.T}), GENERATION
    )
    assert same(found, {"half": wide[::2], "turned": wide.T})


def test_columns_of_another_generation_are_refused(path: Path) -> None:
    with pytest.raises(StoreCorruptError, match="generation 8, got 7"):
        map_columns(path, 8)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        map_columns(tmp_path / "columns", GENERATION)


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, 3 * PAGE, -PAGE, -1])
def test_a_file_cut_short_is_refused(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(StoreCorruptError, match="bytes"):
        map_columns(path, GENERATION)


def test_a_file_that_goes_on_is_refused(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(bytes(PAGE))
    with pytest.raises(StoreCorruptError, match="bytes of columns"):
        map_columns(path, GENERATION)


HEADERS: dict[str, tuple[Callable[[bytearray], object], str]] = {
    "another magic": (lambda page: struct.pack_into("<8s", page, 0, b"AESGROWS"), "AESGROWS"),
    "big-endian": (lambda page: struct.pack_into(">I", page, 8, 2), "version"),
    "an earlier version": (lambda page: struct.pack_into("<I", page, 8, 1), "got .* version 1"),
    "a later version": (lambda page: struct.pack_into("<I", page, 8, 3), "got .* version 3"),
    "too many columns": (lambda page: struct.pack_into("<I", page, 12, 64), "at most 63"),
    "a column more": (lambda page: struct.pack_into("<I", page, 12, 11), "known type"),
    "a column less": (lambda page: struct.pack_into("<I", page, 12, 9), "others"),
    "another size": (lambda page: struct.pack_into("<Q", page, 24, PAGE), "others"),
    "no ASCII": (lambda page: struct.pack_into("<B", page, 32, 200), "known type"),
    "an unknown type": (lambda page: struct.pack_into("<8s", page, 56, b"float64"), "known type"),
    "a third dimension": (lambda page: struct.pack_into("<Q", page, 64, 3), "others"),
    "a huge column": (lambda page: struct.pack_into("<Q", page, 72, 2**63), "bytes of columns"),
    "a huge width": (lambda page: struct.pack_into("<Q", page, 208, 2**63), "bytes of columns"),
    "a column elsewhere": (lambda page: struct.pack_into("<Q", page, 88, 2 * PAGE), "others"),
    "bytes behind the last": (lambda page: struct.pack_into("<B", page, 2000, 1), "others"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_nobody_writes_is_refused(path: Path, kind: str) -> None:
    change, message = HEADERS[kind]
    with_header(path, change)
    with pytest.raises(StoreCorruptError, match=message):
        map_columns(path, GENERATION)


def test_damage_to_any_byte_of_the_header_is_refused(path: Path) -> None:
    with open(path, "r+b", buffering=0) as file:
        for position in range(PAGE):
            (byte,) = os.pread(file.fileno(), 1, position)
            damage = bytes([byte ^ 1 << position % 8])
            os.pwrite(file.fileno(), damage, position)
            with pytest.raises(StoreCorruptError):
                map_columns(path, GENERATION)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert same(map_columns(path, GENERATION), arrays())


class TestDraft:
    """Columns that are filled in their place make the file that writing them would make."""

    def draft(self, path: Path) -> ColumnsDraft:
        return ColumnsDraft(
            path, {name: (rows.dtype, rows.shape) for name, rows in arrays().items()}
        )

    def test_it_becomes_the_file_that_is_written_piece_by_piece(
        self, path: Path, tmp_path: Path
    ) -> None:
        draft = self.draft(tmp_path / "in_place")
        for name, rows in arrays().items():
            draft.arrays[name][...] = rows
        record = draft.finish(GENERATION)
        assert (tmp_path / "in_place").read_bytes() == path.read_bytes()
        assert record == record_of(tmp_path / "in_place")
        assert same(map_columns(tmp_path / "in_place", GENERATION), arrays())

    def test_until_it_is_finished_there_is_no_such_file(self, tmp_path: Path) -> None:
        draft = self.draft(tmp_path / "in_place")
        draft.arrays["ids"][:] = 1
        assert not (tmp_path / "in_place").exists()
        draft.discard()
        assert list(tmp_path.iterdir()) == []

    def test_it_takes_the_place_of_another_and_of_what_was_left_unfinished(
        self, path: Path, tmp_path: Path
    ) -> None:
        mapped = map_columns(path, GENERATION)
        self.draft(path)
        self.draft(path).finish(GENERATION + 1)
        assert set(map_columns(path, GENERATION + 1)) == set(mapped)
        assert same(mapped, arrays())
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_a_full_disk_is_found_before_anything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_room(*given: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(StoreFullError, match="in_place"):
            self.draft(tmp_path / "in_place")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_what_fails_in_the_end_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*given: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        draft = self.draft(tmp_path / "in_place")
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(StoreError, match="in_place"):
            draft.finish(GENERATION)
        assert list(tmp_path.iterdir()) == []
