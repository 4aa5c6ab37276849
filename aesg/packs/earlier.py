"""The records of release 3.0, as the columns of a pack.

That release wrote nodes and edges as packed structures without padding, the same in its memory
directories and in its packs. It checked little: an exported edge may lead out of the pack, two
concepts may have one id (ids were drawn at random), a vector may hold what a diverged training
left in it. What cannot be a concept or an edge here is left out, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from aesg.packs.columns import COLUMNS, OPTIONAL
from storage_backends.errors import StoreCorruptError
from storage_backends.progress import Progress, silent
from storage_backends.types import EdgeKind, Floats, Ids, Records

#: One edge, 36 bytes. ``next_edge_idx`` is the number of the next edge of the source, -1 for none.
EDGE_RECORD = np.dtype(
    [
        ("source_id", "<u8"),
        ("target_id", "<u8"),
        ("weight", "<f4"),
        ("confidence", "<f4"),
        ("use_count", "<u4"),
        ("next_edge_idx", "<i8"),
    ]
)

#: Ids that stay what they are are smaller: as many again are left for the memory to give, before
#: those that concepts of attached packs have.
_ID_LIMIT = 2**62
#: Consolidations. To more than this nothing of a memory's relevance is left, and the memory's
#: counter of them, which begins with the greatest, has room to go on.
_MOST_AGE = 2**24
_LAST_SECOND = 253_402_300_799  # of the year 9999, the last that `datetime` knows
_MICROSECONDS = np.uint64(1_000_000)
#: Statistics of a new concept of that release, in the place of those that are no numbers.
_NEW = {"relevance": 1.0, "stability": 0.5}
_CHUNK_BYTES = 8 << 20

#: What is left out of a graph.
INACTIVE = "concepts that were deleted"
NOT_FINITE = "concepts whose vector is not finite"
FOREIGN_SOURCE = "edges from concepts that are not there"
FOREIGN_TARGET = "edges to concepts that are not there"
TO_ITSELF = "edges from a concept to itself"
NO_STRENGTH = "edges whose weight or confidence is not a number of 0 or more"
REPEATED = "edges beside a stronger one to the same concept"
#: What is changed.
TOO_SHORT = "vectors too short to have a direction, set to zeros"
RENUMBERED = "concepts that got another id, because theirs is 0, too great or taken"
NO_TIME = "times after the year 9999, set to 0"
NO_NUMBER = "statistics that are not numbers of 0 or more, set to those of a new concept"
TOO_OLD = f"ages above {_MOST_AGE:,} consolidations, set to that"
ABOVE_ONE = "confidences above 1, set to 1"


def node_record(vector_dim: int) -> np.dtype[np.void]:
    """Return the layout of one node, 53 + 4 D bytes."""
    return np.dtype(
        [
            ("id", "<u8"),
            ("vector", "<f4", (vector_dim,)),
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


class RecordsIn:
    """Records in a file, read part by part: a mapped file that somebody cuts off ends a process.

    Parameters
    ----------
    file : binary file
        Open for as long as parts are read.
    begin : int
        Offset of the first.
    count : int
    dtype : dtype
        Layout of a record.
    """

    def __init__(self, file: BinaryIO, begin: int, count: int, dtype: np.dtype[np.void]) -> None:
        self._file = file
        self._begin = begin
        self._count = count
        self.dtype = dtype

    def __len__(self) -> int:
        return self._count

    def part(self, begin: int, end: int) -> Records:
        """Return records ``begin`` to ``end``.

        Raises
        ------
        StoreCorruptError
            If the file ends before.
        """
        size = self.dtype.itemsize
        self._file.seek(self._begin + begin * size)
        content = self._file.read((end - begin) * size)
        if len(content) < (end - begin) * size:
            raise StoreCorruptError(
                f"expected {end:,} records of {size} bytes from {self._begin} on, got fewer"
            )
        return np.frombuffer(content, self.dtype)

    def parts(self, step: str, progress: Progress) -> Iterator[Records]:
        """Yield the records, some at a time; where there are none, once none."""
        size = max(_CHUNK_BYTES // self.dtype.itemsize, 1)
        for begin in range(0, max(len(self), 1), size):
            end = min(begin + size, len(self))
            yield self.part(begin, end)
            progress(step, end, len(self))


@dataclass(frozen=True)
class Graph:
    """What the records of a graph come to.

    Parameters
    ----------
    columns : mapping of name to array
        Those of a pack, N or E rows each.
    left_out : Counter
        How many records are not in the columns, by reason.
    changed : Counter
        How many were changed, by what.
    """

    columns: dict[str, NDArray[Any]]
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def told(self) -> list[str]:
        """Return what was left out or changed, a line for each reason."""
        found = (("left out", self.left_out), ("changed", self.changed))
        return [
            f"{verb}: {count:,} {what}"
            for verb, counts in found
            for what, count in counts.items()
            if count
        ]


def graph_of(nodes: RecordsIn, edges: RecordsIn, progress: Progress = silent) -> Graph:
    """Return the concepts and edges of records of release 3.0.

    An edge belongs to the first active concept that has the id of its source, and leads to the
    first that has the id of its target. All edges are of the kind ``COACTIVATION``.

    Parameters
    ----------
    nodes, edges : RecordsIn
        Records laid out as `node_record` and `EDGE_RECORD` say.
    progress : callable
        Told how many records are read.
    """
    graph = Graph({})
    ids = _read_concepts(graph, nodes, progress)
    order = _renumber(graph, ids)
    positions = np.empty(len(ids), np.int64)
    positions[order] = np.arange(len(ids))
    named, first = np.unique(ids, return_index=True)
    _read_edges(graph, edges, named, positions[first], progress)
    return graph


#: The columns of concepts that are read, but for the keys.
_STATED = (
    *("ids", "norms", "created", "modified", "frequency"),
    *("relevance", "stability", "region", "age"),
)


def _read_concepts(graph: Graph, nodes: RecordsIn, progress: Progress) -> Ids:
    """Fill the columns of concepts, in the order of the records; return the ids they had."""
    count, held = len(nodes), 0
    columns = _empty_columns(count, nodes.dtype["vector"].shape[0])
    for part in nodes.parts("reading concepts", progress):
        active, lengths = part["is_active"] == 1, _lengths(part["vector"])
        finite = lengths <= np.finfo(np.float32).max
        graph.left_out[INACTIVE] += int((~active).sum())
        graph.left_out[NOT_FINITE] += int((active & ~finite).sum())
        good = active & finite
        rows = part[good]
        into = slice(held, held + len(rows))
        for name, values in _columns_of(rows, lengths[good], graph.changed).items():
            columns[name][into] = values
        held = into.stop
    graph.columns.update({name: column[:held] for name, column in columns.items()})
    return columns["ids"][:held].copy()


def _empty_columns(count: int, vector_dim: int) -> dict[str, NDArray[Any]]:
    columns = {name: np.empty(count, COLUMNS[name].dtype) for name in _STATED}
    return {**columns, "keys": np.empty((count, vector_dim), np.float32)}


def _lengths(vectors: Floats) -> NDArray[np.float64]:
    # In float64, the squares of very long and very short vectors stay in range.
    aligned = np.ascontiguousarray(vectors)
    with np.errstate(invalid="ignore"):
        lengths: NDArray[np.float64] = np.sqrt(
            np.einsum("nd,nd->n", aligned, aligned, dtype=np.float64)
        )
    return lengths


def _columns_of(
    rows: Records, lengths: NDArray[np.float64], changed: Counter[str]
) -> dict[str, NDArray[Any]]:
    has_length = lengths >= np.finfo(np.float32).smallest_normal
    changed[TOO_SHORT] += int((~has_length & (lengths > 0)).sum())
    norms = np.where(has_length, lengths, 0).astype(np.float32)
    divisors = np.where(has_length, norms, np.float32(np.inf))
    return {
        "ids": rows["id"],
        "keys": rows["vector"] / divisors[:, None],
        "norms": norms,
        "created": _microseconds(rows["created_at"], changed),
        "modified": _microseconds(rows["modified_at"], changed),
        "frequency": rows["use_frequency"],
        "relevance": _number(rows, "relevance", changed),
        "stability": _number(rows, "stability", changed),
        "region": rows["region_id"],
        "age": _ages(rows["age"], changed),
    }


def _ages(ages: NDArray[np.uint32], changed: Counter[str]) -> NDArray[np.uint32]:
    changed[TOO_OLD] += int((ages > _MOST_AGE).sum())
    return np.minimum(ages, np.uint32(_MOST_AGE))


def _microseconds(seconds: Ids, changed: Counter[str]) -> Ids:
    known = seconds <= _LAST_SECOND
    changed[NO_TIME] += int((~known).sum())
    return np.where(known, seconds, np.uint64(0)) * _MICROSECONDS


def _number(rows: Records, name: str, changed: Counter[str]) -> Floats:
    good = np.isfinite(rows[name]) & (rows[name] >= 0)
    changed[NO_NUMBER] += int((~good).sum())
    return np.where(good, rows[name], np.float32(_NEW[name]))


def _renumber(graph: Graph, ids: Ids) -> NDArray[np.int64]:
    """Give each concept an id of its own, and bring the columns into their order.

    Returns
    -------
    (N,) int64
        Which record each concept of the columns comes from.
    """
    kept = np.zeros(len(ids), np.bool_)
    kept[np.unique(ids, return_index=True)[1]] = True
    kept &= (ids > 0) & (ids < _ID_LIMIT)
    new = ids.copy()
    new[~kept] = _free_ids(ids[kept], int((~kept).sum()))
    graph.changed[RENUMBERED] += int((~kept).sum())
    order = np.argsort(new)
    graph.columns["ids"] = new
    if not (order == np.arange(len(order))).all():
        for name in graph.columns:  # one at a time: no more than one is there twice
            graph.columns[name] = graph.columns[name][order]
    return order


def _free_ids(taken: Ids, count: int) -> Ids:
    """Return ids after the greatest one, or the smallest that are free where there are none."""
    if count == 0:
        return taken[:0]
    last = int(taken.max()) if len(taken) else 0
    if last + count < _ID_LIMIT:
        return np.arange(last + 1, last + 1 + count, dtype=np.uint64)
    free = np.setdiff1d(np.arange(1, len(taken) + count + 1, dtype=np.uint64), taken)
    return free[:count]


_FIELDS = {"edge_weights": "weight", "edge_confidences": "confidence", "edge_uses": "use_count"}


def _read_edges(
    graph: Graph, edges: RecordsIn, named: Ids, positions: NDArray[np.int64], progress: Progress
) -> None:
    """Fill the columns of edges; ``named`` are the ids of the concepts at ``positions``."""
    parts = [
        _edges_of(part, named, positions, graph) for part in edges.parts("reading edges", progress)
    ]
    names = ("source", "edge_targets", *_FIELDS)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    columns = _united(columns, graph.left_out)
    count = len(graph.columns["ids"])
    counts = np.bincount(columns.pop("source"), minlength=count).astype(np.uint32)
    graph.columns.update(columns, edge_counts=counts)


def _edges_of(
    part: Records, named: Ids, positions: NDArray[np.int64], graph: Graph
) -> dict[str, NDArray[Any]]:
    """Return those records of a part that can be edges, as columns."""
    source, has_source = _found(part["source_id"], named, positions)
    target, has_target = _found(part["target_id"], named, positions)
    weight, confidence = part["weight"], part["confidence"]
    strong = np.isfinite(weight) & (weight >= 0) & np.isfinite(confidence) & (confidence >= 0)
    good = np.ones(len(part), np.bool_)
    for reason, holds in (
        (FOREIGN_SOURCE, has_source),
        (FOREIGN_TARGET, has_target),
        (TO_ITSELF, source != target),
        (NO_STRENGTH, strong),
    ):
        graph.left_out[reason] += int((good & ~holds).sum())
        good &= holds
    graph.changed[ABOVE_ONE] += int((confidence[good] > 1).sum())
    columns: dict[str, NDArray[Any]] = {
        name: part[field_name][good] for name, field_name in _FIELDS.items()
    }
    columns["edge_confidences"] = np.minimum(columns["edge_confidences"], np.float32(1))
    columns["source"] = source[good].astype(np.uint32)
    columns["edge_targets"] = target[good].astype(np.uint32)
    return columns


def _found(
    ids: Ids, named: Ids, positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the position of each id, and whether it has one."""
    if not len(named):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(named, ids), len(named) - 1)
    return positions[places], named[places] == ids


