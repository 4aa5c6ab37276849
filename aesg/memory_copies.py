"""Copies of a memory, and the way back to one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

from aesg import binding
from aesg._seam import storage_errors
from aesg.errors import AESGConfigError
from aesg.memory_handle import resolved
from aesg.memory_learning import MemoryLearning
from aesg.memory_packs import MemoryPacks
from aesg.memory_stored import config_of
from aesg.state import MemoryState
from storage_backends import copying
from storage_backends.errors import NotAStoreError, StoreCorruptError, StoreError
from storage_backends.layout import current_name
from storage_backends.lmdb_store import LMDBStore
from storage_backends.replacement import replace_records, require_source


class MemoryCopies(MemoryLearning):
    """How the content of an `AESGMemory` is put aside and brought back.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def copy(self, destination: str | os.PathLike[str]) -> None:
        """Copy the memory as it is now, consistently, while others read it.

        What waits is saved first; a handle that only reads copies the last commit. The copy is a
        memory directory of its own, which can be opened, and is durable when the call returns.

        Parameters
        ----------
        destination : str or path
            A directory that is empty, or that does not exist; outside of the memory.

        Raises
        ------
        AESGStorageError
            If the memory cannot be saved, or the copy not be written: then nothing is left of it.
        """
        target, state = resolved(destination), self._state
        with state.lock.alone(), storage_errors(f"copy memory '{self.directory}' to '{target}'"):
            state.save()
            store = state.engine.store
            if not store.is_current() and not store.follow():
                raise StoreError(
                    "expected the memory that was opened there, but it was moved, deleted or "
                    "replaced"
                )
            copying.copy(self.directory, target)

    def restore(self, source: str | os.PathLike[str]) -> None:
        """Give the memory the content of a copy, in one step.

        Concepts, edges, payloads, short-term memory, counters and the evolution log are those of
        the copy then. What was learned since is gone, in all handles of this process: what waits
        to be committed, where navigation stands, and retrievals that were not learned from yet.
        The packs that the copy keeps are attached, in the place of those that were kept before.
        Readers in other processes follow at their next retrieval. Ids that were given since are
        not given again. Parameters, directory and the identity of the memory stay.

        The copy is examined first, and then copied. Where an error is raised the memory is as it
        was, and so it is after a crash before the last step.

        Parameters
        ----------
        source : str or path
            What `copy` has written, or any other memory directory outside of this one; of one
            that is in use, the last commit is taken.

        Raises
        ------
        AESGStorageError
            If there is no memory of this release, or it is damaged, or it lies in this one, or
            there is no room.
        AESGConfigError
            If its concepts are of another ``vector_dim``.
        AESGMemoryError
            If this handle only reads.
        """
        path, state = resolved(source), self._state
        self._require_writing("restore it")
        action = storage_errors(f"restore memory '{self.directory}' from '{path}'")
        with binding.alone_with(state) as handles, action:
            _require_no_folder_above(path)
            state.revive()
            require_source(path, self.directory)
            with closing(LMDBStore.open(path, read_only=True, create=False)) as origin:
                self._require_width_of(origin)
                store = cast(LMDBStore, state.engine.store)  # `binding` opens no other
                put = partial(replace_records, store, origin, next_id=state.clock.next_id)
                before = state.view.generation
                try:
                    state.restore(put)
                finally:
                    if state.view.generation > before:
                        _begin_anew(handles, state)

    def _require_width_of(self, origin: LMDBStore) -> None:
        """Check that the memory in a store is of the width of this one."""
        settings = binding.settings_of(origin)
        if "config" not in settings:
            raise StoreCorruptError(
                f"{origin.directory}: expected the parameters of a memory, found none stored"
            )
        width = config_of(settings).vector_dim
        if width != self.vector_dim:
            raise AESGConfigError(
                f"The copy '{origin.directory}' is of another width: expected "
                f"vector_dim={self.vector_dim}, got {width}"
            )


def _begin_anew(handles: Iterable[binding.Owner], state: MemoryState) -> None:
    """Let handles go on with what their memory holds now."""
    for handle in handles:
        handle.reset_state()
        if isinstance(handle, MemoryPacks):
            handle._attach_kept(state)


def _require_no_folder_above(path: Path) -> None:
    """Check that a path is not that of a checkpoint, which holds a copy of the memory."""
    inside = path / "memory"
    if current_name(path) is None and current_name(inside) is not None:
        raise NotAStoreError(
            f"{path}: expected a memory directory, got a folder with one in {inside}"
        )
