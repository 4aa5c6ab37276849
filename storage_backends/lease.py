"""The use that one handle makes of environments, of one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storage_backends import environment
from storage_backends.environment import Environment
from storage_backends.errors import StoreClosedError
from storage_backends.opening import Job, OpenMode, Result


class Lease:
    """A handle's share of the environment of a folder.

    Parameters
    ----------
    folder : Path
        Folder of the data file.
    mode : OpenMode
        How to open it.
    """

    def __init__(self, folder: Path, mode: OpenMode) -> None:
        self.env = environment.acquire(folder, mode)
        self._mode = mode
        self._ended = False

    def use(self, call: Callable[[Environment], Result]) -> Result:
        """Return what ``call`` returns for the environment, again if it was left meanwhile."""
        while True:
            env = self.env
            try:
                return call(env)
            except StoreClosedError:
                if env is self.env:
                    raise

    def read(self, job: Job[Result]) -> Result:
        """Return what ``job`` returns in one read transaction; see `Environment.read`."""
        return self.use(lambda env: env.read(job))

    def move(self, folder: Path, accept: Callable[[Environment], bool]) -> bool:
        """Go over to the environment of another folder, if it is acceptable.

        Whoever is reading in the old one finishes first. Where an error is raised the lease stays
        where it was.

        Returns
        -------
        bool
            Whether this call moved the lease.
        """
        with environment.guard:
            if self._ended or self.env.data_file.parent == folder:
                return False
            found, moved = environment.acquire(folder, self._mode), False
            try:
                moved = accept(found)
            finally:
                left = self.env if moved else found
                if moved:
                    self.env = found
                left.release(sync=False)
            return moved

    def release(self, *, sync: bool) -> None:
        """End the use, with all commits durable; a second call does nothing."""
        with environment.guard:
            if not self._ended:
                self._ended = True
                self.env.release(sync=sync)
