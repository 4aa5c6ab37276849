"""The state that all handles on one memory directory share in a process.

`MemoryState` holds the engine, the short-term window and the changes that wait for the next
commit. It decides nothing: permissions are the caller's, algorithms live in ``aesg.graph``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.graph import consolidation
from aesg.graph.edges import Coactivation
from aesg.graph.novelty import Experience, digest
from aesg.graph.pending import Clock, Pending, newborn
from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.engine import Engine
from storage_backends.types import Concepts, EdgeKind, EventType, Floats, Ids, ValueKind
from storage_backends.view import View

_log = logging.getLogger("aesg.memory")

#: Group commit: whichever comes first.
_COMMIT_CHANGES = 4_096
_COMMIT_SECONDS = 2.0

#: Concepts of a context that count as active together.
_PRIMARY = 3


@dataclass
class NoveltyRates:
    """How much of what the memory met was new to it, since it was opened.

    Parameters
    ----------
    queries : int
        Queries learned from.
    provisional : int
        Those that became provisional concepts.
    born : int
        Provisional concepts that were born.
    """

    queries: int = 0
    provisional: int = 0
    born: int = 0


@dataclass(frozen=True)
class StorageInfo:
    """Counts and health of what a memory stores.

    Parameters
    ----------
    engine : Engine
    """

    engine: Engine

    @property
    def node_count(self) -> int:
        """Number of born concepts."""
        return self.engine.view().node_count

    @property
    def edge_count(self) -> int:
        """Number of directed edges."""
        return self.engine.view().edge_count

    @property
    def file_bytes(self) -> int:
        """Size of the data file, in bytes."""
        return self.engine.store.stats().file_bytes

    def verify(self) -> list[str]:
        """Examine every record; an empty list means that all is well."""
        return [str(problem) for problem in self.engine.verify()]


class MemoryState:
    """One memory as one process sees it.

    Callers hold `lock` around whatever reads or writes more than one attribute.

    Parameters
    ----------
    engine : Engine
    config : AESGConfig or None
        Gives the width of an empty memory and is stored with every commit; None takes the stored.
    """

    def __init__(self, engine: Engine, config: AESGConfig | None) -> None:
        self.engine = engine
        self.config = _stored_config(engine.view().settings) if config is None else config
        self.lock = threading.RLock()
        self.rates = NoveltyRates()
        self.clock = _clock(engine.view().settings)
        self.shortterm = self._stored_shortterm()
        self._coactivation = Coactivation()
        self._pending = Pending()
        self._due = 0

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

    def adopt(self, config: AESGConfig) -> None:
        """Take on the parameters of a handle; a memory with concepts keeps its width.

        Raises
        ------
        AESGConfigError
            If the memory holds concepts of another width; nothing is changed.
        """
        with self.lock:
            held = self.view.vector_dim
            if config.vector_dim != self.vector_dim and (held or self._pending.born):
                raise AESGConfigError(
                    f"The memory holds {self.view.node_count} concepts of another width: expected "
                    f"vector_dim={self.vector_dim}, got {config.vector_dim}. Pass "
                    f"AESGConfig(vector_dim={self.vector_dim}), or choose another directory."
                )
            if config.vector_dim != self.vector_dim:
                if len(self.shortterm):
                    _log.info(
                        "vector_dim of the empty memory changes from %d to %d: "
                        "its %d provisional concepts go",
                        self.vector_dim,
                        config.vector_dim,
                        len(self.shortterm),
                    )
                self.shortterm = ShortTermMemory(config.vector_dim)
                self._pending = Pending()
            self.config = config
            if "config" not in self.view.settings:
                self.save()

    def refresh(self) -> bool:
        """Take in what the writing process has committed; True if there was anything."""
        if not self.read_only:
            return False
        with self.lock:
            changed = self.engine.refresh()
            if changed:
                self.clock = _clock(self.view.settings)
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
        self.shortterm.confirm(news.proved, news.counts, self.clock.tick)
        in_graph = self.view.slots(news.proved) >= 0
        self._pending.use(news.proved[in_graph], news.counts[in_graph].tolist())
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

    def follow(self, before: Ids | None, after: Ids) -> Ids:
        """Link the concepts of one call to those of the next; return the latter."""
        if before is not None and len(before) == len(after):
            pairs = np.stack([before, after], axis=1)
            self._link(pairs[(pairs != 0).all(axis=1) & (before != after)])
        return after

    def remember(
        self,
        keys: Floats,
        kind: ValueKind,
        value_ids: NDArray[np.int64],
        value_vectors: Floats | None,
        payloads: Sequence[bytes | None],
        origins: Ids,
    ) -> Ids:
        """Write born concepts at once and return their ids, ``(N,)`` uint64."""
        first = self.clock.next_id
        ids = np.arange(first, first + len(keys), dtype=np.uint64)
        self.clock.next_id += len(keys)
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
        view = self.view
        if may_prune:
            self._prune(view, config)
        self._pending.note(EventType.CONSOLIDATE, self.clock.epoch, 0, float(view.node_count))

    def commit_if_due(self) -> None:
        """Commit when enough has gathered, or when it has waited long enough."""
        waiting = self._pending
        age = time.monotonic() - waiting.since
        if len(waiting) >= _COMMIT_CHANGES or (len(waiting) and age >= _COMMIT_SECONDS):
            self.commit()

    def save(self) -> None:
        """Commit everything, the short-term window included, if anything is new."""
        if self.read_only:
            return
        stored = self.view.settings
        known = all(stored.get(name) == value for name, value in self._settings().items())
        if len(self._pending) or self._pending.events or not known:
            born = np.fromiter(self._pending.born, np.uint64, len(self._pending.born))
            self.commit(shortterm=self.shortterm.dump(without=born))

    def commit(
        self,
        concepts: Concepts | None = None,
        payloads: Mapping[int, bytes] | None = None,
        shortterm: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write what waits, and ``concepts`` with it, in one transaction.

        What waits is dropped only once it is durable: after a failure it waits on.
        """
        if concepts is not None:
            for concept_id in concepts.ids.tolist():
                self._pending.note(EventType.CREATE, concept_id)
        waiting = self._pending
        most_edges = self.config.max_edges_per_node
        batch = waiting.batch(self.view, self.shortterm, self.clock, most_edges)
        born = batch.concepts
        self.engine.commit(
            replace(
                batch,
                concepts=_joined(born, concepts),
                payloads=payloads or {},
                shortterm=shortterm,
                settings=self._settings(),
            )
        )
        if born is not None:
            self.shortterm.remove(born.ids)
        self._pending = Pending()

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
        return shortterm

    def _bear(self, ids: Ids, config: AESGConfig, scale: float, may_prune: bool) -> int:
        """Let provisional concepts be born that have been confirmed often enough."""
        rows = self.shortterm.find(ids)
        entries = self.shortterm.entries[rows[rows >= 0]]
        ready = entries["id"][entries["confirmations"] >= config.novelty_birth_threshold]
        born = []
        for concept_id in ready.tolist():
            if concept_id not in self._pending.born:
                self._due += 1
                if self._due % round(1 / scale) == 0:
                    born.append(concept_id)
        room = config.max_concepts - self.view.node_count - len(self._pending.born)
        if not may_prune:
            born = born[: max(room, 0)]
        self._pending.born.update(dict.fromkeys(born))
        return len(born)

    def _prune(self, view: View, config: AESGConfig) -> None:
        slots = consolidation.prunable(
            view,
            self.clock.epoch,
            config.survival_threshold_relevance,
            config.survival_threshold_frequency,
        )
        excess = view.node_count - len(slots) - config.max_concepts
        if excess > 0:
            slots = np.union1d(slots, consolidation.weakest(view, self.clock.epoch, excess))
        relevance = consolidation.relevances(view.stats[slots], self.clock.epoch)
        for concept_id, value in zip(view.ids[slots].tolist(), relevance.tolist(), strict=True):
            if concept_id not in self._pending.deleted:
                self._pending.deleted[concept_id] = None
                self._pending.note(EventType.PRUNE, concept_id, 0, value)

    def _settings(self) -> dict[str, bytes]:
        clock = self.clock
        numbers = {"next_id": clock.next_id, "epoch": clock.epoch, "tick": clock.tick}
        settings = {name: str(number).encode() for name, number in numbers.items()}
        return {**settings, "config": self.config.to_json().encode()}


def _clock(settings: Mapping[str, bytes]) -> Clock:
    return Clock(
        next_id=int(settings.get("next_id", b"1")),
        epoch=int(settings.get("epoch", b"0")),
        tick=int(settings.get("tick", b"0")),
    )


def _stored_config(settings: Mapping[str, bytes]) -> AESGConfig:
    text = settings.get("config")
    return AESGConfig() if text is None else AESGConfig.from_json(text.decode())


def _joined(first: Concepts | None, second: Concepts | None) -> Concepts | None:
    if first is None or second is None:
        return first if second is None else second
    left, right = first.value_vectors, second.value_vectors
    vectors = None
    if left is not None or right is not None:
        vectors = np.concatenate(
            [
                np.zeros_like(part.keys) if part.value_vectors is None else part.value_vectors
                for part in (first, second)
            ]
        )
    return Concepts(
        ids=np.concatenate([first.ids, second.ids]),
        keys=np.concatenate([first.keys, second.keys]),
        value_kinds=np.concatenate([first.value_kinds, second.value_kinds]),
        value_ids=np.concatenate([first.value_ids, second.value_ids]),
        value_vectors=vectors,
        stats=np.concatenate([first.stats, second.stats]),
    )