def _united(columns: dict[str, NDArray[Any]], left_out: Counter[str]) -> dict[str, NDArray[Any]]:
    """Return edges in their order, of those that repeat one another the strongest.

    It gets the uses of all.
    """
    sources = columns["source"].astype(np.uint64) << np.uint64(32)
    pairs = sources | columns["edge_targets"]
    order = np.argsort(pairs)
    is_first = _changes(pairs[order])
    if not is_first.all():
        order = np.lexsort((-_strength(columns), pairs))
        columns = {**columns, "edge_uses": _summed(columns["edge_uses"], order, is_first)}
        left_out[REPEATED] += int((~is_first).sum())
    order = order[is_first]  # by source and target
    weakness = ~_strength(columns)[order].view(np.uint32)  # the bits of such floats keep the order
    order = order[np.argsort(sources[order] | weakness, kind="stable")]
    return {name: column[order] for name, column in columns.items()}


def _strength(columns: dict[str, NDArray[Any]]) -> Floats:
    strength: Floats = columns["edge_weights"] * columns["edge_confidences"]
    return strength + np.float32(0)  # which makes -0 a 0


def _changes(ordered: Ids) -> NDArray[np.bool_]:
    """Return which of some sorted numbers is another than the one before it."""
    changes = np.ones(len(ordered), np.bool_)
    changes[1:] = ordered[1:] != ordered[:-1]
    return changes


