"""Blocks: some rows of a column, turned and compressed.

A block is the length of a zstd frame, the frame, and zeros behind it where it is shorter than a
64th of what comes out of it: nothing in a pack can grow more than that.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from aesg.packs.columns import Coding
from storage_backends.errors import StoreCorruptError

LENGTH = struct.Struct("<I")

#: Bytes of the rows of a block, at most; at least one row is in it.
BLOCK_BYTES = 1 << 20

#: How often what is in a file can grow.
MOST_GROWTH = 64

_LEVEL = 1
_MOST_WINDOW = 2 * BLOCK_BYTES


def rows_in_block(row_bytes: int) -> int:
    """Return how many rows of a column go into each of its blocks but the last."""
    return max(1, BLOCK_BYTES // row_bytes)


def padding_of(frame_bytes: int, raw_bytes: int) -> int:
    """Return how many zeros follow a frame."""
    return max(0, -(-raw_bytes // MOST_GROWTH) - frame_bytes)


def most_frame(raw_bytes: int) -> int:
    """Return how long a frame of so many bytes may be."""
    return raw_bytes + raw_bytes // 128 + 512


class Encoder:
    """Turns rows into blocks."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(_LEVEL, write_checksum=False, write_content_size=True)

    def encode(self, rows: NDArray[Any], coding: Coding) -> bytes:
        """Return the block of some rows."""
        raw = _turned(np.ascontiguousarray(rows), coding)
        frame = self._zstd.compress(raw.data)
        return LENGTH.pack(len(frame)) + frame + bytes(padding_of(len(frame), raw.nbytes))


class Decoder:
    """Turns blocks into rows."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)

    def decode(self, frame: bytes | memoryview, into: NDArray[Any], coding: Coding) -> None:
        """Write what a frame holds into rows that lie end to end.

        Raises
        ------
        StoreCorruptError
            If it is not one frame of exactly these rows.
        """
        try:
            # The library allocates what a frame says of itself, so that is looked at first.
            found = zstandard.get_frame_parameters(frame)
            if found.content_size != into.nbytes or found.window_size > _MOST_WINDOW:
                raise StoreCorruptError(
                    f"expected a block of {into.nbytes} bytes, got {found.content_size} in a "
                    f"window of {found.window_size}"
                )
            raw = self._zstd.decompress(frame, into.nbytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise StoreCorruptError(f"expected a zstd frame ({error})") from error
        _turn_back(np.frombuffer(raw, np.uint8), into, coding)


def _turned(rows: NDArray[Any], coding: Coding) -> NDArray[np.uint8]:
    if coding == "difference":
        rows = np.diff(rows, prepend=rows.dtype.type(0))
    flat = rows.reshape(-1).view(np.uint8)
    if coding == "plain":
        return flat
    return np.ascontiguousarray(flat.reshape(-1, rows.itemsize).T).reshape(-1)


def _turn_back(raw: NDArray[np.uint8], into: NDArray[Any], coding: Coding) -> None:
    flat = into.reshape(-1)
    octets = flat.view(np.uint8).reshape(-1, into.itemsize)
    for place, plane in enumerate(raw.reshape(into.itemsize, -1)):
        octets[:, place] = plane
    if coding == "difference":
        np.cumsum(flat, out=flat)
