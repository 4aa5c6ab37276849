"""The learning side of a memory: what retrievals teach it, now or at `update_topology`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.context import RetrievedContext
from aesg.errors import AESGMemoryError, AESGNavigationError
from aesg.graph.novelty import Experience
from aesg.graph.scope import Scope
from aesg.learning import Deferred, Waiting, experience_again, experience_of
from aesg.memory_inputs import check_log_probs, queries_of
from aesg.memory_keys import KeyChanges
from aesg.memory_reading import MemoryReading
from aesg.modes import MemoryMode
from aesg.outcomes import Likelihood
from aesg.reading import Queries, Reading
from aesg.state import MemoryState
from storage_backends.types import Floats, Ids

#: Modes in which a sample may come again, and then meets its own concepts.
_RECOGNISING = (MemoryMode.TRAIN, MemoryMode.FINETUNE)

_log = logging.getLogger("aesg.memory")


class MemoryLearning(MemoryReading):
    """What `AESGMemory` learns from retrievals, and how keys follow the network.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, config: AESGConfig | None) -> None:
        super().__init__(directory, config)
        self._deferred = Waiting()
        self._resting = self._asks_only = self._has_missed = False

    def defer(
        self,
        context: RetrievedContext,
        outcomes: Tensor | None = None,
        log_probs: Tensor | Likelihood | None = None,
        expected: Tensor | None = None,
    ) -> None:
        """Queue what a retrieval teaches until `update_topology`.

        Where log-probabilities or expected vectors are given, the outcome has to come too, here or
        by `observe`: without it nothing is learned. A retrieval of which nothing is said teaches
        its key alone.

        Parameters
        ----------
        context : RetrievedContext
        outcomes : (...,) int64 or (..., D) float tensor, optional
            What is known of the outcomes so far; `observe` may replace it.
        log_probs : (..., V) tensor or Likelihood, optional
            What model and memory together expected of integers, or of the outcomes alone; the
            explanation score of an integer outcome is the probability given to it.
        expected : (..., D) float tensor, optional
            What they together expected of vectors; the explanation score of a vector outcome is
            its cosine with this, in [0, 1]. Without it `context.aggregate` takes its place: what
            the memory alone expected.

        Raises
        ------
        AESGMemoryError
            If outcomes, log-probabilities or expected vectors do not fit the queries.
        """
        if torch.compiler.is_compiling():
            whole = cast("Tensor | None", log_probs)  # what is compiled speaks of all integers
            self._defer_traced(context, outcomes, whole, expected)
            return
        check_log_probs(log_probs)
        if self._learns:
            log_probs = None if log_probs is None else log_probs.detach()
            self._deferred.add(Deferred(context.detached(), outcomes, log_probs, expected))

    def observe(self, outcomes: Tensor) -> None:
        """Say what really came at each query that was deferred since the last `observe`.

        Ignored in INFERENCE, and where nothing waits: `retrieve` has learned already, and a module
        in eval mode does not learn.

        Parameters
        ----------
        outcomes : (...,) or (N,) integer tensor, or (..., D) or (N, D) float tensor
            One for each query, in the shape of the queries or flat, integers from 0 on; -100
            where it is not known, or a vector of zeros. Or one for each sample, ``(B,)`` or
            ``(B, D)``, which is taken for all queries of the sample.

        Raises
        ------
        AESGMemoryError
            If type or shape do not fit; nothing is changed.

        Notes
        -----
        Outcomes out of range make `update_topology` raise an `AESGMemoryError`.
        """
        self._deferred.observe(outcomes)

    @property
    def awaits_outcomes(self) -> bool:
        """Whether a retrieval is deferred of whose outcomes nothing has been said."""
        return any(each.outcomes is None for each in self._deferred)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Let `update_topology` do nothing for a block, in every mode.

        For what runs beside the memory and not with it: a memory that nobody asks would age all
        the same, and in TRAIN prune what it holds. Other handles are not at rest.
        """
        before, self._resting = self._resting, True
        try:
            yield
        finally:
            self._resting = before

    @contextmanager
    def asking_only(self) -> Iterator[None]:
        """Let `recall` take queries down and find nothing for a block, in no time.

        For `update_keys`, with a model whose queries do not depend on what it retrieves.
        """
        before, self._asks_only = self._asks_only, True
        try:
            yield
        finally:
            self._asks_only = before

    def update_topology(self) -> None:
        """Learn from the queries since the last call; consolidate and commit where it is due.

        Does nothing `at_rest`.

        Raises
        ------
        AESGMemoryError
            If an outcome is out of range or not finite; all other retrievals are learned from.
        AESGStorageError
            If what was learned cannot be written; it waits for the next commit.
        """
        if self._resting:
            return
        allowed = self._permissions
        if not allowed.consolidation:
            self._deferred = Waiting()
            return
        state, wrong = self._state, None
        with state.lock.alone(), self._writes_what_was_learned():
            while deferred := self._deferred.take():
                if deferred.unanswered:
                    self._warn_of_nothing_observed()
                    continue
                try:
                    self._learn(deferred)
                except AESGMemoryError as error:
                    wrong = wrong or error
            state.advance(self.config, allowed, self._projection)
            state.commit_if_due(updated=True)
        if wrong is not None:
            raise wrong

    @contextmanager
    def counted_commits(self) -> Iterator[None]:
        """Let commits depend on what is learned and not on the time, for a block.

        Commits show to retrievals: edges, uses and moved keys work from the next commit on. With
        commits that come by the clock two runs of the same training are not the same. Within
        `AESGTrainer.fit` they are counted. Looking, by `storage`, `logger`, `edges`, `explain` or
        `recall`, commits nothing there; `save`, `copy`, `remember` and `rekey` do. This concerns
        all handles of the process. To be entered in a mode that learns.
        """
        state = self._state
        with state.counted_commits():
            yield

    @contextmanager
    def refreshing(self, earlier: KeyChanges | None = None) -> Iterator[KeyChanges]:
        """Note how `update_keys` changes keys in a block, so that they can be put back.

        Refreshed keys are those that the network, as it is, asks with: good to read by. Training
        that goes on from them is other training than one that never stopped. Saves before and
        after; within the block call nothing that learns but `update_keys`.

        Parameters
        ----------
        earlier : KeyChanges, optional
            Of a refresh whose keys were put back since. Concepts that are not met in the block
            get those keys again, unless they changed otherwise, and are among what is yielded.

        Yields
        ------
        KeyChanges
            Empty until the block has ended, also by an error.

        Raises
        ------
        AESGStorageError
            If the memory cannot be written.
        """
        state, changes = self._state, KeyChanges.none(self.vector_dim)
        earlier = earlier or KeyChanges.none(self.vector_dim)
        earlier.require_width(self.vector_dim)
        with state.lock.alone(), self._writes_what_was_learned():
            state.begin_refresh()
        try:
            yield changes
        finally:
            with state.lock.alone(), self._writes_what_was_learned():
                changes.become(state.end_refresh(earlier))

    def put_back(self, changes: KeyChanges) -> int:
        """Give concepts the keys that they had before a refresh; durable when the call returns.

        Those that have changed otherwise since are left alone.

        Returns
        -------
        int
            Concepts that were given their keys again.

        Raises
        ------
        AESGMemoryError
            If the changes are of another width.
        AESGStorageError
            If the memory cannot be written.
        """
        return self._put_keys(changes, back=True)

    def put_forward(self, changes: KeyChanges) -> int:
        """Give concepts the keys of a refresh again, after `put_back`; see there."""
        return self._put_keys(changes, back=False)

    def _put_keys(self, changes: KeyChanges, *, back: bool) -> int:
        state = self._state
        changes.require_width(state.vector_dim)
        if state.read_only:
            return 0
        with state.lock.alone(), storage_errors(f"write to memory '{self.directory}'"):
            return len(state.put_keys(changes, back=back))

    @property
    def can_rekey(self) -> bool:
        """Whether `update_keys` has anything that it could re-key."""
        if not self._rekeys:
            return False
        with self._reads() as state:
            return state.has_origins

    def update_keys(self) -> int:
        """Let concepts have the keys of the queries since the last call, and learn nothing else.

        A network that goes on learning asks with other queries by and by. In TRAIN and FINETUNE
        the concepts of a sample that comes again are re-keyed to its present queries in any case
        (`update_topology`); this does only that, for a last pass over the data once the network
        stays as it is. `AESGTrainer.fit` ends with such a pass. The model is in eval mode then, but
        not the memory (``memory.train()`` behind ``model.eval()``): in eval mode nothing waits.
        Does nothing `at_rest` and in the other modes.

        Returns
        -------
        int
            Queries in which a concept of their own sample was met again.

        Raises
        ------
        AESGMemoryError
            If an outcome is out of range or not finite; all other retrievals are taken in.
        AESGStorageError
            If what was re-keyed cannot be written; it waits for the next commit.
        """
        waiting, self._deferred = self._deferred, Waiting()
        if not self._rekeys:
            return 0
        state, count, wrong = self._state, 0, None
        with state.lock.alone(), self._writes_what_was_learned():
            while deferred := waiting.take():
                if deferred.unanswered:
                    continue
                try:
                    count += state.rekey(self._experience(deferred), self.config)
                except AESGMemoryError as error:
                    wrong = wrong or error
            state.commit_if_due()
        if wrong is not None:
            raise wrong
        return count

    def rekey(self, queries: Tensor, outcomes: Tensor | None = None, *, origins: Tensor) -> int:
        """Let concepts have other keys: those that samples left, the keys of their queries now.

        Where a network has changed since its concepts were written, the same sample asks with
        another query. This finds the concepts of the same origin and outcome, as training does.
        Durable when the call returns.

        Parameters
        ----------
        queries : (D,), (N, D) or (B, T, D) tensor
        outcomes : (...,) int64 or (..., D) float tensor, optional
            What each query leads to, as for `observe`; without it concepts are meant that have no
            value but their key.
        origins : (N,) or (B,) int64 tensor
            Sample of each query.

        Returns
        -------
        int
            Concepts re-keyed; 0 where the handle may not write, as for `remember`.

        Raises
        ------
        AESGMemoryError
            If outcomes do not fit the queries, or are out of range or not finite.
        AESGNavigationError
            If a query has another width, or holds NaN or infinity, or the origins do not fit.
        AESGStorageError
            If they cannot be written; they wait for the next commit.
        """
        if origins is None:
            raise AESGNavigationError("rekey: expected the origins of the queries, got None")
        asked = queries_of(queries, self.vector_dim, None, origins)
        own = np.repeat(asked.origins, asked.sequences[1])
        experience = experience_again(asked.unit, asked.norms, own, outcomes, queries.shape[:-1])
        if not self._permissions.create_concepts:
            self._warn_of_nothing_written("rekey")
            return 0
        state = self._state
        with state.lock.alone(), self._writes_what_was_learned():
            count = state.rekey(experience, self.config)
            state.save()
            return count

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: not what waits to be learned from."""
        fresh = dict.fromkeys(("_resting", "_asks_only", "_has_missed"), False)
        return {**super().__getstate__(), **fresh, "_deferred": Waiting()}

    @property
    def _learns(self) -> bool:
        """Whether retrievals teach: a model that is validated while it is trained only reads."""
        validated = self._mode in _RECOGNISING and not self.training
        return self._permissions.create_concepts and not validated

    @property
    def _rekeys(self) -> bool:
        """Whether samples meet their own concepts in this mode, and may re-key them."""
        allowed = self._permissions.create_concepts and not self._resting
        return allowed and self._mode in _RECOGNISING

    def _read(
        self, state: MemoryState, scope: Scope, queries: Queries, top_k: int, vectors: bool
    ) -> Reading:
        return super()._read(state, scope, queries, 0 if self._asks_only else top_k, vectors)

    def _warn_of_nothing_observed(self) -> None:
        """Log, once for each handle, that outcomes which were to come did not."""
        if not self._has_missed:
            self._has_missed = True
            _log.warning(
                "memory '%s': queries were asked whose outcomes never came, and taught nothing: "
                "call model.observe(targets) before memory.update_topology()",
                self.directory,
            )

    def _projection(self) -> Floats:
        """Return the weight that abstract concepts are formed with, ``(D, D)``."""
        weight: Floats = self.abstraction_projection.weight.detach().float().cpu().numpy()
        return weight

    def _learn(self, deferred: Deferred) -> Ids:
        """Take in one retrieval; return the concept that stands for each query, 0 for none."""
        allowed = self._permissions
        return self._state.absorb(
            self._experience(deferred),
            self.config,
            allowed.learning_rate_scale,
            may_prune=allowed.evolutionary_pressure,
            recognises=self._mode in _RECOGNISING,
        )

    def _experience(self, deferred: Deferred) -> Experience:
        return experience_of(deferred, self.config.novelty_explanation_threshold)
