"""Memories beside the checkpoints of Lightning."""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import CheckpointIO

from aesg.errors import AESGStorageError
from aesg.memory import AESGMemory

#: The entry of a checkpoint that names the folder of its memory.
_ENTRY = "aesg_memory"

_log = logging.getLogger(__name__)


class MemoryCheckpointIO(CheckpointIO):
    """Writes, finds and removes the memory beside each checkpoint.

    The folder has a name of its own for each writing, which the checkpoint knows: whenever the
    process is killed, the checkpoint that is there names a folder that is whole.

    Parameters
    ----------
    inner : CheckpointIO
        Does so with the checkpoint itself.
    memory : AESGMemory
    """

    def __init__(self, inner: CheckpointIO, memory: AESGMemory) -> None:
        super().__init__()
        self.inner = inner
        self._memory = memory
        self._waiting: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Copy the memory, then write the checkpoint, then remove what it replaces."""
        place = _local(path)
        folder = place.with_name(f"{_folders_of(place)}{uuid.uuid4().hex[:8]}")
        place.parent.mkdir(parents=True, exist_ok=True)
        self._memory.copy(folder)
        checkpoint = {**checkpoint, _ENTRY: folder.name}
        try:
            self.inner.save_checkpoint(checkpoint, path, storage_options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _remove_folders(place, but=folder)

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint; `restore` brings its memory back when the weights are there."""
        checkpoint = self.inner.load_checkpoint(path, *arguments, **options)
        name = checkpoint.get(_ENTRY)
        if name is None:
            _log.warning("checkpoint '%s' has no memory; the memory stays as it is", path)
            return checkpoint
        places = (Path(path).resolve().with_name(name), Path(path).with_name(name))
        self._waiting = next((place for place in places if place.is_dir()), None)
        if self._waiting is None:
            raise AESGStorageError(
                f"checkpoint '{path}': expected its memory in '{places[0]}', got no such folder; "
                "checkpoint and folder have to be moved together"
            )
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its memory."""
        waiting = self._waiting
        if waiting is not None and waiting.name.startswith(_folders_of(_local(path))):
            self.restore()  # the tuner of learning rates removes what it has just loaded
        self.inner.remove_checkpoint(path)
        _remove_folders(_local(path))

    def teardown(self) -> None:
        """Let the inner one wait for what it writes."""
        self.inner.teardown()

    def restore(self) -> None:
        """Bring the memory back whose checkpoint was read, if one was."""
        folder, self._waiting = self._waiting, None
        if folder is not None:
            self._memory.restore(folder)


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise AESGStorageError(
            f"checkpoint '{path}': expected a path on this machine, beside which a memory can lie"
        )
    return Path(path)


def _folders_of(place: Path) -> str:
    """Return how the names of a checkpoint's folders begin."""
    return f"{place.name}.memory-"


def _remove_folders(place: Path, but: Path | None = None) -> None:
    for folder in place.parent.iterdir():
        if folder.name.startswith(_folders_of(place)) and folder != but:
            shutil.rmtree(folder, ignore_errors=True)
