"""The packs that a memory keeps: attached by every handle that opens it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from aesg._progress import reporting
from aesg._seam import storage_errors
from aesg.errors import AESGError, AESGMemoryError, AESGStorageError
from aesg.memory_attached import AttachedPack, attached
from aesg.state import MemoryState
from storage_backends import kept_packs
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.kept_packs import KeptPack
from storage_backends.layout import PACKS, sync_file
from storage_backends.types import WriteBatch

if TYPE_CHECKING:
    from aesg.packs.head import Head
    from aesg.packs.pack import Columns, Pack

_log = logging.getLogger("aesg.memory")

#: The version of pack files that are always decoded.
_DECODED = 1

#: Looks at the packs of a memory whose writer replaces them meanwhile.
_ATTEMPTS = 20

#: Packs of memories that some handle of this process has: all share them.
_loaded: WeakValueDictionary[tuple[object, ...], Pack] = WeakValueDictionary()


def keep(state: MemoryState, directory: Path, pack: Pack, priority: int) -> Pack:
    """Let a memory keep a pack, in the place of the one of its name; durable on return.

    Parameters
    ----------
    state : MemoryState
        One that may write; nobody else uses it meanwhile.
    directory : Path
        Of the memory.
    pack : Pack
        Its file, if that is still the same, is copied into the memory, else its content written.
    priority : int
        From 0 to 100.

    Returns
    -------
    Pack
        The same, of the file that the memory has.

    Raises
    ------
    AESGMemoryError
        If the memory keeps as many packs as it can.
    AESGStorageError
        If it cannot be written; the memory keeps what it kept before.
    """
    with storage_errors(f"keep pack '{pack.name}' in memory '{directory}'"):
        packs = {each.name: each for each in kept_packs.decode(_settings(state))}
        if len(packs.keys() - {pack.name}) >= kept_packs.MOST:
            raise AESGMemoryError(
                f"Pack '{pack.name}': expected at most {kept_packs.MOST} packs that memory "
                f"'{directory}' keeps, got one more; detach_pack(name, forget=True) drops one"
            )
        file = _file_of(directory, pack)
        if kept_packs.SETTING not in _settings(state):
            kept_packs.set_aside(directory, but=file)
            _record(state, [])  # from now on a file that is not recorded is a leftover
        if file is None:
            file = kept_packs.put(directory, lambda place: _write(pack, place))
            signer, pack = pack.signer, _filed(directory / PACKS / file, pack)
            if signer is not None and pack.signer is None:
                _log.warning(
                    "memory '%s' keeps pack '%s' without its signature: the file that was signed "
                    "is gone, and its content was written again",
                    directory,
                    pack.name,
                )
        packs[pack.name] = KeptPack(pack.name, file, priority)
        _record(state, list(packs.values()))
        kept_packs.sweep(directory, lambda: _settings(state))
        return pack


def on_its_own(pack: Pack) -> Pack:
    """Return a pack that does without its file where that is gone."""
    from aesg.packs.graph import view_of, with_view

    if pack.path is None or pack.path.is_file():
        return pack
    return with_view(replace(pack, path=None), view_of(pack))


def _file_of(directory: Path, pack: Pack) -> str | None:
    """Return the name of a pack's file among those of a memory; None where none is whole."""
    path = pack.path
    if path is None or path.parent != directory / PACKS or not path.is_file():
        return None
    return None if kept_packs.mismatch(path) else path.name


def forget(state: MemoryState, directory: Path, name: str) -> bool:
    """Let a memory keep a pack no more; tell whether it did.

    Parameters
    ----------
    state, directory
        As for `keep`.
    name : str

    Raises
    ------
    AESGStorageError
        If that cannot be written; the memory keeps it then.
    """
    with storage_errors(f"forget pack '{name}' of memory '{directory}'"):
        packs = kept_packs.decode(_settings(state))
        others = [each for each in packs if each.name != name]
        if len(others) < len(packs):
            _record(state, others)
            kept_packs.sweep(directory, lambda: _settings(state))
        return len(others) < len(packs)


def is_of(pack: Pack, packs: Mapping[str, KeptPack]) -> bool:
    """Tell whether a pack is the one of its name among those that a memory keeps."""
    kept = packs.get(pack.name)
    return kept is not None and pack.path is not None and pack.path.name == kept.file


def named(state: MemoryState) -> dict[str, KeptPack]:
    """Return the packs that a memory keeps, by their names.

    Raises
    ------
    StoreCorruptError
        If what it stores of them is not what was written.
    """
    return {each.name: each for each in kept_packs.decode(_settings(state))}


