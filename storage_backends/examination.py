"""Examines all of a memory directory: pages, records, snapshot, and how they fit together."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import lmdb.verify as lmdb_verify

from storage_backends import folders, kept_packs, layout, locks
from storage_backends.comparison import differences
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_read import read_settings
from storage_backends.lmdb_store import LMDBStore
from storage_backends.lmdb_verify import find_problems
from storage_backends.opening import MAP_SIZE, OpenMode, Tables, Transaction, open_tables_in
from storage_backends.progress import Progress, silent
from storage_backends.recovery import from_snapshot, snapshot_problems
from storage_backends.salvage import DataFile
from storage_backends.sifting import unsound
from storage_backends.types import Problem, StoreStats
from storage_backends.view import View

#: Looks beside a writer, whose commits come between the parts of a look.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Examination:
    """What `examine` found.

    Parameters
    ----------
    directory : str
    stats : StoreStats or None
        The sizes of the memory; None where there are problems.
    problems : tuple of Problem
        What is wrong; empty where all is well.
    leftovers : tuple of str
        What an interrupted compaction or repair has left, which the next writer removes.
    packs : int
        Packs that the memory keeps, whole or not; 0 where other problems hide them.
    """

    directory: str
    stats: StoreStats | None
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]
    packs: int = 0


def examine(directory: str | os.PathLike[str], *, progress: Progress = silent) -> Examination:
    """Examine all of a memory; a writer and readers may be at work. Nothing is changed.

    LMDB may end the process by a signal where the memory is damaged and a writer has it open:
    whoever must survive that calls this in a process of its own.

    Parameters
    ----------
    directory : path
    progress : callable
        Told of each step.

    Raises
    ------
    StoreError
        If it is not a memory of this release, or cannot be read.
    """
    path = Path(os.path.realpath(directory))
    while True:
        name = layout.current_name(path)
        found = folders.in_place(path, lambda: _examine(path, progress))
        # What is found of a folder while another one takes its place is no evidence.
        if not found.problems or layout.current_name(path) == name:
            return found


def _examine(path: Path, progress: Progress) -> Examination:
    try:
        folder = layout.require_memory(path)
    except StoreCorruptError as error:
        return Examination(str(path), None, (Problem(layout.CURRENT, "", str(error)),), ())
    stats: StoreStats | None = None
    packs = 0
    # A file that nobody writes to is examined before LMDB may touch it.
    before = _state_of(folder)
    problems = [] if before is None else _examine_pages(folder, progress)
    at_rest = before is not None and _state_of(folder) == before
    if not at_rest or not problems:
        stats, packs, problems = _examine_opened(path, at_rest, progress)
    problems = [*problems, *_forgotten(path)]
    return Examination(
        directory=str(path),
        stats=None if problems else stats,
        problems=tuple(problems),
        leftovers=_leftovers(path),
        packs=packs,
    )


def _leftovers(path: Path) -> tuple[str, ...]:
    """Return what an interrupted run has left; nothing while somebody may be making it."""
    if locks.writer_of(path / layout.WRITER_LOCK) is not None:
        return ()
    return tuple(found.name for found in folders.leftovers(path))


def _forgotten(path: Path) -> list[Problem]:
    """Return a problem for each folder that was in use after the one that ``CURRENT`` names."""
    return [Problem("directory", folder.name, folders.FORGOTTEN) for folder in folders.later(path)]


def _state_of(folder: Path) -> tuple[int, int] | None:
    """Return size and time of the data file; None where a writer is at work."""
    if locks.writer_of(folder.parent / layout.WRITER_LOCK) is not None:
        return None
    return _written(folder)


def _written(folder: Path) -> tuple[int, int]:
    """Return size and time of the data file."""
    status = (folder / layout.DATA).stat()
    return status.st_size, status.st_mtime_ns


def _examine_pages(folder: Path, progress: Progress) -> list[Problem]:
    progress("examining the pages", 0, 0)
    problems = page_problems(folder)
    progress("examining the pages", 1, 1)
    return problems


def _examine_pages_in_use(folder: Path, progress: Progress) -> list[Problem]:
    """Examine the pages while a writer may be at work; a read transaction is open."""
    for _ in range(_ATTEMPTS):
        before = _written(folder)
        problems = _examine_pages(folder, progress)
        # The length of the file is read before the newest commit, which may have made it longer.
        if not problems or _written(folder) == before:
            break
    return problems


def page_problems(folder: Path) -> list[Problem]:
    """Return what is wrong with the pages of the data file in a folder.

    Nothing may write to it meanwhile, unless a read transaction is open: that keeps the pages of
    the commit that it sees, and of later ones, from being used again. Even then a commit that comes
    while this begins may look like damage.
    """
    path = folder / layout.DATA
    try:
        found: Sequence[str] = lmdb_verify.verify(os.fspath(path))  # type: ignore[no-untyped-call]
        if not found:
            with DataFile(path) as file:
                found = file.ill_fitting()
    except (lmdb_verify.VerifyError, struct.error, StoreCorruptError) as error:
        found = [str(error)]  # it stops where a page is cut off
    return [Problem(layout.DATA, "", message) for message in found]


def _examine_opened(
    path: Path, at_rest: bool, progress: Progress
) -> tuple[StoreStats | None, int, list[Problem]]:
    """Return the sizes, the number of kept packs and the problems."""
    try:
        store = LMDBStore.open(path, read_only=True, create=False)
    except StoreCorruptError as error:
        problems = _problems_of_records(layout.require_memory(path)) if at_rest else []
        return None, 0, problems or [Problem(layout.DATA, "", str(error))]
    with closing(store):
        problems = []
        if not at_rest:
            with folders.environment_of(store.folder) as env:
                problems += env.read(lambda *_: _examine_pages_in_use(store.folder, progress))
        for step, examination in _steps(store):
            if not problems:
                progress(step, 0, 0)
                problems += examination()
                progress(step, 1, 1)
        is_readable = all(problem.table == kept_packs.TABLE for problem in problems)
        packs = _pack_count(store) if is_readable else 0
        return (None if problems else store.stats()), packs, problems


def _problems_of_records(folder: Path) -> list[Problem]:
    """Return what is wrong with records for which a store refuses to open, all of it."""
    try:
        env, tables = open_tables_in(folder, OpenMode(False, True, MAP_SIZE))
    except StoreCorruptError:
        return []
    try:
        with env.begin() as transaction:
            return _find_all_problems(transaction, tables)
    finally:
        env.close()


def _find_all_problems(transaction: Transaction, tables: Tables) -> list[Problem]:
    """Return what is wrong with records: where a table cannot be read, each record of it."""
    problems = find_problems(transaction, tables)
    if not problems:
        return problems
    single = list(unsound(transaction, tables))
    named = {(problem.table, problem.key) for problem in single}
    told = {problem.table for problem in single}
    if "key" in told:
        told.add("value")  # which cannot be read as a whole without the width of the keys
    return single + [
        problem
        for problem in problems
        if (problem.table, problem.key) not in named and (problem.key or problem.table not in told)
    ]


def _verify_records(store: LMDBStore) -> list[Problem]:
    with folders.environment_of(store.folder) as env:
        return env.read(_find_all_problems)


def _steps(store: LMDBStore) -> Iterator[tuple[str, Callable[[], Sequence[Problem]]]]:
    yield "examining the records", lambda: _verify_records(store)
    yield "examining the snapshot", lambda: snapshot_trouble(store)
    yield "examining the kept packs", lambda: _pack_problems(store)


def _pack_problems(store: LMDBStore) -> list[Problem]:
    """Return what is wrong with the packs that a memory keeps; a writer may drop some meanwhile."""
    with folders.environment_of(store.folder) as env:
        while True:
            settings = env.read(read_settings)
            problems = kept_packs.problems(store.directory, settings)
            if not problems or env.read(read_settings) == settings:
                return problems


def _pack_count(store: LMDBStore) -> int:
    """Return how many packs a memory keeps; 0 where what it stores of them is damaged."""
    with folders.environment_of(store.folder) as env, suppress(StoreCorruptError):
        return len(kept_packs.decode(env.read(read_settings)))
    return 0


def snapshot_trouble(store: LMDBStore) -> list[Problem]:
    """Return what is wrong with the files of a snapshot, or else with what they show."""
    return snapshot_problems(store) or _view_problems(store)


def _view_problems(store: LMDBStore) -> list[Problem]:
    """Return what the snapshot, with the log since, shows otherwise than the records."""
    for _ in range(_ATTEMPTS):
        shown = from_snapshot(store)
        if shown is None:
            break  # none, or replaced by one that has its files elsewhere
        stored = View.of(store.load())
        if stored.generation == shown.view.generation:
            return differences(shown.view, stored)
    return []
