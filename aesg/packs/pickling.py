"""How packs go to other processes: one of a file is read again there, which takes no copying.

One whose file is gone goes by value.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from aesg._seam import storage_errors
from aesg.errors import AESGStorageError
from aesg.packs.cache import load
from aesg.packs.pack import Pack


def reduced(pack: Pack) -> tuple[Callable[..., Pack], tuple[Any, ...]]:
    """Return what makes a pack again in another process, and what to call it with.

    It raises `AESGStorageError` there if the file is missing, or is of another pack.
    """
    if pack.path is not None and pack.path.is_file():
        return _reopened, (pack.path.absolute(), pack.name, pack.digest)
    loose = replace(pack, path=None)
    return _rebuilt, tuple(getattr(loose, field.name) for field in fields(loose))


def _reopened(path: Path, name: str, digest: str) -> Pack:
    with storage_errors(f"read pack file '{path}'"):
        pack = load(path, name=name)
    if pack.digest != digest:
        raise AESGStorageError(
            f"Failed to read pack file '{path}': expected SHA-256 {digest}, got {pack.digest}"
        )
    return pack


def _rebuilt(*values: Any) -> Pack:
    pack = Pack(*values)
    for rows in pack.columns.values():
        rows.flags.writeable = False
    return pack


copyreg.pickle(Pack, reduced)
