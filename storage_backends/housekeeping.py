"""What an engine does off the hot path: examine, follow and write snapshots, build graphs.

One thread does one task at a time. It is started when something is due and ends when nothing is
any more, so a small memory never has one. It works on views, which do not change, while commits go
on, and hands its result to the engine, which brings it up to date and shows it.

Whatever goes wrong here is logged and tried again later; nothing of it reaches a commit.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage_backends import layout, snapshot
from storage_backends.errors import StoreClosedError, StoreError, StoreReadOnlyError
from storage_backends.faiss_index import one_thread
from storage_backends.hnsw import HnswBase
from storage_backends.locks import writer_of
from storage_backends.progress import Progress, silent
from storage_backends.protocol import Store
from storage_backends.recall import sampled_recall
from storage_backends.recorded_file import Stopped
from storage_backends.recovery import Footing, Shown, from_snapshot, publish, recover
from storage_backends.staleness import (
    STALE,
    STALE_AT_CLOSE,
    died_since,
    is_worth_writing,
    needs_rebuild,
    needs_snapshot,
)
from storage_backends.view import View

_log = logging.getLogger("aesg.storage")

#: Share of a graph that may have moved where the graph is extended, not built anew.
_MOVED = 0.05
#: Share of a graph that may die before its recall is sampled again.
_SAMPLED_AT = 0.01
_LEAST_RECALL = 0.9

#: Rest after writing, in times of what it took; and after a failure, in seconds at least.
_REST = 4.0
_RETRY_SECONDS = 60.0
#: Rest at first, so that the first answers have the disk to themselves.
_FIRST_REST = 0.5
_LOOK_SECONDS = 10.0


class Host(Protocol):
    """What the housekeeping needs of an engine."""

    @property
    def store(self) -> Store:
        """The store in use."""
        ...

    @property
    def shown(self) -> Shown:
        """The present view and the snapshot below it."""
        ...

    @property
    def is_offered(self) -> bool:
        """Whether what was offered has not been taken yet."""
        ...

    def offer(self, found: Shown) -> None:
        """Show a view, brought up to date, in place of the present one."""
        ...

    def confirm(self, footing: Footing) -> None:
        """Note that the files below the present view are whole."""
        ...

    def distrust(self, found: Shown) -> None:
        """Show a view in place of one that was mapped from damaged files."""
        ...


class Task(enum.Enum):
    """What can be due."""

    FOLLOW = "map the snapshot that another process wrote"
    CHECK = "compare the snapshot with its hashes"
    REBUILD = "build the seed index"
    SAMPLE = "sample the recall of the seed index"
    WRITE = "write a snapshot"


class Housekeeper:
    """Finds what is due and does it.

    Locks: `_guard` is taken for a moment at a time and nothing is taken inside it; `_checking` is
    held while files are compared, and the engine's lock may be taken inside it, never the other
    way round.

    Parameters
    ----------
    host : Host
    exact_below : int
        Number of concepts up to which there is no graph.
    """

    def __init__(self, host: Host, exact_below: int) -> None:
        self._host = host
        self._exact_below = exact_below
        self._newer = False  # whether another process has published a snapshot
        self._dead_at_sample = 0
        self._poor = False
        self._floor = _LEAST_RECALL
        self._rest_until = time.monotonic() + _FIRST_REST
        self._begin(running=True)

    def _begin(self, *, running: bool) -> None:
        self._guard = threading.Lock()
        self._checking = threading.Lock()
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        if not running:
            self._stop.set()

    def begin_anew(self) -> None:
        """Forget what was found out about the graph: another view is shown, with its own."""
        self._newer, self._dead_at_sample, self._poor = False, 0, False
        self._floor = _LEAST_RECALL

    def forget_thread(self) -> None:
        """Do no more: in a forked child there is neither the thread nor whoever held the locks."""
        self._begin(running=False)

    def wake(self, *, newer: bool = False) -> None:
        """Look whether anything is due, and let the thread do it; returns at once.

        Parameters
        ----------
        newer : bool
            Whether another process has published a snapshot.
        """
        with self._guard:
            self._newer |= newer
            if newer:
                self._woken.set()
            if self._thread is None and not self._stop.is_set() and self._due() is not None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="aesg-housekeeping", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many, or the interpreter ends
            _log.warning("no thread for the upkeep of the memory: %s", error)
        else:
            self._thread = thread

    def stop(self) -> None:
        """Give up what is being done, and wait for the thread to end."""
        with self._guard:
            self._stop.set()
            self._woken.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the thread from working inside, so that the caller may do what it does."""
        stopped = self._stop.is_set()
        self.stop()
        try:
            yield
        finally:
            if not stopped:
                self._stop.clear()
                self.wake()

    def check(self, stop: threading.Event | None = None) -> None:
        """Compare the files below the present view with their hashes, if that is still to be done.

        A view of damaged files is replaced.

        Raises
        ------
        Stopped
            If ``stop`` was set before the end.
        StoreError
            If the view must be replaced and the records cannot be read.
        """
        with self._checking:
            footing = self._host.shown.footing
            if footing is None or footing.checked:
                return
            problems = footing.find_problems(stop)
            if not problems:
                self._host.confirm(footing)
                return
            store = self._host.store
            if store.manifest_seq() == footing.seq:  # else the files were replaced meanwhile
                _log.error("%s: the snapshot is damaged: %s", footing.folder, problems[0])
            self._host.distrust(recover(store, examine=True, stop=stop))

    def rebuild(self, stop: threading.Event | None = None, progress: Progress = silent) -> None:
        """Make the present view anew: without tombstones, with a graph, on a snapshot of its own.

        Raises
        ------
        Stopped
            If ``stop`` was set before the end.
        StoreError
            If the snapshot cannot be written; the graph is used all the same.
        """
        store, shown = self._host.store, self._host.shown
        with _log_held(store, shown.view.generation):
            renewed = Shown(self._renewed(shown.view, stop, progress), None)
            if (
                store.read_only
                or store.folder is None
                or not is_worth_writing(shown, self._exact_below)
            ):
                self._host.offer(renewed)
                return
            try:
                self._publish(store, renewed, stop)
            except (StoreError, RuntimeError, MemoryError):
                self._host.offer(renewed)
                raise

    def write(self, stop: threading.Event | None = None) -> None:
        """Write a snapshot of the present view, with the graph that it has.

        Raises
        ------
        Stopped
            If ``stop`` was set before the end.
        StoreError
            If it cannot be written.
        """
        store, shown = self._host.store, self._host.shown
        with _log_held(store, shown.view.generation):
            self._publish(store, shown, stop)

    def write_at_close(self) -> None:
        """Spare the next open what it would have to replay; the thread has been stopped."""
        shown, store = self._host.shown, self._host.store
        writes = not store.read_only and store.folder is not None and store.is_current()
        if not writes or not needs_snapshot(shown, self._exact_below, STALE_AT_CLOSE):
            return
        try:
            self.check()
            shown = self._host.shown
            publish(store, shown.view, shown.footing)
        except (StoreError, MemoryError, RuntimeError) as error:  # FAISS raises the last
            _log.warning("no snapshot was written at close: %s", error)

    def _serve(self) -> None:
        with one_thread():
            while (task := self._next()) is not None:
                rest = self._rest_until - time.monotonic()
                if rest > 0 and task is not Task.FOLLOW:
                    self._woken.wait(rest)
                    self._woken.clear()
                else:
                    self._perform(task)

    def _next(self) -> Task | None:
        """Return what to do; the thread ends on None, which nobody may overlook."""
        usable = self._host.store.is_current()  # a store that is opened again wakes another thread
        with self._guard:
            task = None if self._stop.is_set() or not usable else self._due()
            if task is None:
                self._thread = None
            return task

    def _due(self) -> Task | None:
        shown, store = self._host.shown, self._host.store
        view, footing = shown.view, shown.footing
        if self._newer:
            return Task.FOLLOW
        if self._host.is_offered:
            return None
        if footing is not None and not footing.checked:
            return Task.CHECK
        if needs_rebuild(shown, self._exact_below) or (self._poor and view.dead):
            return Task.REBUILD
        if died_since(view, self._dead_at_sample, _SAMPLED_AT):
            return Task.SAMPLE
        writes = not store.read_only and store.folder is not None
        stale = writes and needs_snapshot(shown, self._exact_below, STALE)
        return Task.WRITE if stale else None

    def _perform(self, task: Task) -> None:
        began = time.monotonic()
        try:
            self._do(task)
        except Stopped:
            return
        except Exception as error:  # on a thread of its own nobody else would hear of it
            rest = max(_RETRY_SECONDS, _REST * (time.monotonic() - began))
            self._rest(rest)
            expected = isinstance(error, (StoreError, MemoryError, RuntimeError))
            _log.warning(
                "could not %s: %s; tried again in %.0f s",
                task.value,
                error,
                rest,
                exc_info=None if expected else error,
            )
        else:
            if task in (Task.REBUILD, Task.WRITE):
                self._rest(_REST * (time.monotonic() - began))

    def _do(self, task: Task) -> None:
        if task is Task.FOLLOW:
            self._follow()
        elif task is Task.CHECK:
            self.check(self._stop)
        elif task is Task.SAMPLE:
            self._sample()
        elif task is Task.WRITE:
            self.write(self._stop)
        elif self._is_anothers():
            self._rest(_LOOK_SECONDS)
        else:
            self.rebuild(self._stop)

    def _rest(self, seconds: float) -> None:
        self._rest_until = max(self._rest_until, time.monotonic() + seconds)

    def _follow(self) -> None:
        self._newer = False
        store, footing = self._host.store, self._host.shown.footing
        found = from_snapshot(store, examine=True, stop=self._stop)
        if found is not None and found.footing != footing:
            self._host.offer(found)
            self._dead_at_sample, self._poor = 0, False

    def _sample(self) -> None:
        view = self._host.shown.view
        recall = sampled_recall(view, seed=view.generation)
        self._dead_at_sample = view.dead
        self._poor = recall < self._floor
        if self._poor:
            _log.info("the seed index finds %.2f of what is nearest: it is built anew", recall)

    def _is_anothers(self) -> bool:
        """Return whether a writer is at work, which will build the graph for all."""
        store = self._host.store
        if not store.read_only or store.folder is None:
            return False
        try:
            return writer_of(store.folder.parent / layout.WRITER_LOCK) is not None
        except StoreReadOnlyError:
            return False  # nobody may say: then for oneself

    def _renewed(self, view: View, stop: threading.Event | None, progress: Progress) -> View:
        """Return an equal view without tombstones, and with a new graph if it is large."""
        view = view.compacted() if view.dead else view
        base, moved = None, np.empty(0, np.int64)
        if view.size > self._exact_below:
            base, moved = built(view, stop, progress)
        view = replace(view, base=base, moved=moved)
        self._dead_at_sample, self._poor = 0, False
        if base is not None:
            # A graph that is poor from the start is not made better by building it again.
            recall = sampled_recall(view, seed=view.generation)
            self._floor = min(_LEAST_RECALL, recall - 0.05)
            if recall < _LEAST_RECALL:
                _log.warning("the seed index finds only %.2f of what is nearest", recall)
        return view

    def _publish(self, store: Store, shown: Shown, stop: threading.Event | None) -> None:
        """Write a snapshot of a view, and show what is mapped from it instead."""
        began = time.monotonic()
        footing = publish(store, shown.view, shown.footing, stop)
        _log.info(
            "%s: snapshot of generation %d written in %.1f s",
            footing.folder,
            footing.manifest.generation,
            time.monotonic() - began,
        )
        mapped = snapshot.open_view(footing.folder, footing.manifest, shown.view.settings)
        self._host.offer(Shown(mapped, footing))


