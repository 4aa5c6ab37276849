"""The `Store` contract on plain dicts, to be read as its specification.

Every generation is kept whole, so each answer follows from comparing two of them. Slow, of
no use for anything but tests, and without a line in common with the stores that it judges.
"""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_backends.errors import (
    StoreClosedError,
    StoreCorruptError,
    StoreReadOnlyError,
    StoreUsageError,
)
from storage_backends.types import (
    EDGE,
    EVENT,
    STATS,
    Concepts,
    Contents,
    Floats,
    Ids,
    Problem,
    Records,
    StoreStats,
    ValueKind,
    WriteBatch,
)


@dataclass(frozen=True)
class _Concept:
    key: list[float]
    kind: ValueKind
    value: Any  # int for INTEGER, list of float for VECTOR, None for KEY
    stats: tuple[Any, ...]


@dataclass
class _State:
    """All records of one generation, and which of them its commit touched."""

    generation: int = 0
    concepts: dict[int, _Concept] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    edges: dict[int, list[tuple[Any, ...]]] = field(default_factory=dict)
    aliases: dict[int, int] = field(default_factory=dict)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    first_event: int = 0
    shortterm: dict[str, bytes] = field(default_factory=dict)
    settings: dict[str, bytes] = field(default_factory=dict)
    put: set[int] = field(default_factory=set)
    stats_set: set[int] = field(default_factory=set)
    edges_set: set[int] = field(default_factory=set)

    def successor(self) -> _State:
        """Return a copy to work on, with nothing touched."""
        state = copy.deepcopy(self)
        state.generation += 1
        state.put, state.stats_set, state.edges_set = set(), set(), set()
        return state


@dataclass
class Backing:
    """What stays when a `ReferenceStore` is closed: the state of each generation."""

    folder: Path | None = None
    manifest: bytes = b""
    manifest_seq: int = 0
    uuid: str = field(default_factory=lambda: uuid.uuid4().hex)
    states: list[_State] = field(default_factory=lambda: [_State()])


