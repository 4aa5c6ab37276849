"""How what a process holds of a memory goes to its store: width, commits, closing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from aesg.config import AESGConfig
from aesg.graph.arrays import ids_of
from aesg.graph.association import Values, associate, unanswered, values_of
from aesg.graph.draft import joined
from aesg.graph.pending import Pending
from aesg.graph.shortterm import ShortTermMemory
from aesg.memory_loaded import LoadedState, Reopen
from aesg.memory_stored import are_edges_dated, is_save, settings_of
from aesg.modes import MemoryMode
from storage_backends.errors import StoreClosedError, StoreError
from storage_backends.protocol import Store
from storage_backends.types import EVENT, Concepts, EventType, Ids, Records, WriteBatch

_log = logging.getLogger("aesg.memory")

#: Group commit: whichever comes first.
_COMMIT_CHANGES = 4_096
_COMMIT_SECONDS = 2.0

#: Topology updates after which what waits is committed, where commits are counted: every update
#: whose number is a multiple.
_COMMIT_UPDATES = 32


class DurableState(LoadedState):
    """A memory as one process holds it, and how that goes to the store.

    Parameters
    ----------
    store : Store
        Closed by `close`.
    reopen, durability
        As for `LoadedState`; callers hold its `lock` here too.
    """

    def __init__(self, store: Store, reopen: Reopen, durability: str) -> None:
        super().__init__(store, reopen, durability)
        self._counting = 0  # blocks that are open in which commits are counted
        self._is_aside = False  # whether commits concern no evolution: keys that will go back

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

    def restore(self, put: Callable[[], object]) -> None:
        """Let other records take the place of those of the store, and begin with them.

        What waits to be committed goes with the old ones. The parameters stay.

        Parameters
        ----------
        put : callable
            Puts them there; where it raises, all is as before.
        """
        with self.lock.alone():
            config, before = self.config, self.view.generation
            try:
                self.engine.exchange(put)
            finally:
                if self._reached_since(before):  # also where an interrupt came after the last step
                    try:
                        self._begin_anew(config)
                    except KeyboardInterrupt:  # half of it would be of the records before
                        self._begin_anew(config)
                        raise

    def _begin_anew(self, config: AESGConfig) -> None:
        self.engine.refresh()
        self._begin()
        self.config = config

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

    @contextmanager
    def counted_commits(self) -> Iterator[None]:
        """Let commits depend on what is learned, and not on the time, for a block."""
        with self.lock.alone():
            self._counting += 1
        try:
            yield
        finally:
            with self.lock.alone():
                self._counting -= 1

    @property
    def counts_commits(self) -> bool:
        """Whether a block of `counted_commits` is open."""
        return self._counting > 0

    def commit_if_due(self, *, updated: bool = False) -> None:
        """Commit when enough has gathered, or when it has waited long enough.

        Parameters
        ----------
        updated : bool
            Whether a topology update has just been counted.
        """
        waiting, now = self._pending, time.monotonic()
        if self._counting:
            waited = updated and self.clock.tick % _COMMIT_UPDATES == 0
        else:
            waited = now - waiting.since >= _COMMIT_SECONDS
        if not len(waiting):
            waiting.since = now
        elif waited or len(waiting) >= _COMMIT_CHANGES:
            self.commit()

    def commit_waiting(self) -> None:
        """Commit what waits; the short-term window can wait for `save`."""
        if not self.read_only and len(self._pending):
            self.commit()

    def save(self) -> None:
        """Commit everything, the short-term window included, if anything is new.

        Who goes on from here goes the same way as who opens the memory anew.
        """
        if self.read_only:
            return
        if self._has_news:
            if self._pending.changes:
                self.commit()  # what it leaves to look at is part of what is saved
            self.commit(shortterm=self._window())
            self._unsaved = False
        elif not is_save(self.view.settings):
            try:
                self.commit(shortterm=self._window())
            except StoreError as error:  # nothing of the memory itself is lost
                _log.info("what waits to be looked at was not saved: %s", error)
        self.engine.arrange()

    @property
    def _has_news(self) -> bool:
        """Whether anything was learned that is not durable."""
        stored = self.view.settings
        known = self._settings(self._saves, is_save=True)
        del known["is_save"]  # which says nothing of the memory
        others = any(stored.get(name) != value for name, value in known.items())
        return self._unsaved or bool(len(self._pending)) or others

    def _window(self) -> dict[str, bytes]:
        """Return the short-term table, with what else a later process goes on with."""
        columns = {**self.shortterm.dump(), **self._evolution.dump()}
        columns["pairs"] = self._coactivation.dump()
        columns["held_back"] = str(self._held_back).encode()
        if self._open_values is not None:
            columns["open_values"] = self._open_values.tobytes()
        return columns

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
            self._open_values = unanswered(self.view, self.vector_dim).ids
        open_values = Values.none(self.vector_dim)
        if self._open_values is not None and len(new):
            open_values = values_of(self.view, self._open_values)
        called_for = associate(self.view, new, open_values, least)
        batch = self._pending.batch(
            self.view, self.shortterm, self.clock, new, called_for, self.config.max_edges_per_node
        )
        batch = replace(batch, payloads=payloads or {})
        waiting = called_for.waiting.ids if len(new) else self._open_values
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

    def take_in(self, batch: WriteBatch) -> None:
        """Write concepts that were not born here, durably, with what they bring along.

        Parameters
        ----------
        batch : WriteBatch
            Made from the present view; new concepts have ids from ``clock.next_id`` on.
        """
        self._open_values = None  # what they are is sought at the next commit
        self.apply(batch)

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
            settings={**batch.settings, **self._settings(saves, is_save=shortterm is not None)},
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
        self.rates.pruned += _count_pruned(batch.events)
        if self._is_aside:
            self._evolution.passed_over(before, self.view)
        else:
            self._evolution.committed(before, self.view, batch)
        self._origins.committed(before, self.view, batch)

    def _settings(self, saves: int, *, is_save: bool) -> dict[str, bytes]:
        return settings_of(self.clock, self.config, saves, is_save=is_save)

    def _reached_since(self, generation: int) -> bool:
        try:
            return self.engine.store.generation() > generation
        except StoreClosedError:  # which a failed write does
            return False

    def _settle(self, born: Ids, open_values: Ids | None) -> None:
        """Let go of what is durable."""
        self.shortterm.remove(born)
        self._open_values = open_values
        self._pending = Pending()

    def _settle_applied(self, aliases: Mapping[int, int]) -> None:
        """Let go of the events that waited, and of the names of concepts that are no more.

        Provisional concepts are neighbours of what stands for their neighbours now.
        """
        self._pending.events.clear()
        self.shortterm.rename(ids_of(aliases), ids_of(aliases.values()))

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
        self._open_values = np.empty(0, np.uint64)
        self._unsaved = True


def _count_pruned(events: Records) -> int:
    """Return how many concepts events say were pruned; a second number tells of edges."""
    return int(((events["type"] == EventType.PRUNE) & (events["id2"] == 0)).sum())
