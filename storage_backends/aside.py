"""Puts aside, within the directory of a memory, what a repair takes out of it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from storage_backends import layout
from storage_backends.sifting import Moved


def write_quarantine(path: Path, moved: Sequence[Moved], like: Path) -> None:
    """Write records into a file, a line for each, durably.

    Parameters
    ----------
    path : Path
    moved : sequence of Moved
    like : Path
        A file whose owner and permissions it gets.

    Raises
    ------
    StoreError
        If that is not possible.
    """
    lines = [
        json.dumps(
            {
                "table": each.table,
                "key": each.where,
                "reason": each.reason,
                "key_base64": base64.b64encode(each.key).decode(),
                "base64": base64.b64encode(each.record).decode(),
            }
        )
        for each in moved
    ]
    try:
        layout.replace_file(path, "".join(f"{line}\n" for line in lines).encode(), like=like)
    except OSError as error:
        raise layout.translate(error, path, "to put aside what is damaged") from error


def keep(folder: Path, kept: Path) -> None:
    """Give everything in a damaged folder a second name, under which nothing removes it.

    Raises
    ------
    StoreError
        If that is not possible.
    """
    try:
        kept.mkdir()
        layout.resemble(kept, folder)
        for path in sorted(folder.iterdir()):
            try:
                os.link(path, kept / path.name)
            except OSError:  # a file system without second names
                shutil.copyfile(path, kept / path.name)
                layout.resemble(kept / path.name, path)
        layout.sync_folder(kept)
        layout.sync_folder(kept.parent)
    except OSError as error:
        raise layout.translate(error, kept, "to keep the damaged files") from error
