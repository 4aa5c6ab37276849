"""Takes pack files apart and puts them together, by code that shares nothing with the product."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray

#: Magic, version; flags, length of the body, its hash.
START, REST = struct.Struct(">8sI"), struct.Struct("<IQ32s")
HEADER_BYTES = START.size + REST.size
LENGTH = struct.Struct("<I")

#: Bytes of the rows of a block, at most.
BLOCK_BYTES = 1 << 20

#: The columns of which a row is a vector.
WIDE = ("keys", "value_vectors")

#: Numbers at the edges of what a field holds, or of what somebody expects.
NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 1000, 65_535, 65_536, 65_537),
    *((1 << power) + step for power in (20, 24, 31, 32, 33, 40, 48, 53, 62) for step in (-1, 0, 1)),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -128, -(1 << 31), -(1 << 63)),
)

#: Values of all the types that msgpack has, small ones and those that nobody wants.
ODD: tuple[object, ...] = (
    *(None, True, False, 0.0, -0.0, 1.5, math.nan, math.inf, "", "x", "x" * 201, "x" * 70_000),
    *("\x00", "a\nb", "\x1b[2J", "\u202egnp", "../../etc/passwd", "/dev/stdin", "AESGPACK"),
    *(
        "\u00e9",
        "\U0001f600",
        b"",
        b"\x80",
        b"x" * 300,
        [],
        {},
        [[]],
        {"": {}},
        {"a": [1, {"b": 2}]},
    ),
    *(msgpack.ExtType(1, b"x"), msgpack.ExtType(127, b""), msgpack.Timestamp(1, 2)),
    *NUMBERS,
)

FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-45, 1e-38, 1e38, -1e38, 1e-20, 1e20),
    *(math.nan, math.inf, -math.inf, 1.0000001, 0.9999999, 65_536.0),
)


@dataclass(frozen=True)
class Parts:
    """A pack of version 2, taken apart.

    Parameters
    ----------
    head : object
        What the head holds; bytes are written as they are.
    columns : mapping of name to array
        As in the file, where one row may stand for all.
    codings : mapping of name to str
    flags : int
    trailer : bytes
        What follows the body.
    frames : mapping of name to bytes
        Written as the block of a column, with its length, instead of what the column holds.
    padded : bool
        Whether short blocks are padded as they should be.
    """

    head: Any
    columns: Mapping[str, NDArray[Any]]
    codings: Mapping[str, str]
    flags: int = 0
    trailer: bytes = b""
    frames: Mapping[str, bytes] = field(default_factory=dict)
    padded: bool = True


def taken_apart(content: bytes) -> Parts:
    """Take a sound pack apart, of which no column has more than one block."""
    flags, length, _ = REST.unpack_from(content, START.size)
    body = content[HEADER_BYTES : HEADER_BYTES + length]
    place = LENGTH.size + LENGTH.unpack_from(body)[0]
    head = msgpack.unpackb(body[LENGTH.size : place])
    columns = {}
    for name, dtype, count, width, coding in head["columns"]:
        rows = np.empty((count, width) if name in WIDE else (count,), dtype)
        if rows.nbytes:
            size = LENGTH.unpack_from(body, place)[0]
            place += LENGTH.size
            raw = zstandard.decompress(body[place : place + size], rows.nbytes)
            place += max(size, -(-rows.nbytes // 64))
            rows[...] = unturned(raw, rows, coding)
        columns[name] = rows
    codings = {name: coding for name, *_, coding in head["columns"]}
    return Parts(head, columns, codings, flags, content[HEADER_BYTES + length :])


def put_together(parts: Parts) -> bytes:
    """Return the file of a pack, whatever it may say, with the hash that it should have."""
    head = parts.head if isinstance(parts.head, bytes) else packed(parts.head)
    blocks = [_block(parts, name) for name in parts.columns]
    body = b"".join([LENGTH.pack(len(head)), head, *blocks])
    return hashed(body, parts.flags) + parts.trailer


def hashed(body: bytes, flags: int = 0) -> bytes:
    """Return a header with the right hash, and the body."""
    sha256 = hashlib.sha256(body).digest()
    return START.pack(b"AESGPACK", 2) + REST.pack(flags, len(body), sha256) + body


def rehashed(content: bytes) -> bytes:
    """Return a file with the length and hash that it should have; it has no trailer."""
    return content[: START.size] + hashed(content[HEADER_BYTES:])[START.size :]


def packed(value: object) -> bytes:
    try:
        content: bytes = msgpack.packb(value)
    except (ValueError, OverflowError):  # a number that msgpack has no room for
        return b"\xc1"
    return content


def _block(parts: Parts, name: str) -> bytes:
    if name in parts.frames:
        return parts.frames[name]
    rows = parts.columns[name]
    if not rows.nbytes:
        return b""
    frame = zstandard.ZstdCompressor(1).compress(turned(rows, parts.codings.get(name, "plain")))
    return framed(frame, rows.nbytes if parts.padded else 0)


def framed(frame: bytes, raw_bytes: int) -> bytes:
    """Return a block: the length of a frame, the frame, and zeros up to a 64th of what it holds."""
    return LENGTH.pack(len(frame)) + frame + bytes(max(0, -(-raw_bytes // 64) - len(frame)))


def turned(rows: NDArray[Any], coding: str) -> bytes:
    if coding == "difference":
        rows = np.diff(rows, prepend=rows.dtype.type(0))
    octets = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    return (octets if coding == "plain" else octets.reshape(-1, rows.itemsize).T).tobytes()


def unturned(raw: bytes, like: NDArray[Any], coding: str) -> NDArray[Any]:
    octets = np.frombuffer(raw, np.uint8)
    if coding != "plain":
        octets = np.ascontiguousarray(octets.reshape(like.itemsize, -1).T)
    rows = octets.reshape(-1).view(like.dtype)
    if coding == "difference":
        rows = np.cumsum(rows, dtype=like.dtype)
    return rows.reshape(like.shape)


def flip(random: Random, content: bytes) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)
