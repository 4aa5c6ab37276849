"""The state that all handles on one memory directory share in a process.

`MemoryState` holds the engine, the short-term window and the changes that wait for the next
commit. It decides nothing: permissions are the caller's, algorithms live in ``aesg.graph``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.graph import consolidation
from aesg.graph.edges import Coactivation
from aesg.graph.novelty import Experience, digest
from aesg.graph.pending import Pending, joined, newborn
from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from aesg.memory_stats import NoveltyRates
from aesg.memory_stored import clock_of, config_of, settings_of, with_created
from aesg.modes import MemoryMode
from storage_backends.adjacency import Slots
from storage_backends.engine import Engine
from storage_backends.errors import StoreClosedError
from storage_backends.protocol import Store
from storage_backends.types import Concepts, EdgeKind, EventType, Floats, Ids, ValueKind
from storage_backends.view import View

_log = logging.getLogger("aesg.memory")

#: Group commit: whichever comes first.
_COMMIT_CHANGES = 4_096
_COMMIT_SECONDS = 2.0

#: Share of the way that a vector value moves towards what came.
_REFINEMENT = 0.1

#: Concepts of a context that count as active together.
_PRIMARY = 3

#: Of a full memory one concept in so many is pruned at a time: to find the weakest looks at all.
_SPARE_SHARE = 100


class MemoryState:
    """One memory as one process sees it.

    Callers hold `lock` around whatever reads or writes more than one attribute.

    Parameters
    ----------
    store : Store
        Closed by `close`.
    reopen : callable
        Opens the store again, where a failed write has closed it.
    """

    def __init__(self, store: Store, reopen: Callable[[], Store]) -> None:
        self._reopen = reopen
        self.engine = Engine(store)
        self.config = config_of(self.view.settings)
        self.lock = threading.RLock()
        self.rates = NoveltyRates()
        self.clock = clock_of(self.view.settings)
        self.shortterm = self._stored_shortterm()
        self._coactivation = Coactivation()
        self._pending = Pending()
        self._held_back = 0
        self._unsaved = False  # whether the short-term window differs from the stored one

    @property
    def view(self) -> View:
        """The graph as last committed."""
        return self.engine.view()

    @property
    def scope(self) -> Scope:
        """What a retrieval sees now."""
        return Scope(self.view, self.shortterm)

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
        waiting = np.fromiter(self._pending.born, np.uint64, len(self._pending.born))
        return len(self.shortterm) - int((self.shortterm.find(waiting) >= 0).sum())

    def adopt(self, config: AESGConfig) -> None:
        """Take on the parameters of a handle; a memory with concepts keeps its width.

        Raises
        ------
        AESGConfigError
            If the memory holds concepts of another width; nothing is changed.
        """
        with self.lock:
            if config.vector_dim != self.vector_dim:
                self._change_width(config.vector_dim)
            if MemoryMode(config.memory_mode) is not MemoryMode.INFERENCE or not self._has_config:
                self.config = config
            if not self._has_config:
                self.save()

    def refresh(self) -> bool:
        """Take in what the writing process has committed; True if there was anything."""
        if not self.read_only:
            return False
        with self.lock:
            self.revive()
            changed = self.engine.refresh()
            if changed:
                self.clock = clock_of(self.view.settings)
                self.shortterm = self._stored_shortterm()
            return changed

    def close(self) -> None:
        """Save and close."""
        with self.lock:
            try:
                self.save()
            finally:
                self.engine.close()

    def absorb(
        self, experience: Experience, config: AESGConfig, scale: float, *, may_prune: bool
    ) -> Ids:
        """Learn from a batch of queries.

        Parameters
        ----------
        experience : Experience
        config : AESGConfig
            Of the handle that saw it.
        scale : float
            Share of the concepts due that are born, in (0, 1]; the others stay provisional.
        may_prune : bool
            Whether births beyond ``max_concepts`` push out the weakest; else they wait.

        Returns
        -------
        (M,) uint64
            The concept that stands for each query from now on; 0 where none does.
        """
        news = digest(
            experience,
            config.novelty_explanation_threshold,
            config.merge_similarity_threshold,
            self.clock.next_id,
            self.clock.tick,
        )
        if len(news.entries):
            self.clock.next_id = int(news.entries["id"][-1]) + 1
            self.shortterm.append(news.entries, news.keys, news.vectors)
        self._unsaved |= bool(len(experience.keys))
        self.shortterm.confirm(news.proved, news.counts, self.clock.tick)
        in_graph = self.view.slots(news.proved) >= 0
        self._pending.use(news.proved[in_graph], news.counts[in_graph].tolist())
        self.shortterm.refine(news.refined, news.towards, _REFINEMENT)
        self._pending.refine(self.view, news.refined, news.towards, _REFINEMENT)
        born = self._bear(
            np.concatenate([news.entries["id"], news.proved]), config, scale, may_prune
        )
        self._link(news.links)
        primary = self._settled_only(experience.found[:, :_PRIMARY])
        for pair in self._coactivation.add(primary, config.coactivation_threshold_create):
            both = np.array([pair, pair[::-1]], np.uint64)
            self._pending.link(both, EdgeKind.COACTIVATION)
        self.rates.queries += len(experience.keys)
        self.rates.provisional += len(news.entries)
        self.rates.born += born
        return news.standing

    def follow(self, before: Ids | None, after: Ids) -> Ids | None:
        """Link the last concepts of one call to the first of the next.

        Parameters
        ----------
        before : (B,) uint64 or None
            What an earlier `follow` returned.
        after : (B, T) uint64
            Concepts of sequences, in order of time; 0 where there is none.

        Returns
        -------
        (B,) uint64 or None
            The last concept of each sequence.
        """
        if not after.size:
            return before
        if before is not None and len(before) == len(after):
            pairs = np.stack([before, after[:, 0]], axis=1)
            self._link(pairs[(pairs != 0).all(axis=1) & (pairs[:, 0] != pairs[:, 1])])
        return after[:, -1]

    def remember(
        self,
        keys: Floats,
        kind: ValueKind,
        value_ids: NDArray[np.int64],
        value_vectors: Floats | None,
        payloads: Sequence[bytes | None],
        origins: Ids,
        most: int | None,
    ) -> Ids:
        """Write born concepts at once and return their ids, ``(N,)`` uint64.

        Parameters
        ----------
        keys, kind, value_ids, value_vectors, payloads, origins
            Columns of the concepts.
        most : int or None
            Concepts beyond which the weakest are pruned; None prunes nothing.
        """
        first = self.clock.next_id
        ids = np.arange(first, first + len(keys), dtype=np.uint64)
        self.clock.next_id += len(keys)
        if most is not None:
            self._make_room(most - len(keys))
        concepts = Concepts(
            ids=ids,
            keys=keys,
            value_kinds=np.full(len(keys), kind, np.uint8),
            value_ids=value_ids,
            value_vectors=value_vectors,
            stats=newborn(origins, self.clock, time.time_ns() // 1000),
        )
        packed = zip(ids.tolist(), payloads, strict=True)
        self.commit(concepts, {i: payload for i, payload in packed if payload is not None})
        return ids

    def advance(self, config: AESGConfig, may_prune: bool) -> None:
        """Count one topology update, and one consolidation epoch where it is due."""
        self.clock.tick += 1
        if self.clock.tick % config.consolidation_epoch_interval:
            return
        self.clock.epoch += 1
        if may_prune:
            self._prune(config)
        self._pending.note(EventType.CONSOLIDATE, self.clock.epoch, 0, float(self.node_count))

    def commit_if_due(self) -> None:
        """Commit when enough has gathered, or when it has waited long enough."""
        waiting = self._pending
        age = time.monotonic() - waiting.since
        if len(waiting) >= _COMMIT_CHANGES or (len(waiting) and age >= _COMMIT_SECONDS):
            self.commit()

    def commit_waiting(self) -> None:
        """Commit what is born, linked or pruned; the short-term window can wait for `save`."""
        if not self.read_only and len(self._pending):
            self.commit()

    def save(self) -> None:
        """Commit everything, the short-term window included, if anything is new."""
        if self.read_only:
            return
        stored = self.view.settings
        known = all(
            stored.get(name) == value
            for name, value in settings_of(self.clock, self.config).items()
        )
        if self._unsaved or len(self._pending) or self._pending.events or not known:
            born = np.fromiter(self._pending.born, np.uint64, len(self._pending.born))
            self.commit(shortterm=self.shortterm.dump(without=born))
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
        most_edges = self.config.max_edges_per_node
        batch = self._pending.batch(self.view, self.shortterm, self.clock, most_edges)
        self.engine.commit(
            replace(
                batch,
                concepts=joined(batch.concepts, concepts),
                payloads=payloads or {},
                events=batch.events if concepts is None else with_created(batch.events, concepts),
                shortterm=shortterm,
                settings=settings_of(self.clock, self.config),
            )
        )
        if batch.concepts is not None:
            self.shortterm.remove(batch.concepts.ids)
        self._pending = Pending()

    def revive(self) -> None:
        """Open the store again where a failed write has closed it.

        Raises
        ------
        StoreError
            If it cannot be opened, or another process has written to it meanwhile.
        """
        try:
            self.engine.store.generation()
        except StoreClosedError:
            store = self._reopen()
            if not store.read_only and store.generation() != self.view.generation:
                store.close()
                raise
            self.engine.store = store

    @property
    def _has_config(self) -> bool:
        return "config" in self.view.settings

    def _change_width(self, vector_dim: int) -> None:
        """Give an empty memory another width."""
        held = self.view.node_count + len(self._pending.born)
        if held:
            raise AESGConfigError(
                f"The memory holds {held} concepts of another width: expected "
                f"vector_dim={self.vector_dim}, got {vector_dim}. Pass "
                f"AESGConfig(vector_dim={self.vector_dim}), or choose another directory."
            )
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
        self._unsaved = True

    def _link(self, pairs: Ids) -> None:
        """Note that concepts followed one another, ``(L, 2)`` ids in order of time."""
        self.shortterm.link(pairs)
        settled = (self._settled_only(pairs) != 0).all(axis=1)
        self._pending.link(pairs[settled], EdgeKind.SUCCESSOR)

    def _settled_only(self, ids: Ids) -> Ids:
        """Return ids with 0 for those that are neither in the graph nor about to be."""
        soon = np.fromiter(self._pending.born, np.uint64, len(self._pending.born))
        settled = (self.view.slots(ids) >= 0) | np.isin(ids, soon)
        return np.where(settled, ids, np.uint64(0))

    def _stored_shortterm(self) -> ShortTermMemory:
        shortterm = ShortTermMemory(self.view.vector_dim or self.config.vector_dim)
        shortterm.load(self.engine.store.shortterm())
        held = shortterm.entries["id"]
        shortterm.remove(held[self.view.slots(held) >= 0])  # born since the window was saved
        return shortterm

    def _bear(self, ids: Ids, config: AESGConfig, scale: float, may_prune: bool) -> int:
        """Let provisional concepts be born that have been confirmed often enough."""
        rows = self.shortterm.find(ids)
        entries = self.shortterm.entries[rows[rows >= 0]]
        ready = entries["id"][entries["confirmations"] >= config.novelty_birth_threshold]
        waiting = self._pending.born
        taken = len(waiting) if may_prune else self.node_count
        room = max(config.max_concepts - taken, 0)
        due = [concept_id for concept_id in ready.tolist() if concept_id not in waiting]
        born = [concept_id for concept_id in due if self._let_through(scale)][:room]
        if may_prune and born:
            self._make_room(config.max_concepts - len(born))
        self._pending.born.update(dict.fromkeys(born))
        return len(born)

    def _let_through(self, scale: float) -> bool:
        """Tell whether one more birth may be: of every ``1 / scale`` the last."""
        self._held_back = (self._held_back + 1) % round(1 / scale)
        return not self._held_back

    def _prune(self, config: AESGConfig) -> None:
        """Prune concepts that are old, irrelevant and rarely used, and those beyond the limit."""
        if len(self._prunable(config)):
            self._commit_uses()
            self._delete(self._prunable(config))
        self._make_room(config.max_concepts)

    def _prunable(self, config: AESGConfig) -> Slots:
        return consolidation.prunable(
            self.view,
            self.clock.epoch,
            config.survival_threshold_relevance,
            config.survival_threshold_frequency,
        )

    def _make_room(self, most: int) -> None:
        """Prune the weakest concepts beyond ``most``, and some more, so that it lasts."""
        if self.node_count <= most:
            return
        self._commit_uses()
        gone = np.fromiter(self._pending.deleted, np.uint64, len(self._pending.deleted))
        count = self.node_count - most + most // _SPARE_SHARE
        weakest = consolidation.weakest(self.view, self.clock.epoch, count + len(gone))
        self._delete(weakest[~np.isin(self.view.ids[weakest], gone)][:count])

    def _commit_uses(self) -> None:
        """Let the statistics of concepts show that they were used, before they are judged."""
        if self._pending.used:
            self.commit()

    def _delete(self, slots: Slots) -> None:
        view = self.view
        relevance = consolidation.relevances(view.stats[slots], self.clock.epoch)
        for concept_id, value in zip(view.ids[slots].tolist(), relevance.tolist(), strict=True):
            if concept_id not in self._pending.deleted:
                self._pending.deleted[concept_id] = None
                self._pending.note(EventType.PRUNE, concept_id, 0, value)
