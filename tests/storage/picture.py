"""What a store holds, as plain Python values that compare and print well.

`fold` is written from the words of `Contents` alone: it is what any reader of change sets does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from storage_backends.protocol import Store
from storage_backends.types import (
    EDGE,
    EVENT,
    STATS,
    Concepts,
    Contents,
    Ids,
    Records,
    ValueKind,
)

Picture = dict[str, Any]

#: Every id that a test of this folder uses as a concept is below this.
ID_LIMIT = 64


def picture(store: Store) -> Picture:
    """Return everything that ``store`` answers, whatever its medium."""
    sizes = store.stats()
    events = store.events()
    assert events.dtype == EVENT
    seen = contents_picture(store.load())
    assert seen["generation"] == store.generation() == sizes.generation
    probed = range(1, ID_LIMIT)
    ids = np.array(probed, np.uint64)
    found = store.payloads(ids)
    assert list(store.resolved_payloads(ids)) == list(store.payloads(store.resolve(ids)))
    return seen | {
        "uuid": store.uuid,
        "payloads": {i: p for i, p in zip(probed, found, strict=True) if p is not None},
        "resolved": {i: int(r) for i, r in zip(probed, store.resolve(ids), strict=True) if r},
        "events": rows(events),
        "first_event": sizes.first_event,
        "shortterm": dict(store.shortterm()),
        "sizes": (sizes.concepts, sizes.edges, sizes.payloads, sizes.events),
    }


def contents_picture(contents: Contents) -> Picture:
    """Return the answer of `Store.load`, after a check of its form."""
    check_form(contents)
    assert not len(contents.stats_ids), "load() lists no statistics apart"
    assert not len(contents.deleted), "load() lists no deletions"
    assert (contents.edge_counts > 0).all(), "load() lists only sources with edges"
    return {
        "generation": contents.generation,
        "concepts": concept_rows(contents.concepts),
        "edges": edge_rows(contents),
        "settings": dict(contents.settings),
    }


def fold(before: Picture, changed: Contents) -> Picture:
    """Apply a change set to the `contents_picture` of the generation that it starts from."""
    check_form(changed)
    concepts, edges = dict(before["concepts"]), dict(before["edges"])
    for concept_id in changed.deleted.tolist():
        assert concept_id in concepts, f"{concept_id} is listed as deleted but was never there"
        del concepts[concept_id]
        edges.pop(concept_id, None)
    concepts |= concept_rows(changed.concepts)
    for concept_id, record in zip(changed.stats_ids.tolist(), rows(changed.stats), strict=True):
        concepts[concept_id] = concepts[concept_id] | {"stats": record}
    edges |= edge_rows(changed)
    return {
        "generation": changed.generation,
        "concepts": dict(sorted(concepts.items())),
        "edges": {source: records for source, records in sorted(edges.items()) if records},
        "settings": dict(changed.settings),
    }


def rows(records: Records) -> list[dict[str, Any]]:
    """Return each record as a mapping of its fields."""
    names = records.dtype.names or ()
    return [dict(zip(names, record, strict=True)) for record in records.tolist()]


def concept_rows(concepts: Concepts) -> dict[int, dict[str, Any]]:
    """Return concepts by id: key, value and statistics."""
    keys, stats = concepts.keys.tolist(), rows(concepts.stats)
    return {
        concept_id: {"key": keys[row], "value": _value(concepts, row), "stats": stats[row]}
        for row, concept_id in enumerate(concepts.ids.tolist())
    }


def edge_rows(contents: Contents) -> dict[int, list[dict[str, Any]]]:
    """Return the edges by source, in stored order."""
    ends = np.cumsum(contents.edge_counts)
    parts = np.split(contents.edges, ends[:-1]) if len(ends) else []
    return {
        source: rows(part)
        for source, part in zip(contents.edge_sources.tolist(), parts, strict=True)
    }


def check_form(contents: Contents) -> None:
    """Assert the dtypes, lengths and orders that `Contents` promises."""
    _check_concepts(contents.concepts)
    _check_ids("stats_ids", contents.stats_ids)
    _check_ids("edge_sources", contents.edge_sources)
    _check_ids("deleted", contents.deleted)
    assert (contents.stats.dtype, len(contents.stats)) == (STATS, len(contents.stats_ids))
    assert contents.edge_counts.dtype == np.int64
    assert len(contents.edge_counts) == len(contents.edge_sources)
    assert (contents.edges.dtype, len(contents.edges)) == (EDGE, contents.edge_counts.sum())


def _check_concepts(concepts: Concepts) -> None:
    count = len(concepts.ids)
    _check_ids("concepts.ids", concepts.ids)
    assert concepts.keys.dtype == np.float32
    assert concepts.keys.ndim == 2
    assert concepts.value_kinds.dtype == np.uint8
    assert concepts.value_ids.dtype == np.int64
    assert concepts.stats.dtype == STATS
    lengths = [len(concepts.keys), len(concepts.value_kinds), len(concepts.value_ids)]
    assert [*lengths, len(concepts.stats)] == [count] * 4
    assert not concepts.value_ids[concepts.value_kinds != ValueKind.INTEGER].any()
    is_vector = concepts.value_kinds == ValueKind.VECTOR
    assert (concepts.value_vectors is not None) == is_vector.any()
    if concepts.value_vectors is not None:
        assert concepts.value_vectors.dtype == np.float32
        assert concepts.value_vectors.shape == concepts.keys.shape
        assert not concepts.value_vectors[~is_vector].any()


def _check_ids(where: str, found: Ids) -> None:
    assert found.dtype == np.uint64, f"{where}: expected uint64, got {found.dtype}"
    listed = found.tolist()
    assert listed == sorted(set(listed)), f"{where}: expected ascending ids, got {listed}"


def _value(concepts: Concepts, row: int) -> tuple[str, Any]:
    kind = ValueKind(concepts.value_kinds[row])
    if kind is ValueKind.INTEGER:
        return kind.name, int(concepts.value_ids[row])
    if kind is ValueKind.VECTOR:
        assert concepts.value_vectors is not None
        return kind.name, concepts.value_vectors[row].tolist()
    return kind.name, None
