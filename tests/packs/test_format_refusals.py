"""What is no pack, or not as it was written, is refused with what is wrong and where."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard

from aesg.errors import AESGStorageError
from aesg.packs import read_head, read_pack, write_pack, writing
from tests.pack_build import PROVENANCE, pack_columns, write_tiny

HEADER = 56


def refused(path: str | os.PathLike[str], what: str = "", **options: Any) -> str:
    with pytest.raises(AESGStorageError) as caught:
        read_pack(path, **options)
    message = caught.value.message
    assert message.startswith(f"Failed to read pack file '{os.fspath(path)}': "), message
    assert what in message, message
    return message


def with_body(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Change the body of a pack, and make length and hash right again."""
    content = path.read_bytes()
    body = change(content[HEADER:])
    header = content[:16] + struct.pack("<Q32s", len(body), hashlib.sha256(body).digest())
    path.write_bytes(header + body)
    return path


def with_head(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the head of a pack, and make lengths and hash right again."""

    def changed(body: bytes) -> bytes:
        (size,) = struct.unpack_from("<I", body)
        head = msgpack.unpackb(body[4 : 4 + size])
        result = change(head)
        packed = result if isinstance(result, bytes) else msgpack.packb(head)
        return struct.pack("<I", len(packed)) + packed + body[4 + size :]

    return with_body(path, changed)


def with_first_block(path: Path, block: bytes) -> Path:
    """Put another block in the place of that of the ids."""

    def changed(body: bytes) -> bytes:
        begin = 4 + struct.unpack_from("<I", body)[0]
        end = begin + 4 + struct.unpack_from("<I", body, begin)[0]
        return body[:begin] + block + body[end:]

    return with_body(path, changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "some.aesgpack", payloads={3: b"\xa4note"})


def test_a_missing_file_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused("none.aesgpack", "No such file")
    refused(Path("none.aesgpack"))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for what in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        refused(what, "expected a regular file")
    refused("with\0zero")


@pytest.mark.parametrize("what", [5, None, ["some.aesgpack"]])
@pytest.mark.parametrize("read", [read_pack, read_head])
def test_what_is_no_path_is_refused(read: Callable[[Any], object], what: object) -> None:
    with pytest.raises(AESGStorageError) as caught:
        read(what)
    expected = f"Failed to read pack file {what!r}: expected a path of text"
    assert caught.value.message == expected


@pytest.mark.parametrize("name", ["frequency", "region", "edge_uses", "payload_sizes"])
def test_equal_rows_where_one_stands_for_all_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, short = pack_columns(), writing._short
    columns[name] = np.zeros_like(columns[name][:1]).repeat(36 if "edge" in name else 12)
    with monkeypatch.context() as changed:
        changed.setattr(
            writing,
            "_short",
            lambda rows, kind: rows if rows is columns[name] else short(rows, kind),
        )
        write_pack(tmp_path / "long", columns, vector_dim=4, provenance=PROVENANCE)
    refused(tmp_path / "long", f"column '{name}': expected one row that stands for all, got ")
    write_pack(tmp_path / "short", columns, vector_dim=4, provenance=PROVENANCE)
    assert np.array_equal(read_pack(tmp_path / "short").columns[name], columns[name])


def test_files_that_are_refused_are_closed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no pack")
    before = os.listdir("/proc/self/fd")
    for what in (tmp_path, tmp_path / "text"):
        refused(what)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for content in (b"", b"AESG", b"x" * 55, b"AESGPACK"):
        path.write_bytes(content)
        refused(path, "expected 56 bytes or more")
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    refused(path, "expected a pack, which starts with b'AESGPACK'")


def test_a_changed_byte_is_refused_wherever_it_is(path: Path) -> None:
    content = path.read_bytes()
    for place in (*range(HEADER + 4), *range(HEADER + 4, len(content), 11)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        refused(path)


def test_a_file_cut_short_anywhere_or_with_more_behind_it_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for size in (*range(0, len(content), 13), len(content) - 1):
        path.write_bytes(content[:size])
        refused(path)
    for more in (b"\0", content, bytes(96)):
        path.write_bytes(content + more)
        refused(path, "expected a file of")


def test_other_versions_are_refused_by_name(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + struct.pack(">I", 3) + content[12:])
    refused(path, "expected a pack of version 1 or 2, got 3")


def test_another_width_is_refused_and_told(path: Path) -> None:
    assert "expected vector_dim 64, got 4" in refused(path, vector_dim=64)
    assert read_pack(path, vector_dim=4).vector_dim == 4


def test_an_error_about_the_hash_names_both(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = refused(path, f"expected SHA-256 {content[24:56].hex()}, got ")
    assert hashlib.sha256(path.read_bytes()[HEADER:]).hexdigest() in message


def test_a_file_that_changes_after_its_hash_was_compared_is_refused(path: Path) -> None:
    content = path.read_bytes()

    def change(step: str, done: int, total: int) -> None:
        if done == total:
            path.write_bytes(content.replace(b"\xa4note", b"\xa4nose"))

    with pytest.raises(AESGStorageError, match="expected SHA-256"):
        read_pack(path, progress=change)
    assert path.read_bytes() != content


HEADS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no msgpack": lambda head: b"\xc1",
    "more behind it": lambda head: msgpack.packb(head) + b"\xc0",
    "cut short": lambda head: msgpack.packb(head)[:-1],
    "no map": lambda head: msgpack.packb([1]),
    "another key": lambda head: head.update(more=1),
    "a key too few": lambda head: head.pop("edges"),
    "another order": lambda head: head.update(name=head.pop("name")),
    "a longer form": lambda head: msgpack.packb(head).replace(
        b"\xaavector_dim\x04", b"\xaavector_dim\xcc\x04"
    ),
    "an extension": lambda head: head.update(name=msgpack.ExtType(5, b"x")),
    "a time": lambda head: head.update(name=msgpack.Timestamp(1)),
    "bytes": lambda head: head.update(name=b"x"),
    "no text": lambda head: msgpack.packb(head).replace(b"\xa54.0.0", b"\xa5\xff.0.0"),
    "deeply nested": lambda head: b"\x91" * 500_000,
    "a very long list": lambda head: b"\xdd\xff\xff\xff\xff",
    "a very long map": lambda head: b"\xdf\xff\xff\xff\xff",
    "a control character": lambda head: head.update(name="a\x1b[2J"),
    "a number as name": lambda head: head.update(name=1),
    "no width": lambda head: head.update(vector_dim=0),
    "another width": lambda head: head.update(vector_dim=5),
    "too wide": lambda head: head.update(vector_dim=1 << 20),
    "a negative number": lambda head: head.update(edges=-1),
    "a fraction": lambda head: head.update(edges=36.0),
    "a truth": lambda head: head["provenance"].update(generation=True),
    "more concepts": lambda head: head.update(concepts=13),
    "very many concepts": lambda head: head.update(concepts=(1 << 31) - 1),
    "too many edges": lambda head: head.update(edges=1 << 31),
    "very long payloads": lambda head: head.update(payload_bytes=(1 << 63) - 1),
    "no provenance": lambda head: head.update(provenance=None),
    "a strange provenance": lambda head: head["provenance"].update(more=""),
    "no columns": lambda head: head.update(columns=[]),
    "columns that are no list": lambda head: head.update(columns="all"),
    "a column too few": lambda head: head["columns"].pop(),
    "a column twice": lambda head: head["columns"].insert(1, head["columns"][0]),
    "another order of columns": lambda head: head["columns"].reverse(),
    "an unknown column": lambda head: head["columns"][0].__setitem__(0, "../../etc/passwd"),
    "a column that is no list": lambda head: head["columns"].__setitem__(0, "ids"),
    "a column with more to it": lambda head: head["columns"][0].append(1),
    "a column named by a list": lambda head: head["columns"][0].__setitem__(0, ["ids"]),
    "another type": lambda head: head["columns"][0].__setitem__(1, "object"),
    "another coding": lambda head: head["columns"][0].__setitem__(4, "pickle"),
    "a row too few": lambda head: head["columns"][1].__setitem__(2, 11),
    "one row of ids": lambda head: head["columns"][0].__setitem__(2, 1),
    "rows without end": lambda head: head["columns"][1].__setitem__(2, 1 << 62),
    "wide ids": lambda head: head["columns"][0].__setitem__(3, 2),
    "keys of no width": lambda head: head["columns"][1].__setitem__(3, 0),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_that_nobody_writes_is_refused(path: Path, what: str) -> None:
    before = path.read_bytes()
    with_head(path, HEADS[what])
    assert path.read_bytes() != before
    refused(path)
    with pytest.raises(AESGStorageError, match="Failed to read pack file"):
        read_head(path)


def test_a_head_longer_than_the_body_or_than_any_head_is_refused(path: Path) -> None:
    with_body(path, lambda body: struct.pack("<I", len(body)) + body[4:])
    refused(path, "bytes more in the body")
    with_body(path, lambda body: struct.pack("<I", 1 << 31) + body[4:])
    refused(path, "expected a head of at most 1048576 bytes")


def test_columns_that_cannot_be_in_the_file_are_refused_before_they_are_made(path: Path) -> None:
    def change(head: dict[str, Any]) -> None:
        wanted = (1 << 31) - 1
        old, head["concepts"] = head["concepts"], wanted
        for column in head["columns"]:
            column[2] = wanted if column[2] == old and column[0] != "edge_counts" else column[2]

    with_head(path, change)
    most = 64 * (path.stat().st_size - HEADER)
    refused(path, f"expected columns of at most {most} bytes")


FRAMES: dict[str, bytes] = {
    "no frame": b"not a zstd frame",
    "nothing": b"",
    "a longer content": zstandard.compress(bytes(97)),
    "a shorter content": zstandard.compress(bytes(95)),
    "a content of unknown size": zstandard.ZstdCompressor(write_content_size=False).compress(
        bytes(96)
    ),
    "two frames": zstandard.compress(bytes(48)) * 2,
    "more behind the frame": zstandard.compress(bytes(range(96))) + b"\0",
    "a frame cut short": zstandard.compress(bytes(range(96)))[:-1],
    "a frame to be skipped": b"\x50\x2a\x4d\x18" + struct.pack("<I", 96) + bytes(96),
    "a frame to be skipped before it": b"\x50\x2a\x4d\x18\0\0\0\0" + zstandard.compress(bytes(96)),
    # A frame that says 96 bytes, and holds a run of 128 KiB.
    "more than it says": bytes.fromhex("28b52ffd2060") + bytes.fromhex("03001000"),
    # One that wants a window of 2 GiB for its 96 bytes.
    "a huge window": bytes.fromhex("28b52ffd80a860000000") + b"\x03\x03\x00\x00",
    # One that says it holds a tebibyte.
    "a huge content": bytes.fromhex("28b52ffde00000000000010000") + b"\x03\x03\x00\x00",
    "a dictionary": bytes.fromhex("28b52ffd21076001") + b"\x03\x03\x00\x00",
}


@pytest.mark.parametrize("what", FRAMES)
def test_a_block_that_is_not_one_frame_of_its_rows_is_refused(path: Path, what: str) -> None:
    frame = FRAMES[what]
    with_first_block(path, struct.pack("<I", len(frame)) + frame)
    told = refused(path).partition("': ")[2]
    assert told.startswith(("expected a block of 96", "expected a zstd", "expected zeros behind"))


def test_a_block_longer_than_its_rows_can_need_is_refused(path: Path) -> None:
    with_first_block(path, struct.pack("<I", 1 << 20) + bytes(1 << 20))
    refused(path, "expected a block of 96 bytes, got 1048576 for it")


def test_a_body_with_more_behind_the_columns_is_refused(path: Path) -> None:
    refused(with_body(path, lambda body: body + b"\0"), "expected the end of the body")


def test_padding_that_is_not_zeros_is_refused(tmp_path: Path) -> None:
    columns = pack_columns(30_000, 1, 0)
    columns["keys"] = np.ones((30_000, 1), np.float32)
    path = tmp_path / "some.aesgpack"
    write_pack(path, columns, vector_dim=1, provenance=PROVENANCE)
    content = path.read_bytes()
    zeros = content.rfind(bytes(100))
    assert zeros > 0
    with_body(
        path,
        lambda body: body[: zeros - HEADER + 50] + b"\1" + body[zeros - HEADER + 51 :],
    )
    refused(path, "expected zeros behind a short block")


def test_more_than_this_machine_has_memory_for_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 16)
    refused(path, "expected columns of at most 256 bytes")


def test_too_little_memory_is_an_error_of_storage(path: Path) -> None:
    def none(*_: Any) -> Any:
        raise MemoryError

    refused(path, "fits into memory", hold=none)
