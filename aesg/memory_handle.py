"""A handle on a memory directory: its mode, and how it is opened, shared, copied and closed."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import get_worker_info

from aesg import binding
from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.errors import AESGMemoryError, AESGStorageError
from aesg.history import EvolutionLog, Kept, kept
from aesg.memory_stats import Edge, NoveltyRates, StorageInfo, edges_of
from aesg.modes import PERMISSIONS, MemoryMode, Permissions
from aesg.payload import unpack_payload
from aesg.state import MemoryState
from aesg.validation import validate
from storage_backends.types import Ids

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("aesg.memory")

DEFAULT_DIRECTORY = "./aesg_memory"


class MemoryHandle(nn.Module):
    """What `AESGMemory` is apart from retrieval and learning; opened by `_bind`.

    Parameters
    ----------
    directory : str or path, optional
    config : AESGConfig, optional
        Validated here.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, config: AESGConfig | None) -> None:
        super().__init__()
        if config is None:
            config = _config_of(resolved(directory or DEFAULT_DIRECTORY))
        validate(config)
        logging.getLogger("aesg").setLevel(config.log_level)
        self.config = config
        self.directory = resolved(directory or config.storage_directory or DEFAULT_DIRECTORY)
        self._mode = MemoryMode.parse(config.memory_mode)
        self._bound: binding.Bound | None = None
        self._reader_in: int | None = None  # process that this handle came to through a fork
        self._closed = False
        self._has_warned = False

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
        """Counts and health of what is stored; commits what is born or linked first.

        Within `counted_commits`, as in `AESGTrainer.fit`, reading commits nothing: edges are those
        of the last commit there.
        """
        return StorageInfo(self._settled())

    @property
    def logger(self) -> EvolutionLog:
        """The evolution log; within `counted_commits` that of the last commit."""
        return EvolutionLog(self._events)

    @property
    def rates(self) -> NoveltyRates:
        """How much of what the memory met was new to it, since this process opened it."""
        return self._state.rates

    @property
    def provisional_count(self) -> int:
        """Number of provisional concepts in short-term memory."""
        state = self._state
        with state.lock.shared():
            return state.provisional_count

    def set_mode(self, mode: str | MemoryMode) -> None:
        """Change what the memory may do.

        A handle of a memory that the parent process writes stays a reader in a forked process, and
        every handle does in a data worker: there the mode changes, and learning does nothing.

        Raises
        ------
        AESGMemoryError
            If there is no such mode.
        AESGStorageError
            If the mode writes, the memory was opened read-only, and another process is its writer.
        """
        wanted = MemoryMode.parse(mode)
        if wanted is not MemoryMode.INFERENCE and not self._writes and not self._bystander:
            self._bind(read_only=False)
        self._mode = wanted

    def save(self) -> None:
        """Write everything that is new; durable when the call returns."""
        state = self._state
        with state.lock.alone(), storage_errors(f"save memory '{self.directory}'"):
            state.save()

    def refresh(self) -> bool:
        """Take in what the writing process has committed; True if there was anything."""
        with storage_errors(f"read memory '{self.directory}'"):
            return self._state.refresh()

    def reset_state(self) -> None:
        """Forget what this handle alone took from the memory: here, nothing."""

    def close(self) -> None:
        """Save, and let go of the directory; the last handle of the process closes it.

        A second call does nothing.

        Raises
        ------
        AESGStorageError
            If it cannot be saved; the handle stays open and can be used, and closed later.
        """
        bound = self._bound
        if bound is not None and not bound.inherited:
            bound.release()
        self._bound, self._closed = None, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the handle without what belongs to this process; a copy opens for itself."""
        return {**self.__dict__, "_bound": None, "_closed": False, "_has_warned": False}

    def extra_repr(self) -> str:
        """Describe the handle for `print`; opens nothing."""
        said = f"{str(self.directory)!r}, mode={self._mode.value}, vector_dim={self.vector_dim}"
        bound = self._bound
        if bound is not None and not bound.inherited:
            return f"{said}, concepts={bound.state.node_count}"
        return f"{said}, closed" if self._closed else said

    @property
    def _permissions(self) -> Permissions:
        """What mode and handle allow together."""
        return PERMISSIONS[MemoryMode.INFERENCE if self._state.read_only else self._mode]

    def _warn_of_nothing_written(self, asked: str) -> None:
        """Log, once for each handle, that what was asked for wrote nothing, and why."""
        if self._has_warned:
            return
        self._has_warned = True
        if get_worker_info() is not None:
            why = "a data worker only reads"
        elif self._bystander:
            why = "this process was forked from the one that writes the memory, and only reads it"
        else:
            why = f"the handle is in mode {self._mode.value} and only reads; see set_mode"
        _log.warning("memory '%s': %s wrote nothing: %s", self.directory, asked, why)

    @property
    def _state(self) -> MemoryState:
        """The shared state, opened where this process has not done so."""
        if self._closed:
            raise AESGMemoryError(
                f"The memory '{self.directory}' was closed through this handle: "
                f"open it again with AESGMemory.open({str(self.directory)!r}, mode=...)"
            )
        bound = self._bound
        if bound is not None and bound.inherited:
            if not bound.state.read_only:
                self._reader_in = os.getpid()  # the writer lock stays with the parent process
            bound = None
        if bound is None:
            bound = self._bind(read_only=self._reads_only())
        bound.state.require_width(self.vector_dim)
        return bound.state

    @property
    def _writes(self) -> bool:
        """Whether this handle keeps the memory open for writing."""
        return not self._state.read_only and self._bound is not None and self._bound.writes

    @property
    def _bystander(self) -> bool:
        """Whether this handle cannot become a writer in this process."""
        return self._reader_in == os.getpid() or get_worker_info() is not None

    def _reads_only(self) -> bool:
        if self._mode is not MemoryMode.INFERENCE:
            return self._bystander
        if not binding.exists(self.directory):
            binding.create(self.directory, self.config)
        return True

    def _bind(self, *, read_only: bool) -> binding.Bound:
        earlier, self._bound = self._bound, None
        if earlier is not None and not earlier.inherited:
            earlier.release()
        bound = binding.Bound(self, self.directory, self.config, writes=not read_only)
        self._bound = bound
        return bound

    def _require_writing(self, what: str) -> None:
        """Check that this handle may write, whatever its mode; say what that is needed for."""
        if not self._writes:
            hint = "open the memory in a mode that learns, or call set_mode('TRAIN')"
            if self._bystander:
                hint = "data workers and forked processes cannot write"
            raise AESGMemoryError(
                f"Memory '{self.directory}': expected a handle that may write to {what}, got one "
                f"that only reads; {hint}"
            )

    def _own_payloads(self, ids: Ids) -> list[Any]:
        """Return the payloads of concepts of the memory itself."""
        self.refresh()
        with storage_errors(f"read memory '{self.directory}'"):
            return [unpack_payload(each) for each in self._state.payloads(ids)]

    def _own_standing(self, ids: Ids) -> Ids:
        """Return the concepts of the memory itself that stand for some ids."""
        self.refresh()
        with storage_errors(f"read memory '{self.directory}'"):
            return self._state.present(ids)

    def _own_edges(self, concept_id: Ids) -> list[Edge]:
        """Return the edges of a concept of the memory itself, given as one id."""
        self.refresh()
        state = self._settled()
        with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
            return edges_of(state.view, int(state.resolve(concept_id)[0]), state.clock.epoch)

    def _settled(self) -> MemoryState:
        """Return the state to be looked at, with its store open.

        Nothing born or linked is left to commit, unless commits are counted: who looks at a
        training would change it.
        """
        state = self._state
        with state.lock.alone(), storage_errors(f"write to memory '{self.directory}'"):
            if not state.counts_commits:
                state.commit_waiting()
            state.revive()
        return state

    def _writes_what_was_learned(self, hint: str = "") -> AbstractContextManager[None]:
        return storage_errors(
            f"write what memory '{self.directory}' has learned (it waits for the next commit{hint})"
        )

    def _events(self, newest: int | None) -> Kept:
        state = self._settled()
        with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
            return kept(state.engine.store, newest)


def resolved(directory: str | os.PathLike[str]) -> Path:
    """Return the one path of a directory, however it is written.

    Raises
    ------
    AESGStorageError
        If it is no path, or the present directory that it starts from is gone.
    """
    try:
        return Path(os.path.realpath(directory))
    except (OSError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Directory: expected a path of text, got {directory!r} ({error})"
        ) from error


def _config_of(directory: Path) -> AESGConfig:
    """Return the parameters that a directory was written with; the defaults for a new one."""
    if not binding.exists(directory):
        return AESGConfig()
    with binding.stored_config(directory) as stored:
        return stored


def _use_one_thread() -> None:
    torch.set_num_threads(1)


# A child inherits a pool of threads that no longer run, and would wait for them for ever.
os.register_at_fork(after_in_child=_use_one_thread)
