"""Weights and memory of an epoch, kept so that they can come back."""

from __future__ import annotations

import copy
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aesg._seam import storage_errors
from aesg.checkpoint.folders import sweep, workplace
from aesg.checkpoint.protocol import Copyable
from aesg.checkpoint.undoing import undone
from aesg.errors import AESGMemoryError, AESGStorageError
from aesg.interrupts import Interrupts
from storage_backends import folders
from storage_backends.errors import StoreError
from storage_backends.locks import WriterLock

_log = logging.getLogger(__name__)


class Snapshot:
    """The weights of a model, in main memory, and a copy of its memory, on disk beside it.

    The copy is in a hidden folder that is locked while this process lives; what a process leaves
    that is killed, the next one removes.

    Parameters
    ----------
    model : torch.nn.Module
    memory : object
        Its memory, or None. One that cannot be copied is left out.
    """

    def __init__(self, model: nn.Module, memory: object) -> None:
        self._model = model
        self._memory = memory if isinstance(memory, Copyable) else None
        self._weights: dict[str, Any] | None = None
        self._place: tuple[Path, WriterLock] | None = None
        self._copy: Path | None = None

    def open(self) -> None:
        """Make the folder for copies.

        Raises
        ------
        AESGStorageError
            If it cannot be made.
        """
        if self._memory is not None:
            directory = self._memory.directory
            with storage_errors(f"make a folder beside memory '{directory}' for a copy of it"):
                sweep(directory.parent)
                self._place = workplace(directory)

    @property
    def is_taken(self) -> bool:
        """Whether there is something to go back to."""
        return self._weights is not None

    def take(self) -> None:
        """Keep weights and memory as they are now, in place of what was kept before.

        Raises
        ------
        AESGStorageError
            If the memory cannot be copied; what was kept before stays.
        """
        weights, made = self._present(), self._next_copy()
        if self._memory is not None and made is not None:
            self._memory.copy(made)
        self._adopt(weights, made)

    def put_back(self) -> None:
        """Give the model its weights and the memory its content again; Ctrl-C waits meanwhile.

        Raises
        ------
        AESGStorageError
            If the memory cannot be brought back: the weights stay as they are then.
        """
        if self._weights is None:
            return
        present = self._present()
        undo = partial(self._model.load_state_dict, present)
        with Interrupts() as interrupts, interrupts.whole(), undone(undo, self._memory):
            self._model.load_state_dict(self._weights)
            if self._memory is not None and self._copy is not None:
                # A handle that only reads has learned nothing that would have to go.
                with suppress(AESGMemoryError):
                    self._memory.restore(self._copy)

    def clear(self) -> None:
        """Let go of everything; the copy is removed."""
        place, self._weights, self._place, self._copy = self._place, None, None, None
        if place is None:
            return
        folder, lock = place
        try:
            folders.remove(folder)
        except StoreError as error:
            _log.warning("a copy of the memory stays: %s", error)
        finally:
            lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, and the files of the copy as tensors; nothing where none are kept."""
        if self._weights is None:
            return {}
        return {"weights": self._weights, "memory": _files_in(self._copy)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what `state_dict` returned, in place of what was kept before.

        Raises
        ------
        AESGStorageError
            If the copy cannot be written.
        """
        made = self._next_copy() if state["memory"] else None
        if made is not None:
            with storage_errors(f"write a copy of the memory to '{made}'"):
                _write_files(made, state["memory"])
        self._adopt(dict(state["weights"]), made)

    def _present(self) -> dict[str, Any]:
        """Return the weights as they are now."""
        return {name: _copied(each) for name, each in self._model.state_dict().items()}

    def _next_copy(self) -> Path | None:
        """Return where the next copy goes; None where none is made."""
        return None if self._place is None else self._place[0] / secrets.token_hex(4)

    def _adopt(self, weights: dict[str, Any], made: Path | None) -> None:
        """Keep both, which belong together, in place of those before."""
        earlier, self._copy, self._weights = self._copy, made, weights
        if earlier is not None:
            with storage_errors(f"remove '{earlier}'"):
                folders.remove(earlier)


def _copied(value: Any) -> Any:
    """Return a copy that training does not change, a tensor in main memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return copy.deepcopy(value)  # what a module of the user keeps beside tensors


def _files_in(folder: Path | None) -> dict[str, Tensor]:
    """Return the content of each file below a folder, by its path within it."""
    if folder is None:
        return {}
    with storage_errors(f"read the copy of the memory in '{folder}'"):
        return {
            str(path.relative_to(folder)): torch.from_numpy(np.fromfile(path, np.uint8))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def _write_files(folder: Path, files: Mapping[str, Tensor]) -> None:
    for name, content in files.items():
        path = folder / name
        if ".." in path.parts or not path.is_relative_to(folder):
            raise AESGStorageError(f"Checkpoint: expected a file of a memory, got {name!r:.200}")
        path.parent.mkdir(parents=True, exist_ok=True)
        content.numpy().tofile(path)
