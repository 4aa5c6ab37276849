"""What spreading activation costs, beside the search for its seeds and beside plain FAISS.

CPU time of one thread, batches of 256, 15 edges from each concept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import faiss
import numpy as np

from benchmarks._large import vectors
from benchmarks._memories import part_of
from benchmarks.suite import Ratio, Result, Settings, TableOf, Timings, benchmark, turns
from storage_backends import hnsw
from storage_backends.columns import Slots
from storage_backends.faiss_index import one_thread
from storage_backends.hnsw import HnswBase
from storage_backends.spreading import Spread, Spreading, explained, kernel, spread, use
from storage_backends.spreading.dispatch import Name
from storage_backends.types import EDGE, STATS, Concepts, Contents, EdgeKind, Floats, Records
from storage_backends.view import View

DIM = 64
EDGES = 15
BATCH = 256
TOPS = (10, 32)
CLUSTER = 100  # concepts whose keys lie together, as in `vectors`
EFFORT = 32
#: By the way of spreading, at efSearch 32 and for the top ten.
GOALS = {"2 hops": 1.3, "3 hops, frontier 32": 1.6}
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


def spreads(view: View, count: int) -> dict[str, Callable[[int], object]]:
    """Return all ways of spreading, by what to call them."""
    names: tuple[Name, ...] = ("numpy",) if kernel.why_not() else ("C", "numpy")
    return {
        f"{way}, top {top}, {name}": _spreading(view, name, way, top, count)
        for top in TOPS
        for way in WAYS
        for name in names
    }


def _spreading(view: View, name: Name, way: str, top: int, count: int) -> Callable[[int], object]:
    seeds = [seeds_of(view, turn, top) for turn in range(count + 1)]
    how, regions = WAYS[way]
    part = part_of(view, regions=regions)

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
        spread([part_of(view)], seeds, heard, WAYS[way][0], many).slots
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
    return kernel.spread_into(found, [part_of(view, regions=regions)], *seeds_of(view, 0, top), how)


ALONE = "FAISS alone"


class Lookups:
    """FAISS alone, our search in the same graph, and spreading from there.

    Parameters
    ----------
    view : View
    base : HnswBase
        The graph.
    top, effort : int
        Concepts wanted, and efSearch.
    """

    def __init__(self, view: View, base: HnswBase, top: int, effort: int) -> None:
        self._view = replace(view, base=base)
        self._graph = base.graph
        self._part = part_of(view)
        self._top, self._effort = top, effort
        self._settings = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            efSearch=max(effort, top)
        )

    def timed(self, count: int) -> Timings:
        """Return what a batch costs in each way."""
        asked = [queries_of(self._view, turn) for turn in range(count + 1)]
        calls: dict[str, Callable[[int], object]] = {
            ALONE: lambda turn: self.alone(asked[turn]),
            "lookup": lambda turn: self.ours(asked[turn]),
        }
        for way in ("2 hops", *BOUNDED):
            calls[way] = partial(self._spread_from, asked, WAYS[way][0])
        return turns(calls, count)

    def recalls(self) -> tuple[float, float]:
        """Return the share of the nearest concepts that FAISS alone and our search find."""
        asked = queries_of(self._view, 0)
        cosines = asked @ self._view.keys.part(0, self._view.size).T
        nearest = np.argpartition(-cosines, self._top, axis=1)[:, : self._top]
        shares = [
            np.mean([len(np.intersect1d(*rows)) for rows in zip(nearest, found, strict=True)])
            for found in (self.alone(asked), self.ours(asked)[0])
        ]
        return float(shares[0]) / self._top, float(shares[1]) / self._top

    def alone(self, asked: Floats) -> Slots:
        found: Slots = self._graph.search(asked, self._top, params=self._settings)[1]
        return found

    def ours(self, asked: Floats) -> tuple[Slots, Floats]:
        with patch.object(hnsw, "effort", return_value=self._effort):
            return self._view.index.search(asked, self._top)

    def _spread_from(self, asked: Sequence[Floats], how: Spread, turn: int) -> object:
        slots, cosines = self.ours(asked[turn])
        return spread([self._part], slots, np.maximum(cosines, 0), how, self._top)


def lookup_tables(concepts: int, count: int) -> tuple[list[Ratio], list[TableOf]]:
    """Return the ratios to FAISS alone, and a table for keys in clusters and for others."""
    ratios, tables = [], []
    for clustered in (True, False):
        view = opened(memory_of(concepts, clustered))
        base = HnswBase.build(view.keys)
        if base is None:
            raise ValueError(f"expected a graph of {concepts} concepts, got none")
        keys = f"keys in clusters of {CLUSTER}" if clustered else "keys anywhere"
        rows: list[tuple[str, ...]] = []
        for top in TOPS:
            for effort in (EFFORT, hnsw.effort(DIM)):
                lookups = Lookups(view, base, top, effort)
                spent, recalls = lookups.timed(count), lookups.recalls()
                rows += _rows(f"top {top}, efSearch {effort}", spent, recalls)
                if (top, effort) == (TOPS[0], EFFORT):
                    ratios += _ratios(keys, spent, recalls)
        header = ("", "us a query", "times FAISS", "recall")
        tables.append(TableOf(f"{concepts:,} concepts, {keys}", header, rows))
    return ratios, tables


def _rows(
    title: str, spent: Timings, recalls: tuple[float, float]
) -> list[tuple[str, str, str, str]]:
    """Return a row for each way."""
    found = {ALONE: f"{recalls[0]:.3f}", "lookup": f"{recalls[1]:.3f}"}
    return [
        (
            f"{title}: {name}" if name in found else f"{title}: lookup and {name}",
            f"{spent.median(name) / BATCH * 1e6:.1f}",
            f"{spent.ratio(name, ALONE)[0]:.2f}",
            found.get(name, ""),
        )
        for name in spent.seconds
    ]


def _ratios(keys: str, spent: Timings, recalls: tuple[float, float]) -> list[Ratio]:
    return [
        Ratio(
            1,
            f"lookup, {way} and top {TOPS[0]} against FAISS alone, {keys}",
            *spent.ratio(way, ALONE),
            bound=GOALS[way],
            note=f"efSearch {EFFORT}; recall of FAISS {recalls[0]:.3f}, of ours {recalls[1]:.3f}",
            ours=spent.median(way) / BATCH * 1e6,
            theirs=spent.median(ALONE) / BATCH * 1e6,
            unit="us",
        )
        for way in GOALS
    ]


def spread_table(sizes: tuple[int, ...], count: int) -> tuple[TableOf, list[str]]:
    """Return what spreading alone costs, and notes on its scratch and on what frontiers find."""
    views = [opened(memory_of(concepts)) for concepts in sizes]
    spent = [turns(spreads(view, count), count) for view in views]
    rows = []
    for name in spent[0].seconds:
        row = [each.median(name) / BATCH * 1e6 for each in spent]
        rows.append((name, *(f"{each:.1f}" for each in row), f"{row[-1] / row[0]:.2f}"))
    notes = []
    for way in WAYS if not kernel.why_not() else ():
        used = ", ".join(f"{scratch(view, way, TOPS[-1]) / 1e3:,.0f} kB" for view in views)
        notes.append(f"scratch of a thread, top {TOPS[-1]}, {way}: {used}")
    for way in BOUNDED:
        found = ", ".join(f"{overlap(view, way):.1%}" for view in views)
        notes.append(f"top {TOPS[-1]} without the seeds, {way}, of what 3 hops reach: {found}")
    header = ("us a query", *(f"{concepts:,}" for concepts in sizes), "growth")
    return TableOf(f"spreading alone, {EDGES} edges each", header, rows), notes


@benchmark("spreading", "lookup and spreading beside plain FAISS", minutes=2)
def run(settings: Settings) -> Result:
    concepts = 2_000 if settings.quick else 100_000
    with one_thread():
        ratios, tables = lookup_tables(concepts, settings.turns)
    title = "Lookup and spreading beside plain FAISS"
    return Result("spreading", title, ratios=ratios, tables=tables, notes=(explained(),))


@benchmark("spreading-alone", "spreading by itself, in all its ways", minutes=4, group="more")
def run_alone(settings: Settings) -> Result:
    sizes = (2_000, 10_000) if settings.quick else (100_000, 1_000_000)
    with one_thread():
        table, notes = spread_table(sizes, settings.turns)
    return Result("spreading-alone", "Spreading by itself", tables=(table,), notes=notes)
