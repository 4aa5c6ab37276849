"""One `MemoryState` for each directory of a process, shared by all handles on it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from functools import partial
from pathlib import Path

from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.memory_stored import config_of
from aesg.state import MemoryState
from storage_backends.errors import StoreError
from storage_backends.layout import current_folder
from storage_backends.lmdb_store import LMDBStore

_log = logging.getLogger("aesg.memory")


class Bound:
    """A handle's hold on the state of its directory; let go when the handle is collected.

    Parameters
    ----------
    owner : object
        The handle.
    directory : Path
        Resolved.
    config : AESGConfig
        Parameters of the handle.
    read_only : bool
        Whether a state that cannot write will do.

    Raises
    ------
    AESGConfigError
        If the memory holds concepts of another width.
    AESGStorageError
        If the directory cannot be opened, or another process writes to it.
    """

    def __init__(
        self, owner: object, directory: Path, config: AESGConfig, *, read_only: bool
    ) -> None:
        self.state = _acquire(directory, read_only=read_only, create=True)
        try:
            with storage_errors(f"write to memory '{directory}'"):
                self.state.adopt(config)
        except BaseException:
            if _let_go(self.state):
                self.state.engine.close()
            raise
        self._directory = directory
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(owner, _release_elsewhere, self.state)
        self._finalizer.atexit = False  # that is for `_close_all`

    @property
    def inherited(self) -> bool:
        """Whether this belongs to the parent of a forked process."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Let go now; the last holder saves and closes the memory.

        Raises
        ------
        AESGStorageError
            If it cannot be saved; it is still held then.
        """
        with _lock, storage_errors(f"close memory '{self._directory}'"):
            if not self._finalizer.alive:
                return
            if _holders.get(self.state) == 1:
                with self.state.lock:
                    self.state.save()
            self._finalizer.detach()
            if _let_go(self.state):
                self.state.engine.close()


def stored_config(directory: Path) -> AESGConfig:
    """Return the parameters that an existing memory was last written with.

    Raises
    ------
    AESGStorageError
        If there is no memory in the directory, or it cannot be read.
    """
    with _lock, storage_errors(f"open memory '{directory}'"):
        for read_only in (False, True):
            state = _current_state(directory, read_only)
            if state is not None:
                with state.lock:
                    state.refresh()
                    return state.config
        with LMDBStore.open(directory, read_only=True) as store:
            changes = store.changes(store.generation())  # nothing but the settings
            while changes is None:  # the log was cut in between
                changes = store.changes(store.generation())
            return config_of(changes.settings)


def exists(directory: Path) -> bool:
    """Tell whether there is a memory in a directory."""
    with storage_errors(f"open memory '{directory}'"):
        return current_folder(directory) is not None


_lock = threading.RLock()
_states: dict[tuple[Path, bool], MemoryState] = {}  # by directory and read_only
_holders: dict[MemoryState, int] = {}  # of a directory that was replaced, too


def _acquire(directory: Path, *, read_only: bool, create: bool) -> MemoryState:
    with _lock:
        state = _current_state(directory, False)
        if state is None and read_only:
            state = _current_state(directory, True)
        if state is None:
            with storage_errors(f"open memory '{directory}'"):
                state = _opened(directory, read_only, create)
            _states[directory, read_only] = state
        _holders[state] = _holders.get(state, 0) + 1
        return state


def _current_state(directory: Path, read_only: bool) -> MemoryState | None:
    """Return the state of a directory, unless another one stands in its place by now."""
    state = _states.get((directory, read_only))
    if state is None:
        return None
    try:
        with state.lock:
            state.revive()
        current = state.engine.store.is_current()
    except StoreError:
        current = False
    if not current:
        del _states[directory, read_only]
    return state if current else None


def _opened(directory: Path, read_only: bool, create: bool) -> MemoryState:
    store = LMDBStore.open(directory, read_only=read_only, create=create)
    try:
        reopen = partial(LMDBStore.open, directory, read_only=read_only, create=False)
        return MemoryState(store, reopen)
    except BaseException:
        store.close()
        raise


def _let_go(state: MemoryState) -> bool:
    """Count one holder less; True if it was the last, and the state is the caller's to close."""
    with _lock:
        if state not in _holders:
            return False  # inherited through a fork: the parent's to close
        _holders[state] -= 1
        if _holders[state]:
            return False
        del _holders[state]
        for place in [place for place, held in _states.items() if held is state]:
            del _states[place]
        return True


def _release_elsewhere(state: MemoryState) -> None:
    """Release the state of a collected handle, on a thread of its own.

    The garbage collector may have found the handle in the middle of anything, with any lock held.
    """
    if state in _holders:
        threading.Thread(target=_release_or_log, args=(state,), name="aesg-release").start()


def _release_or_log(state: MemoryState) -> None:
    with _lock:
        try:
            if _let_go(state):
                state.close()
        except Exception:  # nobody is there to be told
            _log.exception("a memory that was dropped unclosed could not be saved")


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
        except Exception:  # the interpreter ends: say it, and let the others close
            _log.exception("a memory could not be saved at exit")
    _states.clear()
    _holders.clear()


#: Kept so that a child never runs the destructors of what it inherited.
_inherited: list[MemoryState] = []

os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_all)
