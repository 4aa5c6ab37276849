"""The packs that a memory keeps: their files, and the setting that names them.

::

    packs/<SHA-256 of the file>.aesgpack

A file is named by its content and never written to again, so that copies of a memory share it by
hard links where the file system lets them. It gets its name only when all of it is on the disk,
and before the setting names it; so files that no setting names are leftovers. Where there is no
setting at all it may have been lost: the files are set aside as ``packs/found-<SHA-256>.aesgpack``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from storage_backends import layout
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.types import Problem

_log = logging.getLogger("aesg.storage")

#: The setting that lists them.
SETTING = "packs"

#: The greatest number of them.
MOST = 16

#: The table that `Problem` names for one.
TABLE = "packs"

_FILE = re.compile(r"[0-9a-f]{64}\.aesgpack")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.new")
_LONGEST_NAME = 255  # of a file: packs without a name are called after theirs
_GREATEST_PRIORITY = 100
_CHUNK = 1 << 20


@dataclass(frozen=True)
class KeptPack:
    """A pack that is attached whenever the memory is opened.

    Parameters
    ----------
    name : str
        By which it is attached.
    file : str
        Name of its file: the SHA-256 of the content and ``.aesgpack``.
    priority : int
        From 0 to 100.
    """

    name: str
    file: str
    priority: int


def decode(settings: Mapping[str, bytes]) -> tuple[KeptPack, ...]:
    """Return the packs that the settings of a memory name.

    Raises
    ------
    StoreCorruptError
        If the setting is not what `encode` wrote.
    """
    stored = settings.get(SETTING)
    if stored is None:
        return ()
    try:
        listed = json.loads(stored)
        packs = tuple(KeptPack(**each) for each in listed)
    except (ValueError, TypeError) as error:
        raise StoreCorruptError(f"stored setting '{SETTING}': {error}") from error
    names = {each.name for each in packs if _is_sound(each)}
    if len(names) != len(packs) or len(packs) > MOST:
        raise StoreCorruptError(
            f"stored setting '{SETTING}': expected names, files and priorities of at most {MOST} "
            f"packs, got {stored[:100]!r}"
        )
    return packs


def encode(packs: Iterable[KeptPack]) -> bytes:
    """Return the setting that names some packs."""
    return json.dumps([asdict(each) for each in packs]).encode()


def _is_sound(pack: KeptPack) -> bool:
    return (
        isinstance(pack.name, str)
        and 0 < len(pack.name) <= _LONGEST_NAME
        and isinstance(pack.file, str)
        and _FILE.fullmatch(pack.file) is not None
        and type(pack.priority) is int
        and 0 <= pack.priority <= _GREATEST_PRIORITY
    )


def path_of(directory: Path, pack: KeptPack) -> Path:
    """Return where the file of a pack is."""
    return directory / layout.PACKS / pack.file


def put(directory: Path, write: Callable[[Path], object]) -> str:
    """Put a file among those of a memory, durably, and return its name.

    Parameters
    ----------
    directory : Path
        The memory.
    write : callable
        Writes the content, and makes it durable, at a path where nothing is.

    Raises
    ------
    StoreFullError
        If there is no room; nothing is left of it.
    StoreError
        If the directory may not be written.
    """
    folder = directory / layout.PACKS
    try:
        _make(folder)
        temporary = _unfinished(folder)
        try:
            write(temporary)
            name = f"{_hash_of(temporary)}.aesgpack"
            _finish(temporary, folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise layout.translate(error, folder, "to keep a pack there") from error
    return name


def carry(source: Path, target: Path, settings: Mapping[str, bytes]) -> list[KeptPack]:
    """Give another memory directory the files of packs, by links where that is possible.

    Parameters
    ----------
    source, target : Path
        The two directories.
    settings : mapping of name to bytes
        They name the packs.

    Returns
    -------
    list of KeptPack
        Those whose files are missing in the source, and so in the target.

    Raises
    ------
    StoreFullError
        If there is no room.
    StoreError
        If a file cannot be read, or the target not be written.
    """
    missing = []
    for pack in _readable(settings):
        origin, place = path_of(source, pack), path_of(target, pack)
        try:
            _make(place.parent)
            if not _is_there(place, origin):
                _link_or_copy(origin, place)
        except FileNotFoundError:
            missing.append(pack)
        except OSError as error:
            raise layout.translate(error, place, f"to put a copy of {origin} there") from error
    return missing


def set_aside(directory: Path, *, but: str | None = None) -> None:
    """Rename the files of packs that a memory has without a setting, so that they stay.

    The logger ``aesg.storage`` names them.

    Parameters
    ----------
    directory : Path
        The memory.
    but : str, optional
        Name of one that keeps it.

    Raises
    ------
    StoreError
        If the directory may not be written.
    """
    folder = directory / layout.PACKS
    for path in _leftovers(directory, set()):
        if path.name != but and _FILE.fullmatch(path.name):
            place = folder / f"found-{path.name}"
            try:
                os.replace(path, place)
            except OSError as error:
                raise layout.translate(error, path, f"to rename it to {place.name}") from error
            _log.warning(
                "%s: found a pack that the memory had lost the record of; it stays as %s: "
                "load_pack it, and attach_pack(..., keep=True) keeps it again",
                path,
                place.name,
            )


def sweep(directory: Path, read_settings: Callable[[], Mapping[str, bytes]]) -> None:
    """Remove files of packs that no setting names; the caller holds the writer's lock.

    Where the settings say nothing of packs they may have been lost, and their files stay.

    Parameters
    ----------
    directory : Path
        The memory, to which nobody is adding a pack.
    read_settings : callable
        Gives the settings of its last commit.
    """
    if not (directory / layout.PACKS).is_dir():
        return
    try:
        settings = read_settings()
        names = {pack.file for pack in decode(settings)} if SETTING in settings else None
        for path in _leftovers(directory, names):
            path.unlink(missing_ok=True)
            _log.info("%s: removed, as the memory keeps it no more", path)
    except (StoreError, OSError) as error:
        _log.warning("files of packs that the memory does not keep stay: %s", error)


def _readable(settings: Mapping[str, bytes]) -> Sequence[KeptPack]:
    """Return the packs that settings name; none, and a warning, where they do not decode."""
    try:
        return decode(settings)
    except StoreCorruptError as error:
        _log.warning("packs stay behind: %s", error)
        return ()


def _leftovers(directory: Path, names: set[str] | None) -> list[Path]:
    """Return the files of packs that are not among some names; None says that all may be."""
    try:
        found = sorted(os.listdir(directory / layout.PACKS))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        directory / layout.PACKS / name
        for name in found
        if _UNFINISHED.fullmatch(name)
        or (names is not None and _FILE.fullmatch(name) and name not in names)
    ]


def problems(directory: Path, settings: Mapping[str, bytes]) -> list[Problem]:
    """Return what is wrong with the packs that a memory keeps."""
    try:
        packs = decode(settings)
    except StoreCorruptError as error:
        return [Problem(TABLE, "", str(error))]
    troubles = [(pack.name, _trouble(directory, pack)) for pack in packs]
    return [Problem(TABLE, name, trouble) for name, trouble in troubles if trouble]


def _trouble(directory: Path, pack: KeptPack) -> str:
    path = path_of(directory, pack)
    try:
        found = mismatch(path)
    except FileNotFoundError:
        return f"{path}: expected the file of pack '{pack.name}', found none; {remedy(pack)}"
    except OSError as error:
        return f"{path}: expected to read it, got {error.strerror}; {remedy(pack)}"
    return f"{found}; {remedy(pack)}" if found else ""


def mismatch(path: Path) -> str:
    """Say that the content of a file is not what its name says; empty where it is.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    found = _hash_of(path)
    if path.name == f"{found}.aesgpack":
        return ""
    return f"{path}: expected the SHA-256 of its name, got {found}"


