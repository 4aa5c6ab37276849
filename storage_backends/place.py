"""Whether the names of an open memory still lead to its files.

An open file outlives its name. Where the directory was deleted, moved or replaced, a commit would
reach a file that nobody can open again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from storage_backends import layout
from storage_backends.layout import FileKey


class Place:
    """The names that led to an open memory.

    Parameters
    ----------
    folder : Path
        The folder that ``CURRENT`` names.
    files : mapping of Path to (int, int)
        Device and inode of each file that is open.
    """

    def __init__(self, folder: Path, files: Mapping[Path, FileKey]) -> None:
        self._name = folder.name.encode("ascii")
        self._current = os.fspath(folder.parent / layout.CURRENT)
        self._files = [(os.fspath(path), key) for path, key in files.items()]
        self._examined: tuple[int, int, int] | None = None

    def is_ours(self) -> bool:
        """Return whether the names lead to the files that were opened.

        Nothing is opened but ``CURRENT``, and that only when it changed: to close a file of which
        this process holds record locks would drop them.
        """
        try:
            return all(layout.key_of(path) == key for path, key in self._files) and self._is_named()
        except OSError:
            return False

    def _is_named(self) -> bool:
        status = os.stat(self._current)
        found = status.st_ino, status.st_mtime_ns, status.st_size
        if found != self._examined:
            if Path(self._current).read_bytes().strip() != self._name:
                return False
            self._examined = found
        return True
