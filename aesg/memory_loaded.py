"""What one process holds of a memory, and how it comes from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import numpy as np

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.evolution import Evolution
from aesg.graph.arrays import ids_of
from aesg.graph.clock import Clock
from aesg.graph.edges import EDGE_DECAY, Coactivation
from aesg.graph.own import OriginIndex
from aesg.graph.pending import Pending
from aesg.graph.shortterm import ShortTermMemory
from aesg.memory_lock import ReadersWriterLock
from aesg.memory_stats import NoveltyRates
from aesg.memory_stored import are_edges_dated, clock_of, config_of, is_save, saves_of
from storage_backends.engine import Engine
from storage_backends.errors import StoreClosedError
from storage_backends.protocol import Store
from storage_backends.types import Ids
from storage_backends.view import View

Read = TypeVar("Read")


class Reopen(Protocol):
    """Opens a store again, as its writer or beside it."""

    def __call__(self, *, read_only: bool) -> Store:
        """Return the store."""
        ...


class LoadedState:
    """What one process holds of a memory.

    Callers share `lock` around what reads more than one attribute, and have it alone around what
    changes any.

    Parameters
    ----------
    store : Store
        Closed by whoever closes the engine.
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
        self._begin()
        self.rates = NoveltyRates()

    def _begin(self) -> None:
        """Take everything from the store, and hold nothing that is not in it."""
        self._coactivation = Coactivation()
        self._saves = -1  # of the window that `shortterm` was last loaded from, or saved as
        window = self._load()
        self._pending = Pending()
        self._open_values: Ids | None = None  # that no key has resembled yet; None: not sought
        self._held_back = 0  # births that were due since the last that was let through
        self._evolution = Evolution()
        if not self.read_only:
            self._take_up(window)
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

    def _take_up(self, window: Mapping[str, bytes]) -> None:
        """Go on with what the last save left to do; what came after it has left no note."""
        is_all = is_save(self.view.settings)
        self._evolution.load(window, self.view, is_all=is_all)
        held_back, values = window.get("held_back", b""), window.get("open_values")
        self._held_back = int(held_back) if held_back.isdigit() and len(held_back) < 10 else 0
        if is_all and values is not None and len(values) % 8 == 0:
            self._open_values = np.frombuffer(values, np.uint64)

    def _load(self) -> Mapping[str, bytes]:
        """Take parameters, counters and short-term memory from the store, all of one commit.

        Returns
        -------
        mapping of name to bytes
            The short-term table, if it is another than before.
        """
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
        return window or {}

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
