"""A store together with what a retrieval reads from it: the current view.

The engine commits to the store first and makes the new view only when the commit is durable, so
that nothing is ever seen that a crash could take back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from storage_backends.faiss_index import EXACT_BELOW, HnswBase, one_thread
from storage_backends.protocol import Store
from storage_backends.types import EDGE, Concepts, Contents, Ids, Problem, Records, WriteBatch
from storage_backends.view import View

_log = logging.getLogger("aesg.storage")

#: Share of the slots that may lie outside the graph, or be dead, before it is built anew.
_STALE = 0.25


class Engine:
    """Reads and writes one memory through its current view.

    One thread writes at a time; any number may call `view` and use what it returns.

    Parameters
    ----------
    store : Store
        Opened by the caller, closed by `close`.
    exact_below : int
        Number of concepts up to which seed lookup is exact.
    """

    def __init__(self, store: Store, exact_below: int = EXACT_BELOW) -> None:
        self.store = store
        self._exact_below = exact_below
        self._lock = threading.RLock()
        self._builder: _BaseBuilder | None = None
        self._next_attempt = 0  # slots from which a graph is tried again after a failure
        self._view = View.of(store.load())
        self._rebuild_base_if_stale()

    def view(self) -> View:
        """Return the read state of the last commit."""
        builder = self._builder
        # Whoever holds the lock adopts the graph; a reader does not wait for a commit.
        if builder is not None and builder.done and self._lock.acquire(blocking=False):
            try:
                self._adopt_base()
            finally:
                self._lock.release()
        return self._view

    def commit(self, batch: WriteBatch) -> View:
        """Commit a batch, durably, and return the view that shows it.

        Edges that point at deleted concepts are removed by the same transaction.
        """
        with self._lock:
            self.refresh()  # in case memory ran out after the last commit was durable
            batch = _without_dangling_edges(batch, self._view)
            generation = self.store.commit(batch)
            self._advance(_as_changes(batch, generation, self._view))
            return self._view

    def refresh(self) -> bool:
        """Take in what another process has committed; True if there was anything."""
        with self._lock:
            if self.store.generation() == self._view.generation:
                return False
            changes = self.store.changes(self._view.generation)
            if changes is None:
                self._view = View.of(self.store.load())
                self._rebuild_base_if_stale()
            else:
                self._advance(changes)
            return True

    def verify(self) -> Sequence[Problem]:
        """Examine the store, and the view against it."""
        with self._lock:
            problems = list(self.store.verify())
            stats = self.store.stats()
            if stats.generation == self._view.generation:
                shown = (self._view.node_count, self._view.edge_count)
                if shown != (stats.concepts, stats.edges):
                    problems.append(
                        Problem(
                            "view",
                            "",
                            f"expected {stats.concepts} concepts and {stats.edges} edges as "
                            f"stored, got {shown[0]} and {shown[1]}",
                        )
                    )
            return problems

    def close(self) -> None:
        """Stop background work and close the store."""
        with self._lock:
            if self._builder is not None:
                self._builder.stop()
                self._builder = None
            self.store.close()

    def _advance(self, changes: Contents) -> None:
        view = self._view.advanced(changes)
        if view.dead and (view.size <= self._exact_below or view.dead > _STALE * view.size):
            view = view.compacted()
        self._view = view
        self._rebuild_base_if_stale()

    def _rebuild_base_if_stale(self) -> None:
        """Start building a graph in the background where too much lies outside the present one."""
        self._adopt_base()
        view = self._view
        covered = view.base.size if view.base is not None else 0
        stale = view.size > self._exact_below and view.size - covered > _STALE * view.size
        if stale and self._builder is None and view.size >= self._next_attempt:
            _log.info("building the seed index over %d concepts", view.size)
            self._builder = _BaseBuilder(view)

    def _adopt_base(self) -> None:
        """Put a finished graph into the view, if its slots still mean the same concepts."""
        builder = self._builder
        if builder is None or not builder.done:
            return
        self._builder = None
        size = builder.view.size
        if builder.base is None:
            self._next_attempt = int(size * (1 + _STALE)) + 1
            return
        view = self._view
        same_slots = view.size >= size and np.array_equal(view.ids[:size], builder.view.ids)
        if same_slots and np.array_equal(view.keys[:size], builder.view.keys):
            self._view = replace(view, base=builder.base)


class _BaseBuilder:
    """Builds a graph over the keys of one view on a thread of its own."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.base: HnswBase | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aesg-index", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the thread has ended; ``base`` is None where it was stopped or failed."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Give up, and wait for the thread to end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with one_thread():
                self.base = HnswBase.build(self.view.keys, self._stop)
        except (RuntimeError, MemoryError):  # FAISS raises the former for all that goes wrong
            _log.exception(
                "no seed index over %d concepts: seed lookup stays exact", self.view.size
            )


def _as_changes(batch: WriteBatch, generation: int, view: View) -> Contents:
    """Return a committed batch in the form in which a reader would get it from the log."""
    sources = np.fromiter(batch.edges, np.uint64, len(batch.edges))
    rows = [np.asarray(row, EDGE) for row in batch.edges.values()]
    settings = {**view.settings, **batch.settings}
    return Contents(
        generation=generation,
        concepts=batch.concepts if batch.concepts is not None else _no_concepts(view),
        stats_ids=batch.stats_ids,
        stats=batch.stats,
        edge_sources=sources,
        edge_counts=np.array([len(row) for row in rows], np.int64),
        edges=np.concatenate(rows) if rows else np.empty(0, EDGE),
        deleted=batch.deleted,
        settings={name: value for name, value in settings.items() if value},
    )


def _no_concepts(view: View) -> Concepts:
    none = np.empty(0, np.int64)
    return Concepts(
        view.ids[none],
        view.keys[none],
        view.value_kinds[none],
        view.value_ids[none],
        None,
        view.stats[none],
    )


def _without_dangling_edges(batch: WriteBatch, view: View) -> WriteBatch:
    """Return the batch with the rows rewritten that have edges to what it deletes."""
    if not len(batch.deleted):
        return batch
    put = np.empty(0, np.uint64) if batch.concepts is None else batch.concepts.ids
    gone = batch.deleted[~np.isin(batch.deleted, put)]
    rows = {source: _pointing_elsewhere(row, gone) for source, row in batch.edges.items()}
    deleted = set(batch.deleted.tolist())
    slots = view.slots(batch.deleted)
    for slot in view.adjacency.sources_of(slots[slots >= 0]).tolist():
        source = int(view.ids[slot])
        if source not in deleted and source not in rows:
            rows[source] = _pointing_elsewhere(view.edges(source), batch.deleted)
    return replace(batch, edges=rows)


def _pointing_elsewhere(row: Records, targets: Ids) -> Records:
    kept: Records = row[~np.isin(row["target"], targets)]
    return kept
