"""The concepts of a memory as files that TensorBoard's projector shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.graph.consolidation import relevances
from aesg.memory import AESGMemory
from aesg.memory_stored import clock_of
from storage_backends.types import Floats, Ids, ValueKind

#: The first column is what the projector writes beside a point.
HEADER = ("label", "id", "region", "uses", "relevance", "value")

_VECTORS, _METADATA = "vectors.tsv", "metadata.tsv"
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class Shown:
    """Concepts as columns, the most relevant first.

    Parameters
    ----------
    ids : (N,) uint64
    keys : (N, D) float32
        Unit keys.
    regions : (N,) uint32
        0 where no region was found yet.
    uses : (N,) uint32
    relevance : (N,) float32
        At present, in [0, 1].
    values : list of str
        Integer values; ``"vector"``, or nothing where the key stands for the value.
    labels : list of str
        The payload, or else the value, or else the id.
    """

    ids: Ids
    keys: Floats
    regions: NDArray[np.uint32]
    uses: NDArray[np.uint32]
    relevance: Floats
    values: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return what `HEADER` names, for each concept."""
        columns = (self.ids.tolist(), self.regions.tolist(), self.uses.tolist())
        relevance = (f"{each:.3f}" for each in self.relevance.tolist())
        for label, *numbers, relevant, value in zip(
            self.labels, *columns, relevance, self.values, strict=True
        ):
            yield (label, *map(str, numbers), relevant, value)


def shown_concepts(memory: AESGMemory, most: int) -> Shown:
    """Return born concepts as of the last commit.

    Parameters
    ----------
    memory : AESGMemory
    most : int
        Where there are more, the most relevant are taken, of equal ones the most used.
    """
    view = memory.storage.engine.view()
    slots = np.flatnonzero(view.alive.whole()).astype(np.int64)
    stats = view.stats[slots]
    relevance = relevances(stats, clock_of(view.settings).epoch)
    chosen = np.lexsort((slots, -stats["frequency"].astype(np.int64), -relevance))[:most]
    slots, stats = slots[chosen], stats[chosen]
    values = _values(view.value_kinds[slots], view.value_ids[slots])
    ids = view.ids[slots]
    payloads = memory.payloads(ids) if len(ids) else []
    return Shown(
        ids=ids,
        keys=view.keys[slots],
        regions=view.regions[slots],
        uses=stats["frequency"],
        relevance=relevance[chosen],
        values=values,
        labels=[_label(*each) for each in zip(payloads, values, ids.tolist(), strict=True)],
    )


def write_concepts(folder: Path, concepts: Shown) -> None:
    """Write the vectors and what is known of them, tab-separated.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    concepts : Shown
    """
    folder.mkdir(parents=True, exist_ok=True)
    vectors = ((f"{number:.5g}" for number in key) for key in concepts.keys.tolist())
    _write_rows(folder / _VECTORS, vectors)
    _write_rows(folder / _METADATA, [HEADER, *concepts.rows()])


def list_concepts(run: Path, folders: Sequence[Path]) -> None:
    """Tell the projector which folders of a run hold concepts; the last one comes first.

    Parameters
    ----------
    run : path
        A folder with event files.
    folders : sequence of path
        As `write_concepts` wrote them, in the run, named ``epoch_<number>``.
    """
    from tensorboard.plugins import projector  # type: ignore[import-untyped]

    config = projector.ProjectorConfig()
    for folder in reversed(folders):
        embedding = config.embeddings.add()
        embedding.tensor_name = f"concepts after epoch {int(folder.name.rpartition('_')[2])}"
        embedding.tensor_path = str((folder / _VECTORS).relative_to(run))
        embedding.metadata_path = str((folder / _METADATA).relative_to(run))
    projector.visualize_embeddings(str(run), config)


def _values(kinds: NDArray[np.uint8], numbers: NDArray[np.int64]) -> list[str]:
    said = {ValueKind.KEY.value: "", ValueKind.VECTOR.value: "vector"}
    return [
        said.get(kind, str(number))
        for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True)
    ]


def _label(payload: Any, value: str, concept_id: int) -> str:
    text = value if payload is None else str(payload)
    if not text or text == "vector":
        text = f"concept {concept_id}"
    words = " ".join(text.split())  # a tab or a new line would end the cell
    return words if len(words) <= _LONGEST_LABEL else f"{words[: _LONGEST_LABEL - 3]}..."


def _write_rows(path: Path, rows: Iterator[Iterator[str]] | Sequence[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
