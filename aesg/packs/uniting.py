"""Edges of a pack and of the memory, as one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import live
from aesg.graph.consolidation import edge_ages
from aesg.graph.edges import weakened
from aesg.packs.pack import Pack
from storage_backends.adjacency import strengths
from storage_backends.columns import Slots
from storage_backends.types import EDGE, Ids, Records
from storage_backends.view import View

_MOST_USES = 2**32 - 1


@dataclass(frozen=True)
class Rows:
    """What becomes of the edges of a memory when those of a pack join them.

    Parameters
    ----------
    changed : mapping of id to (M,) EDGE
        The rows that are others than before, as of the present epoch.
    added, merged : int
        Edges of the pack that are new in them, and that were there before.
    """

    changed: dict[int, Records]
    added: int
    merged: int


@dataclass(frozen=True)
class _Edges:
    """Edges with their sources; which of them the memory has, which the pack, and which change."""

    sources: Ids
    edges: Records
    held: NDArray[np.bool_]
    arrived: NDArray[np.bool_]
    changed: NDArray[np.bool_]

    def of(self, rows: Slots) -> _Edges:
        return _Edges(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def united_rows(
    view: View, epoch: int, pack: Pack, ids: Ids, most: int, *, is_counted: bool
) -> Rows:
    """Return the rows of edges that a memory has with those of a pack.

    Of an edge that both have, reasons are gathered, weight and confidence are the greater ones, and
    uses are summed; what is heavier than an edge can be here weighs as much as one can.

    Parameters
    ----------
    view : View
        Of the memory.
    epoch : int
        Its present consolidation epoch.
    pack : Pack
    ids : (N,) uint64
        The concept of the memory that stands for each of the pack, or will.
    most : int
        Out-edges that a concept may have; the weakest yield, of equals those of lowest target.
    is_counted : bool
        Whether the uses that the pack tells of are counted in the memory already.
    """
    columns = pack.columns
    coming = np.zeros(pack.edge_count, EDGE)
    coming["target"] = ids[columns["edge_targets"]]
    coming["weight"] = np.minimum(columns["edge_weights"], np.float32(1))
    coming["confidence"] = columns["edge_confidences"]
    coming["use"], coming["kind"] = columns["edge_uses"], columns["edge_kinds"]
    sources = np.repeat(ids, columns["edge_counts"])
    other = coming["target"] != sources  # of concepts that are one here
    coming, sources = coming[other], sources[other]
    held_sources, held = _held(view, epoch, np.unique(sources))
    every = np.concatenate([held_sources, sources])
    is_held = np.arange(len(every)) < len(held)
    united = _united(every, np.concatenate([held, coming]), is_held, is_counted=is_counted)
    kept = united.of(_strongest(united.sources, united.edges, most))
    added, merged = kept.arrived & ~kept.held, kept.arrived & kept.held
    return Rows(_changed_rows(kept), int(added.sum()), int(merged.sum()))


def _held(view: View, epoch: int, sources: Ids) -> tuple[Ids, Records]:
    """Return the out-edges that some concepts have in the memory, as of now, and their sources."""
    slots = live(view, sources)
    owner, edges = view.out_edges(slots)
    return view.ids[slots[owner]], weakened(edges, edge_ages(view, slots, epoch)[owner])


def _united(
    sources: Ids, edges: Records, is_held: NDArray[np.bool_], *, is_counted: bool
) -> _Edges:
    """Return each edge once, by source and target; those of the memory come first in ``edges``."""
    order = np.lexsort((edges["target"], sources))
    sources, edges, is_held = sources[order], edges[order], is_held[order]
    fresh = np.ones(len(edges), np.bool_)
    fresh[1:] = (sources[1:] != sources[:-1]) | (edges["target"][1:] != edges["target"][:-1])
    first = np.flatnonzero(fresh)
    if not len(first):
        return _Edges(sources, edges, is_held, is_held, is_held)
    united = edges[first]
    for name in ("weight", "confidence"):
        united[name] = np.maximum.reduceat(edges[name], first)
    uses = edges["use"].astype(np.uint64)
    uses = (np.maximum if is_counted else np.add).reduceat(uses, first)
    united["use"] = np.minimum(uses, np.uint64(_MOST_USES))
    united["kind"] = np.bitwise_or.reduceat(edges["kind"], first)
    held, arrived = (np.logical_or.reduceat(each, first) for each in (is_held, ~is_held))
    return _Edges(sources[first], united, held, arrived, ~held | (united != edges[first]))


def _strongest(sources: Ids, edges: Records, most: int) -> Slots:
    """Return the places of the strongest edges of each source, by source and target."""
    order = np.lexsort((~edges["target"], -strengths(edges), sources))
    rank = np.arange(len(order)) - np.searchsorted(sources, sources)  # sources ascend in both
    places: Slots = np.sort(order[rank < most])
    return places


def _changed_rows(edges: _Edges) -> dict[int, Records]:
    """Return the rows in which an edge changes."""
    sources, first = np.unique(edges.sources, return_index=True)
    if not len(first):
        return {}
    changed = np.logical_or.reduceat(edges.changed, first)
    rows = np.split(edges.edges, first[1:])
    return {
        source: row
        for source, row, other in zip(sources.tolist(), rows, changed.tolist(), strict=True)
        if other
    }
