"""Whether the names of an open memory still lead to its files.

An open file outlives its name. Where the directory was deleted, moved or replaced, a commit would
reach a file that nobody can open again; and where another folder took the place of the one in
use, readers have to go there.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage_backends import layout
from storage_backends.errors import StoreError
from storage_backends.layout import FileKey


class Place:
    """The names that led to an open data file.

    Parameters
    ----------
    data_file : Path
        The file, in the folder that ``CURRENT`` names.
    key : (int, int)
        Its device and inode.
    """

    def __init__(self, data_file: Path, key: FileKey) -> None:
        self._data_file = os.fspath(data_file)
        self._key = key
        self._directory = data_file.parents[1]
        self._name = data_file.parent.name.encode("ascii")
        self._current = os.fspath(self._directory / layout.CURRENT)
        self._examined: tuple[int, int, int] | None = None

    def is_ours(self) -> bool:
        """Return whether the names lead to the file that was opened."""
        try:
            return self._is_named() and layout.key_of(self._data_file) == self._key
        except OSError:
            return False

    def successor(self) -> Path | None:
        """Return the folder that ``CURRENT`` names where it is another one.

        None also where ``CURRENT`` is missing or names no memory, which `is_ours` tells.
        """
        try:
            return None if self._is_named() else layout.current_folder(self._directory)
        except (OSError, StoreError):
            return None

    def _is_named(self) -> bool:
        # Nothing is opened but CURRENT, and that only when it changed: it is asked often.
        status = os.stat(self._current)
        found = status.st_ino, status.st_mtime_ns, status.st_size
        if found != self._examined:
            if Path(self._current).read_bytes().strip() != self._name:
                return False
            self._examined = found
        return True
