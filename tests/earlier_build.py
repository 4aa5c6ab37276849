"""What release 3.0 wrote, made by the words of its documentation, and its readers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Seconds since 1970.
NOW = 1_700_000_000

EDGE = np.dtype(
    {
        "names": ["source_id", "target_id", "weight", "confidence", "use_count", "next_edge_idx"],
        "formats": ["<u8", "<u8", "<f4", "<f4", "<u4", "<i8"],
    }
)
EVENT = "< Q B 3x Q Q f"
_TYPES = ("CREATE", "MERGE", "SPLIT", "PRUNE", "CONSOLIDATE", "RESTRUCTURE")


def node_type(dim: int) -> np.dtype[Any]:
    """Return the record of a node."""
    return np.dtype(
        [
            ("id", "<u8"),
            ("vector", "<f4", (dim,)),
            ("created_at", "<u8"),
            ("modified_at", "<u8"),
            ("use_frequency", "<u4"),
            ("relevance", "<f4"),
            ("age", "<u4"),
            ("stability", "<f4"),
            ("region_id", "<u4"),
            ("is_active", "u1"),
            ("head_edge_idx", "<i8"),
        ]
    )


def nodes_of(count: int, dim: int = 6, seed: int = 0) -> NDArray[Any]:
    """Return nodes with ids in no order, as that release drew them."""
    random = np.random.default_rng(seed)
    nodes = np.zeros(count, node_type(dim))
    nodes["id"] = random.choice(np.arange(1, 10**6), count, replace=False) * 10_000
    nodes["vector"] = random.normal(size=(count, dim)) * random.uniform(0.1, 9, (count, 1))
    nodes["created_at"] = NOW + random.integers(0, 1000, count)
    nodes["modified_at"] = nodes["created_at"] + 7
    nodes["use_frequency"] = random.integers(0, 9, count)
    nodes["age"] = random.integers(0, 30, count)
    nodes["relevance"] = 0.95 ** nodes["age"]
    nodes["stability"] = 0.5
    nodes["region_id"] = random.integers(0, 3, count)
    nodes["is_active"] = 1
    nodes["head_edge_idx"] = -1
    return nodes


def edges_of(nodes: NDArray[Any], pairs: Iterable[tuple[int, int]], seed: int = 0) -> NDArray[Any]:
    """Return edges between places of nodes, and let the nodes lead to them."""
    random = np.random.default_rng(seed)
    records = []
    for number, (source, target) in enumerate(pairs):
        head = int(nodes["head_edge_idx"][source])
        strength = random.uniform(0.1, 2), random.uniform(0.1, 1)
        ids = int(nodes["id"][source]), int(nodes["id"][target])
        records.append((*ids, *strength, int(random.integers(0, 50)), head))
        nodes["head_edge_idx"][source] = number
    return np.array(records, EDGE)


def some_pairs(count: int, edges: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return pairs of different places, each once."""
    random = np.random.default_rng(seed)
    places = random.choice(count * (count - 1), edges, replace=False)
    return [(p // (count - 1), (p // (count - 1) + 1 + p % (count - 1)) % count) for p in places]


def event(kind: int, id1: int = 0, id2: int = 0, val: float = 0.0, at: int = NOW) -> bytes:
    """Return one event."""
    return struct.pack(EVENT, at, kind, id1, id2, val)


def meta_of(nodes: int, edges: int, dim: int, room: int) -> dict[str, int]:
    """Return what is pickled into ``meta.npy``."""
    counts = {"node_count": nodes, "edge_count": edges, "vector_dim": dim}
    return {**counts, "cap_nodes": room, "cap_edges": 5 * room}


def write_directory(
    path: Path,
    nodes: NDArray[Any],
    edges: NDArray[Any] | None = None,
    events: Sequence[bytes] = (),
    room: int = 100,
) -> Path:
    """Write a memory directory with room for more concepts than there are."""
    path.mkdir()
    edges = np.empty(0, EDGE) if edges is None else edges
    dim = nodes.dtype["vector"].shape[0]
    for name, records, capacity in (("nodes", nodes, room), ("edges", edges, 5 * room)):
        content = records.tobytes()
        rest = (capacity - len(records)) * records.dtype.itemsize
        (path / f"{name}.aesg").write_bytes(content + bytes(rest))
    meta: Any = meta_of(len(nodes), len(edges), dim, room)
    np.save(path / "meta.npy", meta)
    if events:
        (path / "evolution.aesglog").write_bytes(b"".join(events))
    return path


def write_pack(path: Path, nodes: NDArray[Any], edges: NDArray[Any] | None = None) -> Path:
    """Write a version-1 pack."""
    edges = np.empty(0, EDGE) if edges is None else edges
    payload = nodes.tobytes() + edges.tobytes()
    sizes = nodes.dtype["vector"].shape[0], len(nodes), len(edges)
    header = struct.pack(">8sIIII32s", b"AESGPACK", 1, *sizes, hashlib.sha256(payload).digest())
    path.write_bytes(header + payload)
    return path


def edges_from(nodes: NDArray[Any], edges: NDArray[Any], place: int) -> list[tuple[Any, ...]]:
    """Return target, weight, confidence and uses of the edges of a node, by the old reader."""
    found, at = [], int(nodes["head_edge_idx"][place])
    while at != -1:
        edge = edges[at]
        names = ("target_id", "weight", "confidence", "use_count")
        found.append(tuple(edge[name].item() for name in names))
        at = int(edge["next_edge_idx"])
    return found


def history_of(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log, by the old reader."""
    content = path.read_bytes()
    whole = len(content) // 32 * 32
    return [
        {"timestamp": at, "type": _TYPES[kind], "id1": id1, "id2": id2, "val": val}
        for at, kind, id1, id2, val in struct.iter_unpack(EVENT, content[:whole])
    ]
