"""What two packs have in common, and what not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from aesg._tables import as_text, counted
from aesg.errors import AESGMemoryError
from aesg.packs.graph import view_of
from aesg.packs.matching import ROUNDING, identical
from aesg.packs.pack import Pack
from storage_backends.columns import Slots
from storage_backends.types import Floats

#: What can be another thing of the same concept, and the columns that tell.
ASPECTS = ("key", "value", "payload", "statistics")
_KEY = ("keys", "norms")
_VALUE = ("value_kinds", "value_ids")
_STATISTICS = (
    "created",
    "modified",
    "origin",
    "frequency",
    "relevance",
    "stability",
    "region",
    "age",
    "updates",
)
_EDGE = ("edge_weights", "edge_confidences", "edge_uses", "edge_kinds")

#: One changed concept: its positions in both packs, and what has changed.
CHANGED = np.dtype([("before", "<i8"), ("after", "<i8"), *((name, np.bool_) for name in ASPECTS)])

#: Concepts that are compared together.
_CHUNK = 16_384


@dataclass(frozen=True, eq=False)
class PackDiff:
    """How a pack differs from another; true where it does.

    Names, notes and licences are not compared. Keys that differ by rounding alone, as after a
    merge, are the same.

    Parameters
    ----------
    names : (str, str)
        Of the packs.
    matched_by : {"id", "content"}
        What made two concepts the same: of packs of one memory the id, of others key and value.
    added : (A,) int64
        Positions in the second pack of what the first has not.
    removed : (R,) int64
        Positions in the first pack of what the second has not.
    changed : (C,) CHANGED
        Concepts of both that differ: position ``before`` and ``after``, and whether ``key``,
        ``value``, ``payload`` and ``statistics`` do.
    same : int
        Concepts of both that do not differ.
    edges_added, edges_removed, edges_changed : int
        Edges of the second pack alone, of the first alone, and of both that differ in weight,
        confidence, uses or reasons. Those of an added or removed concept are among them.
    """

    names: tuple[str, str]
    matched_by: Literal["id", "content"]
    added: Slots
    removed: Slots
    changed: NDArray[np.void]
    same: int
    edges_added: int
    edges_removed: int
    edges_changed: int

    def __bool__(self) -> bool:
        parts = len(self.added), len(self.removed), len(self.changed)
        return any((*parts, self.edges_added, self.edges_removed, self.edges_changed))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in plain types, as for JSON; ``differ`` tells what `bool` does."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["names"] = list(self.names)
        for name in ("added", "removed"):
            plain[name] = plain[name].tolist()
        names = CHANGED.names or ()
        plain["changed"] = [dict(zip(names, row, strict=True)) for row in self.changed.tolist()]
        return {**plain, "differ": bool(self)}

    def __repr__(self) -> str:
        return (
            f"PackDiff(added={len(self.added)}, removed={len(self.removed)}, "
            f"changed={len(self.changed)}, same={self.same}, edges_added={self.edges_added}, "
            f"edges_removed={self.edges_removed}, edges_changed={self.edges_changed})"
        )

    def __str__(self) -> str:
        first, second = self.names
        if not self:
            return f"{first} and {second} hold the same: {counted(self.same, 'concept')}"
        table = Table(box=SIMPLE, title=f"{first} -> {second}, concepts by {self.matched_by}")
        for column in ("", "added", "removed", "changed"):
            table.add_column(column, justify="right" if column else "left")
        numbers = len(self.added), len(self.removed), len(self.changed)
        table.add_row("concepts", *(f"{each:,}" for each in numbers))
        for name in ASPECTS:
            table.add_row(f"  {name}", "", "", f"{int(self.changed[name].sum()):,}")
        numbers = self.edges_added, self.edges_removed, self.edges_changed
        table.add_row("edges", *(f"{each:,}" for each in numbers))
        return as_text(table)


def diff(first: Pack, second: Pack) -> PackDiff:
    """Compare two packs, concept by concept and edge by edge.

    Parameters
    ----------
    first, second : Pack
        What `load_pack` returned.

    Returns
    -------
    PackDiff
        ``print`` shows it as a table.

    Raises
    ------
    AESGMemoryError
        If one is no pack, or they are of different ``vector_dim``.
    """
    for each in (first, second):
        if not isinstance(each, Pack):
            raise AESGMemoryError(
                "Packs cannot be compared: expected a Pack, as load_pack returns it, got "
                f"{type(each).__name__}"
            )
    if first.vector_dim != second.vector_dim:
        raise AESGMemoryError(
            f"Packs cannot be compared: expected equal vector_dim, got {first.vector_dim} of "
            f"'{first.name}' and {second.vector_dim} of '{second.name}'"
        )
    uuid = first.provenance.memory_uuid
    by_id = bool(uuid) and uuid == second.provenance.memory_uuid
    before, after = (_by_id if by_id else _by_content)(first, second)
    changed = _changed(first, before, second, after)
    differing = changed[np.logical_or.reduce([changed[name] for name in ASPECTS])]
    edges = _edges(first, before, second, after)
    return PackDiff(
        names=(first.name, second.name),
        matched_by="id" if by_id else "content",
        added=np.setdiff1d(np.arange(second.node_count), after, assume_unique=True),
        removed=np.setdiff1d(np.arange(first.node_count), before, assume_unique=True),
        changed=differing,
        same=len(changed) - len(differing),
        edges_added=edges[0],
        edges_removed=edges[1],
        edges_changed=edges[2],
    )


def _by_id(first: Pack, second: Pack) -> tuple[Slots, Slots]:
    """Return the positions in both packs of concepts that both have."""
    ids = first.columns["ids"], second.columns["ids"]
    _, before, after = np.intersect1d(*ids, assume_unique=True, return_indices=True)
    return before, after


def _by_content(first: Pack, second: Pack) -> tuple[Slots, Slots]:
    """Return the same for concepts of equal content, each used once.

    Bit for bit first; what is left may be the same but for rounding, as after a merge.
    """
    groups = _groups(np.concatenate([_digests(first), _digests(second)]))
    one, other = (_numbered(each) for each in np.split(groups, [first.node_count]))
    _, before, after = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    rest = (
        np.setdiff1d(np.arange(pack.node_count), used, assume_unique=True)
        for pack, used in ((first, before), (second, after))
    )
    left, right = identical(view_of(first), next(rest), view_of(second), next(rest))
    before, after = np.concatenate([before, left]), np.concatenate([after, right])
    order = np.argsort(before)
    return before[order], after[order]


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each place: of one group the first, the second, ... have others."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return groups << np.int64(32) | rank


def _groups(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the same number for equal digests, ``(N, 2)``, and others for others."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    other = np.zeros(len(order), np.int64)
    other[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(other)
    return groups


def _digests(pack: Pack) -> NDArray[np.uint64]:
    """Return a digest of key and value of each concept, ``(N, 2)``."""
    parts = []
    for begin in range(0, pack.node_count, _CHUNK):
        end = min(begin + _CHUNK, pack.node_count)
        columns = [pack.columns[name][begin:end] for name in (*_KEY, *_VALUE)]
        columns.append(_vectors(pack, slice(begin, end)))
        rows = [
            np.ascontiguousarray(each).view(np.uint8).reshape(end - begin, -1) for each in columns
        ]
        parts += [_digest(row) for row in np.concatenate(rows, axis=1)]
    return np.frombuffer(b"".join(parts), np.uint64).reshape(-1, 2)


def _digest(row: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _vectors(pack: Pack, rows: slice | Slots) -> Floats:
    """Return vector values; zeros where a pack has none."""
    vectors = pack.columns.get("value_vectors")
    if vectors is None:
        return np.zeros_like(pack.columns["keys"][rows])
    found: Floats = vectors[rows]
    return found


def _changed(first: Pack, before: Slots, second: Pack, after: Slots) -> NDArray[np.void]:
    """Return what is another thing of each concept that both packs have, ``(M,)`` CHANGED."""
    changed = np.zeros(len(before), CHANGED)
    changed["before"], changed["after"] = before, after
    for begin in range(0, len(before), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        one, other = before[part], after[part]
        changed["key"][part] = _keys_differ(first, one, second, other)
        changed["value"][part] = _differ(first, one, second, other, _VALUE)
        vectors = _vectors(first, one) != _vectors(second, other)
        changed["value"][part] |= vectors.any(axis=1)
        changed["statistics"][part] = _differ(first, one, second, other, _STATISTICS)
        changed["payload"][part] = _payloads_differ(first, one, second, other)
    return changed


def _keys_differ(first: Pack, before: Slots, second: Pack, after: Slots) -> NDArray[np.bool_]:
    """Tell where keys differ by more than rounding."""
    moved = np.abs(first.columns["keys"][before] - second.columns["keys"][after])
    one, other = (
        pack.columns["norms"][rows].astype(np.float64)
        for pack, rows in ((first, before), (second, after))
    )
    differing: NDArray[np.bool_] = (moved > ROUNDING).any(axis=1)
    return differing | (np.abs(one - other) > ROUNDING * np.maximum(one, other))


def _differ(
    first: Pack, before: Slots, second: Pack, after: Slots, names: Sequence[str]
) -> NDArray[np.bool_]:
    """Tell where one of some columns differs."""
    differing = np.zeros(len(before), np.bool_)
    for name in names:
        other = first.columns[name][before] != second.columns[name][after]
        differing |= other.reshape(len(before), -1).any(axis=1)
    return differing


def _payloads_differ(first: Pack, before: Slots, second: Pack, after: Slots) -> NDArray[np.bool_]:
    differing = _differ(first, before, second, after, ("payload_sizes",))
    for row in np.flatnonzero(~differing & (first.columns["payload_sizes"][before] > 0)).tolist():
        differing[row] = first.payload(int(before[row])) != second.payload(int(after[row]))
    return differing


def _edges(first: Pack, before: Slots, second: Pack, after: Slots) -> tuple[int, int, int]:
    """Return how many edges are of the second pack alone, of the first alone, and changed."""
    names = np.arange(first.node_count), np.arange(second.node_count) + first.node_count
    names[1][after] = before
    one, other = (_ends(pack, own) for pack, own in zip((first, second), names, strict=True))
    _, left, right = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    changed = np.zeros(len(left), np.bool_)
    for name in _EDGE:
        changed |= first.columns[name][left] != second.columns[name][right]
    return len(other) - len(left), len(one) - len(left), int(changed.sum())


def _ends(pack: Pack, names: Slots) -> NDArray[Any]:
    """Return one number for source and target of each edge, as concepts are named."""
    sources = np.repeat(names, pack.columns["edge_counts"])
    return sources << np.int64(32) | names[pack.columns["edge_targets"]]
