"""One `MemoryState` for each directory of a process, shared by all handles on it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.memory_stored import config_of
from aesg.state import MemoryState
from storage_backends.errors import StoreError
from storage_backends.layout import current_folder
from storage_backends.lmdb_store import LMDBStore

_log = logging.getLogger("aesg.memory")


class Owner(Protocol):
    """A handle, as far as its hold on a state concerns it."""

    def reset_state(self) -> None:
        """Forget what it took from the content of the memory so far."""
        ...


class Bound:
    """A handle's hold on the state of its directory; let go when the handle is collected.

    Parameters
    ----------
    owner : Owner
        The handle.
    directory : Path
        Resolved.
    config : AESGConfig
        Parameters of the handle.
    writes : bool
        Whether the handle keeps the memory open for writing; else a state that cannot will do.

    Raises
    ------
    AESGConfigError
        If the memory holds concepts of another width, or is open in this process with another
        durability.
    AESGStorageError
        If the directory cannot be opened, or another process writes to it.
    """

    def __init__(self, owner: Owner, directory: Path, config: AESGConfig, *, writes: bool) -> None:
        self.state = _acquire(directory, config, writes=writes)
        self.writes = writes
        try:
            with storage_errors(f"write to memory '{directory}'"):
                self.state.adopt(config)
        except BaseException:
            _let_go(self.state, writes=writes)
            raise
        self._directory = directory
        self._pid = os.getpid()
        self._owner = weakref.ref(owner)
        self._finalizer = weakref.finalize(owner, _release_elsewhere, self.state, writes)
        self._finalizer.atexit = False  # that is for `_close_all`
        with _lock:
            _bounds.add(self)

    @property
    def inherited(self) -> bool:
        """Whether this belongs to the parent of a forked process."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Let go now; the last holder that writes saves the memory, the last of all closes it.

        Raises
        ------
        AESGStorageError
            If it cannot be saved; it is still held then.
        """
        with _lock, storage_errors(f"close memory '{self._directory}'"):
            if self._finalizer.alive:
                _save_before_leaving(self.state, writes=self.writes)
                self._finalizer.detach()
                _let_go(self.state, writes=self.writes)


@contextmanager
def alone_with(state: MemoryState) -> Iterator[list[Owner]]:
    """Give the handles on a state; inside, no other thread uses it, and none opens a memory."""
    with _lock, state.lock.alone():
        owners = [bound._owner() for bound in _bounds if bound.state is state]
        yield [owner for owner in owners if owner is not None]


def holds_on(directory: Path) -> list[tuple[MemoryState, Owner]]:
    """Return the handles of this process that have a directory open, with their states."""
    with _lock:
        held = [each for each in _bounds if each._directory == directory and not each.inherited]
        owned = [(each.state, each._owner()) for each in held]
    return [(state, owner) for state, owner in owned if owner is not None]


@contextmanager
def stored_config(directory: Path) -> Iterator[AESGConfig]:
    """Give the parameters that an existing memory was last written with.

    Inside, its file stays open, so that to open the memory there does not examine it again.

    Raises
    ------
    AESGStorageError
        If there is no memory in the directory, or it cannot be read.
    """
    with ExitStack() as opened:
        with _lock, storage_errors(f"open memory '{directory}'"):
            state = _current_state(directory, False) or _current_state(directory, True)
            if state is not None:
                state.refresh()
                config = state.config
            else:
                store = opened.enter_context(LMDBStore.open(directory, read_only=True))
                config = config_of(settings_of(store))
        yield config


def settings_of(store: LMDBStore) -> Mapping[str, bytes]:
    """Return the settings of the last commit of a store."""
    while True:
        changes = store.changes(store.generation())  # nothing but the settings
        if changes is not None:  # else a commit came in between
            return changes.settings


def create(directory: Path, config: AESGConfig) -> None:
    """Make a memory that nothing has open afterwards; the errors are those of `Bound`."""
    state = _acquire(directory, config, writes=True)
    with storage_errors(f"write to memory '{directory}'"):
        try:
            state.adopt(config)
        finally:
            _let_go(state, writes=True)


def exists(directory: Path) -> bool:
    """Tell whether there is a memory in a directory."""
    with storage_errors(f"open memory '{directory}'"):
        return current_folder(directory) is not None


_lock = threading.RLock()
_states: dict[tuple[Path, bool], MemoryState] = {}  # by directory and read_only
#: Holds of handles, those included that were let go and are not collected yet.
_bounds: weakref.WeakSet[Bound] = weakref.WeakSet()
#: For each use of a state whether it writes; of a directory that was replaced, too.
_holders: dict[MemoryState, list[bool]] = {}


def _acquire(directory: Path, config: AESGConfig, *, writes: bool) -> MemoryState:
    with _lock:
        state = _current_state(directory, False)
        if state is None and not writes:
            state = _current_state(directory, True)
        if state is None:
            with storage_errors(f"open memory '{directory}'"):
                state = _opened(directory, config.durability, writes)
            _states[directory, not writes] = state
        elif writes and state.durability != config.durability:
            raise AESGConfigError(
                f"Memory '{directory}' is open in this process: expected "
                f"durability={state.durability!r} as there, got {config.durability!r}. "
                "Close its other handles first"
            )
        _holders.setdefault(state, []).append(writes)
        return state


def _current_state(directory: Path, read_only: bool) -> MemoryState | None:
    """Return the state of a directory, unless another one stands in its place by now."""
    state = _states.get((directory, read_only))
    if state is None:
        return None
    try:
        with state.lock.alone():
            state.revive()
        current = state.engine.store.is_current()
    except StoreError:
        current = False
    if not current:
        del _states[directory, read_only]
    return state if current else None


def _opened(directory: Path, durability: str, writes: bool) -> MemoryState:
    reopen = partial(LMDBStore.open, directory, create=False, durability=durability)
    store = LMDBStore.open(directory, durability=durability) if writes else reopen(read_only=True)
    try:
        return MemoryState(store, reopen, durability)
    except BaseException:
        store.close()
        raise


def _save_before_leaving(state: MemoryState, *, writes: bool) -> None:
    """Save what the last use of a state, or the last that writes, would leave unsaved.

    The writer lock goes with the latter, while others read on.
    """
    holders = _holders.get(state, [])
    if len(holders) == 1:
        with state.lock.alone():
            state.save()
    elif writes and holders.count(True) == 1:
        state.read_on()
        for directory, read_only in [place for place, held in _states.items() if held is state]:
            if not read_only:
                del _states[directory, read_only]
                _states.setdefault((directory, True), state)


def _let_go(state: MemoryState, *, writes: bool) -> None:
    """Count one use less, and close the state after the last."""
    with _lock:
        if state not in _holders:
            return  # inherited through a fork: the parent's to close
        _holders[state].remove(writes)
        if _holders[state]:
            return
        del _holders[state]
        for place in [place for place, held in _states.items() if held is state]:
            del _states[place]
        state.engine.close()


def _release_elsewhere(state: MemoryState, writes: bool) -> None:
    """Release the state of a collected handle, on a thread of its own.

    The garbage collector may have found the handle in the middle of anything, with any lock held.
    """
    if state in _holders:
        threading.Thread(target=_release_or_log, args=(state, writes), name="aesg-release").start()


def _release_or_log(state: MemoryState, writes: bool) -> None:
    with _lock:
        try:
            try:
                _save_before_leaving(state, writes=writes)
            finally:
                _let_go(state, writes=writes)
        except Exception as error:  # nobody is there to be told
            _log_loss("a memory that was dropped unclosed could not be saved", error)


def _log_loss(what: str, error: Exception) -> None:
    """Log an error by its text; with its traceback at DEBUG, or where it is not of storage."""
    explains_itself = isinstance(error, (StoreError, OSError)) and not _log.isEnabledFor(
        logging.DEBUG
    )
    _log.error("%s: %s", what, error, exc_info=None if explains_itself else error)


def _forget_in_child() -> None:
    """Leave the parent's states alone; handles open the directory anew where they are used."""
    global _lock
    _lock = threading.RLock()
    _inherited.extend(_holders)
    _states.clear()
    _holders.clear()


def _close_all() -> None:
    for state in _holders:
        try:
            state.close()
        except Exception as error:  # the interpreter ends: say it, and let the others close
            _log_loss("a memory could not be saved at exit", error)
    _states.clear()
    _holders.clear()


#: Kept so that a child never runs the destructors of what it inherited.
_inherited: list[MemoryState] = []

os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_all)
