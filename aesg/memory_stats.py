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

    def __repr__(self) -> str:
        shown = ("node_count", "edge_count", "generation", "snapshot_generation")
        return f"StorageInfo({', '.join(f'{name}={getattr(self, name)}' for name in shown)})"

    @property
    def node_count(self) -> int:
        """Number of born concepts."""
        return self.engine.view().node_count

    @property
    def edge_count(self) -> int:
        """Number of directed edges."""
        return self.engine.view().edge_count

    @property
    def generation(self) -> int:
        """Number of the last commit."""
        return self.engine.view().generation

    @property
    def snapshot_generation(self) -> int | None:
        """Commit that the snapshot in use shows; None where all records were read."""
        footing = self.engine.shown.footing
        return None if footing is None else footing.manifest.generation

    @property
    def file_bytes(self) -> int:
        """Size of the data file and of the files of the snapshot in use, in bytes."""
        footing = self.engine.shown.footing
        files = () if footing is None else footing.manifest.files
        with storage_errors("measure the memory"):
            return self.engine.store.stats().file_bytes + sum(file.size for file in files)

    def verify(self) -> list[str]:
        """Examine every record; an empty list means that all is well."""
        with storage_errors("verify the memory"):
            return [str(problem) for problem in self.engine.verify()]
