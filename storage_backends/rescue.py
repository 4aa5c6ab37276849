"""Takes concepts and edges that a damaged data file has lost from the snapshot beside it.

A snapshot is derived from the records, so it holds most of them a second time: keys, values other
than payloads, statistics, edges. A key is stored there as direction and length: the product may
differ from the lost record in the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage_backends import codec, column_file, recorded_file
from storage_backends.adjacency import REST
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.lmdb_read import read_aliases
from storage_backends.lmdb_verify import wrong_edges
from storage_backends.manifest import Manifest
from storage_backends.opening import Tables, Transaction
from storage_backends.types import EDGE, Concepts, Ids, Records, ValueKind
from storage_backends.view import View

_CONCEPT_TABLES = ("key", "value", "meta")
_TOLERANCE = 1e-3  # of the length of a direction


@dataclass(frozen=True)
class Saved:
    """What a snapshot shows.

    Parameters
    ----------
    name : str
        Name of its columns file.
    generation : int
        The commit that it shows.
    checked : bool
        Whether its content was compared with the hash in its manifest; where that is lost, only
        the header has a hash, and the content is examined for what cannot be.
    concepts : Concepts
    sources, counts, edges
        The edges, as in `Contents`.
    """

    name: str
    generation: int
    checked: bool
    concepts: Concepts
    sources: Ids
    counts: NDArray[np.int64]
    edges: Records


def find(folder: Path, manifests: Sequence[Manifest]) -> Saved | None:
    """Return what the newest sound snapshot in a folder shows, None where there is none.

    Parameters
    ----------
    folder : Path
    manifests : sequence of Manifest
        Those that were found.
    """
    paths = sorted(folder.glob("columns-*.aesg"), key=lambda path: (len(path.name), path.name))
    for path in reversed(paths):
        with suppress(StoreError):
            return _read(path, [each for each in manifests if each.columns.name == path.name])
    return None


def _read(path: Path, manifests: Sequence[Manifest]) -> Saved:
    for manifest in manifests:
        recorded_file.check_content(path.parent, manifest.columns, lambda size: None)
    generation = column_file.generation_of(path)
    view = View.of_columns(column_file.map_columns(path, generation), generation, {}, None)
    slots = np.flatnonzero(view.alive.whole())
    concepts = _concepts(view, slots)
    counts, edges = _edges(view, slots)
    return Saved(path.name, generation, bool(manifests), concepts, concepts.ids, counts, edges)


def _concepts(view: View, slots: NDArray[np.intp]) -> Concepts:
    ids, units, norms = view.ids[slots], view.keys[slots], view.norms[slots]
    lengths = np.linalg.norm(units, axis=1)
    kinds, vectors = view.value_kinds[slots], view.value_vectors
    _require(np.array_equal(np.unique(ids), np.sort(ids)) and bool((ids > 0).all()), "ids")
    _require(bool(((abs(lengths - 1) < _TOLERANCE) | (lengths == 0)).all()), "keys of length 1")
    _require(bool((np.isfinite(norms) & (norms >= 0)).all()), "lengths of keys")
    _require(bool((kinds <= max(ValueKind)).all()), "kinds of values")
    _require(vectors is not None or not (kinds == ValueKind.VECTOR).any(), "vector values")
    rows = None if vectors is None else vectors[slots]
    _require(rows is None or bool(np.isfinite(rows).all()), "finite vector values")
    order = np.argsort(ids)
    return Concepts(
        ids=ids[order],
        keys=(units * norms[:, None])[order],
        value_kinds=kinds[order],
        value_ids=view.value_ids[slots][order],
        value_vectors=None if rows is None else rows[order],
        stats=view.stats[slots][order],
    )


def _edges(view: View, slots: NDArray[np.intp]) -> tuple[NDArray[np.int64], Records]:
    """Return the edges of live slots in the order of their ids."""
    slots = slots[np.argsort(view.ids[slots])]
    rows = view.adjacency.rows[slots]
    starts, counts = rows["start"], rows["count"].astype(np.int64)
    fits = (starts >= 0) & (starts <= view.edge_count - counts)
    _require(bool(fits.all()), "edges within the file")
    _, held = view.adjacency.expand(slots)
    targets = held["target"]
    _require(bool((targets < view.size).all()), "edges to slots")
    edges = np.empty(len(held), EDGE)
    for name in REST.names or ():
        edges[name] = held[name]
    edges["target"] = view.ids[targets]
    return counts, edges


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise StoreCorruptError(f"snapshot: expected {what}, got others")


def fill(
    transaction: Transaction, tables: Tables, saved: Saved, entries: Mapping[str, int]
) -> tuple[int, int]:
    """Put what is missing from the tables; return how many concepts and edges that were.

    What the tables hold stays. What was deleted later, by the log, or has an alias, is left out,
    and nothing is put where the tables hold keys of another width.

    Parameters
    ----------
    transaction, tables
        The tables of the new file, with sound records only.
    saved : Saved
    entries : mapping of str to int
        How many records the tables had, where that is known: those that are complete stay so.
    """
    held = {name: _ids_in(transaction, tables, name) for name in (*_CONCEPT_TABLES, "adjacency")}
    if not _is_of_width(transaction, tables, saved):
        return 0, 0
    whole = np.intersect1d(np.intersect1d(held["key"], held["value"]), held["meta"])
    absorbed, _ = read_aliases(transaction, tables)
    gone = np.union1d(_deleted(transaction, tables, saved.generation), absorbed)
    wanted = np.setdiff1d(saved.concepts.ids, gone)
    missing = np.setdiff1d(wanted, whole)
    if all(entries.get(name) == len(held[name]) for name in _CONCEPT_TABLES):
        missing = missing[:0]
    _put_concepts(transaction, tables, saved.concepts, missing)
    if entries.get("adjacency") == len(held["adjacency"]):
        return len(missing), 0
    sources = np.setdiff1d(wanted, held["adjacency"])
    return len(missing), _put_edges(transaction, tables, saved, sources, np.union1d(whole, missing))


def _is_of_width(transaction: Transaction, tables: Tables, saved: Saved) -> bool:
    cursor = transaction.cursor(db=tables.key)
    return not cursor.first() or codec.width_of(cursor.value()) == saved.concepts.keys.shape[1]


def _ids_in(transaction: Transaction, tables: Tables, table: str) -> Ids:
    return codec.decode_ids(transaction.cursor(db=getattr(tables, table)).iternext(values=False))


def _deleted(transaction: Transaction, tables: Tables, since: int) -> Ids:
    """Return which concepts the log says were deleted after a generation."""
    gone: Ids = np.empty(0, np.uint64)
    for key, record in transaction.cursor(db=tables.log):
        number = codec.decode_number(key)
        if number > since:
            with suppress(StoreCorruptError):
                entry = codec.decode_log(number, record)
                gone = np.setdiff1d(np.union1d(gone, entry.deleted), entry.put)
    return gone


def _put_concepts(
    transaction: Transaction, tables: Tables, concepts: Concepts, missing: Ids
) -> None:
    rows = np.searchsorted(concepts.ids, missing)
    vectors = concepts.value_vectors
    chosen = Concepts(
        ids=missing,
        keys=concepts.keys[rows],
        value_kinds=concepts.value_kinds[rows],
        value_ids=concepts.value_ids[rows],
        value_vectors=None if vectors is None else vectors[rows],
        stats=concepts.stats[rows],
    )
    records = {
        "key": codec.encode_rows("key", missing, chosen.keys),
        "value": codec.encode_values(chosen),
        "meta": codec.encode_rows("meta", missing, chosen.stats),
    }
    for table, encoded in records.items():
        entries = list(zip(codec.encode_ids(missing), encoded, strict=True))
        transaction.cursor(db=getattr(tables, table)).putmulti(entries, overwrite=False)


def _put_edges(
    transaction: Transaction, tables: Tables, saved: Saved, sources: Ids, ids: Ids
) -> int:
    """Put the edges of some sources that lead from and to concepts that there are."""
    owners = np.repeat(saved.sources, saved.counts)
    kept = np.isin(owners, np.intersect1d(sources, ids))
    for wrong, _ in wrong_edges(owners, saved.edges, ids):
        kept &= ~wrong
    owners, edges = owners[kept], saved.edges[kept]
    having, counts = np.unique(owners, return_counts=True)
    records = codec.encode_edges(having, counts.astype(np.int64), edges)
    entries = list(zip(codec.encode_ids(having), records, strict=True))
    transaction.cursor(db=tables.adjacency).putmulti(entries, overwrite=False)
    return len(edges)
