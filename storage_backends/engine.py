"""A store together with what a retrieval reads from it: the current view.

The engine commits to the store first and makes the new view only when the commit is durable, so
that nothing is ever seen that a crash could take back.

The view and the snapshot below it are one attribute, which is replaced whole: whoever reads it
waits for nothing. Locks are taken in this order: the housekeeping's lock around a comparison with
hashes; the engine's, around each change of what is shown; those of the store, and the one by
which the housekeeping starts its thread. The engine's is held while a batch is committed or a view
is brought up to date, never while a graph is built or a snapshot is written or compared.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from storage_backends.comparison import differences
from storage_backends.errors import StoreCorruptError
from storage_backends.faiss_index import EXACT_BELOW
from storage_backends.housekeeping import Housekeeper
from storage_backends.progress import Progress, silent
from storage_backends.protocol import Store
from storage_backends.recovery import Footing, Shown, caught_up, recover, snapshot_problems
from storage_backends.staleness import is_wasteful, is_worth_writing
from storage_backends.types import EDGE, Concepts, Contents, Ids, Problem, Records, WriteBatch
from storage_backends.view import View

_log = logging.getLogger("aesg.storage")


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
        self._offered: Shown | None = None
        self._was_damaged = False
        self._noticed = store.manifest_seq()  # newest snapshot that is shown or was tried
        began = time.perf_counter()
        self._shown = recover(store)
        _tell(store, self._shown, time.perf_counter() - began)
        self._told = self._shown.view.generation  # what the last refresh or commit led to
        self._note_footing()
        self._housekeeper = Housekeeper(self, exact_below)
        _engines.add(self)
        self._housekeeper.wake()

    def view(self) -> View:
        """Return the read state of the last commit, or of the last refresh if this is a reader."""
        return self._shown.view

    def is_current(self) -> bool:
        """Return whether `refresh` would find nothing to do; takes no lock of the engine."""
        store = self.store
        return (
            not store.follow()
            and store.generation() == self._told == self._shown.view.generation
            and self._offered is None
            and (store.manifest_seq() == self._noticed or not store.read_only)
        )

    def commit(self, batch: WriteBatch) -> View:
        """Commit a batch, durably, and return the view that shows it.

        Edges that point at deleted concepts are removed by the same transaction.

        Raises
        ------
        StoreCorruptError
            If the view was of a damaged snapshot, from which the batch may have been made. It has
            been replaced: the batch can be made again from the present one. Nothing was written.
        """
        if not self.store.read_only:
            self._housekeeper.check()  # what a damaged file says must not get into the records
        with self._lock:
            self._require_sound()
            self._take_in()  # in case memory ran out after the last commit was durable
            batch = _without_dangling_edges(batch, self._shown.view)
            generation = self.store.commit(batch)
            self._advance(_as_changes(batch, generation, self._shown.view))
            view = self._shown.view
            self._told = view.generation
        self._housekeeper.wake()
        return view

    def refresh(self) -> bool:
        """Take in what another process has committed; True if there was anything.

        Snapshots of other processes are taken in too, once they have been mapped in the
        background; that alone changes nothing that a view shows.
        """
        if self.is_current():
            return False
        with self._lock:
            self._take_in()
            changed = self._shown.view.generation != self._told
            self._told = self._shown.view.generation
            seq = self.store.manifest_seq()
            newer, self._noticed = self.store.read_only and seq != self._noticed, seq
        self._housekeeper.wake(newer=newer)
        return changed

    def rebuild(self, progress: Progress = silent) -> View:
        """Drop the tombstones, build the graph anew and write a snapshot, and return the view.

        Commits may go on meanwhile. All threads of FAISS are used.

        Parameters
        ----------
        progress : callable
            Told how much of the graph is built.

        Raises
        ------
        StoreError
            If the snapshot cannot be written; the view is a new one all the same.
        """
        with self._housekeeper.paused():
            self._housekeeper.check()
            self._housekeeper.rebuild(progress=progress)
        return self._shown.view

    def arrange(self) -> None:
        """Give the view the order of slots that it has when it is opened anew.

        What hangs on that order, such as which of several equal concepts is found first, is then
        the same whether a process goes on or another one opens the memory. A view that stands on
        a snapshot, or is to, stays as it is.
        """
        with self._lock:
            shown = self._shown
            if not is_worth_writing(shown, self._exact_below):
                self._shown = replace(shown, view=shown.view.arranged())

    def exchange(self, put: Callable[[], object]) -> View:
        """Let other records take the place of those of the store, and return the view of them.

        Parameters
        ----------
        put : callable
            Puts them there; where it raises, all is as before.
        """
        with self._housekeeper.paused(), self._lock:
            put()
            self._offered, self._was_damaged = None, False
            self._shown = recover(self.store)
            self._told = self._shown.view.generation
            self._noticed = self.store.manifest_seq()
            self._note_footing()
            self._housekeeper.begin_anew()
        return self._shown.view

    def verify(self) -> Sequence[Problem]:
        """Examine the store, its newest snapshot, and the view against the store."""
        problems = [*self.store.verify(), *snapshot_problems(self.store)]
        try:
            with self._lock:
                view, stored = self._shown.view, self.store.load()
            if stored.generation == view.generation:  # else a writer was at work
                problems += differences(view, View.of(stored))
        except StoreCorruptError as error:
            problems.append(Problem("view", "", str(error)))
        return problems

    def close(self) -> None:
        """Stop background work, write a snapshot if much changed, and close the store."""
        self._housekeeper.stop()  # before the lock is taken, for which the thread may be waiting
        try:
            self._housekeeper.write_at_close()
        finally:
            with self._lock:
                self.store.close()

    # What the housekeeping asks for and brings.

    @property
    def shown(self) -> Shown:
        """The present view and the snapshot below it."""
        return self._shown

    @property
    def is_offered(self) -> bool:
        """Whether what was offered waits for the next refresh."""
        return self._offered is not None

    def offer(self, found: Shown) -> None:
        """Show a view, brought up to date, in place of the present one.

        A reader shows it at its next refresh, so that nothing changes between two.
        """
        view = self._caught_up(found.view)  # most of the way, while commits go on
        with self._lock:
            self._offered = None if view is None else replace(found, view=view)
            if not self.store.read_only:
                self._take_offer()

    def confirm(self, footing: Footing) -> None:
        """Note that the files below the present view are whole."""
        with self._lock:
            if self._shown.footing == footing:
                self._shown = replace(self._shown, footing=replace(footing, checked=True))

    def distrust(self, found: Shown) -> None:
        """Show a view in place of one that was mapped from damaged files."""
        self._was_damaged = True
        self.offer(found)

    def _take_in(self) -> None:
        self._take_offer()
        view = self._shown.view
        if self.store.generation() == view.generation:
            return
        changes = self.store.changes(view.generation)
        if changes is None:
            self._shown = recover(self.store)
            self._note_footing()
        else:
            self._advance(changes)

    def _take_offer(self) -> None:
        found, self._offered = self._offered, None
        if found is None:
            return
        view = self._caught_up(found.view)
        if view is None:
            _log.warning("what was built is out of date: the log no longer says what came since")
            return
        self._shown = replace(found, view=view)
        self._note_footing()

    def _caught_up(self, view: View) -> View | None:
        return view if view.generation == self.store.generation() else caught_up(view, self.store)

    def _advance(self, changes: Contents) -> None:
        shown = replace(self._shown, view=self._shown.view.advanced(changes))
        if is_wasteful(shown, self._exact_below):
            shown = replace(shown, view=shown.view.compacted())
        self._shown = shown

    def _note_footing(self) -> None:
        if self._shown.footing is not None:
            self._noticed = self._shown.footing.seq

    def _require_sound(self) -> None:
        if self._was_damaged:
            self._was_damaged = False
            raise StoreCorruptError(
                f"{self.store.folder}: expected a batch made from what is stored, got one that may "
                "come from a damaged snapshot, which has been given up. Nothing was written: make "
                "it again from the present view"
            )


def _tell(store: Store, shown: Shown, seconds: float) -> None:
    view, footing = shown.view, shown.footing
    how = "every record read"
    if footing is not None:
        after = view.generation - footing.manifest.generation
        how = f"snapshot of generation {footing.manifest.generation} mapped, {after} replayed"
    _log.info(
        "%s: generation %d with %d concepts and %d edges opened in %.3f s: %s",
        store.folder or "memory",
        view.generation,
        view.node_count,
        view.edge_count,
        seconds,
        how,
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
        edges=_joined(rows),
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
    sources = np.fromiter(batch.edges, np.uint64, len(batch.edges))
    own = _pointing_elsewhere(
        sources,
        [np.asarray(row, EDGE) for row in batch.edges.values()],
        np.setdiff1d(batch.deleted, put),
    )
    slots = view.slots(batch.deleted)
    slots = view.adjacency.sources_of(slots[slots >= 0])
    slots = slots[~np.isin(view.ids[slots], np.concatenate([batch.deleted, sources]))]
    others = _pointing_elsewhere(view.ids[slots], view.rows_of(slots), batch.deleted)
    return replace(batch, edges=own | others)


def _joined(rows: Sequence[Records]) -> Records:
    # With the type given, numpy does not work it out from each row, which takes longer than to
    # copy one.
    return np.concatenate(rows, dtype=EDGE) if rows else np.empty(0, EDGE)


def _pointing_elsewhere(sources: Ids, rows: Sequence[Records], targets: Ids) -> dict[int, Records]:
    """Return rows of edges without those to some targets, by source."""
    if not rows:
        return {}
    edges = _joined(rows)
    kept = ~np.isin(edges["target"], targets)
    ends = np.cumsum([len(row) for row in rows])
    after = np.concatenate([[0], np.cumsum(kept)])[ends]
    return dict(zip(sources.tolist(), np.split(edges[kept], after[:-1]), strict=True))


#: Engines of this process.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _stop_all() -> None:
    # FAISS must not be at work when the interpreter takes its threads away.
    for engine in list(_engines):
        engine._housekeeper.stop()


def _after_fork_in_child() -> None:
    # The thread is the parent's, and whoever held a lock is not here to release it. The view may
    # be used on; the store refuses all calls.
    for engine in list(_engines):
        engine._lock = threading.RLock()
        engine._housekeeper.forget_thread()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
