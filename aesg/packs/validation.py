"""Tells columns of a pack from columns of nonsense, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from aesg.packs.columns import MOST_PAYLOAD, require_shapes
from aesg.packs.pack import Columns
from storage_backends.errors import StoreCorruptError
from storage_backends.types import EdgeKind, ValueKind

Rows = NDArray[Any]

#: Numbers that are looked at together.
_CHUNK = 1 << 18

#: How far the square of the length of a unit vector may be from 1.
_TOLERANCE = 1e-3

#: With more edges of one concept, they are sorted to be compared with each other.
_MANY_EDGES = 64

_ID_LIMIT = np.uint64(1 << 63)
_ALL_KINDS = np.uint32(sum(EdgeKind))


def validate(columns: Columns, vector_dim: int) -> None:
    """Check that columns are those of a pack: all that ``docs/pack-format.md`` asks of them.

    Parameters
    ----------
    columns : mapping of name to array
        Each may have one row that stands for all.
    vector_dim : int

    Raises
    ------
    StoreCorruptError
        If something is not as it must be.
    """
    require_shapes(columns, vector_dim)
    for name, rows in columns.items():
        for begin, end in _ranges(len(rows), rows.shape[1] if rows.ndim > 1 else 1):
            check_part(name, rows[begin:end], begin)
    with np.errstate(all="ignore"):  # what overflows is refused
        _check_ids(columns["ids"])
        _check_norms(columns["keys"], columns["norms"])
        _check_values(columns)
        _check_edges(columns)
        sizes = np.broadcast_to(columns["payload_sizes"], len(columns["ids"]))
        _check_payloads(sizes, columns["payloads"])


def check_part(name: str, rows: Rows, begin: int) -> None:
    """Check rows of one column, as far as that needs no others.

    Parameters
    ----------
    name : str
        Of the column.
    rows : array
    begin : int
        Where in the column they begin.

    Raises
    ------
    StoreCorruptError
        If one is not as it must be.
    """
    if name in _CHECKS:
        expected, check = _CHECKS[name]
        with np.errstate(all="ignore"):  # what overflows is refused
            _require(check(rows), name, begin, expected, rows)


def _unit_or_zero(rows: Rows) -> Rows:
    squares = np.einsum("nd,nd->n", rows, rows)
    good: Rows = np.abs(squares - 1) <= _TOLERANCE  # False where a number is not finite
    return good if good.all() else good | ~rows.any(axis=1)


def _not_negative(rows: Rows) -> Rows:
    good: Rows = np.isfinite(rows) & (rows >= 0)
    return good


def _not_beyond(limit: np.generic) -> Callable[[Rows], Rows]:
    def check(rows: Rows) -> Rows:
        good: Rows = rows < limit
        return good

    return check


def _share(rows: Rows) -> Rows:
    good: Rows = (rows >= 0) & (rows <= 1)  # which no number is that is not finite
    return good


def _some_kinds(rows: Rows) -> Rows:
    good: Rows = (rows & ~_ALL_KINDS) == 0
    return good


#: What each number of a column must be, as a message says it and as a test.
_CHECKS: Mapping[str, tuple[str, Callable[[Rows], Rows]]] = {
    "ids": ("ids from 1 to 2**63 - 1", lambda rows: (rows > 0) & (rows < _ID_LIMIT)),
    "keys": ("vectors of length 1, or of zeros", _unit_or_zero),
    "norms": ("finite numbers of 0 or more", _not_negative),
    "value_kinds": ("kinds 0, 1 or 2", lambda rows: rows <= max(ValueKind)),
    "value_vectors": ("finite numbers", np.isfinite),
    "created": ("times below 2**63", _not_beyond(_ID_LIMIT)),
    "modified": ("times below 2**63", _not_beyond(_ID_LIMIT)),
    "relevance": ("finite numbers of 0 or more", _not_negative),
    "stability": ("finite numbers of 0 or more", _not_negative),
    "updates": ("numbers below 2**63", _not_beyond(_ID_LIMIT)),
    "edge_weights": ("finite numbers of 0 or more", _not_negative),
    "edge_confidences": ("numbers from 0 to 1", _share),
    "edge_kinds": (f"flags of {int(_ALL_KINDS):#x}", _some_kinds),
    "payload_sizes": (f"at most {MOST_PAYLOAD} bytes", lambda rows: rows <= MOST_PAYLOAD),
}


def _ranges(size: int, width: int = 1) -> Iterator[tuple[int, int]]:
    """Yield where parts of rows begin and end."""
    step = max(1, _CHUNK // width)
    return ((begin, min(begin + step, size)) for begin in range(0, size, step))


def _require(good: Rows, name: str, begin: int, expected: str, rows: Rows | None = None) -> None:
    """Refuse rows of a column from ``begin`` on of which one is wrong, naming the first."""
    if good.all():
        return
    wrong = int(np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))[0])
    got = "" if rows is None or rows.ndim > 1 else f", got {rows[wrong]}"
    raise StoreCorruptError(f"column '{name}': expected {expected}{got} in row {begin + wrong}")


def _check_ids(ids: Rows) -> None:
    for begin, end in _ranges(len(ids) - 1):
        _require(ids[begin:end] < ids[begin + 1 : end + 1], "ids", begin + 1, "ascending ids")


def _check_norms(keys: Rows, norms: Rows) -> None:
    size, width = keys.shape
    norms = np.broadcast_to(norms, size)
    for begin, end in _ranges(size, width):
        missing = norms[begin:end] == 0
        good = missing == (keys[begin:end, 0] == 0)
        if not good.all():
            good = missing == ~keys[begin:end].any(axis=1)
        _require(good, "norms", begin, "0 where the key is zeros, and only there", norms[begin:end])


def _check_values(columns: Columns) -> None:
    ids, vectors = columns["value_ids"], columns.get("value_vectors")
    size = len(columns["ids"])
    kinds = np.broadcast_to(columns["value_kinds"], size)
    ids = np.broadcast_to(ids, size)
    some = False
    for begin, end in _ranges(size, 1 if vectors is None else vectors.shape[1]):
        kind, value = kinds[begin:end], ids[begin:end]
        good = np.where(kind == ValueKind.INTEGER, value >= 0, value == 0)
        _require(good, "value_ids", begin, "0 or more for an integer value and 0 for others", value)
        held = kind == ValueKind.VECTOR
        some |= bool(held.any())
        if vectors is not None and not held.all():
            empty = ~vectors[begin:end].any(axis=1)
            _require(held | empty, "value_vectors", begin, "zeros for other kinds of values")
    if some != (vectors is not None):
        got = "none" if some else "one without"
        raise StoreCorruptError(f"expected a column 'value_vectors' for vector values, got {got}")


def _check_edges(columns: Columns) -> None:
    counts = np.broadcast_to(columns["edge_counts"], len(columns["ids"]))
    ends = np.cumsum(counts, dtype=np.int64)
    edges = len(columns["edge_targets"])
    total = int(ends[-1]) if len(ends) else 0
    if total != edges:
        raise StoreCorruptError(f"column 'edge_counts': expected {edges} edges, got {total}")
    begin = 0
    while begin < len(counts):
        first = int(ends[begin - 1]) if begin else 0
        # Whole rows of edges: those of one concept are compared with each other.
        end = max(begin + 1, int(np.searchsorted(ends, first + _CHUNK, side="right")))
        _check_rows_of_edges(columns, counts, begin, end, first, int(ends[end - 1]))
        begin = end


def _check_rows_of_edges(
    columns: Columns, counts: Rows, begin: int, end: int, first: int, last: int
) -> None:
    """Check the edges of concepts ``begin`` to ``end``, which are edges ``first`` to ``last``."""
    size = len(counts)
    owners = np.repeat(np.arange(begin, end), counts[begin:end])
    targets = columns["edge_targets"][first:last].astype(np.int64)
    good = (targets < size) & (targets != owners)
    _require(good, "edge_targets", first, "positions of other concepts", targets)
    if _has_repeats(owners, targets, int(counts[begin:end].max())):
        raise StoreCorruptError(
            "column 'edge_targets': expected no target twice, got one among the edges of "
            f"concepts {begin} to {end - 1}"
        )
    weights, confidences = (
        np.broadcast_to(columns[name], len(columns["edge_targets"]))[first:last]
        for name in ("edge_weights", "edge_confidences")
    )
    strengths = weights * confidences
    stronger = strengths[:-1] > strengths[1:]
    tied = (strengths[:-1] == strengths[1:]) & (targets[:-1] < targets[1:])
    ordered = stronger | tied | (owners[:-1] != owners[1:])
    _require(ordered, "edge_targets", first + 1, "the strongest first, of equal ones the lowest,")


def _has_repeats(owners: Rows, targets: Rows, most: int) -> bool:
    """Return whether a concept, of which none has more than ``most`` edges, has two to another."""
    if most > _MANY_EDGES:
        order = np.lexsort((targets, owners))
        owners, targets, most = owners[order], targets[order], 2
    for step in range(1, most):
        same = np.flatnonzero(targets[step:] == targets[:-step])
        if (owners[same] == owners[same + step]).any():
            return True
    return False


def _check_payloads(sizes: Rows, payloads: Rows) -> None:
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total != len(payloads):
        raise StoreCorruptError(f"column 'payloads': expected {total} bytes, got {len(payloads)}")
    content = payloads.data
    for begin, end in _ranges(len(sizes)):
        places = begin + np.flatnonzero(sizes[begin:end])
        lasts = ends[places]
        runs = np.column_stack([places, lasts - sizes[places], lasts])
        for place, first, last in runs.tolist():
            _check_payload(content[first:last], place)


def _check_payload(content: memoryview, place: int) -> None:
    try:
        msgpack.unpackb(content, **_NOTHING_KEPT)
    except (ValueError, TypeError) as error:
        raise StoreCorruptError(
            f"column 'payloads': expected msgpack for row {place}, got other bytes ({error})"
        ) from error


def _pairs(pairs: list[tuple[object, object]]) -> object:
    """Stand for a map, which is not built: with chosen keys that would take very long."""
    for key, _ in pairs:
        if key is list:
            raise TypeError("a map has a list or a map as key")
    return list


def _extension(code: int, content: bytes) -> None:
    """Stand for a value of an extension type."""
    if code < 0:
        raise ValueError(f"an extension type has the code {code}")


#: How payloads are decoded to be checked. Many thousands of lists and maps at once would have the
#: garbage collector look through all of the process again and again: for each stands ``list``, its
#: type, which no value of msgpack is.
_NOTHING_KEPT: Mapping[str, Any] = {
    "strict_map_key": False,
    "list_hook": type,
    "object_pairs_hook": _pairs,
    "ext_hook": _extension,
}
