"""What a pack file is, as its document says, and that it comes back as it was."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from aesg.errors import AESGStorageError
from aesg.packs import Provenance, read_head, read_pack, write_pack
from aesg.packs.columns import COLUMNS
from storage_backends.columns import Column
from tests.pack_build import PROVENANCE, pack_columns, write_tiny

DOCUMENT = Path(__file__).parents[2] / "docs" / "pack-format.md"

PAYLOADS = {0: b"\xa4note", 3: msgpack.packb({"a": [1, 2.5, None]}), 11: b"\xc0"}


def documented_pack() -> bytes:
    """Return the file that the document gives in hexadecimal."""
    return bytes.fromhex(DOCUMENT.read_text().split("## A whole pack")[1].split("```")[1])


def read_by_the_document(content: bytes) -> tuple[dict[str, Any], dict[str, list[Any]], bytes]:
    """Read a pack with nothing of the library: head, columns, and what follows the body."""
    magic, version = struct.unpack_from(">8sI", content)
    flags, length, sha256 = struct.unpack_from("<IQ32s", content, 12)
    body, trailer = content[56 : 56 + length], content[56 + length :]
    assert (magic, version, len(trailer)) == (b"AESGPACK", 2, 96 * flags)
    assert hashlib.sha256(body).digest() == sha256
    (size,) = struct.unpack_from("<I", body)
    head = msgpack.unpackb(body[4 : 4 + size])
    place, columns = 4 + size, {}
    for name, kind, rows, width, coding in head["columns"]:
        letter = {"uint8": "B", "uint32": "I", "uint64": "Q", "int64": "q", "float32": "f"}[kind]
        item = struct.calcsize("<" + letter)
        numbers: list[Any] = []
        in_block = max(1, 1_048_576 // (item * width))
        for first in range(0, rows, in_block):
            count = min(in_block, rows - first) * width
            (frame_bytes,) = struct.unpack_from("<I", body, place)
            frame = body[place + 4 : place + 4 + frame_bytes]
            zeros = max(0, -(-count * item // 64) - frame_bytes)
            place += 4 + frame_bytes + zeros
            assert body[place - zeros : place] == bytes(zeros)
            raw = zstandard.ZstdDecompressor().decompress(frame)
            if coding != "plain":
                raw = bytes(raw[i % item * count + i // item] for i in range(len(raw)))
            block = list(struct.unpack(f"<{count}{letter}", raw))
            for i in range(1, count if coding == "difference" else 0):
                block[i] = (block[i] + block[i - 1]) % 2**64
            numbers += block
        columns[name] = numbers
    assert place == len(body)
    return head, columns, trailer


def assert_same_columns(found: Mapping[str, Any], expected: Mapping[str, NDArray[Any]]) -> None:
    assert list(found) == [name for name in COLUMNS if name in expected]
    for name, rows in expected.items():
        assert found[name].dtype == rows.dtype, name
        np.testing.assert_array_equal(found[name], rows, err_msg=name, strict=True)


def test_the_documented_pack_is_read_by_its_document_and_by_the_library(tmp_path: Path) -> None:
    head, columns, trailer = read_by_the_document(documented_pack())
    assert (head["name"], head["vector_dim"], trailer) == ("tiny", 2, b"")
    assert columns["ids"] == [3, 8]
    assert columns["edge_counts"] == [1, 0]
    assert columns["edge_targets"] == [1]

    path = tmp_path / "documented.aesgpack"
    path.write_bytes(documented_pack())
    pack = read_pack(path)

    assert pack.name == "tiny"
    assert pack.provenance == Provenance(**head["provenance"])
    assert pack.digest == documented_pack()[24:56].hex()
    assert pack.payload(1) == b"\xa4note"
    for name, numbers in columns.items():
        wide = pack.columns[name]
        stored = np.array(numbers, wide.dtype).reshape(-1, *wide.shape[1:])
        np.testing.assert_array_equal(wide, np.broadcast_to(stored, wide.shape), err_msg=name)


def test_the_documented_pack_is_written_to_the_byte(tmp_path: Path) -> None:
    path, again = tmp_path / "documented.aesgpack", tmp_path / "again.aesgpack"
    path.write_bytes(documented_pack())
    pack = read_pack(path)

    write_pack(again, pack.columns, name=pack.name, vector_dim=2, provenance=pack.provenance)

    assert again.read_bytes() == documented_pack()


def test_the_document_names_each_column_with_its_type_and_coding() -> None:
    rows = [line.split("|")[1:-1] for line in DOCUMENT.read_text().splitlines() if "| " in line]
    told = {
        name.strip("` *"): (kind.strip(), coding.strip())
        for names, kind, _, coding, _ in (row for row in rows if len(row) == 5)
        for name in names.split(",")
    }
    assert told == told | {name: (kind.dtype.name, kind.coding) for name, kind in COLUMNS.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vectors": True},
        {"payloads": PAYLOADS},
        {"concepts": 0},
        {"concepts": 1},
        {"concepts": 2, "edges_each": 0},
        {"concepts": 40, "vector_dim": 1, "edges_each": 39},
        {"concepts": 5, "vector_dim": 3, "vectors": True, "payloads": {4: b"\x01"}},
    ],
)
def test_columns_come_back_as_they_were(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "some.aesgpack", **options)
    pack = read_pack(path)

    assert_same_columns(pack.columns, pack_columns(**options))
    assert (pack.version, pack.path, pack.signer) == (2, path, None)
    head, _, _ = read_by_the_document(path.read_bytes())
    assert (pack.node_count, pack.edge_count) == (head["concepts"], head["edges"])


def test_columns_of_several_blocks_come_back_as_they_were(tmp_path: Path) -> None:
    payload = np.frombuffer(b"\xc4\xc6" + bytes(198), np.uint8)
    columns = pack_columns(9_000, 64, 2)
    columns["payload_sizes"] = np.full(9_000, 200, np.uint32)
    columns["payloads"] = np.tile(payload, 9_000)
    path = tmp_path / "some.aesgpack"
    write_pack(path, columns, vector_dim=64, provenance=PROVENANCE)

    assert_same_columns(read_pack(path).columns, columns)


def test_one_row_stands_for_all_where_they_are_the_same_to_the_bit(tmp_path: Path) -> None:
    columns = pack_columns(50)
    alike = dict(columns, relevance=np.full(50, 0.5, np.float32), region=np.zeros(50, np.uint32))
    zeros = np.zeros(50, np.float32)
    zeros[49] = -0.0
    alike["stability"] = zeros
    short = dict(alike, relevance=alike["relevance"][:1], region=np.zeros(1, np.uint32))
    for name, given in (("long", alike), ("short", short)):
        write_pack(tmp_path / name, given, vector_dim=4, provenance=PROVENANCE)

    assert (tmp_path / "long").read_bytes() == (tmp_path / "short").read_bytes()
    rows = {column.name: column.rows for column in read_head(tmp_path / "long").columns}
    assert (rows["relevance"], rows["region"], rows["stability"]) == (1, 1, 50)
    pack = read_pack(tmp_path / "long")
    assert_same_columns(pack.columns, alike)
    assert np.signbit(pack.columns["stability"]).tolist() == [False] * 49 + [True]


def test_rows_may_be_given_in_parts(tmp_path: Path) -> None:
    columns = pack_columns(30_000, 16, 2)
    parts = {name: Column.of(rows) for name, rows in columns.items()}
    for name, given in (("whole", columns), ("parts", parts)):
        write_pack(tmp_path / name, given, vector_dim=16, provenance=PROVENANCE)

    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_same_content_has_the_same_bytes_wherever_it_is(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "first.aesgpack")
    second = write_tiny(tmp_path / "second.aesgpack")
    other = write_tiny(tmp_path / "other.aesgpack", name="other")

    assert first.read_bytes() == second.read_bytes()
    assert read_head(first).digest == read_pack(second).checksum != read_head(other).digest


def test_a_pack_is_named_after_its_file_unless_it_has_a_name_or_is_given_one(
    tmp_path: Path,
) -> None:
    unnamed = write_tiny(tmp_path / "medical.aesgpack")
    named = write_tiny(tmp_path / "other.aesgpack", name="chemistry")

    assert [read_pack(path).name for path in (unnamed, named)] == ["medical", "chemistry"]
    assert read_pack(named, name="mine").name == "mine"
    assert [read_head(path).name for path in (unnamed, named)] == ["", "chemistry"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a\x1b[2Jb.aesgpack", "a_[2Jb"),
        ("two\nlines.aesgpack", "two_lines"),
        (os.fsdecode(b"\xff.aesgpack"), "_"),
        ("医学 1.aesgpack", "医学 1"),
        (".aesgpack", ".aesgpack"),
        ("x" * 240 + ".aesgpack", "x" * 200),
    ],
)
def test_the_name_of_a_file_is_made_one_that_can_be_printed(
    tmp_path: Path, file: str, name: str
) -> None:
    assert read_pack(write_tiny(tmp_path / file)).name == name
    content = struct.pack(">8sIIII32s", b"AESGPACK", 1, 4, 0, 0, hashlib.sha256(b"").digest())
    (tmp_path / file).write_bytes(content)
    assert read_pack(tmp_path / file).name == name


def test_the_head_tells_of_a_pack_without_reading_it(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "some.aesgpack", payloads=PAYLOADS)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    head = read_head(path)

    assert (head.concepts, head.edges, head.vector_dim) == (12, 36, 4)
    assert head.payload_bytes == sum(map(len, PAYLOADS.values()))
    assert head.provenance == PROVENANCE
    assert head.file_bytes == len(content)
    assert (head.version, head.is_signed) == (2, False)
    with pytest.raises(AESGStorageError):
        read_pack(path)


def test_the_head_of_a_pack_of_version_1_tells_how_large_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.aesgpack"
    digest = hashlib.sha256(b"").digest()
    path.write_bytes(struct.pack(">8sIIII32s", b"AESGPACK", 1, 64, 0, 0, digest))

    head = read_head(path)

    assert (head.version, head.vector_dim, head.concepts, head.edges) == (1, 64, 0, 0)
    assert (head.digest, head.file_bytes) == (digest.hex(), 56)
    assert head.provenance.library == "3.0"
    assert read_pack(path).node_count == 0
    with pytest.raises(AESGStorageError, match="expected a signed pack"):
        read_pack(path, public_key=bytes(32))


def test_texts_of_the_provenance_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    # The last but one is a character of Unicode 16, which no older Python knows.
    notes = "Größe\N{NO-BREAK SPACE}1\n\t医学\n\U0001fae9\n" + "x" * 65_000
    told = replace(PROVENANCE, notes=notes, licence="CC BY 4.0")
    path = tmp_path / "some.aesgpack"
    write_pack(path, pack_columns(), name="医学", vector_dim=4, provenance=told)

    pack = read_pack(path)
    assert (pack.provenance, pack.name) == (told, "医学")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"notes": "a\x1b[2J"}, "notes"),
        ({"notes": "x" * 65_537}, "notes"),
        ({"notes": "\N{RIGHT-TO-LEFT OVERRIDE}"}, "notes"),
        ({"notes": "\N{LINE SEPARATOR}"}, "notes"),
        ({"notes": "\N{PARAGRAPH SEPARATOR}"}, "notes"),
        ({"notes": "\x9b2J"}, "notes"),
        ({"notes": "\ue000"}, "notes"),
        ({"library": "1\n2"}, "library"),
        ({"memory_uuid": "x" * 201}, "memory_uuid"),
        ({"generation": -1}, "generation"),
        ({"created": 2**64}, "texts and numbers"),
        ({"created": 1.5}, "created"),
        ({"licence": None}, "licence"),
        ({"licence": "\ud800"}, "texts and numbers"),
        ({"licence": "x" * 65_536, "notes": "\N{GRINNING FACE}" * 65_536}, ""),
    ],
)
def test_texts_and_numbers_that_no_head_holds_are_not_written(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    path = tmp_path / "some.aesgpack"
    told = replace(PROVENANCE, **change)
    if not what:  # as long as it may be
        write_pack(path, pack_columns(), vector_dim=4, provenance=told)
        assert read_pack(path).provenance == told
        return
    with pytest.raises(AESGStorageError, match=rf"Failed to write pack file '.*': .*{what}"):
        write_pack(path, pack_columns(), vector_dim=4, provenance=told)
    assert not list(tmp_path.iterdir())


def test_nothing_in_a_pack_expands_more_than_64_times(tmp_path: Path) -> None:
    columns = pack_columns(3_000, 64, 1)
    columns["keys"] = np.tile(np.eye(1, 64, dtype=np.float32), (3_000, 1))
    path = tmp_path / "some.aesgpack"
    write_pack(path, columns, vector_dim=64, provenance=PROVENANCE)

    assert path.stat().st_size * 64 >= read_head(path).nbytes
    assert_same_columns(read_pack(path).columns, columns)
    read_by_the_document(path.read_bytes())


def test_progress_goes_to_the_end_in_both_directions(tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(step: str, done: int, total: int) -> None:
        told.setdefault(step, []).append((done, total))

    path = tmp_path / "some.aesgpack"
    columns = pack_columns(9_000, 64)
    write_pack(path, columns, vector_dim=64, provenance=PROVENANCE, progress=progress)
    read_pack(path, progress=progress)

    assert len(told) == 3
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
        assert len({total for _, total in steps}) == 1
