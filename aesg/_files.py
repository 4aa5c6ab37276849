"""Files that users ask for."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from aesg.errors import AESGStorageError
from storage_backends.layout import resemble, sync_folder


def write_whole(path: str | os.PathLike[str], content: bytes, action: str) -> None:
    """Write a file so that it appears whole or not at all.

    A link is followed: the file that it leads to is replaced, and the link stays. A file that is
    replaced leaves its owner and permissions to the new one.

    Parameters
    ----------
    path : str or path
    content : bytes
    action : str
        What is being done, for the message of an error.

    Raises
    ------
    AESGStorageError
        If the path is none of a file, or the file cannot be written; one that is there stays.
    """
    try:
        target = _file_of(path)
        _replace(target, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AESGStorageError(f"Failed to {action} to '{os.fspath(path)}': {reason}") from error
    except (TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Failed to {action}: expected the path of a file, got {path!r} ({error})"
        ) from error


def _file_of(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to, there or not."""
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError("a path is text")
    if not given:
        raise ValueError("it is empty")
    target = Path(os.path.realpath(given))
    if not target.parent.is_dir():
        folder = target.parent if os.path.islink(given) else os.path.dirname(given)
        raise FileNotFoundError(0, f"expected a folder '{folder}', found none")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no regular file")
    return target


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".aesg-{secrets.token_hex(8)}")  # nobody else has a file of it
    with open(temporary, "xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            resemble(temporary, target)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink()
            raise
    sync_folder(target.parent)
