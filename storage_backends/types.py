"""The records that cross the storage boundary, as numpy columns.

Every array that leaves a store is the caller's own copy; every array that enters one may be
reused by the caller as soon as the call returns.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint64]
Floats = NDArray[np.float32]
Records = NDArray[np.void]

#: Statistics of one concept, 64 bytes. ``created`` and ``modified`` are Unix microseconds;
#: ``epoch`` is the consolidation epoch and ``tick`` the topology update of the last touch;
#: ``edge_epoch`` is the consolidation epoch as of which its out-edges state their confidence.
STATS = np.dtype(
    [
        ("created", "<u8"),
        ("modified", "<u8"),
        ("origin", "<u8"),
        ("epoch", "<u8"),
        ("tick", "<u8"),
        ("frequency", "<u4"),
        ("region", "<u4"),
        ("relevance", "<f4"),
        ("stability", "<f4"),
        ("edge_epoch", "<u4"),
        ("reserved", "V4"),
    ]
)

#: One outgoing edge, 24 bytes. ``kind`` holds `EdgeKind` flags.
EDGE = np.dtype(
    [
        ("target", "<u8"),
        ("weight", "<f4"),
        ("confidence", "<f4"),
        ("use", "<u4"),
        ("kind", "<u4"),
    ]
)

#: One record of the evolution log, 32 bytes, the documented layout ``< Q B 3x Q Q f``:
#: Unix seconds, type, two concept ids, one number.
EVENT = np.dtype(
    {
        "names": ["timestamp", "type", "id1", "id2", "val"],
        "formats": ["<u8", "u1", "<u8", "<u8", "<f4"],
        "offsets": [0, 8, 12, 20, 28],
        "itemsize": 32,
    }
)


class EdgeKind(enum.IntFlag):
    """Why an edge exists; one edge may have several reasons."""

    COACTIVATION = 1
    SUCCESSOR = 2
    VALUE = 4
    ABSTRACTION = 8


class ValueKind(enum.IntEnum):
    """What a concept holds beside its key."""

    KEY = 0  # nothing of its own: the key stands for the value
    INTEGER = 1  # a token, a class
    VECTOR = 2  # float32, as wide as the key


class EventType(enum.IntEnum):
    """What an event of the evolution log tells."""

    CREATE = 0
    MERGE = 1
    SPLIT = 2
    PRUNE = 3
    CONSOLIDATE = 4
    RESTRUCTURE = 5


@dataclass(frozen=True)
class Concepts:
    """Concepts as columns: row *i* of every array is one concept.

    Parameters
    ----------
    ids : (N,) uint64
        Greater than zero, without repeats.
    keys : (N, D) float32
        Raw key vectors, finite.
    value_kinds : (N,) uint8
        `ValueKind` of each row.
    value_ids : (N,) int64
        The integer value; 0 where the kind is another.
    value_vectors : (N, D) float32 or None
        The vector value; zeros where the kind is another. None where no row has one.
    stats : (N,) STATS
        Statistics of each row.
    """

    ids: Ids
    keys: Floats
    value_kinds: NDArray[np.uint8]
    value_ids: NDArray[np.int64]
    value_vectors: Floats | None
    stats: Records

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class WriteBatch:
    """Everything that one transaction changes.

    A batch is applied whole or not at all, in the order of its fields: a concept may be put and
    given edges in one batch. Deleting a concept removes its payload and its own edges; edges that
    other concepts have *to* it must be rewritten by the same batch.

    Parameters
    ----------
    deleted : (M,) uint64
        Ids of existing concepts to remove.
    concepts : Concepts, optional
        Inserted, or replaced whole (their payload and edges stay) where the id exists.
    stats_ids, stats : (M,) uint64 and (M,) STATS
        New statistics of concepts that exist (or that this batch puts).
    payloads : mapping of id to bytes
        Payload of concepts that exist after the batch; ``b""`` removes one.
    edges : mapping of id to (M,) EDGE
        The complete new set of out-edges of a concept; an empty array removes them. Targets
        exist after the batch, differ from the source and do not repeat.
    aliases : mapping of id to id
        Ids without a concept after the batch, each with the concept that stands for it from now
        on, which exists after it. An alias ends where a concept is put under its id, and may be
        forgotten once it leads to none.
    events : (M,) EVENT
        Appended to the evolution log.
    most_events : int, optional
        Events that the log keeps, these included, 1 or more; the oldest yield. None keeps all.
    shortterm : mapping of name to bytes, optional
        Replaces the whole short-term table; None leaves it.
    settings : mapping of name to bytes
        Entries of the ``sys`` table that belong to the caller (``config``, ``epoch``, ``next_id``,
        ``vector_dim``, ...); ``b""`` removes one.
    """

    deleted: Ids = field(default_factory=lambda: np.empty(0, np.uint64))
    concepts: Concepts | None = None
    stats_ids: Ids = field(default_factory=lambda: np.empty(0, np.uint64))
    stats: Records = field(default_factory=lambda: np.empty(0, STATS))
    payloads: Mapping[int, bytes] = field(default_factory=dict)
    edges: Mapping[int, Records] = field(default_factory=dict)
    aliases: Mapping[int, int] = field(default_factory=dict)
    events: Records = field(default_factory=lambda: np.empty(0, EVENT))
    most_events: int | None = None
    shortterm: Mapping[str, bytes] | None = None
    settings: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What a store holds at one generation, or what changed since an earlier one.

    Parameters
    ----------
    generation : int
        The generation that all other fields belong to.
    concepts : Concepts
        Live concepts in ascending order of id. In a change set: those put since, as they are now.
    stats_ids, stats
        In a change set: further concepts of which only the statistics changed. Else empty.
    edge_sources : (M,) uint64
        Concepts with out-edges, ascending; in a change set those whose edges changed.
    edge_counts : (M,) int64
        How many edges each source has; 0 where a change removed them all.
    edges : (sum of edge_counts,) EDGE
        The edges, source after source, in stored order.
    deleted : (K,) uint64
        In a change set: ids that existed at the earlier generation and are gone.
    settings : mapping of name to bytes
        The caller's ``sys`` entries.
    """

    generation: int
    concepts: Concepts
    stats_ids: Ids
    stats: Records
    edge_sources: Ids
    edge_counts: NDArray[np.int64]
    edges: Records
    deleted: Ids
    settings: Mapping[str, bytes]


@dataclass(frozen=True)
class Problem:
    """One thing that `verify` found wrong.

    Parameters
    ----------
    table : str
        The table it was found in.
    key : str
        The record, printable; empty where the problem is of the table as a whole.
    message : str
        What was expected and what was found.
    """

    table: str
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.table}[{self.key}]" if self.key else self.table
        return f"{where}: {self.message}"


@dataclass(frozen=True)
class StoreStats:
    """Sizes of a store.

    Parameters
    ----------
    concepts, edges, payloads, aliases, events, log_entries : int
        Records held.
    first_event : int
        Number of the oldest event held, which is how many have yielded to later ones.
    generation : int
        Number of commits since the directory was made.
    file_bytes : int
        Size of the data file on disk; 0 for a store without one.
    """

    concepts: int
    edges: int
    payloads: int
    aliases: int
    events: int
    first_event: int
    log_entries: int
    generation: int
    file_bytes: int
