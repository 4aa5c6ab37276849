"""The files of a checkpoint: how each is written, found whole, and read."""

from __future__ import annotations

import json
import math
import pickle
import re
import secrets
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesg.errors import AESGStorageError
from storage_backends import layout
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.locks import writer_of
from storage_backends.recorded_file import FileRecord, Put, check_content, write_file

WEIGHTS = "model_weights.pt"
OPTIMIZER = "optimizer_state.pt"
TRAINER = "trainer_state.pt"
CONFIG = "config.json"
STATE = "training_state.json"
MEMORY = "memory"
MANIFEST = "manifest.json"

#: What every checkpoint has; the others may be missing.
REQUIRED = (WEIGHTS, OPTIMIZER, CONFIG, STATE)
FORMAT = 1

_NAMES = {*REQUIRED, TRAINER, MEMORY, MANIFEST}


class _Sink:
    """What torch writes a file into.

    It reports a full disk, and Ctrl-C, as an error of its own, so the true one is kept.
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self.error: BaseException | None = None

    def write(self, piece: bytes) -> int:
        try:
            self._put(piece)
        except BaseException as error:
            self.error = error
            raise
        return len(piece)

    def flush(self) -> None:
        """Do nothing: what is written is on its way."""


def write_tensors(path: Path, content: Any) -> FileRecord:
    """Write what `torch.load` reads with ``weights_only=True``."""

    def produce(put: Put) -> None:
        sink = _Sink(put)
        try:
            torch.save(content, sink)  # type: ignore[arg-type]
        except RuntimeError as error:
            if sink.error is None:
                raise
            raise sink.error from error

    return write_file(path, produce)


def write_json(path: Path, content: dict[str, Any]) -> FileRecord:
    """Write an object for people and programs alike; numbers that are not finite become null."""
    text = json.dumps(_readable(content), indent=2, allow_nan=False) + "\n"
    return write_file(path, lambda put: put(text.encode()))


def _readable(value: Any) -> Any:
    """Return what JSON has a word for."""
    if isinstance(value, dict):
        return {str(key): _readable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(each) for each in value]
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_manifest(folder: Path, records: Iterable[FileRecord], with_memory: bool) -> None:
    """Write down what belongs to a checkpoint, and a number that no other one has.

    Of the memory that is which one it is, and how many commits it has: no other copy has both.
    """
    files = {each.name: {"bytes": each.size, "sha256": each.sha256} for each in records}
    content = {
        "format": FORMAT,
        "id": secrets.token_hex(16),
        "files": files,
        "memory": _state_of(folder / MEMORY) if with_memory else None,
    }
    write_json(folder / MANIFEST, content)


def _state_of(memory: Path) -> dict[str, Any]:
    with closing(LMDBStore.open(memory, read_only=True, create=False)) as store:
        return {"uuid": store.uuid, "generation": store.generation()}


def require_replaceable(place: Path) -> None:
    """Check that a folder may go: that it is empty, or a checkpoint and nothing else.

    Raises
    ------
    AESGStorageError
        If it is something else, or its memory is open for writing.
    """
    where = f"Checkpoint '{place}'"
    if not place.is_dir():
        raise AESGStorageError(f"{where}: expected a folder, got a file")
    found = {each.name for each in place.iterdir()}
    expected = "expected a checkpoint or an empty folder to replace"
    if found - _NAMES:
        raise AESGStorageError(f"{where}: {expected}, found also {sorted(found - _NAMES)[:5]}")
    if found and not found.issuperset(REQUIRED):
        raise AESGStorageError(f"{where}: {expected}, found only {sorted(found)}")
    writer = writer_of(place / MEMORY / layout.WRITER_LOCK)
    if writer is not None:
        raise AESGStorageError(f"{where}: expected no writer of {MEMORY}/ in it, got {writer}")


def check_files(folder: Path) -> None:
    """Compare the files of a checkpoint with its manifest, where it has one.

    Raises
    ------
    AESGStorageError
        If one is missing or has changed, or the manifest is of a newer release.
    """
    _require_files(folder)
    if not (folder / MANIFEST).exists():
        return
    manifest = read_json(folder, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise AESGStorageError(
            f"Checkpoint '{folder}': expected format {FORMAT}, got {manifest.get('format')!r}: "
            "written by another release"
        )
    _check_memory(folder, manifest.get("memory"))
    for record in _records(folder, manifest):
        if (folder / record.name).exists():
            _check_file(folder, record)


def _require_files(folder: Path) -> None:
    try:
        found = sorted(each.name for each in folder.iterdir())
    except FileNotFoundError as error:
        raise AESGStorageError(f"Checkpoint '{folder}': expected a folder, found none") from error
    except NotADirectoryError as error:
        raise AESGStorageError(f"Checkpoint '{folder}': expected a folder, got a file") from error
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise AESGStorageError(
            f"Checkpoint '{folder}': expected {', '.join(missing)} in it, found {found[:8]}"
        )


def _check_memory(folder: Path, saved: object) -> None:
    """Check that the memory of a checkpoint is there, and as it was saved."""
    if not saved:
        return
    if not (folder / MEMORY).is_dir():
        raise AESGStorageError(f"Checkpoint '{folder}': expected {MEMORY}/, found none")
    found = _state_of(folder / MEMORY)
    if saved != found:
        raise AESGStorageError(
            f"Checkpoint '{folder}': expected {MEMORY}/ as it was saved, {saved}, got {found}: it "
            f"is of another checkpoint, or was written to; without {MANIFEST} it is taken as it is"
        )


def _check_file(folder: Path, record: FileRecord) -> None:
    try:
        check_content(folder, record, lambda count: None)
    except StoreCorruptError as error:
        raise AESGStorageError(
            f"Checkpoint file '{folder / record.name}' is damaged, or {MANIFEST} is: {error}"
        ) from error


def _records(folder: Path, manifest: dict[str, Any]) -> list[FileRecord]:
    try:
        return [
            FileRecord(str(name), int(each["bytes"]), 0, str(each["sha256"]))
            for name, each in manifest["files"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Checkpoint file '{folder / MANIFEST}' is damaged: expected a size and a hash for "
            f"each file, got {str(manifest)[:100]}"
        ) from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a file.

    Raises
    ------
    AESGStorageError
        If there is none in it.
    """
    path = folder / name
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AESGStorageError(f"Checkpoint file '{path}' is damaged: {error}") from error
    if not isinstance(content, dict):
        raise AESGStorageError(
            f"Checkpoint file '{path}' is damaged: expected an object, got {content!r}"
        )
    return content


def read_tensors(folder: Path, name: str) -> dict[str, Any]:
    """Return the state in a file, its tensors in the CPU's memory.

    Raises
    ------
    AESGStorageError
        If there is none in it that can be read without running code of the file's.
    """
    path = folder / name
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = _reason(error)
        raise AESGStorageError(f"Checkpoint file '{path}' cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise AESGStorageError(
            f"Checkpoint file '{path}': expected a dict of state, got {type(content).__name__}"
        )
    return content


def _reason(error: Exception) -> str:
    """Return what torch found, without its advice to run what is in the file."""
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = named[1] if named else "something else"
        return f"expected tensors and plain containers, got {found}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
