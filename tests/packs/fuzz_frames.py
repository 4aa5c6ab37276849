"""Makes zstd frames that do not hold what a block should."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import zstandard

from tests.packs.fuzz_parts import flip


def _of_size(random: Random, raw: bytes) -> bytes:
    """Return a frame that holds more or less than it should."""
    other = random.choice((b"", raw[:-1], raw + b"\0", raw * 2, bytes(1 << 20), bytes(9 << 20)))
    return zstandard.ZstdCompressor(1).compress(other)


def _of_unknown_size(random: Random, raw: bytes) -> bytes:
    known = zstandard.ZstdCompressor(1, write_content_size=False)
    return known.compress(random.choice((raw, raw, bytes(64 << 20))))


def _of_said_size(random: Random, raw: bytes) -> bytes:
    """Return a frame of zeros that says another size: magic, descriptor, size of 8 bytes."""
    said = random.choice((len(raw), len(raw) + 1, 1 << 31, 1 << 40, (1 << 64) - 1, (1 << 64) - 2))
    blocks = struct.pack("<I", (1 << 17 << 3 | 0b010))[:3] + b"\0"  # 128 KiB of one byte
    last = struct.pack("<I", (len(raw) << 3 | 0b011) & 0xFFFFFF)[:3] + b"\0"
    start = b"\x28\xb5\x2f\xfd" + bytes([random.choice((0xE0, 0xC0, 0xC4))])
    window = b"" if start[4] & 0x20 else random.choice((b"\x00", b"\x58", b"\xff"))
    return start + window + struct.pack("<Q", said) + blocks * random.choice((0, 1, 100)) + last


def _several(random: Random, raw: bytes) -> bytes:
    frame = zstandard.ZstdCompressor(1).compress(raw)
    skipped = struct.pack("<II", 0x184D2A50 + random.randrange(16), 5) + b"aside"
    empty = zstandard.ZstdCompressor(1).compress(b"")
    half = len(raw) // 2
    halves = b"".join(
        zstandard.ZstdCompressor(1).compress(part) for part in (raw[:half], raw[half:])
    )
    return random.choice(
        (
            frame + frame,
            skipped + frame,
            frame + skipped,
            skipped,
            empty + frame,
            frame + empty,
            halves,
        )
    )


def _with_dictionary(random: Random, raw: bytes) -> bytes:
    samples = [raw + bytes([number]) * 50 for number in range(256)]
    content = b"".join(samples)[:4096] or b"x" * 100
    dictionary = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(3, dict_data=dictionary).compress(raw)


def _with_options(random: Random, raw: bytes) -> bytes:
    options = zstandard.ZstdCompressionParameters(
        compression_level=random.choice((-5, 1, 19)),
        window_log=random.choice((10, 17, 27)),
        write_checksum=random.random() < 0.5,
        write_content_size=True,
        enable_ldm=random.random() < 0.5,
    )
    return zstandard.ZstdCompressor(compression_params=options).compress(raw)


def _damaged(random: Random, raw: bytes) -> bytes:
    return flip(random, zstandard.ZstdCompressor(1).compress(raw))


def _cut(random: Random, raw: bytes) -> bytes:
    frame = zstandard.ZstdCompressor(1).compress(raw)
    return frame[: random.randrange(len(frame))]


def _none(random: Random, raw: bytes) -> bytes:
    return random.choice((raw, b"", random.randbytes(40), b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\0"))


#: What a frame is made by, from what it should hold.
FRAMES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _of_size,
    _of_unknown_size,
    _of_said_size,
    _several,
    _with_dictionary,
    _with_options,
    _damaged,
    _cut,
    _none,
)
