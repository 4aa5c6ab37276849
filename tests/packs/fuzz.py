"""Makes pack files that are not what they should be, each from the name of a kind and a number.

Most mutants get the right hash again: otherwise a reader would look at nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from tests.packs.fuzz_frames import FRAMES
from tests.packs.fuzz_parts import (
    BLOCK_BYTES,
    FLOATS,
    HEADER_BYTES,
    LENGTH,
    NUMBERS,
    ODD,
    WIDE,
    Parts,
    flip,
    framed,
    packed,
    put_together,
    rehashed,
    taken_apart,
    turned,
    unturned,
)

#: Where a column of the head says how many rows it has, and how many numbers are in a row.
_ROWS, _WIDTH = 2, 3

#: Makes one mutant of several packs.
Mutator: TypeAlias = Callable[[Random, Sequence[bytes]], bytes]


# Of bytes


def flipped(random: Random, packs: Sequence[bytes]) -> bytes:
    """Flip a few bits."""
    return flip(random, random.choice(packs))


def flipped_within(random: Random, packs: Sequence[bytes]) -> bytes:
    """Flip a few bits behind the header, and make the hash right."""
    pack = random.choice(packs)
    return rehashed(pack[:HEADER_BYTES] + flip(random, pack[HEADER_BYTES:]))


def cut(random: Random, packs: Sequence[bytes]) -> bytes:
    """Cut a pack off or lengthen it; half of them get a right hash again."""
    pack = random.choice(packs)
    changed = pack[: random.randrange(len(pack))]
    if random.random() < 0.3:
        changed = pack + random.randbytes(random.choice((1, 4, 95, 96, 97, 4096)))
    fits = len(changed) >= HEADER_BYTES and random.random() < 0.5
    return rehashed(changed) if fits else changed


def spliced(random: Random, packs: Sequence[bytes]) -> bytes:
    """Join the beginning of a pack and the end of another one."""
    first, second = random.choice(packs), random.choice(packs)
    at, after = random.randrange(len(first)), random.randrange(len(second))
    joined = first[:at] + second[at if random.random() < 0.5 else after :]
    fits = len(joined) >= HEADER_BYTES and random.random() < 0.8
    return rehashed(joined) if fits else joined


def shuffled(random: Random, packs: Sequence[bytes]) -> bytes:
    """Remove, repeat, overwrite or exchange a run of bytes of the body."""
    pack = random.choice(packs)
    body = pack[HEADER_BYTES:]
    begin = random.randrange(len(body))
    end = min(len(body), begin + random.choice((1, 2, 4, 8, 32, 200)))
    run = body[begin:end]
    new = random.choice((b"", run + run, bytes(len(run)), b"\xff" * len(run), run[::-1]))
    return rehashed(pack[:HEADER_BYTES] + body[:begin] + new + body[end:])


# Of fields


def header(random: Random, packs: Sequence[bytes]) -> bytes:
    """Change one field of the header."""
    pack = random.choice(packs)
    number = random.choice(NUMBERS)
    which = random.randrange(4)
    if which == 0:
        return random.choice((b"AESGPACX", b"aesgpack", bytes(8), b"PK\x03\x04AESG")) + pack[8:]
    if which == 1:
        return pack[:8] + struct.pack(">I", number & 0xFFFFFFFF) + pack[12:]
    if which == 2:
        return pack[:12] + struct.pack("<I", number & 0xFFFFFFFF) + pack[16:]
    length = len(pack) - HEADER_BYTES + number if random.random() < 0.5 else number
    return pack[:16] + struct.pack("<Q", length & ((1 << 64) - 1)) + pack[24:]


def head(random: Random, packs: Sequence[bytes]) -> bytes:
    """Change a field of the head, or how it is written."""
    parts = taken_apart(random.choice(packs))
    changed = _changed(random, parts.head)
    if random.random() < 0.2:
        changed = _otherwise_packed(random, packed(parts.head))
    return put_together(replace(parts, head=changed))


def _changed(random: Random, tree: Any) -> Any:
    """Return a tree of maps and lists with one thing changed somewhere in it."""
    if not tree or not isinstance(tree, (dict, list)) or random.random() < 0.1:
        return random.choice(ODD)
    items: list[tuple[Any, Any]] = [(None, value) for value in tree]
    if isinstance(tree, dict):
        items = list(tree.items())
    place, what = random.randrange(len(items)), random.random()
    key, value = items[place]
    if what < 0.7:
        items[place] = (key, _changed(random, value))
    elif what < 0.8:
        del items[place]
    elif what < 0.9:
        items.insert(random.randrange(len(items)), (random.choice(ODD), value))
    else:
        random.shuffle(items)
    if isinstance(tree, list):
        return [value for _, value in items]
    return {key if isinstance(key, (str, int, bytes)) else str(key): value for key, value in items}


def _otherwise_packed(random: Random, content: bytes) -> bytes:
    """Return msgpack that holds too much, too little or says it in another form."""
    nested = random.choice((10, 500, 100_000, 1_000_000))
    return random.choice(
        (
            content + b"\xc0",
            content[:-1],
            b"\x91" * nested + b"\xc0",
            b"\x81\xa1a" * nested + b"\xc0",
            b"\xdd\xff\xff\xff\xff" + content,
            b"\xdf\xff\xff\xff\xff" + content,
            b"\xdb\xff\xff\xff\xff" + content,
            b"\xc6\xff\xff\xff\xff" + content,
            b"\xc9\xff\xff\xff\xff\x01" + content,
            b"\xde\x00\x07" + content[1:],
            content.replace(b"\xa4name", b"\xd9\x04name", 1),
            content.replace(b"\x01", b"\xcc\x01", 1),
            content.replace(b"\xa4name", b"\xc4\x04name", 1),
            content.replace(b"\xa4name", b"\xa4\xff\xfe\xfd\xfc", 1),
            b"",
            bytes(len(content)),
            b" " * (1 << 20),
            b"\xc0" * ((1 << 20) + 1),
        )
    )


def sizes(random: Random, packs: Sequence[bytes]) -> bytes:
    """Let the head say other sizes, all over, and leave the columns as they are."""
    parts = taken_apart(random.choice(packs))
    said = dict(parts.head)
    name = random.choice(("concepts", "edges", "payload_bytes", "vector_dim"))
    before, after = said[name], random.choice(NUMBERS)
    said[name] = after
    said["columns"] = [list(column) for column in said["columns"]]
    for column in said["columns"]:
        for place in (_ROWS, _WIDTH):
            if column[place] == before and random.random() < 0.95:
                column[place] = after
    if random.random() < 0.3:
        return put_together(
            replace(parts, head=said, columns=_resized(parts.columns, before, after))
        )
    return put_together(replace(parts, head=said))


def _resized(
    columns: Mapping[str, NDArray[Any]], before: int, after: int
) -> Mapping[str, NDArray[Any]]:
    """Return columns of another size where that is small enough to be made."""
    if not 0 <= after <= 1000:
        return columns
    return {
        name: np.resize(rows, (after, *rows.shape[1:])) if len(rows) == before else rows
        for name, rows in columns.items()
    }


# Of blocks


def _filled(random: Random, packs: Sequence[bytes]) -> Parts:
    """Take a pack apart that has concepts."""
    return random.choice([parts for parts in map(taken_apart, packs) if parts.columns["ids"].size])


def frames(random: Random, packs: Sequence[bytes]) -> bytes:
    """Put other zstd frames into a block, or other things than frames."""
    parts = _filled(random, packs)
    name = random.choice([name for name, rows in parts.columns.items() if rows.nbytes])
    rows = parts.columns[name]
    raw = turned(rows, parts.codings[name])
    frame = random.choice(FRAMES)(random, raw)
    block = framed(frame, len(raw))
    if random.random() < 0.3:
        length = random.choice((0, 1, len(frame) - 1, len(frame) + 1, *NUMBERS[-12:]))
        block = LENGTH.pack(length & 0xFFFFFFFF) + block[LENGTH.size :]
    if random.random() < 0.1:
        block += bytes(random.randint(1, 200))
    if random.random() < 0.1:
        block = block[: LENGTH.size + len(frame)] + b"\x01" * (
            len(block) - len(frame) - LENGTH.size
        )
    return put_together(replace(parts, frames={name: block}))


def planes(random: Random, packs: Sequence[bytes]) -> bytes:
    """Flip bits of what a block holds."""
    parts = _filled(random, packs)
    name = random.choice([name for name, rows in parts.columns.items() if rows.nbytes])
    rows = parts.columns[name]
    raw = flip(random, turned(rows, parts.codings[name]))
    changed = unturned(raw, rows, parts.codings[name])
    return put_together(replace(parts, columns={**parts.columns, name: changed}))


def values(random: Random, packs: Sequence[bytes]) -> bytes:
    """Give a few rows of a column other values, or exchange them."""
    parts = _filled(random, packs)
    columns = dict(parts.columns)
    for _ in range(random.choice((1, 1, 2, 3))):
        name = random.choice([name for name, rows in columns.items() if rows.size])
        columns[name] = _odd_rows(random, columns[name].copy())
    return put_together(replace(parts, columns=columns))


def _odd_rows(random: Random, rows: NDArray[Any]) -> NDArray[Any]:
    flat = rows.reshape(-1)
    place, what = random.randrange(flat.size), random.random()
    if what < 0.1:
        flat[...] = flat[::-1].copy()
    elif what < 0.2:
        flat[place:] = flat[place]
    elif what < 0.3:
        other = random.randrange(flat.size)
        flat[[place, other]] = flat[[other, place]]
    elif rows.dtype.kind == "f":
        flat[place if what < 0.9 else slice(None)] = random.choice(FLOATS)
    else:
        mask = (1 << 8 * rows.itemsize) - 1
        number = random.choice(NUMBERS) & mask
        if what < 0.6:
            number = (int(flat[place]) + random.choice((-1, 1))) & mask
        flat.view(f"u{rows.itemsize}")[place] = number
    return rows


def payloads(random: Random, packs: Sequence[bytes]) -> bytes:
    """Give a concept a payload that is not msgpack, or not any that somebody would write."""
    parts = _filled(random, packs)
    nested = random.choice((5, 400, 1100, 60_000))
    tail = packed(random.choice(ODD))
    payload = random.choice(
        (
            b"\xc1",
            b"\x91" * nested + b"\xc0",
            b"\x81\xa1a" * (nested // 3) + b"\xc0",
            b"\xdd\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xc7\x08\xff" + random.randbytes(8),
            b"\xd7\xff" + b"\xff" * 8,
            tail,
            tail + tail,
            random.randbytes(random.choice((1, 10, 100))),
            bytes(65_536),
            bytes(65_537),
        )
    )
    sizes = np.zeros(parts.head["concepts"], np.uint32)
    sizes[random.randrange(sizes.size)] = len(payload)
    return put_together(_with_payloads(parts, sizes, payload))


def _with_payloads(parts: Parts, sizes: NDArray[np.uint32], content: bytes) -> Parts:
    """Return a pack with other payloads, which stand one after another."""
    others: dict[str, NDArray[Any]] = {
        "payload_sizes": sizes,
        "payloads": np.frombuffer(content, np.uint8),
    }
    columns = {**parts.columns, **others}
    head = parts.head | {"payload_bytes": len(content)}
    head["columns"] = [
        [name, dtype, len(columns[name]), *rest] for name, dtype, _, *rest in head["columns"]
    ]
    return replace(parts, head=head, columns=columns)


def bombs(random: Random, packs: Sequence[bytes]) -> bytes:
    """Say large sizes, with blocks that are as short as they may be, or shorter."""
    if random.random() < 0.05:
        return _payload_bomb(random, packs, random.choice((1, 3)))
    growth = random.choice((16, 63, 64, 65, 1000, 100_000))
    return _bomb(random, packs, growth, random.choice((1_000, 10_000)), random.choice((1, 4, 64)))


def large_bombs(random: Random, packs: Sequence[bytes]) -> bytes:
    """The same with files of up to some megabytes, of what a reader would unpack at its peril."""
    if random.random() < 0.2:
        return _payload_bomb(random, packs, random.choice((20, 100)))
    growth = random.choice((63, 64, 64, 64, 65, 10_000))
    concepts, width = random.choice(((30_000, 8), (300_000, 64), (1_000_000, 64), (2_000, 65_536)))
    return _bomb(random, packs, growth, concepts, width)


def _payload_bomb(random: Random, packs: Sequence[bytes], count: int) -> bytes:
    """Give concepts payloads of as many small things as there is room for."""
    parts = _filled(random, packs)
    count = min(count, parts.head["concepts"] - 1)
    # Lists, maps, lists in maps, maps in lists, values of an extension type, moments.
    element = random.choice(
        (b"\x90", b"\x80", b"\x81\x00\x90", b"\x91\x80", b"\xd4\x05x", b"\xd6\xff\x00\x00\x00\x01")
    )
    elements = 65_500 // len(element)
    payload = b"\xdc" + elements.to_bytes(2, "big") + element * elements
    sizes = np.zeros(parts.head["concepts"], np.uint32)
    sizes[:count] = len(payload)
    raw = payload * count
    content = [raw[begin : begin + BLOCK_BYTES] for begin in range(0, len(raw), BLOCK_BYTES)]
    blocks = [framed(zstandard.ZstdCompressor(1).compress(each), len(each)) for each in content]
    frames = {"payloads": b"".join(blocks)}
    return put_together(replace(_with_payloads(parts, sizes, raw), frames=frames))


def _bomb(random: Random, packs: Sequence[bytes], growth: int, concepts: int, width: int) -> bytes:
    parts = taken_apart(random.choice(packs))
    said = parts.head | {"concepts": concepts, "vector_dim": width, "edges": 0, "payload_bytes": 0}
    columns, blocks = [], {}
    is_short = random.random() < 0.8  # else it is refused as soon as equal rows are met
    for name, dtype, _, _, coding in said["columns"]:
        if name == "value_vectors":
            continue
        is_wide = name in WIDE
        is_empty = name == "payloads" or (name.startswith("edge_") and name != "edge_counts")
        rows = 0 if is_empty else 1 if is_short and name != "ids" and not is_wide else concepts
        columns.append([name, dtype, rows, width if is_wide else 1, coding])
        row_bytes = np.dtype(dtype).itemsize * (width if is_wide else 1)
        blocks[name] = _monotonous(rows, row_bytes, growth, is_ids=name == "ids")
    said["columns"] = columns
    held = {name: parts.columns[name] for name in blocks}
    return put_together(replace(parts, head=said, columns=held, frames=blocks))


def _monotonous(rows: int, row_bytes: int, growth: int, is_ids: bool) -> bytes:
    """Return the blocks of rows of zeros, or of ids, at most ``growth`` times as long unpacked."""
    step, found = max(1, BLOCK_BYTES // row_bytes), []
    for begin in range(0, rows, step):
        count = min(step, rows - begin)
        raw = bytes(count * row_bytes)
        if is_ids:  # one after another
            steps = np.ones(count, np.uint64)
            steps[0] = begin + 1
            raw = turned(steps, "shuffle")
        frame = zstandard.ZstdCompressor(1).compress(raw)
        padding = max(0, -(-len(raw) // growth) - len(frame))
        found.append(LENGTH.pack(len(frame)) + frame + bytes(padding))
    return b"".join(found)


def signed(random: Random, packs: Sequence[bytes]) -> bytes:
    """Say that a pack is signed, with a signature that is none, or with too much behind it."""
    parts = taken_apart(random.choice(packs))
    trailer = random.choice(
        (bytes(96), random.randbytes(96), b"", bytes(95), bytes(97), bytes(192))
    )
    flags = random.choice((0, 1, 1, 1, 2, 3, 0x80000000))
    return put_together(replace(parts, flags=flags, trailer=trailer))


#: The kinds of mutants of version 2 that are quickly made, with what is done to a pack.
KINDS: Mapping[str, Mutator] = {
    mutator.__name__: mutator
    for mutator in (
        flipped,
        flipped_within,
        cut,
        spliced,
        shuffled,
        header,
        head,
        sizes,
        frames,
        planes,
        values,
        payloads,
        bombs,
        signed,
    )
}
