"""The state that all handles on one memory directory share in a process.

`MemoryState` holds the engine, the short-term window and the changes that wait for the next
commit. It decides nothing: permissions are the caller's, algorithms live in ``aesg.graph``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aesg.config import AESGConfig
from aesg.evolution import Projection
from aesg.graph import consolidation, own
from aesg.graph.arrays import ids_of
from aesg.graph.clock import microseconds
from aesg.graph.novelty import Experience, digest
from aesg.graph.pending import newborn
from aesg.graph.scope import Scope
from aesg.memory_refreshed import RefreshedState
from aesg.modes import Permissions
from storage_backends.columns import Slots
from storage_backends.types import Concepts, EdgeKind, EventType, Floats, Ids, ValueKind

#: Share of the way that a vector value moves towards what came.
_REFINEMENT = 0.1

#: Concepts of a context that count as active together.
_PRIMARY = 3

#: Of a full memory one concept in so many is pruned at a time: to find the weakest looks at all.
_SPARE_SHARE = 100


class MemoryState(RefreshedState):
    """One memory as one process sees it: what is durable, and how it learns.

    Parameters
    ----------
    store, reopen, durability
        As for `RefreshedState`; callers hold its `lock` here too.
    """

    @property
    def scope(self) -> Scope:
        """What a retrieval sees now."""
        return Scope(self.view, self.shortterm)

    def absorb(
        self,
        experience: Experience,
        config: AESGConfig,
        scale: float,
        *,
        may_prune: bool,
        recognises: bool,
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
        recognises : bool
            Whether concepts of the queries' own samples are re-keyed and stand for them.

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
            self._own(experience, config) if recognises else None,
        )
        if len(news.entries):
            self.clock.next_id = int(news.entries["id"][-1]) + 1
            self.shortterm.append(news.entries, news.keys, news.vectors)
        self._unsaved |= bool(len(experience.keys))
        self._rekey(experience, news.rekeyed, news.rows)
        self.shortterm.confirm(news.proved, news.counts, self.clock.tick)
        in_graph = self.view.slots(news.proved) >= 0
        self._pending.use(news.proved[in_graph], news.counts[in_graph].tolist())
        self.shortterm.refine(news.refined, news.towards, _REFINEMENT)
        self._pending.refine(self.view, news.refined, news.towards, _REFINEMENT)
        born = self._bear(
            np.concatenate([news.entries["id"], news.proved]), config, scale, may_prune
        )
        self._link(news.links)
        self._pending.travel(news.travelled)
        primary = self._settled_only(experience.found[:, :_PRIMARY])
        for pair in self._coactivation.add(primary, config.coactivation_threshold_create):
            both = np.array([pair, pair[::-1]], np.uint64)
            self._pending.link(both, EdgeKind.COACTIVATION)
        self.rates.queries += len(experience.keys)
        self.rates.provisional += len(news.entries)
        self.rates.born += born
        return news.standing

    @property
    def has_origins(self) -> bool:
        """Whether any concept is known to come from a sample."""
        if self.shortterm.entries["origin"].any():
            return True
        return bool(self.view.node_count and self.view.stats.field("origin").whole().any())

    def rekey(self, experience: Experience, config: AESGConfig) -> int:
        """Re-key the concepts that are met again, and learn nothing else; return how many."""
        found = self._own(experience, config)
        rows = np.flatnonzero(found)
        self._note(found[rows])
        self._rekey(experience, found[rows], rows)
        return len(rows)

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
        if most is not None and self.node_count > most - len(keys):
            self._commit_uses()  # stays, whatever becomes of the rest
        deleted, events = dict(self._pending.deleted), len(self._pending.events)
        first = self.clock.next_id
        ids = np.arange(first, first + len(keys), dtype=np.uint64)
        self.clock.next_id += len(keys)
        concepts = Concepts(
            ids=ids,
            keys=keys,
            value_kinds=np.full(len(keys), kind, np.uint8),
            value_ids=value_ids,
            value_vectors=value_vectors,
            stats=newborn(origins, self.clock, microseconds()),
        )
        packed = zip(ids.tolist(), payloads, strict=True)
        try:
            if most is not None:
                self._make_room(most - len(keys))
            self.commit(concepts, {i: payload for i, payload in packed if payload is not None})
        except BaseException:
            self._pending.take_back(deleted, events)
            raise
        return ids

    def advance(self, config: AESGConfig, allowed: Permissions, projection: Projection) -> None:
        """Count one topology update, and consolidate where that is due.

        Parameters
        ----------
        config : AESGConfig
        allowed : Permissions
            Of the handle; `consolidation` is among them.
        projection : callable
            Returns the weight of the learned projection, ``(D, D)`` float32.
        """
        self.clock.tick += 1
        if self.clock.tick % config.consolidation_epoch_interval:
            return
        if allowed.evolutionary_pressure or allowed.reorganization:
            self.date_edges()
        self.clock.epoch += 1
        edges, count = self.view.edge_count, float(self.node_count)
        self._pending.note(EventType.CONSOLIDATE, self.clock.epoch, edges, count)
        if allowed.evolutionary_pressure or allowed.reorganization:
            if self._pending.changes:
                self.commit()  # what changed meanwhile is to be judged as it is
            self._evolution.consolidate(self, config, allowed, projection)
        if allowed.evolutionary_pressure:
            self._make_room(config.max_concepts)

    def _link(self, pairs: Ids) -> None:
        """Note that concepts followed one another, ``(L, 2)`` ids in order of time."""
        self.shortterm.link(pairs)
        settled = (self._settled_only(pairs) != 0).all(axis=1)
        self._pending.link(pairs[settled], EdgeKind.SUCCESSOR)

    def _own(self, experience: Experience, config: AESGConfig) -> Ids:
        """Return the concept of its own sample that each query meets again; 0 for none."""
        sameness = config.merge_similarity_threshold
        found = own.match(experience, self.scope, self._origins, sameness)
        if self._pending.deleted:
            found[np.isin(found, ids_of(self._pending.deleted))] = 0
        return found

    def _rekey(self, experience: Experience, ids: Ids, rows: Slots) -> None:
        """Let concepts have the keys of some queries."""
        if len(ids):
            keys, norms = experience.keys[rows], experience.norms[rows]
            self.shortterm.rekey(ids, keys, norms)
            self._pending.rekey(self.view, ids, keys, norms)
            self._unsaved = True

    def _settled_only(self, ids: Ids) -> Ids:
        """Return ids with 0 for those that are neither in the graph nor about to be."""
        soon = ids_of(self._pending.born)
        settled = (self.view.slots(ids) >= 0) | np.isin(ids, soon)
        return np.where(settled, ids, np.uint64(0))

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

    def _make_room(self, most: int) -> None:
        """Prune the weakest concepts beyond ``most``, and some more, so that it lasts."""
        if self.node_count <= most:
            return
        self._commit_uses()  # and what is born, which may be among the weakest
        gone = ids_of(self._pending.deleted)
        count = self.node_count - most + most // _SPARE_SHARE
        weakest = consolidation.weakest(self.view, self.clock.epoch, count + len(gone))
        self._delete(weakest[~np.isin(self.view.ids[weakest], gone)][:count])

    def _commit_uses(self) -> None:
        """Let the statistics of concepts show that they were used, before they are judged."""
        if self._pending.used or self._pending.born:
            self.commit()

    def _delete(self, slots: Slots) -> None:
        view = self.view
        relevance = consolidation.relevances(view.stats[slots], self.clock.epoch)
        for concept_id, value in zip(view.ids[slots].tolist(), relevance.tolist(), strict=True):
            if concept_id not in self._pending.deleted:
                self._pending.deleted[concept_id] = None
                self._pending.note(EventType.PRUNE, concept_id, 0, value)
