"""An immutable HNSW graph: built, written without its vectors, read back mapped.

The file holds the links alone. The vectors are the keys of the view, which are mapped from a file
of their own: nothing is held twice, neither on disk nor in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from storage_backends import layout, lookup
from storage_backends.columns import Column, Slots
from storage_backends.cosines import best, cosines_of
from storage_backends.errors import StoreCorruptError
from storage_backends.lazy import lazy
from storage_backends.progress import Progress, silent
from storage_backends.recorded_file import Put
from storage_backends.types import Floats

_EF_CONSTRUCTION = 120
_BUILD_CHUNK = 4_096
#: How far equal keys are moved while their links are made: enough to tell them apart in float32.
_APART = 4e-3
#: By how much a cosine may fall short of the best for rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class HnswBase:
    """A graph (Malkov and Yashunin, 2018) over slots ``0 .. size - 1``.

    Parameters
    ----------
    graph : faiss.IndexHNSWFlat
    size : int
    kept : object
        What the graph points into and does not own.
    """

    graph: faiss.IndexHNSWFlat
    size: int
    kept: object = field(default=None, repr=False, compare=False)

    @classmethod
    def build(
        cls,
        keys: Column[np.float32],
        stop: threading.Event | None = None,
        progress: Progress = silent,
    ) -> HnswBase | None:
        """Build a graph over unit keys ``(N, D)``; None if ``stop`` was set before the end.

        Keys that are equal to the bit link to one another only, and a search that does not begin
        among them never finds them. So their links are made between keys that were each moved a
        little. Others are not moved: by inner product the longest of close neighbours would get all
        the links.
        """
        return cls._over(_empty(keys.shape[1]), _Apart(keys), stop, progress)

    def extended(
        self,
        keys: Column[np.float32],
        stop: threading.Event | None = None,
        progress: Progress = silent,
    ) -> HnswBase | None:
        """Return a graph that has this one's links, and those of the keys behind its own.

        It is a copy that keys are added to: none may be added to a graph that is searched.

        Parameters
        ----------
        keys : (N, D) Column of float32
            Not fewer than the graph has; the first ones are those that it was built over.
        """
        apart = _Apart(keys)
        return self._over(_copied(self.graph, apart), apart, stop, progress)

    @classmethod
    def _over(
        cls, graph: Any, apart: _Apart, stop: threading.Event | None, progress: Progress
    ) -> HnswBase | None:
        """Link the keys that a graph does not have."""
        keys = apart.keys
        for part in apart.parts(graph.ntotal, len(keys)):
            if stop is not None and stop.is_set():
                return None
            graph.add(part)
            progress("building the seed index", graph.ntotal, len(keys))
        _put_keys(graph, keys)
        return cls(graph, len(keys))

    def unreached(
        self,
        keys: Column[np.float32],
        stop: threading.Event | None = None,
        progress: Progress = silent,
    ) -> Slots | None:
        """Return the slots that a search for their own keys does not find, ascending.

        In dense clusters a few keys end up with no link to them. None if ``stop`` was set.

        Parameters
        ----------
        keys : (N, D) Column of float32
            What the graph was built over.
        """
        missed, begin = [np.empty(0, np.int64)], 0
        for part in _chunks(keys):
            if stop is not None and stop.is_set():
                return None
            enough = np.einsum("nd,nd->n", part, part) - np.float32(_ROUNDING)
            missed.append(begin + np.flatnonzero(self._nearest(part, enough) < enough))
            begin += len(part)
            progress("looking for each concept", begin, len(keys))
        return np.concatenate(missed)

    @property
    def parameters(self) -> dict[str, int]:
        """How the graph was built."""
        hnsw: Any = self.graph.hnsw  # the stubs of FAISS lack the method
        return {"neighbours": hnsw.nb_neighbors(1), "ef_construction": hnsw.efConstruction}

    def write(self, put: Put) -> None:
        """Write the links, without the keys; what ``put`` raises goes through.

        FAISS itself would say nothing of a disk that is full when it closes the file.
        """
        writer = faiss.PyCallbackIOWriter(put)  # type: ignore[attr-defined]
        faiss.write_index(self.graph, writer, faiss.IO_FLAG_SKIP_STORAGE)

    @classmethod
    def read(cls, path: Path, keys: Floats, *, check_links: bool = False) -> HnswBase:
        """Map the links of a file.

        Parameters
        ----------
        path : Path
            Of the length that `write` gave it; not changed while the graph is in use.
        keys : (N, D) float32
            Unit keys of the slots, at least as many as the graph has; contiguous.
        check_links : bool
            Whether to examine each link above the ground level. One that leads to a key that is
            not on its level would lead on to anywhere, and might end the process.

        Raises
        ------
        StoreCorruptError
            If the file is not a graph over such keys.
        """
        try:
            graph = _map(path)
        except OSError as error:
            raise layout.translate(error, path, "to map it") from error
        except (RuntimeError, MemoryError) as error:
            raise StoreCorruptError(f"{path}: expected a graph, got {error}") from error
        problem = _problem_of(graph, keys) or (_link_problem(graph.hnsw) if check_links else "")
        if problem:
            raise StoreCorruptError(f"{path}: {problem}")
        flat = _flat_over(keys[: graph.ntotal], graph.hnsw.neighbors.owner)
        graph.storage, graph.own_fields = flat, False
        flat.thisown = True  # the assignment took it away, and the mapping would stay for ever
        return cls(graph, graph.ntotal, (keys, flat))

    def search(self, queries: Floats, k: int) -> tuple[Slots, Floats]:
        """Return the approximately nearest ``k`` slots and their cosines, both ``(N, k)``.

        They descend by cosine, and among equal ones ascend by slot; -1 and 0 pad.
        """
        kept = max(effort(self.graph.d), k)
        if lookup.is_used():
            return lookup.search(self._links, queries, kept, k)
        # The stubs of FAISS lack the class as Python sees it.
        settings = faiss.SearchParametersHNSW(efSearch=kept)  # type: ignore[attr-defined]
        slots = self.graph.search(queries, k, params=settings)[1]
        return best(slots, cosines_of(queries, self._links.keys, slots), k)

    def _nearest(self, queries: Floats, enough: Floats) -> Floats:
        """Return the cosine of the nearest key to each query, or of one as near as is enough."""
        if lookup.is_used():
            return lookup.search(self._links, queries, effort(self.graph.d), 1, enough)[1][:, 0]
        return self.search(queries, 1)[1][:, 0]

    @lazy
    def _links(self) -> lookup.Links:
        """The arrays of the graph, which belong to FAISS."""
        hnsw: Any = self.graph.hnsw  # the stubs of FAISS lack most of it
        flat: Any = faiss.downcast_index(self.graph.storage)
        return lookup.Links(
            links=_array(hnsw.neighbors),
            offsets=_array(hnsw.offsets),
            room=_array(hnsw.cum_nneighbor_per_level),
            keys=faiss.rev_swig_ptr(flat.get_xb(), self.size * self.graph.d).reshape(self.size, -1),
            entry=hnsw.entry_point,
            top_level=hnsw.max_level,
            kept=(self.graph, self.kept),
        )


def neighbours(width: int) -> int:
    """Return the links of a concept on each level above the ground; there it gets twice as many."""
    return 7 if width < 48 else 32


def effort(width: int) -> int:
    """Return how many candidates a search keeps in view."""
    return 96 if width < 48 else 64


def _empty(width: int) -> Any:
    graph = faiss.IndexHNSWFlat(width, neighbours(width), faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _EF_CONSTRUCTION
    return graph


def _copied(graph: Any, apart: _Apart) -> Any:
    """Return a graph with the same links, over the first of other keys.

    One that has room for other numbers of links is not copied: what is returned is empty.
    """
    copy = _empty(graph.d)
    own, given = (_array(each.hnsw.cum_nneighbor_per_level) for each in (copy, graph))
    if not np.array_equal(own, given):
        return copy
    for part in apart.parts(0, graph.ntotal):
        copy.storage.add(part)
    new, old = copy.hnsw, graph.hnsw
    faiss.copy_array_to_vector(_array(old.levels), new.levels)
    faiss.copy_array_to_vector(_array(old.offsets), new.offsets)
    new.neighbors.resize(old.neighbors.size())
    _array(new.neighbors)[:] = _array(old.neighbors)
    new.entry_point, new.max_level = old.entry_point, old.max_level
    copy.ntotal = graph.ntotal
    return copy


def _chunks(keys: Column[np.float32], first: int = 0, end: int | None = None) -> Iterator[Floats]:
    end = len(keys) if end is None else end
    for begin in range(first - first % _BUILD_CHUNK, end, _BUILD_CHUNK):
        yield keys.part(max(begin, first), min(begin + _BUILD_CHUNK, end))


class _Apart:
    """Keys as they are linked: of equal ones, each is moved, and to the same place always."""

    def __init__(self, keys: Column[np.float32]) -> None:
        self.keys = keys
        self._repeated = _repeated(keys)

    def parts(self, first: int, end: int) -> Iterator[Floats]:
        """Yield those of a range in pieces."""
        width = self.keys.shape[1]
        for part in _chunks(self.keys, first, end):
            moves = np.flatnonzero(self._repeated[first : first + len(part)])
            if len(moves):
                rng = np.random.default_rng(first // _BUILD_CHUNK)
                noise = rng.standard_normal((_BUILD_CHUNK, width), np.float32)
                part = part.copy()
                part[moves] += (
                    np.float32(_APART / np.sqrt(width)) * noise[first % _BUILD_CHUNK + moves]
                )
            yield part
            first += len(part)


def _repeated(keys: Column[np.float32]) -> NDArray[np.bool_]:
    """Tell which keys have an equal among the others, ``(N,)``."""
    # A hash of the bytes, by integers: sums of floats may differ in the last bit.
    factors = np.random.default_rng(0).integers(0, 2**64, keys.shape[1], np.uint64)
    none = np.empty(0, np.uint64)
    places = np.concatenate(
        [none, *((part.view(np.uint32) * factors).sum(axis=1) for part in _chunks(keys))]
    )
    order = np.argsort(places)
    equal = places[order[1:]] == places[order[:-1]]
    repeated = np.zeros(len(places), np.bool_)
    repeated[order[1:][equal]] = repeated[order[:-1][equal]] = True
    return repeated


def _put_keys(graph: Any, keys: Column[np.float32]) -> None:
    """Let the vectors of a graph be ``keys``."""
    flat: Any = faiss.downcast_index(graph.storage)
    vectors = faiss.rev_swig_ptr(flat.get_xb(), len(keys) * graph.d).reshape(-1, graph.d)
    begin = 0
    for part in _chunks(keys):
        vectors[begin : begin + len(part)] = part
        begin += len(part)


#: Held while `_BYTE_LIMIT` is not in force.
_mapping = threading.Lock()
_BYTE_LIMIT = faiss.get_deserialization_vector_byte_limit()


def _map(path: Path) -> Any:
    """Let FAISS map a file; where a size in it is damaged, it takes no more memory than it has."""
    with _mapping:
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
        try:
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        finally:
            faiss.set_deserialization_vector_byte_limit(_BYTE_LIMIT)


def _forget_mapping() -> None:
    global _mapping
    _mapping = threading.Lock()
    faiss.set_deserialization_vector_byte_limit(_BYTE_LIMIT)


# Another thread may be mapping while this one forks, and is not there in the child to end it.
os.register_at_fork(after_in_child=_forget_mapping)


def _flat_over(keys: Floats, owner: Any) -> Any:
    """Return an index whose vectors are ``keys`` themselves."""
    flat = faiss.IndexFlatIP(keys.shape[1])
    content = keys.view(np.uint8).reshape(-1)
    vector: Any = faiss.MaybeOwnedVectorUInt8  # the stubs of FAISS lack the method
    flat.codes = vector.create_view(faiss.swig_ptr(content), content.nbytes, owner)
    flat.ntotal = len(keys)
    return flat


def _problem_of(graph: Any, keys: Floats) -> str:
    """Return what is wrong with the sizes of a graph that was read, "" if nothing is."""
    kind = type(graph)
    if kind is not faiss.IndexHNSWFlat or graph.storage is not None:
        return f"expected an HNSW graph without vectors, got {kind.__name__}"
    if graph.d != keys.shape[1] or graph.ntotal > len(keys) or graph.ntotal < 1:
        return (
            f"expected 1 to {len(keys)} keys of width {keys.shape[1]}, "
            f"got {graph.ntotal} of width {graph.d}"
        )
    if graph.metric_type != faiss.METRIC_INNER_PRODUCT:
        return f"expected the inner product as metric, got {graph.metric_type}"
    hnsw, count = graph.hnsw, graph.ntotal
    if hnsw.levels.size() != count or hnsw.offsets.size() != count + 1:
        return f"expected levels and offsets of {count} keys, got others"
    if not 0 <= hnsw.entry_point < count or not 0 <= hnsw.max_level < 64:
        return f"expected an entry among {count} keys, got {hnsw.entry_point}"
    return _layout_problem(hnsw)


def _layout_problem(hnsw: Any) -> str:
    """Return what is wrong with the places of the links, "" if nothing is."""
    levels, offsets = _array(hnsw.levels), _array(hnsw.offsets)
    room = _array(hnsw.cum_nneighbor_per_level)
    if levels.min() < 1 or levels.max() >= len(room) or (np.diff(room) < 0).any() or room[0]:
        return "expected a level for each key, got others"
    if offsets[0] or offsets[-1] != hnsw.neighbors.size():
        return "expected as many links as there is room for, got others"
    if (np.diff(offsets.astype(np.int64)) != room[levels]).any():
        return "expected room for the links of each key, got other offsets"
    if levels[hnsw.entry_point] != hnsw.max_level + 1 or levels.max() != hnsw.max_level + 1:
        return "expected the entry to be on the highest level"
    return ""


def _link_problem(hnsw: Any) -> str:
    """Return what is wrong with the links above the ground level, "" if nothing is.

    That all links lead to some key, FAISS has seen to when it read them.
    """
    links, levels = _array(hnsw.neighbors), _array(hnsw.levels)
    offsets, room = _array(hnsw.offsets).astype(np.int64), _array(hnsw.cum_nneighbor_per_level)
    for level in range(1, int(levels.max())):
        for first in offsets[:-1][levels > level].tolist():
            targets = links[first + room[level] : first + room[level + 1]]
            if (levels[targets[targets >= 0]] <= level).any():
                return f"expected links of level {level} to keys that reach it"
    return ""


def _array(vector: Any) -> NDArray[Any]:
    """Return a vector of FAISS as an array, without copying it."""
    array: NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
    return array
