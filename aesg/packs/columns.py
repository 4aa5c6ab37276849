"""The columns that a pack may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage_backends.errors import StoreCorruptError


class Parts(Protocol):
    """Rows that are given part by part."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, then the shape of one."""

    def part(self, begin: int, end: int) -> NDArray[Any]:
        """Return rows ``begin`` to ``end``."""


#: Rows that are at hand, or that are gathered part by part.
Rows: TypeAlias = NDArray[Any] | Parts

#: What a column has a row for.
Per = Literal["concept", "edge", "byte"]

#: How the rows of a block are turned before they are compressed.
Coding = Literal["plain", "shuffle", "difference"]

#: The longest payload, and the largest sizes of a pack.
MOST_PAYLOAD = 65_536
MOST_ROWS = (1 << 31) - 1
MOST_WIDTH = 65_536
MOST_BYTES = 1 << 40

#: Numbers that are compared together.
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Kind:
    """What is fixed of a column.

    Parameters
    ----------
    dtype : dtype
        Little-endian.
    per : {"concept", "edge", "byte"}
        Whether it has a row for each concept, each edge or each byte of the payloads.
    coding : {"plain", "shuffle", "difference"}
    wide : bool
        Whether a row is a vector.
    short : bool
        Whether one row may stand for all.
    """

    dtype: np.dtype[Any]
    per: Per
    coding: Coding = "shuffle"
    wide: bool = False
    short: bool = True


def _kind(dtype: str, per: Per, coding: Coding = "shuffle", **flags: bool) -> Kind:
    return Kind(np.dtype(dtype), per, coding, **flags)


#: All columns, in the order of the file.
COLUMNS: Mapping[str, Kind] = {
    "ids": _kind("<u8", "concept", "difference", short=False),
    "keys": _kind("<f4", "concept", wide=True, short=False),
    "norms": _kind("<f4", "concept"),
    "value_kinds": _kind("u1", "concept", "plain"),
    "value_ids": _kind("<i8", "concept"),
    "value_vectors": _kind("<f4", "concept", wide=True, short=False),
    "created": _kind("<u8", "concept"),
    "modified": _kind("<u8", "concept"),
    "origin": _kind("<u8", "concept"),
    "frequency": _kind("<u4", "concept"),
    "relevance": _kind("<f4", "concept"),
    "stability": _kind("<f4", "concept"),
    "region": _kind("<u4", "concept"),
    "age": _kind("<u4", "concept"),
    "updates": _kind("<u8", "concept"),
    "edge_counts": _kind("<u4", "concept"),
    "edge_targets": _kind("<u4", "edge", short=False),
    "edge_weights": _kind("<f4", "edge"),
    "edge_confidences": _kind("<f4", "edge"),
    "edge_uses": _kind("<u4", "edge"),
    "edge_kinds": _kind("<u4", "edge"),
    "payload_sizes": _kind("<u4", "concept"),
    "payloads": _kind("u1", "byte", "plain", short=False),
}

#: The column that a pack need not have.
OPTIONAL = "value_vectors"


def require_known(names: Mapping[str, object]) -> None:
    """Check that there are all columns, in any order, and no others.

    Raises
    ------
    StoreCorruptError
        If not.
    """
    missing = [name for name in COLUMNS if name not in names and name != OPTIONAL]
    unknown = [name for name in names if name not in COLUMNS]
    if missing or unknown:
        raise StoreCorruptError(
            f"expected the columns of a pack, got none for {missing} and further {unknown[:5]}"
        )


def sizes_of(columns: Mapping[str, Rows]) -> Mapping[Per, int]:
    """Return how many concepts, edges and bytes of payloads columns are for."""
    return {
        "concept": columns["ids"].shape[0],
        "edge": columns["edge_targets"].shape[0],
        "byte": columns["payloads"].shape[0],
    }


def part_of(rows: Rows, begin: int, end: int) -> NDArray[Any]:
    """Return rows ``begin`` to ``end`` as an array."""
    return rows[begin:end] if isinstance(rows, np.ndarray) else rows.part(begin, end)


def is_one_row(rows: Rows) -> bool:
    """Return whether all rows of a column of numbers are the same, bit for bit."""
    if isinstance(rows, np.ndarray) and not rows.strides[0]:
        return True
    bits, size = f"u{rows.dtype.itemsize}", rows.shape[0]
    first = np.array(part_of(rows, 0, 1)).view(bits)
    for begin in range(0, size, _CHUNK):
        part = np.ascontiguousarray(part_of(rows, begin, min(begin + _CHUNK, size)))
        if (part.view(bits) != first).any():
            return False
    return True


def require_shapes(columns: Mapping[str, Rows], vector_dim: int) -> None:
    """Check names, types and shapes of columns, of which each may have one row for all.

    Raises
    ------
    StoreCorruptError
        If one is not as it must be.
    """
    require_known(columns)
    sizes = sizes_of(columns)
    for name, rows in columns.items():
        kind = COLUMNS[name]
        width = (vector_dim,) if kind.wide else ()
        size = sizes[kind.per]
        allowed = {size, 1} if kind.short and size else {size}
        if rows.dtype != kind.dtype or rows.shape[1:] != width or rows.shape[0] not in allowed:
            raise StoreCorruptError(
                f"column '{name}': expected {kind.dtype.name} of shape {(size, *width)}, "
                f"got {rows.dtype} of shape {tuple(rows.shape)}"
            )
