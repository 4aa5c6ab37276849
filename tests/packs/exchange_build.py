"""Memories that tests of export and merge exchange packs between."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory
from aesg.packs import Pack, read_pack
from aesg.payload import unpack_payload
from storage_backends.types import EDGE, Concepts, Ids, WriteBatch
from storage_backends.view import View

DIM = 8
KINDS = {"COACTIVATION": 1, "SUCCESSOR": 2, "VALUE": 4, "ABSTRACTION": 8}


def opened(directory: Path, **fields: Any) -> AESGMemory:
    return AESGMemory(directory, AESGConfig(**{"vector_dim": DIM, **fields}))


def keys_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def view_of(memory: AESGMemory) -> View:
    return memory.storage.engine.view()


def memory_concepts(view: View) -> Concepts:
    """Return the concepts of a view as they are."""
    slots = np.arange(view.size)
    return Concepts(
        ids=view.ids[slots],
        keys=view.raw_keys(slots),
        value_kinds=view.value_kinds[slots],
        value_ids=view.value_ids[slots],
        value_vectors=None,
        stats=view.stats[slots],
    )


def link(memory: AESGMemory, rows: dict[int, list[tuple[int, float, float, int, int]]]) -> None:
    """Give concepts out-edges: target, weight, confidence, uses and reasons."""
    edges = {source: np.array(row, EDGE) for source, row in rows.items()}
    memory._state.apply(WriteBatch(edges=edges))


def grown(directory: Path, count: int = 30, seed: int = 0, **fields: Any) -> AESGMemory:
    """Return a memory with values, payloads, edges, ages and relevances of all kinds."""
    memory = opened(directory, consolidation_epoch_interval=1, **fields)
    random = np.random.default_rng(seed)
    ids = memory.remember(
        keys_of(count, seed), range(count), [{"n": n} if n % 3 else None for n in range(count)]
    ).tolist()
    rows = {}
    for source in ids[::2]:
        targets = sorted({int(each) for each in random.choice(ids, 6)} - {source})
        rows[source] = [
            (target, random.random(), 0.5 + random.random() / 2, int(random.integers(1, 9)), kind)
            for target, kind in zip(targets, [2, 3, 4, 1, 6, 2], strict=False)
        ]
    link(memory, rows)
    for step in range(3):
        memory.update_topology()
        memory.retrieve(torch.from_numpy(keys_of(count, seed)[step : 3 * step + 2]))
    memory.save()
    return memory


def remember_numbers(memory: AESGMemory, count: int) -> None:
    """Remember concepts whose payloads say their values."""
    first = memory.storage.node_count
    numbers = range(first, first + count)
    memory.remember(keys_of(count, first), numbers, [str(number) for number in numbers])


def export_while_told(say: Connection, directory: str, path: str) -> None:
    """Export a memory that another process writes, again and again; say how much there is."""
    with AESGMemory.open(directory) as memory:
        while True:
            pack = exported(memory, Path(path))
            payloads = [unpack_payload(pack.payload(place)) for place in range(pack.node_count)]
            assert payloads == [str(number) for number in range(pack.node_count)]
            assert pack.columns["value_ids"].tolist() == list(range(pack.node_count))
            say.send(pack.node_count)


def merge_once(say: Connection, directory: str, path: str) -> None:
    """Merge a pack into a memory, and say when it begins and when it is done."""
    with opened(Path(directory)) as memory:
        pack = memory.load_pack(path)
        say.send("begins")
        memory.merge_pack(pack)
        say.send("done")
        say.recv()


def exported(memory: AESGMemory, path: Path, **options: Any) -> Pack:
    """Export a pack, and read it again."""
    report = memory.export_pack(path, **options)
    pack = read_pack(path)
    assert (report.concepts, report.edges) == (pack.node_count, pack.edge_count)
    assert report.bytes == path.stat().st_size
    return pack


def edges_in(pack: Pack) -> dict[tuple[int, int], tuple[float, float, int, int]]:
    """Return weight, confidence, uses and reasons of each edge, by the ids of its ends."""
    columns = pack.columns
    ends = zip(pack.edges["source_id"].tolist(), pack.edges["target_id"].tolist(), strict=True)
    names = ("edge_weights", "edge_confidences", "edge_uses", "edge_kinds")
    told = zip(*(columns[name].tolist() for name in names), strict=True)
    return dict(zip(ends, told, strict=True))


def edges_of(memory: AESGMemory, ids: Ids) -> dict[tuple[int, int], tuple[float, float, int, int]]:
    """Return the same of the edges that lead from some concepts of a memory."""
    return {
        (source, edge.target): (
            edge.weight,
            edge.confidence,
            edge.uses,
            sum(KINDS[reason] for reason in edge.reasons),
        )
        for source in ids.tolist()
        for edge in memory.edges(source)
    }
