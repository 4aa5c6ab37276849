"""Views of small worlds, laid out in memory in all the ways that a view can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storage_backends.columns import Slots
from storage_backends.spreading import Part, Spread, Spreading, kernel, spread
from storage_backends.spreading.dispatch import Name
from storage_backends.types import EDGE, STATS, Concepts, Contents, Floats, Ids, Records, ValueKind
from storage_backends.view import View
from tests.storage import reference_spreading as reference
from tests.storage.reference_spreading import Concept, Edge, World

Layout = Literal["in memory", "opened", "changed since", "opened again"]
LAYOUTS: tuple[Layout, ...] = ("in memory", "opened", "changed since", "opened again")

#: A concept that was deleted before anything is asked: no part of a `World` has this id.
GONE = 1

#: A concept and its activation; None pads.
Seed = tuple[reference.Name, float] | None

#: Slot, activation and path of each of the most active concepts of a query.
Row = list[tuple[int, np.float32, list[int]]]


def _stats(concepts: list[Concept]) -> Records:
    stats = np.zeros(len(concepts), STATS)
    stats["region"] = [concept.region for concept in concepts]
    stats["edge_epoch"] = [concept.epoch for concept in concepts]
    return stats


def _edges(concepts: list[Concept]) -> Records:
    rows = [(e.target, e.strength, 1.0, 0, e.kind) for concept in concepts for e in concept.edges]
    return np.array(rows, EDGE)


def _ids(values: list[int]) -> Ids:
    return np.array(values, np.uint64)


def contents(
    put: dict[int, Concept],
    changed: dict[int, Concept] | None = None,
    deleted: list[int] | None = None,
) -> Contents:
    """Return a change set that puts concepts, and gives others new statistics and edges."""
    changed = changed or {}
    concepts = Concepts(
        _ids(list(put)),
        np.ones((len(put), 2), np.float32),
        np.full(len(put), ValueKind.KEY, np.uint8),
        np.zeros(len(put), np.int64),
        None,
        _stats(list(put.values())),
    )
    rows = dict(sorted({**put, **changed}.items()))
    return Contents(
        generation=1,
        concepts=concepts,
        stats_ids=_ids(list(changed)),
        stats=_stats(list(changed.values())),
        edge_sources=_ids(list(rows)),
        edge_counts=np.array([len(concept.edges) for concept in rows.values()], np.int64),
        edges=_edges(list(rows.values())),
        deleted=_ids(deleted or []),
        settings={},
    )


def reopened(view: View) -> View:
    """Return the view that a snapshot of another one gives."""
    columns = {
        name: rows if isinstance(rows, np.ndarray) else rows.part(0, len(rows))
        for name, rows in view.columns().items()
    }
    return View.of_columns(columns, view.generation, view.settings, None)


def _earlier(part: dict[int, Concept]) -> dict[int, Concept]:
    """Return what some concepts of a part were like once."""
    old = {name: concept for name, concept in part.items() if name % 3}
    return {
        name: Concept(
            [edge for edge in concept.edges if edge.target in old],
            concept.region if name % 2 else 1,
            concept.epoch if name % 2 else 0,
        )
        for name, concept in sorted(old.items())
    }


def view_of(part: dict[int, Concept], layout: Layout) -> View:
    if layout in ("in memory", "opened"):
        view = View.of(contents(part))
        return view if layout == "in memory" else reopened(view)
    once = _earlier(part)
    view = reopened(View.of(contents({GONE: Concept(), **once})))
    new = {name: concept for name, concept in part.items() if name not in once}
    # Those put last have the lowest ids of all: slots and ids are not in the same order.
    changed = {name: part[name] for name in once if part[name] != once[name]}
    view = view.advanced(contents(new, changed, [GONE]))
    return view if layout == "changed since" else reopened(view)


@dataclass
class Laid:
    """A world as the product holds it."""

    world: World
    views: list[View]

    @property
    def parts(self) -> list[Part]:
        return [
            Part(view.adjacency, view.ids, view.regions, weight)
            for view, weight in zip(self.views, self.world.weights, strict=True)
        ]

    def slot(self, name: reference.Name) -> int:
        part, concept = name
        first = sum(view.size for view in self.views[:part])
        return first + int(self.views[part].slots(_ids([concept]))[0])

    def seeds(self, queries: list[list[Seed]]) -> tuple[Slots, Floats]:
        """Return the seeds of each query as arrays; None pads."""
        width = max(map(len, queries), default=1)
        padded = [query + [None] * (width - len(query)) for query in queries]
        slots = [[-1 if seed is None else self.slot(seed[0]) for seed in row] for row in padded]
        heard = [[0.0 if seed is None else seed[1] for seed in row] for row in padded]
        shape = len(queries), width
        return (
            np.array(slots, np.int64).reshape(shape),
            np.array(heard, np.float32).reshape(shape),
        )

    def spread(self, queries: list[list[Seed]], how: Spread, top: int) -> Spreading:
        return spread(self.parts, *self.seeds(queries), how, top)

    def expected(self, query: list[Seed], how: Spread, top: int) -> Row:
        found = reference.spread(self.world, [seed for seed in query if seed], how, top)
        rows = [
            (self.slot(each.name), each.activation, [self.slot(name) for name in each.path])
            for each in found
        ]
        rows += [(-1, np.float32(0), [])] * (top - len(rows))
        return [(slot, heard, path + [-1] * (how.hops - len(path))) for slot, heard, path in rows]


def laid(world: World, layout: Layout) -> Laid:
    return Laid(world, [view_of(dict(part), layout) for part in world.parts])


def row(found: Spreading, query: int) -> Row:
    columns = found.slots[query], found.activations[query], found.paths[query].tolist()
    return [(int(slot), heard, path) for slot, heard, path in zip(*columns, strict=True)]


def lone(part: dict[int, Concept]) -> Laid:
    """Return a world of one part, in memory."""
    return laid(World([part], [1.0]), "in memory")


#: What can spread activation here.
KERNELS: tuple[Name, ...] = ("numpy",) if kernel.why_not() else ("numpy", "C")

#: Settings under which activation goes far.
WIDE = Spread(3, 0.9, 1e-7, 1.3, weakening=0.9, epoch=6)


def random_world(concepts: int, edges: int, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    part = {}
    for name in range(GONE + 1, concepts + GONE + 1):
        targets = rng.choice(np.arange(GONE + 1, concepts + GONE + 1), edges, replace=False)
        part[name] = Concept(
            [
                Edge(int(target), float(np.float32(rng.random())), int(rng.choice([1, 2, 4, 3])))
                for target in targets
                if target != name
            ],
            int(rng.integers(0, 4)),
            int(rng.integers(0, 5)),
        )
    return World([part, part], [1.0, 0.4])


def random_queries(world: World, count: int, seed: int = 0) -> list[list[Seed]]:
    rng = np.random.default_rng(seed)
    names = list(world.parts[0])
    return [
        [((int(rng.integers(0, 2)), int(rng.choice(names))), float(np.float32(rng.random())))] * 2
        for _ in range(count)
    ]
