"""The reading side of a memory: retrieval that learns nothing, and its explanation."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from aesg import memory_ops
from aesg._seam import storage_errors
from aesg.attention import attend
from aesg.config import AESGConfig
from aesg.context import RetrievedContext, Trace
from aesg.errors import AESGMemoryError
from aesg.explaining import details_of, explanation_of, follows
from aesg.explanation import Explanation
from aesg.graph.crowding import Crowding
from aesg.graph.scope import Scope
from aesg.learning import Deferred
from aesg.memory_columns import Columns, columns_of, unflat
from aesg.memory_inputs import check_log_probs, check_top_k, following, queries_of
from aesg.memory_sources import MemorySources
from aesg.modes import MemoryMode
from aesg.reading import Queries, Reading, read
from aesg.state import MemoryState
from storage_backends.spreading import Spread

#: Concepts that one query retrieves unless it asks for another number.
DEFAULT_TOP_K = 32
#: Initial scale of cosines in the attention: a temperature of one tenth.
_FIRST_SCALE = 10.0
_FIRST_RECENCY = 0.5
_FIRST_REACH = 2.0  # before the sigmoid: 0.88

#: torch guards each tensor by a mutex. Threads share the parameters, and a child that is forked
#: while another thread holds the mutex of one would wait for it for ever: a fork waits for this.
_parameters_in_use = threading.RLock()


class MemoryReading(MemorySources):
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
        self.reach_logit = nn.Parameter(torch.tensor(_FIRST_REACH))
        self._crowding = Crowding()
        self.register_buffer("_taught", torch.zeros((), dtype=torch.long), persistent=False)
        self._handle = memory_ops.register(self, str(self.directory))

    @property
    def handle(self) -> int:
        """The number by which a compiled or exported model finds this memory in its process."""
        return self._handle

    def bind_handle(self, handle: int) -> None:
        """Answer to another number: that of the memory which a model was exported with.

        Models that were compiled with this memory before must be compiled again.

        Raises
        ------
        AESGMemoryError
            If the number is not from 1 to ``2**63 - 1``, or another memory of the process has it.
        """
        memory_ops.bind(self, handle, self._handle)
        self._handle = handle

    def recall(
        self,
        query: Tensor,
        *,
        outcomes: Tensor | None = None,
        after: tuple[RetrievedContext | None, Tensor] | None = None,
        top_k: int = DEFAULT_TOP_K,
        origins: Tensor | None = None,
        vectors: bool = True,
        balanced: bool = False,
    ) -> RetrievedContext:
        """Retrieve concepts and learn nothing; for layers that know more than the query.

        Parameters
        ----------
        query : (..., D) tensor
        outcomes : (B, T) int64 tensor, optional
            What came after each position of ``(B, T, D)`` queries; -100 where it is not known.
            Position ``t`` uses those before ``t``: the successors of concepts that were right are
            followed, and the search is skipped.
        after : (RetrievedContext or None, (B,) int64 tensor), optional
            For sequences read position by position, ``(B, D)`` queries each: the context of the
            position before, or None where the sequences begin, and what came there, -100 where
            it is not known. All positions in turn retrieve what one call with their outcomes does.
        top_k, origins
            As for `retrieve`.
        vectors : bool
            Whether to gather ``context.vectors`` besides the keys; a layer that needs integer
            values alone saves the time.
        balanced : bool
            Whether the attention's logits are less ``log(number of concepts with that integer
            value)``, so that a value which many concepts hold does not outweigh one that few do.
            For classes.

        Raises
        ------
        AESGNavigationError
            If the query has another width, or holds NaN or infinity, or an argument does not fit.
        """
        check_top_k(top_k)
        before: list[Tensor] = []
        if after is not None:
            outcomes, before = following(after, query, outcomes)
        if torch.compiler.is_compiling():
            hops = self.config.spreading_activation_steps
            asked = (query.detach(), self.handle, top_k, hops, outcomes, before, origins)
            read = unflat(memory_ops.recall(*asked, vectors, balanced))
        else:
            read = self.retrieved(query, top_k, outcomes, before, origins, vectors, balanced)
        return self._context(query, *read, vectors=vectors, balanced=balanced)

    def retrieved(
        self,
        query: Tensor,
        top_k: int,
        outcomes: Tensor | None,
        before: Sequence[Tensor],
        origins: Tensor | None,
        vectors: bool,
        balanced: bool,
    ) -> tuple[Columns, Trace]:
        """Return what `recall` attends to; for the operator of compiled models."""
        queries = queries_of(query, self.vector_dim, outcomes, origins, before)
        with self._reads() as state:
            began = time.perf_counter()
            scope = self._scope(state)
            reading = self._read(state, scope, queries, top_k, vectors)
            crowds = self._crowding.counts(scope, reading.slots) if balanced else None
            found = columns_of(scope, reading, crowds, query.device)
            state.rates.retrieved(time.perf_counter() - began)
            return found

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
            scope = self._scope(state)
            reading = self._read(state, scope, queries, top_k, vectors=True)
            details = details_of(scope, reading, state.clock)
            columns, trace = columns_of(scope, reading, None, query.device)
        with torch.no_grad():
            context = self._context(query, columns, trace, vectors=True, balanced=False)
            deferred = Deferred(context, outcomes, log_probs)
        ids = context.concept_ids.ravel()
        ids = ids[ids != 0]
        payloads = self.payloads(ids)
        return explanation_of(deferred, details, payloads, self.config, self.sources)

    def _defer_traced(
        self,
        context: RetrievedContext,
        outcomes: Tensor | None,
        log_probs: Tensor | None,
        expected: Tensor | None,
    ) -> None:
        """Have the model defer when it runs; one that is exported only reads."""
        if not memory_ops.is_exporting():
            vectors, came, likely, awaited = (
                None if each is None else each.detach()
                for each in (context.gathered, outcomes, log_probs, expected)
            )
            parts = memory_ops.parts_of(context)
            count = self._taught
            memory_ops.defer(count, self.handle, parts, vectors, came, likely, awaited)

    def _learn_traced(self, context: RetrievedContext) -> None:
        """Have the model learn when it runs, as `_defer_traced` does."""
        if not memory_ops.is_exporting():
            memory_ops.learn(self._taught, self.handle, memory_ops.parts_of(context))

    def _replicate_for_data_parallel(self) -> Any:
        raise AESGMemoryError(
            "A memory cannot be replicated: expected one model in one process, got DataParallel; "
            "run the model on one device, or train in one process and let others read the memory "
            "in INFERENCE"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take in the state of a handle; a copy answers to a number of its own."""
        super().__setstate__(state)
        self._handle = memory_ops.register(self, str(self.directory))

    @contextmanager
    def _reads(self) -> Iterator[MemoryState]:
        """Share the state as of the newest commit."""
        self.refresh()
        state = self._state
        with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
            state.require_width(self.vector_dim)  # of what the refresh brought
            yield state

    def _read(
        self, state: MemoryState, scope: Scope, queries: Queries, top_k: int, vectors: bool
    ) -> Reading:
        return read(
            scope,
            queries,
            top_k,
            self._spread(state.edge_decay, state.clock.epoch),
            state.clock.tick,
            exclude_own=self._mode in (MemoryMode.TRAIN, MemoryMode.FINETUNE),
            vectors=vectors,
        )

    def _context(
        self, query: Tensor, columns: Columns, trace: Trace, *, vectors: bool, balanced: bool
    ) -> RetrievedContext:
        """Weigh what was retrieved, in the shape of the queries."""
        lead = query.shape[:-1]
        (keys, mask, activations, ages, cosines, roots, crowds, kinds, value_ids, gathered) = (
            columns if len(lead) == 1 else (each.view(*lead, *each.shape[1:]) for each in columns)
        )
        with _in_full_precision(query.device.type):
            scale, recency, null_logit, reach, projection = self._attention_parameters()
            attention = attend(
                query.float(),
                keys,
                None if _is_everywhere(trace) else mask,
                activations,
                ages,
                roots,
                -crowds.log() if balanced else None,
                scale=scale,
                recency=recency,
                null_logit=null_logit,
                reach=reach,
                projection=projection,
            )
        return RetrievedContext(
            keys=keys,
            weights=attention.weights,
            mask=mask,
            activations=activations,
            ages=ages,
            cosines=cosines,
            value_kinds=kinds,
            value_ids=value_ids,
            abstract=attention.abstract,
            abstract_weight=attention.abstract_weight,
            trace=trace,
            gathered=gathered if vectors else None,
        )

    def _attention_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return scale, weight of age, null logit, reach and projection, each in float32."""
        with nullcontext() if torch.compiler.is_compiling() else _parameters_in_use:
            return (
                self.log_scale.float().exp(),
                self.recency.float().clone(),
                self.null_logit.float().clone(),
                self.reach_logit.float().sigmoid(),
                self.abstraction_projection.weight.float().clone(),
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


def _is_everywhere(trace: Trace) -> bool:
    """Tell whether a concept was found for every place; not known while torch compiles."""
    if torch.compiler.is_compiling() or not trace.ids.shape[1]:
        return False
    return bool(trace.ids.numpy().all())


def _in_full_precision(device: str) -> AbstractContextManager[object]:
    """Return a block without autocast."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


os.register_at_fork(
    before=_parameters_in_use.acquire,
    after_in_parent=_parameters_in_use.release,
    after_in_child=_parameters_in_use.release,
)
