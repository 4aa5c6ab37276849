"""The two heads of a pack file: of fixed size, and the one that describes the columns.

All numbers are little-endian but the version, which the first format wrote big-endian.
``docs/pack-format.md`` gives every byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

import msgpack

from aesg.packs.columns import COLUMNS, MOST_ROWS, MOST_WIDTH, OPTIONAL, Per
from aesg.packs.pack import Provenance
from storage_backends.errors import StoreCorruptError

MAGIC = b"AESGPACK"
VERSION = 2

#: Set where a signature follows the body.
SIGNED = 1

#: The header of both formats: magic and version, and then what differs.
_START = struct.Struct(">8sI")
_REST = struct.Struct("<IQ32s")  # flags, length of the body, SHA-256 of the body
HEADER_BYTES = _START.size + _REST.size
TRAILER_BYTES = 32 + 64

#: The longest description of columns: more than the longest texts and all columns take.
MOST_HEAD = 1 << 20

#: Characters of a name, and of notes.
MOST_NAME = 200
MOST_TEXT = 65_536

#: Categories of characters that a terminal obeys or nobody sees, those that turn the direction of
#: text among them.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

_HEAD_KEYS = ("name", "vector_dim", "concepts", "edges", "payload_bytes", "provenance", "columns")
_U64 = (1 << 64) - 1

#: No more is read of a head, whatever it says: of extension types and bytes nothing.
_LIMITS: Mapping[str, Any] = {
    "strict_map_key": True,
    "max_str_len": 4 * MOST_TEXT,
    "max_bin_len": 0,
    "max_array_len": len(COLUMNS),
    "max_map_len": max(len(_HEAD_KEYS), len(Provenance.__dataclass_fields__)),
    "max_ext_len": 0,
}


@dataclass(frozen=True)
class Header:
    """The first 56 bytes.

    Parameters
    ----------
    flags : int
        `SIGNED` or 0.
    body_bytes : int
        Length of the body.
    sha256 : bytes
        Of the body, 32 bytes.
    """

    flags: int
    body_bytes: int
    sha256: bytes

    @property
    def is_signed(self) -> bool:
        """Whether a signature follows the body."""
        return bool(self.flags & SIGNED)

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return HEADER_BYTES + self.body_bytes + TRAILER_BYTES * self.is_signed

    def encode(self) -> bytes:
        """Return the bytes."""
        rest = _REST.pack(self.flags, self.body_bytes, self.sha256)
        return _START.pack(MAGIC, VERSION) + rest


def version_of(header: bytes) -> int:
    """Return the version of the format of a file.

    Raises
    ------
    StoreCorruptError
        If it is no pack.
    """
    if len(header) < HEADER_BYTES:
        raise StoreCorruptError(f"expected {HEADER_BYTES} bytes or more, got {len(header)}")
    magic, version = _START.unpack_from(header)
    if magic != MAGIC:
        raise StoreCorruptError(f"expected a pack, which starts with {MAGIC!r}, got {magic!r}")
    return int(version)


def decode_header(header: bytes) -> Header:
    """Read the first 56 bytes of a file of version 2.

    Raises
    ------
    StoreCorruptError
        If they are of no pack, or of another version.
    """
    version = version_of(header)
    if version != VERSION:
        raise StoreCorruptError(f"expected a pack of version 1 or {VERSION}, got {version}")
    flags, length, sha256 = _REST.unpack_from(header, _START.size)
    if flags & ~SIGNED:
        raise StoreCorruptError(f"expected flags 0 or {SIGNED}, got {flags:#x}")
    return Header(flags, length, sha256)


@dataclass(frozen=True)
class ColumnHead:
    """What the head says of one column.

    Parameters
    ----------
    name : str
    dtype : str
        In the words of numpy: ``"float32"``.
    rows : int
        In the file: 1 may stand for all.
    width : int
        Numbers in a row.
    coding : str
    """

    name: str
    dtype: str
    rows: int
    width: int
    coding: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return COLUMNS[self.name].dtype.itemsize * self.width

    @property
    def nbytes(self) -> int:
        """Bytes of the column."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Head:
    """What a pack says of itself before its columns.

    Parameters
    ----------
    name : str
        Empty where the pack is named after its file.
    vector_dim : int
        Width D of keys and vector values.
    concepts, edges, payload_bytes : int
        How many there are.
    provenance : Provenance
    columns : sequence of ColumnHead
        In the order of the file.
    version : int
        Of the format.
    digest : str
        SHA-256 of the body as the header says, 64 hexadecimal digits.
    file_bytes : int
        Length of the file.
    is_signed : bool
        Whether it has a signature.
    """

    name: str
    vector_dim: int
    concepts: int
    edges: int
    payload_bytes: int
    provenance: Provenance
    columns: Sequence[ColumnHead]
    version: int = VERSION
    digest: str = ""
    file_bytes: int = 0
    is_signed: bool = False

    @property
    def sizes(self) -> Mapping[Per, int]:
        """How many concepts, edges and bytes of payloads there are."""
        return {"concept": self.concepts, "edge": self.edges, "byte": self.payload_bytes}

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns)

    def encode(self) -> bytes:
        """Return the description as msgpack: the same content has the same bytes."""
        described = {key: getattr(self, key) for key in _HEAD_KEYS}
        described["provenance"] = asdict(self.provenance)
        described["columns"] = [astuple(column) for column in self.columns]
        packed: bytes = msgpack.packb(described)
        return packed


