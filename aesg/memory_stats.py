"""What a memory tells about itself in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from aesg._seam import storage_errors
from aesg.graph.arrays import live
from aesg.graph.consolidation import edge_ages
from aesg.graph.edges import weakened
from storage_backends.engine import Engine
from storage_backends.types import EdgeKind
from storage_backends.view import View


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
    pruned : int
        Concepts that were pruned, as of the last commit.
    retrievals : int
        Calls of `recall` and `retrieve`, of many queries each.
    retrieval_seconds : float
        Time that they took to find concepts, without the attention to them. Threads that retrieve
        at the same moment may leave one out.
    """

    queries: int = 0
    provisional: int = 0
    born: int = 0
    pruned: int = 0
    retrievals: int = 0
    retrieval_seconds: float = field(default=0.0, compare=False)  # no two runs take as long

    def retrieved(self, seconds: float) -> None:
        """Count a retrieval, and how long it took."""
        self.retrievals += 1
        self.retrieval_seconds += seconds


@dataclass(frozen=True, repr=False)
class Edge:
    """An edge as it is now.

    Parameters
    ----------
    target : int
        The concept that it leads to.
    weight : float
        In (0, 1].
    confidence : float
        At present, in [0, 1]: it falls with every consolidation in which the edge is not used.
    uses : int
        How often the edge was used, its making included.
    reasons : tuple of str
        Why it is there: COACTIVATION, SUCCESSOR, VALUE, ABSTRACTION.
    """

    target: int
    weight: float
    confidence: float
    uses: int
    reasons: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Edge(target={self.target}, weight={self.weight:.3f}, "
            f"confidence={self.confidence:.3f}, uses={self.uses}, reasons={self.reasons})"
        )


def edges_of(view: View, concept_id: int, epoch: int) -> list[Edge]:
    """Return the edges that lead from a concept at a consolidation epoch, the strongest first."""
    slots = live(view, np.array([concept_id], np.uint64))
    owner, edges = view.out_edges(slots)
    present = weakened(edges, edge_ages(view, slots, epoch)[owner])
    names = ("target", "weight", "confidence", "use", "kind")
    columns = (present[name].tolist() for name in names)
    return [
        Edge(target, weight, confidence, uses, _reasons(kind))
        for target, weight, confidence, uses, kind in zip(*columns, strict=True)
    ]


def _reasons(kind: int) -> tuple[str, ...]:
    return tuple(each.name for each in EdgeKind if each & kind and each.name is not None)


class Held(Protocol):
    """What counts need of the state of a memory."""

    @property
    def engine(self) -> Engine:
        """What is committed."""
        ...

    @property
    def node_count(self) -> int:
        """Number of born concepts, those that wait for the next commit included."""
        ...


@dataclass(frozen=True)
class StorageInfo:
    """Counts and health of what a memory stores, as of its last commit.

    Reading them changes nothing.

    Parameters
    ----------
    state : Held
    """

    state: Held

    def __repr__(self) -> str:
        shown = ("node_count", "edge_count", "generation", "snapshot_generation")
        return f"StorageInfo({', '.join(f'{name}={getattr(self, name)}' for name in shown)})"

    @property
    def engine(self) -> Engine:
        """What is committed."""
        return self.state.engine

    @property
    def node_count(self) -> int:
        """Number of born concepts, those that wait for the next commit included."""
        return self.state.node_count

    @property
    def edge_count(self) -> int:
        """Number of directed edges, as of the last commit."""
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
