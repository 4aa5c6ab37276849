"""The part of a memory's state that lies in its store: loading, width, commits, closing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.evolution import Evolution
from aesg.graph.arrays import ids_of
from aesg.graph.association import Values, associate, unanswered
from aesg.graph.clock import Clock
from aesg.graph.draft import joined
from aesg.graph.edges import EDGE_DECAY, Coactivation
from aesg.graph.own import OriginIndex
from aesg.graph.pending import Pending
from aesg.graph.shortterm import ShortTermMemory
from aesg.memory_lock import ReadersWriterLock
from aesg.memory_stored import are_edges_dated, clock_of, config_of, saves_of, settings_of
from aesg.modes import MemoryMode
from storage_backends.engine import Engine
from storage_backends.errors import StoreClosedError
from storage_backends.protocol import Store
from storage_backends.types import EVENT, Concepts, Ids, WriteBatch
from storage_backends.view import View

_log = logging.getLogger("aesg.memory")

Read = TypeVar("Read")

#: Group commit: whichever comes first.
_COMMIT_CHANGES = 4_096
_COMMIT_SECONDS = 2.0


class Reopen(Protocol):
    """Opens a store again, as its writer or beside it."""

    def __call__(self, *, read_only: bool) -> Store:
        """Return the store."""
        ...


class DurableState:
    """What one process holds of a memory, and how it comes from the store and goes there.

    Callers share `lock` around what reads more than one attribute, and have it alone around what
    changes any.

    Parameters
    ----------
    store : Store
        Closed by `close`.
    reopen : callable
        Opens the store again, where a failed write has closed it, or to read on.
    durability : str
        What the store was opened with.
    """

    def __init__(self, store: Store, reopen: Reopen, durability: str) -> None:
        self._reopen = reopen
        self.durability = durability
        self.engine = Engine(store)
        self.lock = ReadersWriterLock()
        self.config: AESGConfig
        self.clock: Clock
        self.shortterm: ShortTermMemory
        self._loaded: int  # generation that the three show
        self._coactivation = Coactivation()
        self._saves = -1  # of the window that `shortterm` was last loaded from, or saved as
        self._load()
        self._pending = Pending()
        self._open_values: Values | None = None  # that no key has resembled yet; None: not sought
        self._evolution = Evolution()
        self._origins = OriginIndex()
        self._unsaved = False  # whether the short-term window differs from the stored one

    @property
    def view(self) -> View:
        """The graph as last committed."""
        return self.engine.view()

    @property
    def edge_decay(self) -> float:
        """Confidence that an unused edge keeps per consolidation epoch."""
        return EDGE_DECAY if are_edges_dated(self.view.settings) else 1.0

    @property
    def read_only(self) -> bool:
        """Whether this process cannot write to the directory."""
        return self.engine.store.read_only

    @property
    def vector_dim(self) -> int:
        """Width of keys; an empty memory can change it."""
        return self.shortterm.vector_dim

    @property
    def node_count(self) -> int:
        """Number of born concepts, those that wait for the next commit included."""
        waiting = self._pending
        return self.view.node_count + len(waiting.born) - len(waiting.deleted)

    @property
    def provisional_count(self) -> int:
        """Number of concepts in short-term memory that are not born."""
        waiting = ids_of(self._pending.born)
        return len(self.shortterm) - int((self.shortterm.find(waiting) >= 0).sum())

    def adopt(self, config: AESGConfig) -> None:
        """Take on the parameters of a handle that opens, unless it only reads.

        Its width too, durably, if the memory has no concepts.

        Raises
        ------
        AESGConfigError
            If the memory is of another width and keeps it; nothing is changed.
        """
        with self.lock.alone():
            reads = self.read_only or MemoryMode(config.memory_mode) is MemoryMode.INFERENCE
            if self._has_config and reads:
                self.require_width(config.vector_dim)
                return
            before = self.config, self.shortterm, self._pending
            changes = config.vector_dim != self.vector_dim
            if changes:
                self._change_width(config.vector_dim)
            self.config = config
            try:
                if changes or not self._has_config:
                    self.save()
            except BaseException:
                self.config, self.shortterm, self._pending = before
                raise

    def require_width(self, vector_dim: int) -> None:
        """Raise `AESGConfigError` unless the memory has this width."""
        if vector_dim == self.vector_dim:
            return
        held = self.view.node_count + len(self._pending.born)
        what = f"holds {held} concepts" if held else "has no concepts, and was last opened to be"
        raise AESGConfigError(
            f"The memory {what} of another width: expected vector_dim={self.vector_dim}, "
            f"got {vector_dim}. Pass AESGConfig(vector_dim={self.vector_dim}), "
            "or choose another directory."
        )

    def refresh(self) -> bool:
        """Take in what the writing process has committed; True if there was anything."""
        if not self.read_only or self._is_current():
            return False
        with self.lock.alone():
            self.revive()
            self.engine.refresh()
            if self.view.generation == self._loaded:
                return False
            self._load()
            return True

    def resolve(self, ids: Ids) -> Ids:
        """Return the concept that stands for each id: itself, or what it was merged into.

        0 where nothing does. Callers share the lock.
        """
        held = (self.view.slots(ids) >= 0) | (self.shortterm.find(ids) >= 0)
        present = np.where(held, ids, np.uint64(0))
        if not held.all():
            present[~held] = self.engine.store.resolve(ids[~held])
        return present

    def stored_payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each concept; None where there is none. Callers have the lock."""
        return self.engine.store.payloads(ids)

    def payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of what stands for each concept; None where there is none.

        The view is not asked: it may be older than what a merge has left of the payloads.
        """
        return self._read(lambda: self.engine.store.resolved_payloads(ids))

    def present(self, ids: Ids) -> Ids:
        """Do what `resolve` does, for callers that do not have the lock."""
        return self._read(lambda: self.resolve(ids))

    def _read(self, read: Callable[[], Read]) -> Read:
        """Read from the store, which is opened again where a failed write has closed it."""
        with self.lock.shared(), suppress(StoreClosedError):
            return read()
        with self.lock.alone():
            self.revive()
            return read()

    def read_on(self) -> None:
        """Save, and let another process write from now on."""
        with self.lock.alone():
            if self.read_only:
                return
            self.save()
            writer, self.engine.store = self.engine.store, self._reopen(read_only=True)
            self._loaded = self.view.generation
            writer.close()

    def close(self) -> None:
        """Save and close."""
        with self.lock.alone():
            try:
                self.save()
            finally:
                self.engine.close()

    def commit_if_due(self) -> None:
        """Commit when enough has gathered, or when it has waited long enough."""
        waiting, now = self._pending, time.monotonic()
        if not len(waiting):
            waiting.since = now
        elif len(waiting) >= _COMMIT_CHANGES or now - waiting.since >= _COMMIT_SECONDS:
            self.commit()

    def commit_waiting(self) -> None:
        """Commit what waits; the short-term window can wait for `save`."""
        if not self.read_only and len(self._pending):
            self.commit()

    def save(self) -> None:
        """Commit everything, the short-term window included, if anything is new."""
        if self.read_only:
            return
        stored = self.view.settings
        known = all(
            stored.get(name) == value
            for name, value in settings_of(self.clock, self.config, self._saves).items()
        )
        if self._unsaved or len(self._pending) or not known:
            born = ids_of(self._pending.born)
            window = self.shortterm.dump(without=born)
            self.commit(shortterm={**window, "pairs": self._coactivation.dump()})
            self._unsaved = False

    def commit(
        self,
        concepts: Concepts | None = None,
        payloads: Mapping[int, bytes] | None = None,
        shortterm: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write what waits, and ``concepts`` with it, in one transaction.

        What waits is dropped only once it is durable: after a failure it waits on.
        """
        self.revive()
        self.engine.refresh()  # an interrupt may have come between a commit and its view
        self.date_edges()
        newcomers = self._pending.newcomers(self.view, self.shortterm, self.clock)
        new = joined([newcomers] if concepts is None else [newcomers, concepts]) or newcomers
        least = self.config.novelty_explanation_threshold
        if self._open_values is None and len(new):
            self._open_values = unanswered(self.view, self.vector_dim)
        open_values = self._open_values or Values.none(self.vector_dim)
        called_for = associate(self.view, new, open_values, least)
        batch = self._pending.batch(
            self.view, self.shortterm, self.clock, new, called_for, self.config.max_edges_per_node
        )
        batch = replace(batch, payloads=payloads or {})
        waiting = None if self._open_values is None else called_for.waiting
        self._write(batch, shortterm, partial(self._settle, newcomers.ids, waiting))

    def date_edges(self) -> None:
        """Let edges that an earlier release wrote weaken from now on, not from the beginning."""
        view = self.view
        if are_edges_dated(view.settings) or not view.adjacency.edge_count:
            return
        sources = np.flatnonzero(view.adjacency.rows.field("count").whole())
        stats = view.stats[sources]
        stats["edge_epoch"] = self.clock.epoch
        self.apply(WriteBatch(stats_ids=view.ids[sources], stats=stats))

    def apply(self, batch: WriteBatch | None) -> None:
        """Write a change of the present view, durably; None changes nothing.

        The events that wait go with it: those of the consolidation that it is part of.
        """
        if batch is None:
            return
        self.revive()
        if batch.concepts is not None and len(batch.concepts):
            following = int(batch.concepts.ids.max()) + 1
            self.clock.next_id = max(self.clock.next_id, following)
        waiting = np.array(self._pending.events, EVENT)
        batch = replace(batch, events=np.concatenate([waiting, batch.events], dtype=EVENT))
        self._write(batch, None, partial(self._settle_applied, batch.aliases))

    def _write(
        self,
        batch: WriteBatch,
        shortterm: Mapping[str, bytes] | None,
        settle: Callable[[], None],
    ) -> None:
        """Commit a batch with the settings; call ``settle`` once it is durable."""
        saves = self._saves + (shortterm is not None)
        if shortterm is not None:
            shortterm = {**shortterm, "saves": str(saves).encode()}
        batch = replace(
            batch,
            most_events=self.config.max_events,
            shortterm=shortterm,
            settings=settings_of(self.clock, self.config, saves),
        )
        before = self.view
        try:
            self.engine.commit(batch)
        except BaseException:
            if self._reached_since(before.generation):  # durable, though not in view yet
                self._saves = saves
                settle()
                self.engine.refresh()
            raise
        self._saves = saves
        settle()
        self._evolution.committed(before, self.view, batch)
        self._origins.committed(before, self.view, batch)

    def _reached_since(self, generation: int) -> bool:
        try:
            return self.engine.store.generation() > generation
        except StoreClosedError:  # which a failed write does
            return False

    def _settle(self, born: Ids, open_values: Values | None) -> None:
        """Let go of what is durable."""
        self.shortterm.remove(born)
        self._open_values = open_values
        self._pending = Pending()

    def _settle_applied(self, aliases: Mapping[int, int]) -> None:
        """Let go of the events that waited, and of the names of concepts that are no more.

        Provisional concepts are neighbours of what stands for their neighbours now.
        """
        self._pending.events.clear()
        for gone, stands in aliases.items():
            self.shortterm.rename(gone, stands)

    def revive(self) -> None:
        """Open the store again where a failed write has closed it.

        Raises
        ------
        StoreError
            If it cannot be opened, is another one by now, or was written to meanwhile.
        """
        try:
            self.engine.store.generation()
        except StoreClosedError:
            store = self._reopen(read_only=self.read_only)
            other = store.uuid != self.engine.store.uuid
            if other or (not store.read_only and store.generation() != self.view.generation):
                store.close()
                raise
            self.engine.store = store

    def _is_current(self) -> bool:
        """Tell whether there is nothing to take in."""
        try:
            return self.engine.is_current() and self.view.generation == self._loaded
        except StoreClosedError:
            return False

    @property
    def _has_config(self) -> bool:
        return "config" in self.view.settings

    def _change_width(self, vector_dim: int) -> None:
        """Give an empty memory another width."""
        if self.view.node_count + len(self._pending.born):
            self.require_width(vector_dim)
        if len(self.shortterm):
            _log.info(
                "vector_dim of the empty memory changes from %d to %d: "
                "its %d provisional concepts go",
                self.vector_dim,
                vector_dim,
                len(self.shortterm),
            )
        self.shortterm = ShortTermMemory(vector_dim)
        self._pending = Pending()
        self._open_values = Values.none(vector_dim)
        self._unsaved = True

    def _load(self) -> None:
        """Take parameters, counters and short-term memory from the store, all of one commit."""
        same = saves_of(self.view.settings) == self._saves
        window = None if same else self._stored_window()
        view = self.view
        config, clock = config_of(view.settings), clock_of(view.settings)
        clock.next_id = max(clock.next_id, view.greatest_id + 1)  # no id is ever given twice
        self.config, self.clock = config, clock
        if window is None:
            self._drop_born(self.shortterm)
        else:
            self.shortterm = self._window_of(window)
            self._coactivation.load(window.get("pairs", b""))
            self._saves = saves_of(window)
        self._loaded = self.view.generation

    def _stored_window(self) -> Mapping[str, bytes]:
        """Return the short-term table; where it is newer than the view, that catches up."""
        while True:
            window = self.engine.store.shortterm()
            if saves_of(window) == saves_of(self.view.settings) or not self.engine.refresh():
                return window

    def _window_of(self, stored: Mapping[str, bytes]) -> ShortTermMemory:
        shortterm = ShortTermMemory(self.view.vector_dim or self.config.vector_dim)
        shortterm.load(stored, self.clock.next_id)
        self._drop_born(shortterm)
        return shortterm

    def _drop_born(self, shortterm: ShortTermMemory) -> None:
        """Take out of a window what was born since it was stored."""
        held = shortterm.entries["id"]
        shortterm.remove(held[self.view.slots(held) >= 0])
