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
from aesg.errors import AESGStorageError
from aesg.state import MemoryState
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
            _release(self.state)
            raise
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(owner, _release_elsewhere, self.state)
        self._finalizer.atexit = False  # that is for `_close_all`

    @property
    def inherited(self) -> bool:
        """Whether this belongs to the parent of a forked process."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Let go now; the last holder saves and closes the memory."""
        if self._finalizer.detach():
            _release(self.state)


def stored_config(directory: Path) -> AESGConfig:
    """Return the parameters that an existing memory was last written with.

    Raises
    ------
    AESGStorageError
        If there is no memory in the directory, or it cannot be read.
    """
    state = _acquire(directory, read_only=True, create=False)
    try:
        return state.config
    finally:
        _release(state)


def exists(directory: Path) -> bool:
    """Tell whether there is a memory in a directory."""
    with storage_errors(f"open memory '{directory}'"):
        return current_folder(directory) is not None


_lock = threading.RLock()
_states: dict[tuple[Path, bool], MemoryState] = {}  # by directory and read_only
_holders: dict[int, int] = {}  # by identity of the state


def _acquire(directory: Path, *, read_only: bool, create: bool) -> MemoryState:
    with _lock:
        place = (directory, read_only and (directory, False) not in _states)
        state = _states.get(place)
        if state is None:
            with storage_errors(f"open memory '{directory}'"):
                state = _states[place] = _opened(directory, read_only, create)
        _holders[id(state)] = _holders.get(id(state), 0) + 1
        return state


def _opened(directory: Path, read_only: bool, create: bool) -> MemoryState:
    store = LMDBStore.open(directory, read_only=read_only, create=create)
    try:
        reopen = partial(LMDBStore.open, directory, read_only=read_only, create=False)
        return MemoryState(store, reopen)
    except BaseException:
        store.close()
        raise


def _release(state: MemoryState) -> None:
    with _lock:
        if id(state) not in _holders:
            return  # inherited through a fork: the parent's to close
        _holders[id(state)] -= 1
        if not _holders[id(state)]:
            del _holders[id(state)]
            place = next(place for place, held in _states.items() if held is state)
            del _states[place]
            with storage_errors(f"close memory '{place[0]}'"):
                state.close()


def _release_elsewhere(state: MemoryState) -> None:
    """Release the state of a collected handle, on a thread of its own.

    The garbage collector may have found the handle in the middle of anything, with any lock held.
    """
    if id(state) in _holders:
        threading.Thread(target=_release_or_log, args=(state,), name="aesg-release").start()


def _release_or_log(state: MemoryState) -> None:
    try:
        _release(state)
    except AESGStorageError:
        _log.exception("a memory that was dropped unclosed could not be saved")


def _forget_in_child() -> None:
    """Leave the parent's states alone; handles open the directory anew where they are used."""
    global _lock
    _lock = threading.RLock()
    _inherited.extend(_states.values())
    _states.clear()
    _holders.clear()


def _close_all() -> None:
    for state in _states.values():
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
