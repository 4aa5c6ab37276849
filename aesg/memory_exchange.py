"""What a memory gives away as a pack, and what it takes in from one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from aesg._progress import reporting
from aesg._seam import storage_errors
from aesg._tables import counted
from aesg.errors import AESGMemoryError, AESGStorageError
from aesg.graph.scope import PACK_ID
from aesg.memory_handle import MemoryHandle
from aesg.memory_inputs import ids_of
from aesg.state import MemoryState
from storage_backends.errors import StoreError
from storage_backends.progress import Progress
from storage_backends.protocol import Store
from storage_backends.types import Ids

if TYPE_CHECKING:
    from aesg.packs.choosing import Predicate
    from aesg.packs.exporting import ExportReport, Source
    from aesg.packs.matching import Match
    from aesg.packs.merging import MergeReport, Target
    from aesg.packs.pack import Pack

#: How often an export is tried anew where another process writes to the memory meanwhile.
_ATTEMPTS = 4

#: How often what is known is looked for beside others, who may change it meanwhile.
_SEARCHES = 2


class MemoryExchange(MemoryHandle):
    """How an `AESGMemory` exports packs, and merges them into itself.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def export_pack(
        self,
        path: str | os.PathLike[str],
        region_id: int | None = None,
        min_relevance: float | None = None,
        *,
        ids: Ids | Iterable[int] | None = None,
        predicate: Predicate | None = None,
        top_n: int | None = None,
        by: str = "relevance",
        values: bool = True,
        payloads: bool = True,
        name: str | None = None,
        notes: str = "",
        licence: str = "",
        progress: bool | Progress | None = None,
    ) -> ExportReport:
        """Write concepts, and the edges between them, into a pack file.

        In every mode. What waits is committed first where the handle may write; within
        `counted_commits`, as in `AESGTrainer.fit`, the pack is of the last commit. Provisional
        concepts stay out. The same generation of a memory and the same criteria give the same file,
        byte for byte.

        Parameters
        ----------
        path : str or path
            The file; ``.aesgpack`` is its usual ending. It appears whole or not at all, and lies
            outside of the memory's directory.
        region_id : int, optional
            Of this region only; 0 for the concepts of none.
        min_relevance : float, optional
            Of at least this present relevance, in [0, 1].
        ids : (M,) integers, optional
            From these concepts only, as in ``context.concept_ids``; 0 and provisional ones are
            passed over, and for a concept that was merged the one that took it over is taken.
        predicate : callable, optional
            Given a `Candidates`, many concepts as columns, it returns a bool for each:
            ``lambda concepts: concepts.frequency > 3``.
        top_n : int, optional
            Of what fulfils all that, so many concepts at most.
        by : {"relevance", "frequency"}
            Which of them: the most relevant, or the most used.
        values : bool
            Whether values go along. Without them, keys stand for the values.
        payloads : bool
            Whether payloads go along.
        name : str, optional
            What the pack is called, at most 200 characters. Default: it is named after its file.
        notes, licence : str
            Free text for whoever gets the pack.
        progress : bool or callable, optional
            Whether there are bars on standard error; None shows them on a terminal from two
            seconds on. A callable is told step, done and total.

        Returns
        -------
        ExportReport
            ``path``, and how many ``concepts``, ``edges`` and ``bytes`` it has.

        Raises
        ------
        AESGMemoryError
            If no concept fulfils the criteria, or one of them is out of its range, or the memory
            has none but provisional concepts.
        AESGStorageError
            If the file cannot be written (what was there stays), or the memory not be read.
        """
        from aesg.packs.choosing import Criteria
        from aesg.packs.exporting import Content, StaleError, export

        if not isinstance(path, str | bytes | os.PathLike):
            raise AESGStorageError(
                f"Failed to write pack file {path!r}: expected a path, got {type(path).__name__}"
            )
        self._require_outside(path)
        chosen = None if ids is None else _ids_of(ids)
        content = Content(values, payloads, name or "", _version(), notes, licence)
        with reporting(progress) as report:
            for attempt in range(_ATTEMPTS):
                state = self._newest()
                _require_born(state)
                own = None if chosen is None else self._own(state, chosen)
                criteria = Criteria(region_id, min_relevance, own, predicate, top_n, by)
                source = self._source(state, at_once=attempt >= _ATTEMPTS // 2)
                with suppress(StaleError):
                    return export(path, source, criteria, content, report)
        raise AESGStorageError(
            f"Failed to write pack file '{os.fsdecode(path)}': expected memory '{self.directory}' "
            f"to keep its concepts while their payloads are read, got others in {_ATTEMPTS} "
            "attempts; export it where nothing is learned, from a copy for instance"
        )

    def merge_pack(
        self,
        pack: Pack,
        *,
        similarity: float | None = None,
        dry_run: bool = False,
        progress: bool | Progress | None = None,
    ) -> MergeReport:
        """Bring the concepts of a pack, and the edges between them, into the memory for good.

        A concept that the memory has already, of like key and of the same value, takes over uses,
        relevance and edges of that of the pack, and its payload where it has none; its key and its
        own payload stay. All others are new concepts, with ids of their own. Durable when the call
        returns, and written whole or not at all. To merge a pack again at once and at the
        same similarity changes nothing, and ``ids`` are what they were, where no more than 64 of
        its concepts have one key and one value.

        Uses are added up with the first pack of a memory. From the second on the greater number
        counts: uses that this memory counted itself may be swallowed where disjoint selections of
        one memory are merged one after another. Where counts matter, merge one with everything.

        Parameters
        ----------
        pack : Pack
            What `load_pack` returned; attached or not.
        similarity : float, optional
            Cosine from which two keys are alike, in (0, 1]. Default:
            ``config.merge_similarity_threshold``.
        dry_run : bool
            Whether nothing is written, whatever the mode: the report tells what would be.
        progress : bool or callable, optional
            As for `export_pack`.

        Returns
        -------
        MergeReport
            With ``conflicts`` where the memory had another value for the same key, or another
            payload. Where the handle may not write, as for `remember`, all of it is zero.

        Raises
        ------
        AESGMemoryError
            If ``max_concepts`` would be exceeded, nothing being pruned for a pack, or an argument
            does not fit.
        AESGStorageError
            If the concepts of the pack are of another ``vector_dim``, or the memory cannot be
            written, or main memory does not suffice; it is as before.
        """
        from aesg.packs.matching import match
        from aesg.packs.merging import guest_of, nothing_merged

        self._check_pack(pack)
        least = self.config.merge_similarity_threshold if similarity is None else similarity
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 < least <= 1:
            raise AESGMemoryError(f"similarity: expected a number in (0, 1], got {similarity!r}")
        if not dry_run and not self._permissions.create_concepts:
            self._warn_of_nothing_written("merge_pack")
            return nothing_merged(pack)
        action = f"merge pack '{pack.name}' into memory '{self.directory}'"
        with reporting(progress) as report, storage_errors(action), _room_in_memory():
            guest = guest_of(pack)
            for _ in range(_SEARCHES):  # while others retrieve and learn
                view = self._newest().view
                found = match(view, guest, least, report)
                with self._to_be_merged_into(dry_run=dry_run) as state:
                    if state.view is view:
                        return self._merge(state, pack, found, dry_run=dry_run)
            with self._to_be_merged_into(dry_run=dry_run) as state:
                found = match(state.view, guest, least, report)
                return self._merge(state, pack, found, dry_run=dry_run)

    @contextmanager
    def _to_be_merged_into(self, *, dry_run: bool) -> Iterator[MemoryState]:
        """Have the state alone, with all that can be committed committed."""
        state = self._state
        with state.lock.alone():
            state.revive()
            if not state.counts_commits:
                state.commit_waiting()
            if not dry_run:
                state.date_edges()
            yield state

    def _merge(self, state: MemoryState, pack: Pack, found: Match, *, dry_run: bool) -> MergeReport:
        """Bring in a pack, of which ``found`` is known in the present view."""
        from aesg.packs.merging import merge

        batch, merged = merge(pack, self._target(state), found)
        held, most = state.node_count, self.config.max_concepts
        if merged.added and held + merged.added > most:
            raise AESGMemoryError(
                f"No room: expected at most max_concepts={most}, got {merged.added} concepts of a "
                f"pack beside {held}; export fewer, with top_n for instance, or raise max_concepts"
            )
        if batch is not None and not dry_run:
            state.take_in(batch)
        return merged

    def _target(self, state: MemoryState) -> Target:
        """Return what to merge into; the caller has the lock."""
        from aesg.packs.merging import Target

        return Target(
            view=state.view,
            clock=state.clock,
            uuid=state.engine.store.uuid,
            read_payloads=state.stored_payloads,
            most_edges=self.config.max_edges_per_node,
        )

    def _check_pack(self, pack: object) -> None:
        """Check that something is a pack, and of the width of this memory."""
        from aesg.packs.pack import Pack

        if not isinstance(pack, Pack):
            raise AESGMemoryError(
                f"expected a Pack, as load_pack returns it, got {type(pack).__name__}"
            )
        if pack.vector_dim != self.vector_dim:
            raise AESGStorageError(
                f"Pack '{pack.name}' does not fit memory '{self.directory}': expected "
                f"vector_dim={self.vector_dim}, got {pack.vector_dim}"
            )

    def _require_outside(self, path: str | bytes | os.PathLike[str]) -> None:
        """Check that a file lies outside of the memory, of which it could replace one."""
        try:
            target = Path(os.path.realpath(os.fsdecode(path)))
        except ValueError:  # no path at all: the writer says so
            return
        if target.is_relative_to(self.directory):
            raise AESGStorageError(
                f"Failed to write pack file '{os.fsdecode(path)}': expected a place outside of "
                f"memory '{self.directory}', got one in it"
            )

    def _newest(self) -> MemoryState:
        """Return the state as of the last commit, with all that can be committed committed."""
        self.refresh()
        state = self._settled()
        state.require_width(self.vector_dim)
        return state

    def _own(self, state: MemoryState, ids: Ids) -> Ids:
        """Return the born concepts that stand for some ids, none of which may be of nothing."""
        ids = ids[ids != 0]
        with storage_errors(f"read memory '{self.directory}'"):
            present = state.present(ids)
        if not present.all():
            missing = int(ids[present == 0][0])
            of_pack = ", which is of an attached pack" if missing >= PACK_ID else ""
            raise AESGMemoryError(
                f"ids: expected concepts of memory '{self.directory}', got {missing}{of_pack}"
            )
        return present[state.view.slots(present) >= 0]

    def _source(self, state: MemoryState, *, at_once: bool) -> Source:
        """Return what to export from.

        Parameters
        ----------
        state : MemoryState
        at_once : bool
            Whether payloads are read in one transaction, with all of them in memory, where another
            process keeps writing.
        """
        from aesg.packs.exporting import Source, StaleError

        with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
            view, store = state.view, state.engine.store

            def read_payloads(ids: Ids) -> Sequence[bytes | None]:
                with state.lock.shared(), storage_errors(f"read memory '{self.directory}'"):
                    found = state.stored_payloads(ids)
                    if not _are_untouched(ids, state.engine.store, view.generation):
                        raise StaleError
                    return found

            chunk = {"payload_chunk": max(view.size, 1)} if at_once else {}
            return Source(
                view=view,
                clock=copy(state.clock),
                edge_decay=state.edge_decay,
                uuid=store.uuid,
                read_payloads=read_payloads,
                has_payloads=store.stats().payloads > 0,
                **chunk,
            )


def _are_untouched(ids: Ids, store: Store, since: int) -> bool:
    """Tell whether concepts are neither deleted nor put anew after a generation.

    A concept keeps its payload for as long as that is so.
    """
    if store.generation() == since:
        return True
    changes = store.changes(since)
    if changes is None:
        return False
    return not np.isin(ids, np.concatenate([changes.deleted, changes.concepts.ids])).any()


@contextmanager
def _room_in_memory() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise StoreError(f"expected room in main memory, got none ({error})") from error


def _ids_of(ids: Ids | Iterable[int]) -> Ids:
    """Return the ids of a criterion; a set or a generator serves as well as a list."""
    known = isinstance(ids, Sequence | np.ndarray | Tensor) or not isinstance(ids, Iterable)
    return ids_of(ids if known else list(ids), "ids")


def _require_born(state: MemoryState) -> None:
    """Check that a memory which knows something has born concepts."""
    with state.lock.shared():
        waiting = 0 if state.node_count else state.provisional_count
    if waiting:
        raise AESGMemoryError(
            f"No concept to export: expected born ones, got {counted(waiting, 'provisional one')} "
            "only, each to be born once it is met so often as novelty_birth_threshold says "
            f"({state.config.novelty_birth_threshold}); with novelty_birth_threshold=1 a memory "
            "keeps what it meets once"
        )


def _version() -> str:
    try:
        return version("aesg")
    except PackageNotFoundError:
        return ""