class ReferenceStore:
    """A `Store` whose directory is a `Backing`.

    Parameters
    ----------
    backing : Backing
        Records of the memory; further stores on the same one see the same records.
    read_only : bool
        Whether `commit` is refused.
    """

    def __init__(self, backing: Backing, *, read_only: bool = False) -> None:
        self._backing = backing
        self._read_only = read_only
        self._closed = False

    @property
    def read_only(self) -> bool:
        """Whether `commit` is refused."""
        return self._read_only

    @property
    def uuid(self) -> str:
        """Identity of the backing."""
        return self._backing.uuid

    def is_current(self) -> bool:
        """Return whether the store is open: a backing has no name to lose."""
        return not self._closed

    def generation(self) -> int:
        """Return the number of commits so far."""
        return self._states()[-1].generation

    def commit(self, batch: WriteBatch) -> int:
        """Apply the batch to a copy of the last state; keep the copy only if no rule is broken."""
        states = self._states()
        if self._read_only:
            raise StoreReadOnlyError("expected a writable store, got a read-only one")
        state = states[-1].successor()
        _delete(state, batch.deleted)
        if batch.concepts is not None:
            _put(state, batch.concepts)
        _set_stats(state, batch.stats_ids, batch.stats)
        _set_payloads(state, batch.payloads)
        _set_edges(state, batch.edges)
        _require(batch.events.dtype == EVENT, f"events: expected EVENT, got {batch.events.dtype}")
        _set_aliases(state, batch.aliases)
        state.events += batch.events.tolist()
        if batch.most_events is not None:
            _require(batch.most_events > 0, f"most_events: expected 1, got {batch.most_events}")
            while len(state.events) > batch.most_events:
                del state.events[0]
                state.first_event += 1
        if batch.shortterm is not None:
            state.shortterm = dict(batch.shortterm)
        _merge(state.settings, batch.settings)
        states.append(state)
        return state.generation

    def load(self) -> Contents:
        """Return the last state."""
        state = self._states()[-1]
        return Contents(
            generation=state.generation,
            concepts=_columns(state, state.concepts),
            stats_ids=_ids([]),
            stats=np.array([], STATS),
            deleted=_ids([]),
            settings=dict(state.settings),
            **_edge_columns(state, state.edges),
        )

    def changes(self, since: int) -> Contents | None:
        """Return what the states after ``since`` touched, as it is in the last one."""
        states = self._states()[:]
        if not 0 <= since < len(states):
            return None
        then, now, later = states[since], states[-1], states[since + 1 :]
        put = _live(now, *(state.put for state in later))
        stats = _live(now, *(state.stats_set for state in later)) - put
        return Contents(
            generation=now.generation,
            concepts=_columns(now, put),
            stats_ids=_ids(stats),
            stats=np.array([now.concepts[i].stats for i in sorted(stats)], STATS),
            deleted=_ids(set(then.concepts) - set(now.concepts)),
            settings=dict(now.settings),
            **_edge_columns(now, _live(now, *(state.edges_set for state in later))),
        )

    def keys(self, ids: Ids) -> Floats:
        """Return the keys of concepts, ``(N, D)`` in the order of the ids."""
        held = self._states()[-1].concepts
        for concept_id in ids.tolist():
            if concept_id not in held:
                raise StoreCorruptError(f"key: expected concept {concept_id}, found none")
        return np.array([held[each].key for each in ids.tolist()], np.float32)

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each id, None where there is none."""
        payloads = self._states()[-1].payloads
        return [payloads.get(int(concept_id)) for concept_id in ids]

    def resolved_payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of what each id stands for, None where there is none."""
        return self.payloads(self.resolve(ids))

    def resolve(self, ids: Ids) -> Ids:
        """Follow the aliases of each id."""
        state = self._states()[-1]
        return np.array([_resolved(state, concept_id) for concept_id in ids.tolist()], np.uint64)

    def events(self, start: int = 0, limit: int | None = None) -> Records:
        """Return a slice of the events."""
        _require(start >= 0, f"events: expected a start of 0 or more, got {start}")
        _require(limit is None or limit >= 0, f"events: expected a limit of 0 or more, got {limit}")
        state = self._states()[-1]
        events = state.events[max(start - state.first_event, 0) :]
        return np.array(events if limit is None else events[:limit], EVENT)

    def shortterm(self) -> Mapping[str, bytes]:
        """Return a copy of the short-term table."""
        return dict(self._states()[-1].shortterm)

    def stats(self) -> StoreStats:
        """Count the records."""
        state = self._states()[-1]
        return StoreStats(
            concepts=len(state.concepts),
            edges=sum(len(edges) for edges in state.edges.values()),
            payloads=len(state.payloads),
            aliases=len(state.aliases),
            events=len(state.events),
            first_event=state.first_event,
            log_entries=state.generation,
            generation=state.generation,
            file_bytes=0,
        )

    @property
    def folder(self) -> Path | None:
        """The folder that the backing was given, if any."""
        return self._backing.folder

    def publish(self, manifest: bytes, generation: int) -> int:
        """Replace the manifest."""
        states = self._states()
        if self._read_only:
            raise StoreReadOnlyError("expected a writable store, got a read-only one")
        _require(0 <= generation < len(states), f"publish: expected a past one, got {generation}")
        self._backing.manifest = manifest
        self._backing.manifest_seq += 1
        return self._backing.manifest_seq

    def manifest(self) -> tuple[int, bytes] | None:
        """Return the manifest and its number."""
        self._states()
        backing = self._backing
        return (backing.manifest_seq, backing.manifest) if backing.manifest else None

    def manifest_seq(self) -> int:
        """Return how many manifests there have been."""
        self._states()
        return self._backing.manifest_seq

    def hold_log(self, generation: int | None) -> None:
        """Do nothing: all states are kept."""
        self._states()
        if self._read_only:
            raise StoreReadOnlyError("expected a writable store, got a read-only one")

    def follow(self) -> bool:
        """Return False: a backing leads nowhere else."""
        self._states()
        return False

    def verify(self) -> Sequence[Problem]:
        """Report edges to concepts that are gone: `commit` leaves that rule to the caller."""
        state = self._states()[-1]
        return [
            Problem("adjacency", str(source), f"expected a concept as target, got {edge[0]}")
            for source, edges in state.edges.items()
            for edge in edges
            if edge[0] not in state.concepts
        ]

    def close(self) -> None:
        """Refuse all further calls; the backing stays."""
        self._closed = True

    def _states(self) -> list[_State]:
        if self._closed:
            raise StoreClosedError("expected an open store, got a closed one")
        return self._backing.states


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise StoreUsageError(message)