def decode_head(packed: bytes) -> Head:
    """Read the description of the columns.

    Raises
    ------
    StoreCorruptError
        If it is not one that `Head.encode` gives.
    """
    try:
        content = msgpack.unpackb(packed, **_LIMITS)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise StoreCorruptError(f"expected a head in msgpack ({error})") from error
    fields = _fields(content, "head", _HEAD_KEYS)
    columns = fields["columns"]
    if not isinstance(columns, list):
        raise StoreCorruptError(f"expected a list of columns, got {type(columns).__name__}")
    head = Head(
        name=_text(fields["name"], "name", MOST_NAME),
        vector_dim=_number(fields["vector_dim"], "vector_dim", MOST_WIDTH, least=1),
        concepts=_number(fields["concepts"], "concepts", MOST_ROWS),
        edges=_number(fields["edges"], "edges", MOST_ROWS),
        payload_bytes=_number(fields["payload_bytes"], "payload_bytes", _U64 >> 1),
        provenance=_provenance(fields["provenance"]),
        columns=[_column(column) for column in columns],
    )
    _require_columns(head)
    if head.encode() != packed:
        raise StoreCorruptError("expected a head in its one form, got another")
    return head


def checked(head: Head) -> Head:
    """Return a head that is about to be written, if it can be read again.

    Raises
    ------
    StoreCorruptError
        If a text or a number is not as it must be.
    """
    try:
        packed = head.encode()
    except (TypeError, ValueError, OverflowError) as error:
        raise StoreCorruptError(f"expected texts and numbers for a head ({error})") from error
    return decode_head(packed)


def _fields(content: object, what: str, keys: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(content, dict) or tuple(content) != tuple(keys):
        raise StoreCorruptError(f"{what}: expected a map of {', '.join(keys)}")
    return content


def _number(value: object, what: str, most: int, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise StoreCorruptError(f"{what}: expected an integer {least}..{most}, got {value!r:.40}")
    return value


def name_after(path: Path) -> str:
    """Return the name of a pack that is named after its file, whatever the file is called."""
    shown = (sign if _is_shown(sign) else "_" for sign in path.stem[:MOST_NAME])
    return "".join(shown)


def _is_shown(sign: str) -> bool:
    # What this release of Python does not know yet is shown: that is how new emoji come.
    return category(sign) not in _HIDDEN


def _text(value: object, what: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        got = f"{len(value)}" if isinstance(value, str) else type(value).__name__
        raise StoreCorruptError(f"{what}: expected text of at most {most} characters, got {got}")
    # A terminal prints them, and would obey what is hidden in them.
    lines = "\n\t" if most == MOST_TEXT else ""
    if not all(_is_shown(sign) or sign in lines for sign in value):
        raise StoreCorruptError(
            f"{what}: expected text without characters that control or format, got {value!a:.60}"
        )
    return value


def _provenance(content: object) -> Provenance:
    fields = _fields(content, "provenance", tuple(Provenance.__dataclass_fields__))
    return Provenance(
        memory_uuid=_text(fields["memory_uuid"], "memory_uuid", MOST_NAME),
        generation=_number(fields["generation"], "generation", _U64),
        created=_number(fields["created"], "created", _U64),
        library=_text(fields["library"], "library", MOST_NAME),
        notes=_text(fields["notes"], "notes", MOST_TEXT),
        licence=_text(fields["licence"], "licence", MOST_TEXT),
    )


def _column(content: object) -> ColumnHead:
    if not isinstance(content, list) or len(content) != len(ColumnHead.__dataclass_fields__):
        raise StoreCorruptError("expected a column as list of name, dtype, rows, width, coding")
    name, dtype, rows, width, coding = content
    kind = COLUMNS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise StoreCorruptError(f"expected the name of a column, got {name!a:.40}")
    if (dtype, coding) != (kind.dtype.name, kind.coding):
        raise StoreCorruptError(
            f"column '{name}': expected {kind.dtype.name} and {kind.coding}, "
            f"got {dtype!a:.40} and {coding!a:.40}"
        )
    return ColumnHead(
        name,
        dtype,
        _number(rows, f"rows of '{name}'", _U64 >> 1),
        _number(width, f"width of '{name}'", MOST_WIDTH, least=1),
        coding,
    )


def _require_columns(head: Head) -> None:
    names = [column.name for column in head.columns]
    if names != [name for name in COLUMNS if name != OPTIONAL or name in names]:
        raise StoreCorruptError(f"expected the columns of a pack in their order, got {names}")
    for column in head.columns:
        kind = COLUMNS[column.name]
        size = head.sizes[kind.per]
        width = head.vector_dim if kind.wide else 1
        if (column.rows != size and not (kind.short and column.rows == 1 and size)) or (
            column.width != width
        ):
            raise StoreCorruptError(
                f"column '{column.name}': expected {size} rows of {width}, "
                f"got {column.rows} of {column.width}"
            )
