"""Files that appear whole, and the records by which they are known again."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from storage_backends.errors import StoreCorruptError, StoreError, StoreFullError
from storage_backends.recorded_file import (
    FileRecord,
    Put,
    Stopped,
    check_content,
    copy_file,
    is_as_recorded,
    restamped,
    write_file,
)
from tests.storage.limits import files_no_longer_than

#: Longer than what is read, written or synced at a time.
CONTENT = os.urandom(1 << 20) * 33 + b"the end"


def produce(put: Put) -> None:
    """Put the content in pieces of very different lengths."""
    view = memoryview(CONTENT)
    put(view[:1])
    put(view[1:1])
    put(bytes(view[1:1000]))
    put(view[1000:])


@pytest.fixture
def record(tmp_path: Path) -> FileRecord:
    """The record of a file with the content, in ``tmp_path``."""
    return write_file(tmp_path / "file", produce)


def test_a_file_holds_what_was_put_and_its_record_says_so(
    tmp_path: Path, record: FileRecord
) -> None:
    assert (tmp_path / "file").read_bytes() == CONTENT
    status = os.stat(tmp_path / "file")
    assert record == FileRecord(
        "file", len(CONTENT), status.st_mtime_ns, hashlib.sha256(CONTENT).hexdigest()
    )
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_not_to_be_seen_before_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("earlier")
    seen = []

    def look(put: Put) -> None:
        produce(put)
        seen.append((tmp_path / "file").read_text())

    write_file(tmp_path / "file", look)
    assert seen == ["earlier"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_who_has_the_earlier_file_open_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("earlier")
    with open(tmp_path / "file") as earlier:
        write_file(tmp_path / "file", produce)
        assert earlier.read() == "earlier"


def test_what_an_interrupted_write_left_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(CONTENT * 2)
    write_file(tmp_path / "file", produce)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]


def test_writing_stops_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    taken = []

    def stop_in_the_middle(put: Put) -> None:
        taken.append(put(CONTENT[:1000]))
        stop.set()
        taken.append(put(CONTENT[1000:]))

    with pytest.raises(Stopped):
        write_file(tmp_path / "file", stop_in_the_middle, stop)
    assert len(taken) == 1
    assert not os.listdir(tmp_path)


def test_an_error_of_whoever_produces_goes_through_and_leaves_the_earlier_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("earlier")

    def fail(put: Put) -> None:
        produce(put)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_file(tmp_path / "file", fail)
    assert (tmp_path / "file").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("room", [0, 1, 500, 1 << 20, len(CONTENT) - 1])
def test_without_room_nothing_is_left(tmp_path: Path, room: int) -> None:
    with files_no_longer_than(room), pytest.raises(StoreFullError, match=r"file: expected"):
        write_file(tmp_path / "file", produce)
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/file: expected to write it"):
        write_file(tmp_path / "nowhere" / "file", produce)


def test_a_file_is_as_recorded_until_it_changes(tmp_path: Path, record: FileRecord) -> None:
    assert is_as_recorded(tmp_path, record)
    os.utime(tmp_path / "file", ns=(record.mtime_ns, record.mtime_ns + 1))
    assert not is_as_recorded(tmp_path, record)
    assert is_as_recorded(tmp_path, restamped(tmp_path, record))
    os.truncate(tmp_path / "file", len(CONTENT) - 1)
    os.utime(tmp_path / "file", ns=(record.mtime_ns, record.mtime_ns))
    assert not is_as_recorded(tmp_path, record)
    os.unlink(tmp_path / "file")
    assert not is_as_recorded(tmp_path, record)
    with pytest.raises(StoreError, match="No such file"):
        restamped(tmp_path, record)


def test_content_that_is_as_written_passes_and_is_counted(
    tmp_path: Path, record: FileRecord
) -> None:
    counts: list[int] = []
    check_content(tmp_path, record, counts.append)
    assert sum(counts) == len(CONTENT)
    assert len(counts) > 10


@pytest.mark.parametrize("position", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_a_changed_byte_anywhere_is_found(
    tmp_path: Path, record: FileRecord, position: int
) -> None:
    with open(tmp_path / "file", "r+b") as file:
        file.seek(position)
        file.write(bytes([CONTENT[position] ^ 1]))
    with pytest.raises(StoreCorruptError, match="expected sha256"):
        check_content(tmp_path, record, lambda size: None)


@pytest.mark.parametrize("size", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_length_is_found(tmp_path: Path, record: FileRecord, size: int) -> None:
    os.truncate(tmp_path / "file", size)
    with pytest.raises(StoreCorruptError, match=f"expected {len(CONTENT)} bytes, got {size}"):
        check_content(tmp_path, record, lambda size: None)


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path, record: FileRecord) -> None:
    os.unlink(tmp_path / "file")
    with pytest.raises(StoreError, match="No such file"):
        check_content(tmp_path, record, lambda size: None)


def test_reading_ends_with_what_the_caller_raises(tmp_path: Path, record: FileRecord) -> None:
    def stop(size: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        check_content(tmp_path, record, stop)


def test_a_copy_is_a_file_of_its_own(tmp_path: Path, record: FileRecord) -> None:
    to = tmp_path / "to"
    to.mkdir()
    copy = copy_file(tmp_path, record, to)
    assert (to / "file").read_bytes() == CONTENT
    assert (copy.name, copy.size, copy.sha256) == (record.name, record.size, record.sha256)
    assert is_as_recorded(to, copy)
    assert os.stat(to / "file").st_nlink == 1
    assert os.stat(to / "file").st_ino != os.stat(tmp_path / "file").st_ino


def test_a_damaged_file_is_not_copied(tmp_path: Path, record: FileRecord) -> None:
    to = tmp_path / "to"
    to.mkdir()
    with open(tmp_path / "file", "r+b") as file:
        file.write(bytes(8))
    with pytest.raises(StoreCorruptError, match="expected sha256"):
        copy_file(tmp_path, record, to)
    assert not os.listdir(to)


def test_a_missing_file_is_not_copied(tmp_path: Path, record: FileRecord) -> None:
    to = tmp_path / "to"
    to.mkdir()
    os.unlink(tmp_path / "file")
    with pytest.raises(StoreError, match="file: expected to read it"):
        copy_file(tmp_path, record, to)
    assert not os.listdir(to)