def _require_distinct(where: str, ids: Ids) -> None:
    listed = ids.tolist()
    _require(ids.dtype == np.uint64, f"{where}: expected uint64, got {ids.dtype}")
    _require(0 not in listed, f"{where}: expected ids above 0, got {listed}")
    _require(len(set(listed)) == len(listed), f"{where}: expected distinct ids, got {listed}")


def _require_exists(where: str, state: _State, concept_id: int) -> None:
    _require(concept_id in state.concepts, f"{where}: expected a concept, got {concept_id}")


def _require_finite(where: str, numbers: Iterable[float]) -> None:
    _require(all(map(math.isfinite, numbers)), f"{where}: expected finite numbers")


def _delete(state: _State, deleted: Ids) -> None:
    _require_distinct("deleted", deleted)
    for concept_id in deleted.tolist():
        _require_exists("deleted", state, concept_id)
        del state.concepts[concept_id]
        state.payloads.pop(concept_id, None)
        if state.edges.pop(concept_id, None):
            state.edges_set.add(concept_id)  # it may be put again, without them


def _put(state: _State, concepts: Concepts) -> None:
    _require_distinct("concepts", concepts.ids)
    _require_columns(concepts)
    for row, concept_id in enumerate(concepts.ids.tolist()):
        width = len(next(iter(state.concepts.values())).key) if state.concepts else None
        concept = _concept(concepts, row)
        _require_finite(f"key of {concept_id}", concept.key)
        _require(
            width in (None, len(concept.key)),
            f"key of {concept_id}: expected width {width}, got {len(concept.key)}",
        )
        state.concepts[concept_id] = concept
        state.put.add(concept_id)
        state.aliases.pop(concept_id, None)


def _require_columns(concepts: Concepts) -> None:
    count, vectors = len(concepts), concepts.value_vectors
    columns: list[tuple[NDArray[Any], Any]] = [
        (concepts.keys, np.float32),
        (concepts.value_kinds, np.uint8),
        (concepts.value_ids, np.int64),
        (concepts.stats, STATS),
    ]
    for column, dtype in columns:
        _require(column.dtype == dtype, f"concepts: expected {dtype}, got {column.dtype}")
        _require(len(column) == count, f"concepts: expected {count} rows, got {len(column)}")
    shape = concepts.keys.shape
    _require(len(shape) == 2 and shape[1] > 0, f"keys: expected (N, D), got {shape}")
    if vectors is not None:
        _require(vectors.dtype == np.float32, f"vectors: expected float32, got {vectors.dtype}")
        _require(vectors.shape == shape, f"vectors: expected {shape}, got {vectors.shape}")


def _concept(concepts: Concepts, row: int) -> _Concept:
    concept_id, number = concepts.ids[row], int(concepts.value_kinds[row])
    _require(number in list(ValueKind), f"value of {concept_id}: unknown kind {number}")
    kind, value = ValueKind(number), None
    if kind is ValueKind.INTEGER:
        value = int(concepts.value_ids[row])
    if kind is ValueKind.VECTOR:
        if concepts.value_vectors is None:
            raise StoreUsageError(f"value of {concept_id}: expected a vector, got None")
        value = concepts.value_vectors[row].tolist()
        _require_finite(f"value of {concept_id}", value)
    return _Concept(concepts.keys[row].tolist(), kind, value, concepts.stats[row].item())