def _summed(
    uses: NDArray[np.uint32], order: NDArray[np.intp], is_first: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Return uses in which the first of each group, in an order, has those of all of it."""
    starts = np.flatnonzero(is_first)
    sums = np.add.reduceat(uses[order].astype(np.uint64), starts)
    summed = uses.copy()
    summed[order[starts]] = np.minimum(sums, np.iinfo(np.uint32).max)
    return summed


#: What stands for all in columns that release 3.0 did not know; 0 in all others.
_UNKNOWN = {"edge_kinds": int(EdgeKind.COACTIVATION)}


def pack_columns(graph: Graph) -> dict[str, NDArray[Any]]:
    """Return all columns of a pack; those of what release 3.0 did not know have one row for all.

    A concept was touched last when it was made, as far as the records tell, so its age in topology
    updates is that in consolidation epochs: that release made one of each at a time.
    """
    columns = graph.columns
    sizes = {"concept": len(columns["ids"]), "edge": len(columns["edge_targets"]), "byte": 0}
    constant = {
        name: np.broadcast_to(np.array(_UNKNOWN.get(name, 0), kind.dtype), sizes[kind.per])
        for name, kind in COLUMNS.items()
        if name not in columns and name != OPTIONAL
    }
    return {**constant, **columns, "updates": columns["age"].astype(np.uint64)}
