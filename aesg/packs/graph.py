"""The view of a pack: what a retrieval reads of it, over the columns that the pack has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.packs.pack import Columns, Pack
from storage_backends.adjacency import LEAD, REST, ROW, Adjacency, rows_of_runs
from storage_backends.columns import Column, Fields, Filled
from storage_backends.id_map import IdMap, SortedIds
from storage_backends.types import STATS
from storage_backends.view import View

#: The consolidation epoch of the edges of a pack: one that never comes, so that their age is 0.
NO_EPOCH = 0xFFFFFFFF

#: Edges that are looked through at a time.
_CHUNK = 1 << 18

#: The columns of what is known of an edge.
_EDGES = {
    "target": "edge_targets",
    "weight": "edge_weights",
    "confidence": "edge_confidences",
    "use": "edge_uses",
    "kind": "edge_kinds",
}

#: Where a pack keeps its view.
_VIEW = "_view"


@dataclass(frozen=True)
class Runs:
    """What spreading reads of the edges of a pack; it follows from the columns.

    Parameters
    ----------
    rows : (N,) ROW
        Where the edges of each concept begin, and what they have in common.
    leads : (E,) LEAD
        Target and strength of each edge.
    rest : (E,) REST
        What else there is of the same edges.
    """

    rows: NDArray[np.void]
    leads: NDArray[np.void]
    rest: NDArray[np.void]


def view_of(pack: Pack) -> View:
    """Return the view of a pack, made when first asked for and then kept with it.

    Its slots are the positions in the pack, its ids those of the memory that the pack was exported
    from. ``tick`` is the column ``updates``, ``epoch`` the column ``age``, and no epoch is later
    than that of an edge: nothing in it grows older. It is never advanced, so that it knows nothing
    of incoming edges.
    """
    view = kept_view(pack)
    if view is None:
        edges = pack.edge_count
        runs = Runs(np.empty(pack.node_count, ROW), np.empty(edges, LEAD), np.empty(edges, REST))
        fill(runs, pack.columns)
        view = vars(pack).setdefault(_VIEW, view_over(pack.columns, runs))
    return view


def kept_view(pack: Pack) -> View | None:
    """Return the view of a pack if it was made before."""
    view: View | None = vars(pack).get(_VIEW)
    return view


def with_view(pack: Pack, view: View) -> Pack:
    """Return an equal pack that keeps this view, which is one of its columns."""
    held = replace(pack)
    vars(held)[_VIEW] = view
    return held


def view_over(columns: Columns, runs: Runs) -> View:
    """Return the view over the columns of a pack, none of which is read or copied.

    Parameters
    ----------
    columns : mapping of name to array
        Of a pack.
    runs : Runs
        What `fill` made of them.
    """
    size = len(columns["ids"])
    vectors = columns.get("value_vectors")
    return View(
        generation=0,
        ids=Column.over(columns["ids"]),
        alive=Column.over(np.broadcast_to(np.ones(1, np.bool_), size)),
        keys=Column.over(columns["keys"]),
        norms=Column.over(columns["norms"]),
        value_kinds=Column.over(columns["value_kinds"]),
        value_ids=Column.over(columns["value_ids"]),
        value_vectors=None if vectors is None else Column.over(vectors),
        stats=Column.over(_stats(columns)),
        regions=Column.over(columns["region"]),
        id_map=IdMap(SortedIds(columns["ids"])),
        adjacency=_adjacency(runs),
        base=None,
        settings={},
        node_count=size,
        filled=Filled(size),
    )


def fill(runs: Runs, columns: Columns) -> None:
    """Work out runs from the columns of a pack, some edges at a time.

    Parameters
    ----------
    runs : Runs
        Written to.
    columns : mapping of name to array
        Of a pack; each may have one row that stands for all.
    """
    counts = np.broadcast_to(columns["edge_counts"], len(runs.rows))
    fields = {
        name: np.broadcast_to(columns[column], len(runs.leads)) for name, column in _EDGES.items()
    }
    for slots, edges in _parts(counts):
        for name in REST.names or ():
            runs.rest[name][edges] = fields[name][edges]
        strengths = fields["weight"][edges] * fields["confidence"][edges]
        runs.leads["target"][edges] = fields["target"][edges]
        runs.leads["strength"][edges] = strengths
        part = counts[slots].astype(np.int64)
        epochs = np.full(len(part), NO_EPOCH, np.uint32)
        rows = rows_of_runs(part, strengths, fields["kind"][edges], epochs)
        rows["start"][part > 0] += edges.start
        runs.rows[slots] = rows


def _parts(counts: NDArray[np.uint32]) -> Iterator[tuple[slice, slice]]:
    """Yield concepts, and where their edges are: few enough of both to be held at once."""
    ends = np.cumsum(counts, dtype=np.int64)
    first, begin = 0, 0
    while first < len(counts):
        last = int(np.searchsorted(ends, begin + _CHUNK, side="right"))
        last = min(max(last, first + 1), first + _CHUNK, len(counts))
        end = int(ends[last - 1])
        yield slice(first, last), slice(begin, end)
        first, begin = last, end


def _stats(columns: Columns) -> Fields:
    size = len(columns["ids"])
    none = np.full(1, NO_EPOCH, STATS["edge_epoch"])
    arrays: dict[str, NDArray[Any]] = {"edge_epoch": np.broadcast_to(none, size)}
    arrays["tick"], arrays["epoch"] = columns["updates"], columns["age"]
    arrays["reserved"] = np.broadcast_to(np.zeros(1, STATS["reserved"]), size)
    for name in set(STATS.names or ()) - set(arrays):
        arrays[name] = columns[name]
    return Fields(arrays, STATS)


def _adjacency(runs: Runs) -> Adjacency:
    edges = len(runs.leads)
    return Adjacency(
        Column.over(runs.rows),
        Column.over(runs.leads),
        Column.over(runs.rest),
        Column.of(np.empty(0, np.uint32)),
        edge_count=edges,
        filled=Filled(edges),
    )
