"""What spreading activation costs, beside the search for its seeds and beside plain FAISS.

    python benchmarks/spreading.py [--quick]

CPU time of one thread, batches of 256, 15 edges from each concept. What is compared takes turns in
one run, each turn in another order, and each figure is the median of its turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from unittest.mock import patch

import click
import faiss
import numpy as np
from _large import vectors
from rich.console import Console
from rich.table import Table

from storage_backends import hnsw
from storage_backends.columns import Column, Slots
from storage_backends.faiss_index import one_thread
from storage_backends.hnsw import HnswBase
from storage_backends.spreading import Part, Spread, Spreading, explained, kernel, spread, use
from storage_backends.spreading.dispatch import Name
from storage_backends.types import EDGE, STATS, Concepts, Contents, EdgeKind, Floats, Records
from storage_backends.view import View

DIM = 64
EDGES = 15
BATCH = 256
TOPS = (10, 32)
CLUSTER = 100  # concepts whose keys lie together, as in `vectors`
EFFORT = 32
#: Three hops in which only so many concepts pass activation on.
BOUNDED = {f"3 hops, frontier {most}": most for most in (16, 32, 64)}

_PLAIN = Spread(hops=2, decay=0.8)
#: Settings, and whether concepts have regions.
WAYS = {
    "2 hops": (_PLAIN, False),
    "2 hops, regions": (replace(_PLAIN, region_multiplier=1.5), True),
    "3 hops": (replace(_PLAIN, hops=3), False),
    **{way: (replace(_PLAIN, hops=3, frontier=most), False) for way, most in BOUNDED.items()},
}


def memory_of(concepts: int, clustered: bool = True) -> View:
    """Return a memory whose concepts have half of their edges within a group of a hundred.

    The keys of a group lie close together, or, where they are not clustered, anywhere.
    """
    rng = np.random.default_rng(concepts)
    ids = np.arange(1, concepts + 1, dtype=np.uint64)
    stats = np.zeros(concepts, STATS)
    stats["region"] = 1 + np.arange(concepts) // (10 * CLUSTER)
    nothing = np.zeros(concepts, np.int64)
    keys = vectors(0, concepts, DIM) if clustered else _anywhere(rng, concepts)
    counts, edges = _edges(rng, concepts)
    return View.of(
        Contents(
            generation=1,
            concepts=Concepts(ids, keys, nothing.astype(np.uint8), nothing, None, stats),
            stats_ids=ids[:0],
            stats=stats[:0],
            edge_sources=ids,
            edge_counts=counts,
            edges=edges,
            deleted=ids[:0],
            settings={},
        )
    )


def _anywhere(rng: np.random.Generator, concepts: int) -> Floats:
    keys: Floats = rng.standard_normal((concepts, DIM), np.float32)
    return keys


def _edges(rng: np.random.Generator, concepts: int) -> tuple[Slots, Records]:
    sources = np.arange(concepts)[:, None]
    near = sources // CLUSTER * CLUSTER + rng.integers(0, CLUSTER, (concepts, EDGES))
    far = rng.integers(0, concepts, (concepts, EDGES))
    targets = np.where(np.arange(EDGES) % 2 == 0, np.minimum(near, concepts - 1), far)
    targets.sort(axis=1)
    other = targets != sources
    other[:, 1:] &= targets[:, 1:] != targets[:, :-1]
    edges = np.zeros(int(other.sum()), EDGE)
    edges["target"] = targets[other] + 1
    edges["weight"] = rng.uniform(0.4, 1.0, len(edges))
    edges["confidence"] = rng.uniform(0.2, 0.9, len(edges))
    edges["kind"] = EdgeKind.COACTIVATION
    return other.sum(axis=1), edges


def opened(view: View) -> View:
    """Return the view as it is after opening: over arrays of its own, unchanged since."""
    columns = {
        name: np.ascontiguousarray(
            rows if isinstance(rows, np.ndarray) else rows.part(0, len(rows))
        )
        for name, rows in view.columns().items()
    }
    return View.of_columns(columns, view.generation, {}, None)


def part_of(view: View, regions: bool) -> Part:
    none = Column.over(np.broadcast_to(np.zeros(1, np.uint32), view.size))
    return Part(view.adjacency, view.ids, view.regions if regions else none)


def seeds_of(view: View, turn: int, top: int) -> tuple[Slots, Floats]:
    """Return as many seeds of one cluster as are wanted in the end, for each query of a batch."""
    rng = np.random.default_rng(turn)
    cluster = rng.integers(0, view.size // CLUSTER, (BATCH, 1))
    members = rng.permuted(np.tile(np.arange(CLUSTER), (BATCH, 1)), axis=1)[:, :top]
    heard = -np.sort(-rng.uniform(0.7, 1.0, members.shape), axis=1)
    return cluster * CLUSTER + members, heard.astype(np.float32)


def queries_of(view: View, turn: int) -> Floats:
    """Return queries near concepts that lie anywhere."""
    rng = np.random.default_rng(turn)
    near = view.keys[rng.integers(0, view.size, BATCH)]
    noisy = near + rng.normal(0, 0.15 / np.sqrt(DIM), near.shape).astype(np.float32)
    unit: Floats = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return unit


def microseconds(runs: Mapping[str, Callable[[int], object]], turns: int) -> dict[str, float]:
    """Return the CPU time of one query of each run, in turns; the first turn warms up."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name in np.roll(list(runs), turn).tolist():  # who comes next finds a warmer cache
            begin = time.process_time()
            runs[name](turn)
            spent[name].append(time.process_time() - begin)
    return {name: float(np.median(times[1:])) / BATCH * 1e6 for name, times in spent.items()}


