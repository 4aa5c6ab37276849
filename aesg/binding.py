"""One `MemoryState` for each directory of a process, shared by all handles on it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from pathlib import Path

from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.state import MemoryState
from storage_backends.engine import Engine
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
        Absolute.
    config : AESGConfig or None
        Parameters of the handle; None takes those stored.
    read_only : bool
        Whether a state that cannot write will do.
    create : bool
        Whether a missing memory is made.
    """

    def __init__(
        self,
        owner: object,
        directory: Path,
        config: AESGConfig | None,
        *,
        read_only: bool,
        create: bool = True,
    ) -> None:
        self.state = _acquire(directory, config, read_only=read_only, create=create)
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(owner, _release, self.state)

    @property
    def inherited(self) -> bool:
        """Whether this belongs to the parent of a forked process."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Let go now; the last holder saves and closes the memory."""
        self._finalizer()


def stored_config(directory: Path) -> AESGConfig:
    """Return the parameters that an existing memory was last written with."""
    owner = _Owner()
    bound = Bound(owner, directory, None, read_only=True, create=False)
    config = bound.state.config
    bound.release()
    return config


def exists(directory: Path) -> bool:
    """Tell whether there is a memory in a directory."""
    with storage_errors(f"open memory '{directory}'"):
        return current_folder(directory) is not None


class _Owner:
    """Something to own a hold for a moment."""


_lock = threading.RLock()
_states: dict[tuple[Path, bool], MemoryState] = {}  # by directory and read_only
_holders: dict[int, int] = {}  # by identity of the state


def _acquire(
    directory: Path, config: AESGConfig | None, *, read_only: bool, create: bool
) -> MemoryState:
    with _lock:
        place = (directory, read_only and (directory, False) not in _states)
        state = _states.get(place)
        if state is None:
            with storage_errors(f"open memory '{directory}'"):
                store = LMDBStore.open(directory, read_only=read_only, create=create)
                state = _states[place] = MemoryState(Engine(store), config)
        _holders[id(state)] = _holders.get(id(state), 0) + 1
        return state


def _release(state: MemoryState) -> None:
    with _lock:
        if id(state) not in _holders:
            return  # inherited through a fork: the parent's to close
        _holders[id(state)] -= 1
        if not _holders[id(state)]:
            del _holders[id(state)]
            _states.pop(next(place for place, held in _states.items() if held is state))
            with storage_errors("close the memory"):
                state.close()


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
