"""`AESGMemory`: the one place where torch, the graph and the store meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aesg import binding
from aesg._seam import storage_errors
from aesg.attention import attend
from aesg.config import AESGConfig
from aesg.context import RetrievedContext
from aesg.errors import AESGMemoryError, AESGNavigationError
from aesg.history import EvolutionLog
from aesg.learning import UNKNOWN, Deferred, experience_of
from aesg.modes import PERMISSIONS, MemoryMode, Permissions
from aesg.payload import pack_payloads, unpack_payload
from aesg.reading import Queries, Reading, read
from aesg.state import MemoryState, NoveltyRates, StorageInfo
from aesg.validation import validate
from storage_backends.spreading import Spread
from storage_backends.types import Floats, Ids, ValueKind

DEFAULT_DIRECTORY = "./aesg_memory"
#: Concepts that one query retrieves unless it asks for another number.
DEFAULT_TOP_K = 32
#: Initial scale of cosines in the attention: a temperature of one tenth.
_FIRST_SCALE = 10.0
_FIRST_RECENCY = 0.5


class AESGMemory(nn.Module):
    """A persistent memory of concepts that a model queries at every forward pass.

    All handles of a process on one directory share one memory; each has its own mode, its own
    parameters and its own navigation state. A handle can be copied, pickled and saved with
    `torch.save`: it travels as the path of its directory.

    Parameters
    ----------
    directory : str or path, optional
        Made if it does not exist. Default: ``config.storage_directory``, else `DEFAULT_DIRECTORY`.
    config : AESGConfig
        Validated before anything is written. With ``memory_mode="INFERENCE"`` an existing memory
        is opened read-only.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range, or the memory holds concepts of another ``vector_dim``.
    AESGStorageError
        If the directory cannot be opened, or another process writes to it.

    Notes
    -----
    The parameters learned by gradient are the attention's temperature (``log_scale``), its prior
    on age (``recency``), its null slot (``null_logit``) and ``abstraction_projection``.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, config: AESGConfig | None = None
    ) -> None:
        super().__init__()
        config = AESGConfig() if config is None else config
        validate(config)
        self.config = config
        self.directory = Path(directory or config.storage_directory or DEFAULT_DIRECTORY).absolute()
        self._mode = MemoryMode.parse(config.memory_mode)
        self.abstraction_projection = nn.Linear(config.vector_dim, config.vector_dim, bias=False)
        nn.init.zeros_(self.abstraction_projection.weight)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
        self.recency = nn.Parameter(torch.tensor(_FIRST_RECENCY))
        self.null_logit = nn.Parameter(torch.tensor(0.0))
        self._deferred: list[Deferred] = []
        self._trail: Ids | None = None
        self._bound: binding.Bound | None = None
        self._closed = False
        self._bind(read_only=self._reads_only())

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], *, mode: str | MemoryMode = MemoryMode.INFERENCE
    ) -> AESGMemory:
        """Open an existing memory with the parameters that are stored in it.

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
        path = Path(directory).absolute()
        config = binding.stored_config(path)
        return cls(path, replace(config, memory_mode=MemoryMode.parse(mode).value))

    # What it is

    @property
    def mode(self) -> MemoryMode:
        """What the memory may do."""
        return self._mode

    @property
    def vector_dim(self) -> int:
        """Width of queries, keys and vector values."""
        return self.config.vector_dim

    @property
    def storage(self) -> StorageInfo:
        """Counts and health of what is stored."""
        return StorageInfo(self._state.engine)

    @property
    def logger(self) -> EvolutionLog:
        """The evolution log."""
        return EvolutionLog(self._state.engine.store.events)

    @property
    def rates(self) -> NoveltyRates:
        """How much of what the memory met was new to it, since this process opened it."""
        return self._state.rates

    @property
    def provisional_count(self) -> int:
        """Number of provisional concepts in short-term memory."""
        return len(self._state.shortterm)

    def set_mode(self, mode: str | MemoryMode) -> None:
        """Change what the memory may do.

        Raises
        ------
        AESGMemoryError
            If there is no such mode.
        AESGStorageError
            If the mode writes, the memory was opened read-only, and another process is its writer.
        """
        wanted = MemoryMode.parse(mode)
        if wanted is not MemoryMode.INFERENCE and self._state.read_only:
            self._bind(read_only=False)
        self._mode = wanted

    # Reading

    def forward(self, query: Tensor) -> RetrievedContext:
        """Same as `retrieve`."""
        return self.retrieve(query)

    def retrieve(
        self, query: Tensor, *, top_k: int = DEFAULT_TOP_K, origins: Tensor | None = None
    ) -> RetrievedContext:
        """Retrieve concepts and, where the mode allows, learn from the query.

        A novel query becomes a provisional concept, an explained one confirms the nearest. What is
        learned shows from the next call on. Consecutive calls with as many queries form sequences
        until `reset_state`.

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
            If the query has another width, or holds NaN or infinity.
        """
        context = self.recall(query, top_k=top_k, origins=origins, vectors=True)
        if self._permissions.create_concepts:
            state = self._state
            with state.lock, storage_errors(f"write to memory '{self.directory}'"):
                self._trail = state.follow(self._trail, self._learn(Deferred(context)))
                state.commit_if_due()
        return context

    def recall(
        self,
        query: Tensor,
        *,
        outcomes: Tensor | None = None,
        top_k: int = DEFAULT_TOP_K,
        origins: Tensor | None = None,
        vectors: bool = False,
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
            Whether ``context.vectors`` is needed besides the keys.
        """
        queries = self._queries(query, outcomes, origins)
        self._state.refresh()
        state = self._state  # checked against what the refresh brought
        config = self.config
        settings = Spread(
            hops=config.spreading_activation_steps,
            decay=config.spreading_activation_decay,
            region_multiplier=config.region_facilitation_multiplier,
        )
        with state.lock, storage_errors(f"read memory '{self.directory}'"):
            reading = read(
                state.scope,
                queries,
                top_k,
                settings,
                state.clock.tick,
                exclude_own=self._mode in (MemoryMode.TRAIN, MemoryMode.FINETUNE),
                vectors=vectors,
            )
        return self._context(query, reading)

    # Learning

    def defer(
        self,
        context: RetrievedContext,
        outcomes: Tensor | None = None,
        log_probs: Tensor | None = None,
    ) -> None:
        """Queue what a retrieval teaches until `update_topology`.

        Parameters
        ----------
        context : RetrievedContext
        outcomes : (...,) int64 tensor, optional
            What is known of the outcomes so far; `observe` may replace it.
        log_probs : (..., V) tensor, optional
            What model and memory together expected; the explanation score of an integer outcome
            is the probability given to it.
        """
        if self._permissions.create_concepts:
            log_probs = None if log_probs is None else log_probs.detach()
            self._deferred.append(Deferred(context, outcomes, log_probs))

    def observe(self, outcomes: Tensor) -> None:
        """Say what really came at each position of the forward pass just made.

        Ignored in INFERENCE.

        Parameters
        ----------
        outcomes : (...,) int64 or (..., D) float tensor
            One for each query; -100 where it is not known.
        """
        for deferred in self._deferred:
            deferred.outcomes = outcomes.detach()

    def update_topology(self) -> None:
        """Learn from the queries since the last call; age, prune and commit where it is due."""
        allowed = self._permissions
        deferred, self._deferred = self._deferred, []
        if not allowed.consolidation:
            return
        state = self._state
        with state.lock, storage_errors(f"write to memory '{self.directory}'"):
            for each in deferred:
                self._learn(each)
            state.advance(self.config, allowed.evolutionary_pressure)
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
            What each key leads to. Default: the key itself.
        payloads : sequence of N, optional
            What msgpack can encode; None for no payload.
        origins : (N,) int64 tensor, optional

        Returns
        -------
        (N,) uint64 array
            Their ids; empty in INFERENCE, which writes nothing.

        Raises
        ------
        AESGMemoryError
            If shapes, values or payloads do not fit.
        AESGNavigationError
            If a key has another width, or holds NaN or infinity.
        """
        queries = self._queries(torch.as_tensor(keys), None, origins)
        count, dim = queries.vectors.shape
        kind, value_ids, value_vectors = _values(values, count, dim)
        packed = pack_payloads(payloads, count)
        if not self._permissions.create_concepts:
            return np.empty(0, np.uint64)
        own = np.repeat(queries.origins, queries.sequences[1])
        state = self._state
        with state.lock, storage_errors(f"write to memory '{self.directory}'"):
            return state.remember(queries.vectors, kind, value_ids, value_vectors, packed, own)

    def payloads(self, concept_ids: Ids | Sequence[int]) -> list[Any]:
        """Return the payload of each concept; None where there is none."""
        ids = np.asarray(concept_ids, np.uint64).ravel()
        with storage_errors(f"read memory '{self.directory}'"):
            return [unpack_payload(each) for each in self._state.engine.store.payloads(ids)]

    def reset_state(self) -> None:
        """Forget where navigation stands, and retrievals that were not learned from yet.

        What is counted and stored stays.
        """
        self._trail = None
        self._deferred = []

    # Keeping

    def save(self) -> None:
        """Write everything that is new; durable when the call returns."""
        state = self._state
        with state.lock, storage_errors(f"save memory '{self.directory}'"):
            state.save()

    def refresh(self) -> bool:
        """Take in what the writing process has committed; True if there was anything."""
        with storage_errors(f"read memory '{self.directory}'"):
            return self._state.refresh()

    def close(self) -> None:
        """Save, and let go of the directory; the last handle of the process closes it."""
        bound, self._bound, self._closed = self._bound, None, True
        if bound is not None and not bound.inherited:
            bound.release()

    def __enter__(self) -> AESGMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the handle without what belongs to this process."""
        return {**self.__dict__, "_bound": None, "_deferred": [], "_trail": None}

    # Inside

    @property
    def _permissions(self) -> Permissions:
        """What mode and handle allow together."""
        return PERMISSIONS[MemoryMode.INFERENCE if self._state.read_only else self._mode]

    @property
    def _state(self) -> MemoryState:
        """The shared state, opened where this process has not done so."""
        if self._closed:
            raise AESGMemoryError(
                f"The memory '{self.directory}' was closed through this handle: "
                f"open it again with AESGMemory({str(self.directory)!r})"
            )
        bound = self._bound
        if bound is None:
            bound = self._bind(read_only=self._reads_only())
        elif bound.inherited:
            bound = self._bind(read_only=True)  # the writer lock stays with the parent process
        state = bound.state
        if state.vector_dim != self.vector_dim:
            state.adopt(self.config)
        return state

    def _bind(self, *, read_only: bool) -> binding.Bound:
        earlier, self._bound = self._bound, None
        if earlier is not None and not earlier.inherited:
            earlier.release()
        bound = binding.Bound(self, self.directory, self.config, read_only=read_only)
        bound.state.adopt(self.config)
        self._bound = bound
        return bound

    def _reads_only(self) -> bool:
        return self._mode is MemoryMode.INFERENCE and binding.exists(self.directory)

    def _queries(
        self, query: Tensor, outcomes: Tensor | None, origins: Tensor | None
    ) -> Queries:
        """Return queries as arrays, or say what is wrong with them."""
        vectors = self._checked(query)
        time = query.shape[-2] if query.ndim > 2 else 1
        sequences = (len(vectors) // max(time, 1), time)
        own = _origins(origins, sequences[0])
        if outcomes is None:
            return Queries(vectors, sequences, own)
        if outcomes.numel() != len(vectors):
            raise AESGNavigationError(
                f"Outcomes do not fit the queries: expected {sequences}, "
                f"got {tuple(outcomes.shape)}"
            )
        came: NDArray[np.int64] = outcomes.reshape(sequences).cpu().numpy()
        return Queries(vectors, sequences, own, came, came != UNKNOWN)

    def _checked(self, query: Tensor) -> Floats:
        """Return queries as ``(N, D)`` float32."""
        if not query.ndim or query.shape[-1] != self.vector_dim:
            raise AESGNavigationError(
                f"Query of wrong width: expected (..., {self.vector_dim}), "
                f"got {tuple(query.shape)}"
            )
        if not query.is_floating_point():
            raise AESGNavigationError(f"Query of wrong type: expected floats, got {query.dtype}")
        flat: Floats = query.detach().reshape(-1, self.vector_dim).float().cpu().numpy()
        finite = np.isfinite(flat).all(axis=1)
        if not finite.all():
            raise AESGNavigationError(
                f"Query {int(np.argmin(finite))} holds NaN or infinity: expected finite numbers"
            )
        return flat

    def _context(self, query: Tensor, reading: Reading) -> RetrievedContext:
        """Return the columns of a reading as tensors of the query's shape and device."""
        shape = (*query.shape[:-1], reading.keys.shape[1])

        def tensor(column: NDArray[Any], *tail: int) -> Tensor:
            return torch.from_numpy(column).to(query.device).view(*shape, *tail)

        keys = tensor(reading.keys, self.vector_dim)
        mask = tensor(reading.found.ids != 0)
        activations = tensor(reading.activations)
        ages = tensor(reading.ages)
        attention = attend(
            query.float(),
            keys,
            mask,
            activations,
            ages,
            scale=self.log_scale.exp(),
            recency=self.recency,
            null_logit=self.null_logit,
            projection=self.abstraction_projection.weight,
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

    def _learn(self, deferred: Deferred) -> Ids:
        """Take in one retrieval; return the concept that stands for each query, 0 for none."""
        allowed = self._permissions
        return self._state.absorb(
            experience_of(deferred, self.config.novelty_explanation_threshold),
            self.config,
            allowed.learning_rate_scale,
            may_prune=allowed.evolutionary_pressure,
        )


def _origins(origins: Tensor | None, count: int) -> Ids:
    if origins is None:
        return np.zeros(count, np.uint64)
    if origins.is_floating_point() or origins.numel() != count:
        raise AESGNavigationError(
            f"Origins do not fit the queries: expected {count} integers, "
            f"got {origins.dtype} of shape {tuple(origins.shape)}"
        )
    own: Ids = origins.reshape(-1).cpu().numpy().astype(np.int64).view(np.uint64)
    return own


def _values(
    values: Tensor | NDArray[Any] | Sequence[int] | None, count: int, dim: int
) -> tuple[ValueKind, NDArray[np.int64], Floats | None]:
    """Return kind and columns of the values given to `AESGMemory.remember`."""
    none = np.zeros(count, np.int64)
    if values is None:
        return ValueKind.KEY, none, None
    given = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if given.dtype.kind in "iu" and given.shape in ((count,), ()) and given.size == count:
        return ValueKind.INTEGER, given.reshape(count).astype(np.int64), None
    if given.dtype.kind == "f" and given.size == count * dim and np.isfinite(given).all():
        return ValueKind.VECTOR, none, given.reshape(count, dim).astype(np.float32)
    raise AESGMemoryError(
        f"values: expected {count} integers, or finite floats of shape ({count}, {dim}), "
        f"got {given.dtype} of shape {given.shape}"
    )