def kept_of(state: MemoryState, directory: Path, vector_dim: int) -> list[AttachedPack]:
    """Return the packs that a memory keeps, to be attached.

    The logger ``aesg.memory`` warns of one that is missing, damaged or of another width; the
    memory goes on keeping it.

    Parameters
    ----------
    state : MemoryState
    directory : Path
        Of the memory.
    vector_dim : int
        Width that they must have.
    """
    found: list[AttachedPack] = []
    for attempt in range(_ATTEMPTS):
        generation = state.view.generation
        if not state.view.settings.get(kept_packs.SETTING):
            return []  # nothing of packs is even imported
        try:
            packs = named(state)
        except StoreError as error:
            _log.warning("memory '%s': its packs are not attached: %s", directory, error)
            return []
        # What was read before is held meanwhile, so that it is not read again.
        found, troubles = _read_all(packs.values(), directory, vector_dim)
        if not any(_is_missing(error) for error in troubles.values()):
            break
        with storage_errors(f"read memory '{directory}'"):
            state.refresh()  # a writer may have replaced one, and removed the file, meanwhile
        if state.view.generation == generation or attempt == _ATTEMPTS - 1:
            break
    for name, reason in troubles.items():
        _log.warning(
            "memory '%s' is open without its pack '%s': %s; %s",
            directory,
            name,
            reason,
            kept_packs.remedy(packs[name]),
        )
    return found


def _read_all(
    packs: Iterable[KeptPack], directory: Path, vector_dim: int
) -> tuple[list[AttachedPack], dict[str, AESGError]]:
    """Return the packs that could be read, and by its name why one could not."""
    found, troubles = [], {}
    for each in packs:
        try:
            with storage_errors(f"attach pack '{each.name}'"):
                pack = _load(kept_packs.path_of(directory, each), each.name, vector_dim)
            found.append(attached(pack, each.priority, kept=True))
        except AESGError as error:
            troubles[each.name] = error
    return found, troubles


def _is_missing(error: BaseException | None) -> bool:
    """Tell whether an error is due to a file that is not there."""
    return error is not None and (
        isinstance(error, FileNotFoundError) or _is_missing(error.__cause__)
    )


def _load(path: Path, name: str, vector_dim: int) -> Pack:
    from aesg.packs import cache

    identity = _identity(path, name)
    pack = _loaded.get(identity)
    if pack is None or pack.vector_dim != vector_dim:
        if wrong := kept_packs.mismatch(path):
            raise StoreCorruptError(wrong)
        with reporting(None) as report:
            pack = cache.load(path, name=name, vector_dim=vector_dim, progress=report)
            pack = _loaded[identity] = cache.indexed(pack, report)
    return pack


def _identity(path: Path, name: str) -> tuple[object, ...]:
    """Return what tells a pack, by its name and a file as it is now, from every other."""
    try:
        status = path.stat()
    except OSError:
        return name, path
    return name, path, status.st_ino, status.st_size, status.st_mtime_ns


def _settings(state: MemoryState) -> dict[str, bytes]:
    return dict(state.view.settings)


def _record(state: MemoryState, packs: list[KeptPack]) -> None:
    state.apply(WriteBatch(settings={kept_packs.SETTING: kept_packs.encode(packs)}))


def _write(pack: Pack, path: Path) -> None:
    """Write the file of a pack: the one that it was read from, if that is still the same."""
    from aesg.packs.writing import write_pack

    if pack.path is not None and os.path.isfile(pack.path):
        shutil.copyfile(pack.path, path)
        if _as_of(path, pack) is not None:
            sync_file(path)
            return
        path.unlink()
    width, provenance = pack.vector_dim, pack.provenance
    write_pack(path, pack.columns, vector_dim=width, provenance=provenance)


def _filed(path: Path, pack: Pack) -> Pack:
    """Return a pack as that of the file that was written of it."""
    found = _as_of(path, pack) or _load(path, pack.name, pack.vector_dim)
    _loaded[_identity(path, pack.name)] = found
    return found


def _as_of(path: Path, pack: Pack) -> Pack | None:
    """Return a pack as that of a file, if the file is of it; its columns are not read again."""
    from aesg.packs import cache
    from aesg.packs.graph import view_of, with_view
    from aesg.packs.reading import read_pack

    def hold(head: Head, decode: object) -> Columns:
        if (head.version, head.digest) != (pack.version, pack.digest):
            raise StoreCorruptError(f"expected SHA-256 {pack.digest}, got {head.digest}")
        return pack.columns

    try:
        read = read_pack(path, name=pack.name, vector_dim=pack.vector_dim, hold=hold)
    except AESGStorageError:
        return None
    if read.version == _DECODED:
        same = (read.version, read.digest) == (pack.version, pack.digest)
        return cache.indexed(read) if same else None
    return with_view(read, view_of(pack))
