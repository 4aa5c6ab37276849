"""The reading side of a memory: retrieval that learns nothing, and its explanation."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aesg._seam import storage_errors
from aesg.attention import attend
from aesg.config import AESGConfig
from aesg.context import RetrievedContext
from aesg.explaining import details_of, explanation_of, follows
from aesg.explanation import Explanation
from aesg.learning import Deferred
from aesg.memory_handle import MemoryHandle
from aesg.memory_inputs import check_log_probs, check_top_k, queries_of
from aesg.modes import MemoryMode
from aesg.reading import Queries, Reading, read
from aesg.state import MemoryState
from storage_backends.spreading import Spread

#: Concepts that one query retrieves unless it asks for another number.
DEFAULT_TOP_K = 32
#: Initial scale of cosines in the attention: a temperature of one tenth.
_FIRST_SCALE = 10.0
_FIRST_RECENCY = 0.5

#: torch guards each tensor by a mutex. Threads share the parameters, and a child that is forked
#: while another thread holds the mutex of one would wait for it for ever: a fork waits for this.
_parameters_in_use = threading.RLock()


class MemoryReading(MemoryHandle):
    """What `AESGMemory` does apart from learning; the attention and its parameters.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, config: AESGConfig | None) -> None:
        super().__init__(directory, config)
        config = self.config
        self.abstraction_projection = nn.Linear(config.vector_dim, config.vector_dim, bias=False)
        nn.init.zeros_(self.abstraction_projection.weight)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
        self.recency = nn.Parameter(torch.tensor(_FIRST_RECENCY))
        self.null_logit = nn.Parameter(torch.tensor(0.0))

    def recall(
        self,
        query: Tensor,
        *,
        outcomes: Tensor | None = None,
        top_k: int = DEFAULT_TOP_K,
        origins: Tensor | None = None,
        vectors: bool = True,
    ) -> RetrievedContext:
        """Retrieve concepts and learn nothing; for layers that know more than the query.

        Parameters
        ----------
        query : (..., D) tensor
        outcomes : (B, T) int64 tensor, optional
            What came after each position of ``(B, T, D)`` queries; -100 where it is not known.
            Position ``t`` uses those before ``t``: the successors of concepts that were right are
            followed, and the search is skipped.
        top_k, origins
            As for `retrieve`.
        vectors : bool
            Whether to gather ``context.vectors`` besides the keys; a layer that needs integer
            values alone saves the time.

        Raises
        ------
        AESGNavigationError
            If the query has another width, or holds NaN or infinity, or an argument does not fit.
        """
        check_top_k(top_k)
        queries = queries_of(query, self.vector_dim, outcomes, origins)
        with self._reads() as state:
            reading = self._read(state, queries, top_k, vectors)
        return self._context(query, reading)

    def explain(
        self,
        query: Tensor,
        outcomes: Tensor | None = None,
        log_probs: Tensor | None = None,
        *,
        top_k: int = DEFAULT_TOP_K,
    ) -> Explanation:
        """Tell why a query retrieves what it does, and what the memory would learn from it.

        Reads only, whatever the mode: what is explained stays as it is.

        Parameters
        ----------
        query : (D,), (N, D) or (B, T, D) tensor
        outcomes : (...,) int64 or (..., D) float tensor, optional
            What came at each query, as for `observe`. Integers along ``T`` are followed as in
            `recall`.
        log_probs : (..., V) tensor, optional
            What model and memory together expected, as for `defer`: probabilities that sum to
            one for each query.
        top_k : int
            Concepts to retrieve for each query, at least 1.

        Returns
        -------
        Explanation
            ``print`` shows it as tables.

        Raises
        ------
        AESGNavigationError
            If the query has another width, or holds NaN or infinity, or ``top_k`` does not fit.
        AESGMemoryError
            If outcomes or log-probabilities do not fit the queries, or are out of range.
        """
        check_top_k(top_k)
        check_log_probs(log_probs)
        followed = outcomes if follows(query, outcomes) else None
        queries = queries_of(query, self.vector_dim, followed, None)
        with self._reads() as state:
            reading = self._read(state, queries, top_k, vectors=True)
            details = details_of(state.scope, reading, state.clock)
        with torch.no_grad():
            deferred = Deferred(self._context(query, reading), outcomes, log_probs)
        ids = reading.found.ids[reading.found.ids != 0]
        return explanation_of(deferred, details, self.payloads(ids), self.config)

    @contextmanager
    def _reads(self) -> Iterator[MemoryState]:
        """Share the state as of the newest commit."""
        self.refresh()
        state = self._state
        with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
            state.require_width(self.vector_dim)  # of what the refresh brought
            yield state

    def _read(self, state: MemoryState, queries: Queries, top_k: int, vectors: bool) -> Reading:
        return read(
            state.scope,
            queries,
            top_k,
            self._spread(state.edge_decay, state.clock.epoch),
            state.clock.tick,
            exclude_own=self._mode in (MemoryMode.TRAIN, MemoryMode.FINETUNE),
            vectors=vectors,
        )

    def _context(self, query: Tensor, reading: Reading) -> RetrievedContext:
        """Return the columns of a reading as tensors of the query's shape and device."""
        shape = (*query.shape[:-1], reading.keys.shape[1])

        def tensor(column: NDArray[Any], *tail: int) -> Tensor:
            return torch.from_numpy(column).to(query.device).view(*shape, *tail)

        keys = tensor(reading.keys, self.vector_dim)
        mask = tensor(reading.found.ids != 0)
        activations = tensor(reading.activations)
        ages = tensor(reading.ages)
        with torch.autocast(query.device.type, enabled=False):
            with _parameters_in_use:
                scale = self.log_scale.float().exp()
                recency, null_logit = self.recency.float().clone(), self.null_logit.float().clone()
                projection = self.abstraction_projection.weight.float().clone()
            attention = attend(
                query.float(),
                keys,
                mask,
                activations,
                ages,
                scale=scale,
                recency=recency,
                null_logit=null_logit,
                projection=projection,
            )
        return RetrievedContext(
            keys=keys,
            weights=attention.weights,
            mask=mask,
            activations=activations,
            ages=ages,
            abstract=attention.abstract,
            abstract_weight=attention.abstract_weight,
            found=reading.found,
        )

    def _spread(self, edge_decay: float, epoch: int) -> Spread:
        """Return how activation travels at a consolidation epoch."""
        config = self.config
        return Spread(
            hops=config.spreading_activation_steps,
            decay=config.spreading_activation_decay,
            region_multiplier=config.region_facilitation_multiplier,
            frontier=config.spreading_activation_frontier,
            weakening=edge_decay,
            epoch=epoch,
        )


os.register_at_fork(
    before=_parameters_in_use.acquire,
    after_in_parent=_parameters_in_use.release,
    after_in_child=_parameters_in_use.release,
)