def _set_stats(state: _State, ids: Ids, stats: Records) -> None:
    _require_distinct("stats_ids", ids)
    _require(stats.dtype == STATS, f"stats: expected STATS, got {stats.dtype}")
    _require(len(ids) == len(stats), f"stats: expected {len(ids)} rows, got {len(stats)}")
    for concept_id, record in zip(ids.tolist(), stats.tolist(), strict=True):
        _require_exists("stats_ids", state, concept_id)
        old = state.concepts[concept_id]
        state.concepts[concept_id] = _Concept(old.key, old.kind, old.value, record)
        state.stats_set.add(concept_id)


def _set_payloads(state: _State, payloads: Mapping[int, bytes]) -> None:
    for concept_id in payloads:
        _require_exists("payloads", state, concept_id)
    _merge(state.payloads, payloads)


def _set_edges(state: _State, edges: Mapping[int, Records]) -> None:
    for source, records in edges.items():
        _require_exists("edges", state, source)
        _require(records.dtype == EDGE, f"edges of {source}: expected EDGE, got {records.dtype}")
        targets = records["target"].tolist()
        for target in targets:
            _require_exists(f"edges of {source}", state, target)
        _require(source not in targets, f"edges of {source}: expected other targets than itself")
        _require(len(set(targets)) == len(targets), f"edges of {source}: got {targets}, repeated")
        state.edges.pop(source, None)
        if len(records):
            state.edges[source] = records.tolist()
        state.edges_set.add(source)


def _set_aliases(state: _State, aliases: Mapping[int, int]) -> None:
    for alias, target in aliases.items():
        _require(0 < alias < 2**64, f"aliases: expected an id, got {alias}")
        _require(alias not in state.concepts, f"aliases: expected no concept, got {alias}")
        _require_exists("aliases", state, target)
        state.aliases[alias] = target


def _resolved(state: _State, concept_id: int) -> int:
    while concept_id not in state.concepts:
        if concept_id not in state.aliases:
            return 0
        concept_id = state.aliases[concept_id]
    return concept_id


def _merge(table: dict[Any, bytes], entries: Mapping[Any, bytes]) -> None:
    for name, content in entries.items():
        table.pop(name, None)
        if content:
            table[name] = content


def _ids(values: Iterable[int]) -> Ids:
    return np.array(sorted(values), np.uint64)


def _live(now: _State, *touched: set[int]) -> set[int]:
    return set().union(*touched) & set(now.concepts)


def _columns(state: _State, wanted: Iterable[int]) -> Concepts:
    ids = sorted(wanted)
    rows = [state.concepts[concept_id] for concept_id in ids]
    width = len(rows[0].key) if rows else 0
    vectors = [r.value if r.kind is ValueKind.VECTOR else [0.0] * width for r in rows]
    has_vectors = any(r.kind is ValueKind.VECTOR for r in rows)
    return Concepts(
        ids=_ids(ids),
        keys=np.array([r.key for r in rows], np.float32).reshape(len(rows), width),
        value_kinds=np.array([r.kind for r in rows], np.uint8),
        value_ids=np.array([r.value if r.kind is ValueKind.INTEGER else 0 for r in rows], np.int64),
        value_vectors=np.array(vectors, np.float32) if has_vectors else None,
        stats=np.array([r.stats for r in rows], STATS),
    )


def _edge_columns(state: _State, wanted: Iterable[int]) -> dict[str, Any]:
    sources = sorted(wanted)
    edges = [state.edges.get(source, []) for source in sources]
    return {
        "edge_sources": _ids(sources),
        "edge_counts": np.array([len(part) for part in edges], np.int64),
        "edges": np.array([edge for part in edges for edge in part], EDGE),
    }
