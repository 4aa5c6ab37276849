"""From the memory into a pack file."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from aesg._seam import storage_errors
from aesg.graph.clock import Clock
from aesg.packs.choosing import Criteria, ReadPayloads, chosen
from aesg.packs.columns import Rows
from aesg.packs.gathering import EdgesWithin, concept_columns
from aesg.packs.pack import Provenance
from aesg.packs.payloads import PayloadSpool, no_payloads
from aesg.packs.writing import target_of, write_pack
from storage_backends.columns import Slots
from storage_backends.progress import Progress, silent
from storage_backends.view import View

#: Concepts that are looked at together.
_CHUNK = 8_192


class StaleError(Exception):
    """The memory has been written to since the export began: what belongs to it is gone."""


@dataclass(frozen=True)
class Source:
    """A memory as of one commit, to export from.

    Parameters
    ----------
    view : View
    clock : Clock
        Its counters then.
    edge_decay : float
        Confidence that an unused edge keeps per consolidation epoch.
    uuid : str
        Identity of the memory.
    read_payloads : callable
        Returns the packed payload of each concept as of that commit; raises `StaleError` where
        that cannot be told any more.
    has_payloads : bool
        Whether any concept has one.
    payload_chunk : int
        Payloads that are read at a time, 1 or more.
    """

    view: View
    clock: Clock
    edge_decay: float
    uuid: str
    read_payloads: ReadPayloads
    has_payloads: bool
    payload_chunk: int = _CHUNK


@dataclass(frozen=True)
class Content:
    """What is exported of the concepts chosen, and what is said about it.

    Parameters
    ----------
    values, payloads : bool
        Whether they go along; without values, keys stand for them.
    name : str
        What the pack is called; empty where its file is to name it.
    library : str
        Version of the library.
    notes, licence : str
    """

    values: bool = True
    payloads: bool = True
    name: str = ""
    library: str = ""
    notes: str = ""
    licence: str = ""


@dataclass(frozen=True)
class ExportReport:
    """What `export_pack` has written.

    Parameters
    ----------
    path : Path
        The file, as it was asked for.
    concepts, edges : int
        How many are in it.
    bytes : int
        Size of the file.
    """

    path: Path
    concepts: int
    edges: int
    bytes: int


def export(
    path: str | os.PathLike[str],
    source: Source,
    criteria: Criteria,
    content: Content,
    progress: Progress = silent,
) -> ExportReport:
    """Write the concepts that fulfil the criteria, and the edges between them, into a pack file.

    Parameters
    ----------
    path : str or path
        A pack that is there is replaced. A folder that is missing is made.
    source : Source
    criteria : Criteria
    content : Content
    progress : callable
        Told how far the work is.

    Raises
    ------
    AESGMemoryError
        If no concept fulfils the criteria.
    AESGStorageError
        If the file cannot be written: what was there stays.
    StaleError
        If the memory has been written to since.
    """
    given, view = os.fsdecode(path), source.view
    slots = chosen(view, criteria, source.clock.epoch, source.read_payloads, progress)
    provenance = Provenance(
        memory_uuid=source.uuid,
        generation=view.generation,
        created=_newest(view, slots),
        library=content.library,
        notes=_lines(content.notes),
        licence=_lines(content.licence),
    )
    edges = EdgesWithin(view, slots, source.clock.epoch, source.edge_decay)
    columns: dict[str, Rows] = {**concept_columns(view, slots, source.clock, values=content.values)}
    columns |= edges.columns()
    with storage_errors(f"write pack file '{given}'"), ExitStack() as stack:
        folder = target_of(given).parent
        if content.payloads and source.has_payloads:
            spool = stack.enter_context(PayloadSpool(folder))
            _fill(spool, source, slots, progress)
            columns |= spool.columns()
        else:
            columns |= no_payloads()
        write_pack(
            given,
            columns,
            name=content.name,
            vector_dim=view.vector_dim,
            provenance=provenance,
            progress=progress,
        )
        size = os.stat(given).st_size
    return ExportReport(Path(given), len(slots), edges.count, size)


def _lines(text: str) -> str:
    """Return a text with line ends as a pack has them; what is no text is refused with the rest."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if isinstance(text, str) else text


def _fill(spool: PayloadSpool, source: Source, slots: Slots, progress: Progress) -> None:
    step = source.payload_chunk
    for begin in range(0, len(slots), step):
        spool.add(source.read_payloads(source.view.ids[slots[begin : begin + step]]))
        progress("reading payloads", min(begin + step, len(slots)), len(slots))


def _newest(view: View, slots: Slots) -> int:
    """Return the newest change to one of some concepts, Unix microseconds."""
    modified = view.stats.field("modified")
    starts = range(0, len(slots), _CHUNK)
    return max(int(modified[slots[begin : begin + _CHUNK]].max()) for begin in starts)
