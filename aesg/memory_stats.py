"""What a memory tells about itself in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from aesg._seam import storage_errors
from storage_backends.engine import Engine


@dataclass
class NoveltyRates:
    """How much of what the memory met was new to it, since this process opened it.

    Parameters
    ----------
    queries : int
        Queries learned from.
    provisional : int
        Those that became provisional concepts.
    born : int
        Provisional concepts that were born.
    """

    queries: int = 0
    provisional: int = 0
    born: int = 0


@dataclass(frozen=True)
class StorageInfo:
    """Counts and health of what a memory stores, as of its last commit.

    Parameters
    ----------
    engine : Engine
    """

    engine: Engine

    @property
    def node_count(self) -> int:
        """Number of born concepts."""
        return self.engine.view().node_count

    @property
    def edge_count(self) -> int:
        """Number of directed edges."""
        return self.engine.view().edge_count

    @property
    def file_bytes(self) -> int:
        """Size of the data file, in bytes."""
        with storage_errors("measure the memory"):
            return self.engine.store.stats().file_bytes

    def verify(self) -> list[str]:
        """Examine every record; an empty list means that all is well."""
        with storage_errors("verify the memory"):
            return [str(problem) for problem in self.engine.verify()]