def remedy(pack: KeptPack) -> str:
    """Say what can be done about a pack whose file is missing or damaged."""
    return (
        "put the file back there, attach the pack from another file with "
        f"attach_pack(..., keep=True), or detach_pack({pack.name!r}, forget=True)"
    )


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        layout.resemble(folder, folder.parent)
        layout.sync_folder(folder.parent)


def _unfinished(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}.new"


def _is_there(place: Path, origin: Path) -> bool:
    """Tell whether a place has the file of a pack: the one elsewhere, or another that is whole."""
    try:
        return os.path.samestat(os.lstat(place), os.lstat(origin)) or not mismatch(place)
    except OSError:
        return False


def _link_or_copy(origin: Path, place: Path) -> None:
    temporary = _unfinished(place.parent)
    try:
        if _linked(origin, temporary):
            os.replace(temporary, place)
            layout.sync_folder(place.parent)
        else:
            shutil.copyfile(origin, temporary)
            layout.sync_file(temporary)
            _finish(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(origin: Path, place: Path) -> bool:
    """Link a file; False where it leads elsewhere itself, or the file system has no links."""
    if origin.is_symlink():
        return False
    try:
        os.link(origin, place)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without links, or a file of somebody else
        return False
    return True


def _finish(temporary: Path, place: Path) -> None:
    """Give a file that is on the disk its name, and the owner and permissions of the memory's."""
    layout.resemble(temporary, _model_of(place.parent.parent))
    os.replace(temporary, place)
    layout.sync_folder(place.parent)


def _model_of(directory: Path) -> Path:
    """Return the file that others of a memory directory are to resemble."""
    with suppress(StoreError):
        folder = layout.current_folder(directory)
        if folder is not None:
            return folder / layout.DATA
    return directory / layout.CURRENT


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()