def spreads(view: View, turns: int) -> dict[str, Callable[[int], object]]:
    """Return all ways of spreading, by what to call them."""
    names: tuple[Name, ...] = ("numpy",) if kernel.why_not() else ("C", "numpy")
    return {
        f"{way}, top {top}, {name}": _spreading(view, name, way, top, turns)
        for top in TOPS
        for way in WAYS
        for name in names
    }


def _spreading(view: View, name: Name, way: str, top: int, turns: int) -> Callable[[int], object]:
    seeds = [seeds_of(view, turn, top) for turn in range(turns + 1)]
    how, regions = WAYS[way]
    part = part_of(view, regions)

    def run(turn: int) -> object:
        with use(name):
            return spread([part], *seeds[turn], how, top)

    return run


def overlap(view: View, bounded: str) -> float:
    """Return the share of what only edges reach that a bounded frontier finds, too.

    It is counted among the top of all that was found from ten seeds. These are left out: they come
    first with any frontier.
    """
    few, many = TOPS
    seeds, heard = seeds_of(view, 0, few)
    every, some = (
        spread([part_of(view, regions=False)], seeds, heard, WAYS[way][0], many).slots
        for way in ("3 hops", bounded)
    )
    reached = [np.setdiff1d(*rows) for rows in zip(every, seeds, strict=True)]
    common = [len(np.intersect1d(*rows)) for rows in zip(reached, some, strict=True)]
    return sum(common) / sum(map(len, reached))


def scratch(view: View, way: str, top: int) -> int:
    """Return the bytes that a thread of the kernel needs beside its results."""
    how, regions = WAYS[way]
    shape = BATCH, top
    found = Spreading(
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
        np.empty((*shape, how.hops), np.int64),
    )
    return kernel.spread_into(found, [part_of(view, regions)], *seeds_of(view, 0, top), how)


def lookups(view: View, base: HnswBase, top: int, effort: int, turns: int) -> dict[str, float]:
    """Return what FAISS costs alone, our search in the same graph, and spreading from there."""
    view = replace(view, base=base)
    asked = [queries_of(view, turn) for turn in range(turns + 1)]
    part = part_of(view, regions=False)
    settings = faiss.SearchParametersHNSW(efSearch=max(effort, top))  # type: ignore[attr-defined]

    def alone(turn: int) -> object:
        return base.graph.search(asked[turn], top, params=settings)

    def searched(how: Spread | None) -> Callable[[int], object]:
        def run(turn: int) -> object:
            with patch.object(hnsw, "effort", return_value=effort):
                slots, cosines = view.index.search(asked[turn], top)
            return how and spread([part], slots, np.maximum(cosines, 0), how, top)

        return run

    runs = {"FAISS alone": alone, "lookup": searched(None)}
    for way in ("2 hops", *BOUNDED):
        runs[f"lookup and {way}"] = searched(WAYS[way][0])
    return microseconds(runs, turns)


def print_lookups(concepts: int, turns: int) -> None:
    efforts = (EFFORT, hnsw.effort(DIM))
    for clustered in (True, False):
        view = opened(memory_of(concepts, clustered))
        base = HnswBase.build(view.keys)
        assert base is not None
        keys = f"keys in clusters of {CLUSTER}" if clustered else "keys anywhere"
        table = Table("", "us a query", "x", title=f"{concepts:,} concepts, {keys}")
        for top in TOPS:
            for effort in efforts:
                _add_lookups(
                    table, f"top {top}, efSearch {effort}", lookups(view, base, top, effort, turns)
                )
        Console().print(table)


def _add_lookups(table: Table, title: str, figures: Mapping[str, float]) -> None:
    for name, spent in figures.items():
        ratio = spent / figures["FAISS alone"]
        table.add_row(f"{title}: {name}", f"{spent:.1f}", f"{ratio:.2f}")
    table.add_section()


def print_spreads(sizes: tuple[int, ...], turns: int) -> None:
    views = [opened(memory_of(concepts)) for concepts in sizes]
    columns = (f"{concepts:,}" for concepts in sizes)
    table = Table("us a query", *columns, "x", title=f"spreading alone, {EDGES} edges each")
    figures = [microseconds(spreads(view, turns), turns) for view in views]
    for name in figures[0]:
        row = [each[name] for each in figures]
        table.add_row(name, *(f"{spent:.1f}" for spent in row), f"{row[-1] / row[0]:.2f}")
    Console().print(table)
    for way in WAYS if not kernel.why_not() else ():
        used = ", ".join(f"{scratch(view, way, TOPS[-1]) / 1e3:,.0f} kB" for view in views)
        Console().print(f"scratch of a thread, top {TOPS[-1]}, {way}: {used}")
    for way in BOUNDED:
        found = ", ".join(f"{overlap(view, way):.1%}" for view in views)
        Console().print(f"top {TOPS[-1]} without the seeds, {way}, of what 3 hops reach: {found}")


@click.command()
@click.option("--quick", is_flag=True, help="Small memories, few turns: a check, no figures.")
def main(quick: bool) -> None:
    """Print what lookups cost, then spreading alone."""
    Console().print(explained())
    turns, sizes = (3, (2_000, 10_000)) if quick else (15, (100_000, 1_000_000))
    with one_thread():
        print_lookups(sizes[0], turns)
        print_spreads(sizes, turns)


if __name__ == "__main__":
    main()
