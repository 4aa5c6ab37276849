"""The rules of a `WriteBatch` that can be checked without the store, and its records.

What needs the store (whether a concept exists, how wide its keys are) is checked inside the
transaction that applies the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum, codec
from storage_backends.errors import StoreUsageError
from storage_backends.types import (
    EDGE,
    EVENT,
    STATS,
    Concepts,
    Floats,
    Ids,
    Records,
    ValueKind,
    WriteBatch,
)

_NO_IDS: Ids = np.empty(0, np.uint64)


@dataclass(frozen=True)
class PreparedBatch:
    """A checked batch as the records to write, every list in ascending order of its keys.

    Parameters
    ----------
    deleted, put, stats_ids, payload_ids, sources : (N,) uint64
        What the batch names.
    keys, values, meta, stats, payloads, adjacency : list of bytes
        The records; of ``put`` (keys, values, meta), ``stats_ids``, ``payload_ids``, ``sources``.
    width : int
        D of the keys put; 0 where none is.
    targets : (M,) uint64
        Targets of all edges, each once.
    alias_ids, alias_targets : (A,) uint64
        Ids without a concept, and what stands for them.
    aliases : list of bytes
        Their records.
    events : (E,) EVENT
        To be numbered.
    most_events : int, optional
        How many of all the log keeps.
    shortterm : list of (key, record), optional
    settings : list of (key, record)
    """

    deleted: Ids
    put: Ids
    keys: list[bytes]
    values: list[bytes]
    meta: list[bytes]
    width: int
    stats_ids: Ids
    stats: list[bytes]
    payload_ids: Ids
    payloads: list[bytes]
    sources: Ids
    adjacency: list[bytes]
    targets: Ids
    alias_ids: Ids
    alias_targets: Ids
    aliases: list[bytes]
    events: Records
    most_events: int | None
    shortterm: list[tuple[bytes, bytes]] | None
    settings: list[tuple[bytes, bytes]]


def prepare(batch: WriteBatch) -> PreparedBatch:
    """Check a batch by itself and encode it.

    Raises
    ------
    StoreUsageError
        If it breaks a rule of `WriteBatch`.
    """
    put, keys, values, meta, width = _prepare_concepts(batch.concepts)
    stats_ids, stats = _prepare_stats(batch.stats_ids, batch.stats)
    payload_ids, payloads = _prepare_payloads(batch.payloads)
    sources, adjacency, targets = _prepare_edges(batch.edges)
    alias_ids, alias_targets = _prepare_aliases(batch.aliases)
    _check_records("events", batch.events, EVENT)
    if batch.most_events is not None and batch.most_events < 1:
        raise StoreUsageError(f"most_events: expected 1 or more, got {batch.most_events}")
    return PreparedBatch(
        deleted=np.sort(_distinct_ids("deleted", batch.deleted)),
        put=put,
        keys=keys,
        values=values,
        meta=meta,
        width=width,
        stats_ids=stats_ids,
        stats=stats,
        payload_ids=payload_ids,
        payloads=payloads,
        sources=sources,
        adjacency=adjacency,
        targets=targets,
        alias_ids=alias_ids,
        alias_targets=alias_targets,
        aliases=codec.encode_aliases(alias_ids, alias_targets),
        events=batch.events,
        most_events=batch.most_events,
        shortterm=_prepare_shortterm(batch.shortterm),
        settings=_prepare_settings(batch.settings),
    )


def _prepare_concepts(
    concepts: Concepts | None,
) -> tuple[Ids, list[bytes], list[bytes], list[bytes], int]:
    if concepts is None:
        return _NO_IDS, [], [], [], 0
    _check_columns(concepts)
    _check_values(concepts)
    order = np.argsort(_distinct_ids("concepts.ids", concepts.ids))
    ids, keys = concepts.ids[order], concepts.keys[order].astype("<f4", copy=False)
    values = codec.encode_values(concepts)
    return (
        ids,
        codec.encode_rows("key", ids, keys),
        [values[row] for row in order.tolist()],
        codec.encode_rows("meta", ids, concepts.stats[order]),
        concepts.keys.shape[1] if len(concepts) else 0,
    )


def _check_columns(concepts: Concepts) -> None:
    rows = (len(concepts.ids),)
    _check_array("concepts.value_kinds", concepts.value_kinds, np.dtype(np.uint8), rows)
    _check_array("concepts.value_ids", concepts.value_ids, np.dtype(np.int64), rows)
    _check_array("concepts.stats", concepts.stats, STATS, rows)
    shape = concepts.keys.shape
    if len(shape) != 2 or not shape[1]:
        raise StoreUsageError(
            f"concepts.keys: expected shape ({rows[0]}, D) with D above 0, got {shape}"
        )
    expected = (rows[0], shape[1])
    _check_array("concepts.keys", concepts.keys, np.dtype(np.float32), expected)
    if concepts.value_vectors is not None:
        vectors = concepts.value_vectors
        _check_array("concepts.value_vectors", vectors, np.dtype(np.float32), expected)


def _check_array(
    where: str, array: NDArray[np.generic], dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise StoreUsageError(
            f"{where}: expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}"
        )


def _check_values(concepts: Concepts) -> None:
    kinds = concepts.value_kinds
    _check_rows("value kind 0, 1 or 2", concepts.ids, np.isin(kinds, list(ValueKind)))
    _check_rows("finite key", concepts.ids, _finite_rows(concepts.keys))
    wide = kinds == ValueKind.VECTOR
    if concepts.value_vectors is None:
        _check_rows("value vector, not value_vectors=None,", concepts.ids, ~wide)
    else:
        finite = _finite_rows(concepts.value_vectors)
        _check_rows("finite value", concepts.ids, finite | ~wide)


def _finite_rows(rows: Floats) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=1)
    return finite


def _check_rows(what: str, ids: Ids, good: NDArray[np.bool_]) -> None:
    bad = np.flatnonzero(~good)
    if bad.size:
        raise StoreUsageError(
            f"concepts: expected a {what} in every row, got another in {bad.size} of them, "
            f"first concept {ids[bad[0]]} (row {bad[0]})"
        )


def _distinct_ids(where: str, ids: Ids) -> Ids:
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise StoreUsageError(
            f"{where}: expected uint64 of shape (N,), got {ids.dtype} of shape {ids.shape}"
        )
    ordered = np.sort(ids)
    if ordered.size and ordered[0] == 0:
        raise StoreUsageError(f"{where}: expected ids above 0, got 0")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if repeated.size:
        raise StoreUsageError(f"{where}: expected each id once, got {repeated[0]} repeatedly")
    return ids


def _mapped_ids(where: str, entries: Collection[int]) -> Ids:
    try:
        return np.fromiter(entries, np.uint64, len(entries))
    except (OverflowError, TypeError, ValueError) as error:
        raise StoreUsageError(
            f"{where}: expected ids in [1, 2**64), got {list(entries)}"
        ) from error


def _prepare_stats(ids: Ids, stats: Records) -> tuple[Ids, list[bytes]]:
    order = np.argsort(_distinct_ids("stats_ids", ids))
    _check_array("stats", stats, STATS, ids.shape)
    return ids[order], codec.encode_rows("meta", ids[order], stats[order])


def _prepare_payloads(payloads: Mapping[int, bytes]) -> tuple[Ids, list[bytes]]:
    ordered = dict(sorted(payloads.items()))
    for concept_id, payload in ordered.items():
        _check_bytes(f"payload of {concept_id}", payload)
    ids = _distinct_ids("payloads", _mapped_ids("payloads", ordered))
    records = [
        checksum.seal("payload", key, payload) if payload else b""
        for key, payload in zip(codec.encode_ids(ids), ordered.values(), strict=True)
    ]
    return ids, records


def _prepare_edges(edges: Mapping[int, Records]) -> tuple[Ids, list[bytes], Ids]:
    ordered = dict(sorted(edges.items()))
    sources = _distinct_ids("edges", _mapped_ids("edges", ordered))
    for source, rows in ordered.items():
        _check_records(f"edges of {source}", rows, EDGE)
    counts = np.fromiter(map(len, ordered.values()), np.int64, len(ordered))
    joined = np.frombuffer(b"".join(rows.tobytes() for rows in ordered.values()), EDGE)
    _check_edges(np.repeat(sources, counts), joined)
    return sources, codec.encode_edges(sources, counts, joined), np.unique(joined["target"])


def _check_edges(owners: Ids, edges: Records) -> None:
    targets = edges["target"]
    _check_edge_rows("another target than the source", owners, targets, targets != owners)
    finite = np.isfinite(edges["weight"]) & np.isfinite(edges["confidence"])
    _check_edge_rows("finite weight and confidence", owners, targets, finite)
    order = np.lexsort((targets, owners))
    first = np.ones(len(edges), np.bool_)
    first[1:] = (np.diff(owners[order]) != 0) | (np.diff(targets[order]) != 0)
    _check_edge_rows("each target once", owners[order], targets[order], first)


def _check_edge_rows(what: str, owners: Ids, targets: Ids, good: NDArray[np.bool_]) -> None:
    bad = np.flatnonzero(~good)
    if bad.size:
        source, target = owners[bad[0]], targets[bad[0]]
        raise StoreUsageError(f"edges of {source}: expected {what}, got the edge to {target}")


def _prepare_aliases(aliases: Mapping[int, int]) -> tuple[Ids, Ids]:
    ids = _distinct_ids("aliases", _mapped_ids("aliases", aliases))
    targets = _mapped_ids("targets of aliases", aliases.values())
    order = np.argsort(ids)
    return ids[order], targets[order]


def _check_records(where: str, records: Records, dtype: np.dtype[np.void]) -> None:
    if records.dtype != dtype or records.ndim != 1:
        raise StoreUsageError(
            f"{where}: expected {dtype} of shape (N,), got {records.dtype} of shape {records.shape}"
        )


def _prepare_shortterm(entries: Mapping[str, bytes] | None) -> list[tuple[bytes, bytes]] | None:
    return None if entries is None else _named_entries("shortterm", "shortterm", entries)


def _prepare_settings(settings: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    entries = _named_entries("settings", "sys", settings)
    taken = codec.SYSTEM_NAMES.intersection(name for name, _ in entries)
    if taken:
        raise StoreUsageError(
            f"settings: expected names other than the store's own, got {sorted(taken)}"
        )
    return entries


def _named_entries(
    where: str, table: str, entries: Mapping[str, bytes]
) -> list[tuple[bytes, bytes]]:
    prepared = []
    for name, content in entries.items():
        _check_bytes(f"{where}[{name!r}]", content)
        try:
            key = codec.encode_name(name)
        except ValueError as error:
            raise StoreUsageError(f"{where}: {error} as a name") from error
        removes = table == "sys" and not content
        prepared.append((key, b"" if removes else checksum.seal(table, key, content)))
    return sorted(prepared)


def _check_bytes(where: str, content: bytes) -> None:
    if not isinstance(content, bytes):
        raise StoreUsageError(f"{where}: expected bytes, got {type(content).__name__}")
