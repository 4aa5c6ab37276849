"""Makes pack files of version 1 that are not what they should be."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.earlier_build import EDGE, edges_of, node_type, nodes_of, some_pairs
from tests.packs.fuzz import Mutator, cut, flipped
from tests.packs.fuzz_parts import FLOATS, NUMBERS

#: Magic, version, width, nodes, edges, hash of what follows; big-endian.
HEADER = struct.Struct(">8sIIII32s")


def sound(vector_dim: int, nodes: int, edges: int) -> bytes:
    """Return a pack as release 3.0 wrote it, of random nodes and edges."""
    concepts = nodes_of(nodes, vector_dim)
    links = edges_of(concepts, some_pairs(nodes, edges)) if edges else np.empty(0, EDGE)
    return _written(vector_dim, concepts, links)


def _written(vector_dim: int, concepts: NDArray[Any], links: NDArray[Any]) -> bytes:
    payload = concepts.tobytes() + links.tobytes()
    sizes = vector_dim, len(concepts), len(links)
    return HEADER.pack(b"AESGPACK", 1, *sizes, hashlib.sha256(payload).digest()) + payload


def rehashed(content: bytes) -> bytes:
    """Return a file with the hash that it should have."""
    sha256 = hashlib.sha256(content[HEADER.size :]).digest()
    return content[: HEADER.size - 32] + sha256 + content[HEADER.size :]


def flipped_within(random: Random, packs: Sequence[bytes]) -> bytes:
    """Flip a few bits and make the hash right, so that some numbers are odd ones."""
    content = flipped(random, packs)
    return rehashed(content)


def sizes(random: Random, packs: Sequence[bytes]) -> bytes:
    """Let the header say other sizes, and sometimes be right."""
    content = random.choice(packs)
    fields = list(HEADER.unpack_from(content))
    for _ in range(random.choice((1, 1, 2, 3))):
        fields[random.choice((1, 2, 3, 4))] = random.choice(NUMBERS) & 0xFFFFFFFF
    if random.random() < 0.8:
        fields[1] = 1
    tail = random.choice((b"", random.randbytes(39), bytes(100_000), content[HEADER.size :]))
    return rehashed(HEADER.pack(*fields) + content[HEADER.size :] + tail)


def values(random: Random, packs: Sequence[bytes]) -> bytes:
    """Give a few nodes or edges odd values."""
    content = random.choice([pack for pack in packs if len(pack) > HEADER.size])
    _, _, width, count, edges, _ = HEADER.unpack_from(content)
    concepts = np.frombuffer(content, node_type(width), count, HEADER.size).copy()
    links = np.frombuffer(content, EDGE, edges, HEADER.size + concepts.nbytes).copy()
    for _ in range(random.choice((1, 2, 5))):
        records = random.choice([records for records in (concepts, links) if len(records)])
        name = random.choice(records.dtype.names or ())
        rows = records[name]
        place = random.choice((random.randrange(len(rows)), slice(None)))
        if rows.dtype.kind == "f":
            rows[place] = random.choice(FLOATS)
        else:
            mask = (1 << 8 * rows.itemsize) - 1
            number = (random.choice((*NUMBERS, 1, 2)) & mask).to_bytes(rows.itemsize, "little")
            rows[place] = np.frombuffer(number, rows.dtype)[0]
    return _written(width, concepts, links)


#: The kinds of mutants of version 1, with what is done to a pack.
KINDS: Mapping[str, Mutator] = {
    f"version 1: {mutator.__name__}": mutator
    for mutator in (flipped, flipped_within, cut, sizes, values)
}
