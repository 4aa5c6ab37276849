"""`AESGMemory`: the one place where torch, the graph and the store meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg import binding
from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.context import RetrievedContext
from aesg.errors import AESGMemoryError
from aesg.learning import Deferred, Waiting
from aesg.memory_copies import MemoryCopies
from aesg.memory_handle import resolved
from aesg.memory_inputs import keys_of, values_of
from aesg.memory_reading import DEFAULT_TOP_K
from aesg.modes import MemoryMode
from aesg.payload import pack_payloads
from storage_backends.types import Ids


class AESGMemory(MemoryCopies):
    """A persistent memory of concepts that a model queries at every forward pass.

    All handles of a process on one directory share one memory; each has its own mode, its own
    parameters and its own navigation state. A handle can be copied, pickled and saved with
    `torch.save`: it travels as the path of its directory.

    Parameters
    ----------
    directory : str or path, optional
        Made if it does not exist. Default: ``config.storage_directory``, else
        ``./aesg_memory``.
    config : AESGConfig, optional
        Default: that of an existing memory, else ``AESGConfig()``. Validated before anything is
        written. With ``memory_mode="INFERENCE"`` an existing memory is opened read-only.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range, or the memory holds concepts of another ``vector_dim``.
    AESGStorageError
        If the directory cannot be opened, or another process writes to it.

    Notes
    -----
    The parameters learned by gradient are the attention's temperature (``log_scale``), its prior
    on age (``recency``), its reach along edges (``reach_logit``), its null slot (``null_logit``)
    and ``abstraction_projection``.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, config: AESGConfig | None = None
    ) -> None:
        super().__init__(directory, config)
        self._trail: Ids | None = None
        bound = self._bind(read_only=self._reads_only())
        self._attach_kept(bound.state)

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], *, mode: str | MemoryMode = MemoryMode.INFERENCE
    ) -> AESGMemory:
        """Open an existing memory with the parameters that are stored in it.

        Draws no random numbers.

        Parameters
        ----------
        directory : str or path
        mode : str or MemoryMode
            INFERENCE opens read-only, beside any number of readers and one writer.

        Raises
        ------
        AESGStorageError
            If there is no memory in the directory.
        """
        wanted = MemoryMode.parse(mode)
        path = resolved(directory)
        with binding.stored_config(path) as stored, torch.random.fork_rng(devices=()):
            return cls(path, replace(stored, memory_mode=wanted.value))

    # Reading

    def forward(self, query: Tensor) -> RetrievedContext:
        """Do what `retrieve` does."""
        return self.retrieve(query)

    def retrieve(
        self, query: Tensor, *, top_k: int = DEFAULT_TOP_K, origins: Tensor | None = None
    ) -> RetrievedContext:
        """Retrieve concepts and, where the mode allows, learn from the query at once.

        A novel query becomes a provisional concept, an explained one confirms the nearest. In TRAIN
        and FINETUNE a module in eval mode learns nothing. What is learned shows from the next call
        on. What a query led to is not asked for; `recall`, `defer` and `observe` are for that.
        Consecutive calls with as many queries form sequences until `reset_state`.

        Parameters
        ----------
        query : (D,), (N, D) or (B, T, D) tensor
            Each vector is a query of its own; along ``T`` they form a sequence.
        top_k : int
            Concepts to retrieve for each query, at least 1.
        origins : (N,) or (B,) int64 tensor, optional
            Sample that each query belongs to. In TRAIN and FINETUNE a query does not find concepts
            of its own origin.

        Returns
        -------
        RetrievedContext

        Raises
        ------
        AESGNavigationError
            If the query has another width, or holds NaN or infinity, or an argument does not fit.
        AESGStorageError
            If what was learned cannot be written; it waits for the next commit.
        """
        context = self.recall(query, top_k=top_k, origins=origins)
        if torch.compiler.is_compiling():
            self._learn_traced(context)
        else:
            self.learn(context)
        return context

    def learn(self, context: RetrievedContext) -> None:
        """Learn from a retrieval at once, where mode and module do; `retrieve` ends with it.

        In TRAIN and FINETUNE a module in eval mode learns nothing.

        Parameters
        ----------
        context : RetrievedContext
            What `recall` returned.

        Raises
        ------
        AESGStorageError
            If what was learned cannot be written; it waits for the next commit.
        """
        if self._learns:
            state = self._state
            with state.lock.alone(), self._writes_what_was_learned("; recall() still retrieves"):
                standing = self._learn(Deferred(context)).reshape(context.found.sequences)
                self._trail = state.follow(self._trail, standing)
                state.commit_if_due()

    def remember(
        self,
        keys: Tensor | NDArray[np.floating[Any]],
        values: Tensor | NDArray[Any] | Sequence[int] | None = None,
        payloads: Sequence[Any] | None = None,
        *,
        origins: Tensor | None = None,
    ) -> Ids:
        """Write born concepts at once; durable when the call returns.

        Parameters
        ----------
        keys : (N, D) or (D,) tensor or array
        values : (N,) integers or (N, D) floats, optional
            What each key leads to; integers are 0 or more. Default: the key itself.
        payloads : sequence of N, optional
            What msgpack can encode, in at most 64 KiB; None for no payload.
        origins : (N,) int64 tensor, optional

        Returns
        -------
        (N,) uint64 array
            Their ids; empty where the handle may not write: in INFERENCE, in a data worker, and
            in a process that was forked from the writer. Nothing is written and nothing raised
            there; the logger ``aesg.memory`` warns once for each handle.

        Raises
        ------
        AESGMemoryError
            If values or payloads do not fit, or ``max_concepts`` would be exceeded: TRAIN makes
            room by pruning the weakest concepts, the other modes may not.
        AESGNavigationError
            If a key has another width, or holds NaN or infinity, or the origins do not fit.
        AESGStorageError
            If they cannot be written; the memory is as before.
        """
        vectors, own = keys_of(keys, self.vector_dim, origins)
        kind, value_ids, value_vectors = values_of(values, *vectors.shape)
        packed = pack_payloads(payloads, len(vectors))
        allowed = self._permissions
        if not allowed.create_concepts or not len(vectors):
            if len(vectors):
                self._warn_of_nothing_written("remember")
            return np.empty(0, np.uint64)
        state, most = self._state, self.config.max_concepts
        with state.lock.alone(), storage_errors(f"write to memory '{self.directory}'"):
            held = 0 if allowed.evolutionary_pressure else state.node_count
            if held + len(vectors) > most:
                kept = f" beside {held} that {self._mode.value} may not prune" if held else ""
                raise AESGMemoryError(
                    f"No room: expected at most max_concepts={most}, got {len(vectors)} more{kept}"
                )
            pruned_to = most if allowed.evolutionary_pressure else None
            return state.remember(vectors, kind, value_ids, value_vectors, packed, own, pruned_to)

    def reset_state(self) -> None:
        """Forget where navigation stands, and retrievals that were not learned from yet.

        What is counted and stored stays.
        """
        self._trail = None
        self._deferred = Waiting()

    # Inside

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: not where navigation stands."""
        return {**super().__getstate__(), "_trail": None}