def built(
    view: View, stop: threading.Event | None = None, progress: Progress = silent
) -> tuple[HnswBase, NDArray[np.int64]]:
    """Return a graph over a view, and the slots that it does not find: they are searched exactly.

    Where the view has a graph that lacks little but the last slots, that one's links are kept. What
    had moved in it is linked from where it was, and goes on being searched exactly.

    Parameters
    ----------
    view : View
        Without tombstones.
    stop : threading.Event, optional
        Set it to give up.
    progress : callable
        Told how many concepts are linked, and then looked for.

    Raises
    ------
    Stopped
        If ``stop`` was set before the end.
    """
    began = time.monotonic()
    if view.base is not None and _is_grown(view, view.base):
        base, moved = view.base.extended(view.keys, stop, progress), view.moved
    else:
        base, moved = HnswBase.build(view.keys, stop, progress), view.moved[:0]
    unreached = None if base is None else base.unreached(view.keys, stop, progress)
    if base is None or unreached is None:
        raise Stopped
    apart = np.union1d(unreached, moved)
    _log.info(
        "seed index over %d concepts built in %.1f s; %d are searched apart",
        base.size,
        time.monotonic() - began,
        len(apart),
    )
    return base, apart


def _is_grown(view: View, base: HnswBase) -> bool:
    """Return whether a graph lacks the last slots and little else."""
    return view.size > base.size and len(view.moved) <= _MOVED * base.size


@contextmanager
def _log_held(store: Store, generation: int) -> Iterator[None]:
    """Let the log keep what is committed inside."""
    if store.read_only:
        yield
        return
    store.hold_log(generation)
    try:
        yield
    finally:
        with suppress(StoreClosedError):
            store.hold_log(None)
