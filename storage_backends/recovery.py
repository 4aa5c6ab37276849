"""From what lies on the disk to a view, and back: snapshots, and the log since.

A snapshot is derived from the records, so nothing that is wrong with one is an error: the next
best way to a view is taken, and said in the log.

What happens when a process is killed while it publishes: before the manifest is committed, the
earlier one and its files are what counts, and the new files are strays that the next `publish`
removes; after it, the earlier files are the strays. No file is removed that the manifest names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from storage_backends import folders, snapshot
from storage_backends.errors import StoreCorruptError, StoreError, StoreFullError
from storage_backends.protocol import Store
from storage_backends.recorded_file import Stopped
from storage_backends.snapshot import Manifest
from storage_backends.types import Problem
from storage_backends.view import View

_log = logging.getLogger("aesg.storage")

#: Of a concept in the columns, but for its key and its vector; of an edge there; of a concept, and
#: of one of its neighbours, in the graph.
_SLOT_BYTES, _EDGE_BYTES, _LEVEL_BYTES, _LINK_BYTES = 136, 28, 24, 10


@dataclass(frozen=True)
class Footing:
    """The snapshot that a view is mapped from.

    Parameters
    ----------
    folder : Path
        Where its files are, or were: a file that is unlinked stays mapped.
    seq : int
        Number of its manifest.
    manifest : Manifest
    checked : bool
        Whether this process wrote the files, or has compared their hashes.
    """

    folder: Path
    seq: int
    manifest: Manifest
    checked: bool

    def find_problems(self, stop: threading.Event | None = None) -> list[Problem]:
        """Compare the files with what the manifest says of them.

        Raises
        ------
        Stopped
            If ``stop`` was set before the end.
        """
        return list(snapshot.find_problems(self.folder, self.manifest, _until(stop)))


@dataclass(frozen=True)
class Shown:
    """A view, and the snapshot below it.

    Parameters
    ----------
    view : View
    footing : Footing or None
        None where every record was read. Else the graph of the view, if it has one, is that of
        the snapshot.
    """

    view: View
    footing: Footing | None


def recover(store: Store, *, examine: bool = False, stop: threading.Event | None = None) -> Shown:
    """Return the view of a store's last generation, by the shortest way there is.

    A writer withdraws a snapshot that is of no use, and removes what interrupted ones left.

    Parameters
    ----------
    store : Store
    examine, stop
        As for `from_snapshot`.

    Raises
    ------
    StoreError
        If the records themselves cannot be read.
    Stopped
        If ``stop`` was set before the end.
    """
    found = from_snapshot(store, examine=examine, stop=stop) or Shown(View.of(store.load()), None)
    if not store.read_only and store.folder is not None:
        if found.footing is None and store.manifest() is not None:
            _withdraw(store)
        _remove_strays(store)
    return found


def from_snapshot(
    store: Store, *, examine: bool = False, stop: threading.Event | None = None
) -> Shown | None:
    """Return the view that the newest snapshot and the log since give; None where they give none.

    Parameters
    ----------
    store : Store
    examine : bool
        Compare the hashes of the files before they are used, although size and time are those
        that were recorded. Where they are not, that is done in any case.
    stop : threading.Event, optional

    Raises
    ------
    StoreClosedError
        If the store is closed.
    Stopped
        If ``stop`` was set before the end.
    """
    while (newest := store.manifest()) is not None:
        seq, record = newest
        try:
            return _from_manifest(store, seq, Manifest.decode(record), examine, stop)
        except StoreError as error:
            # The writer unlinks the files of a snapshot once it has published the next one.
            if store.manifest_seq() == seq and not store.follow():
                _log.warning("%s: snapshot %d is not used: %s", store.folder, seq, error)
                return None
    return None


def caught_up(view: View, store: Store) -> View | None:
    """Return a view with all that was committed since; None where the log no longer says."""
    changes = store.changes(view.generation)
    return None if changes is None else view.advanced(changes)


def publish(
    store: Store, view: View, earlier: Footing | None, stop: threading.Event | None = None
) -> Footing:
    """Write a snapshot of a view, make it the newest, and remove the files of the others.

    Parameters
    ----------
    store : Store
        One that may write and has a folder.
    view : View
    earlier : Footing or None
        The snapshot that the graph of the view, if it has one, is from.
    stop : threading.Event, optional

    Raises
    ------
    Stopped
        If ``stop`` was set before the end; the earlier snapshot stays.
    StoreError
        If it cannot be written; the earlier snapshot stays.
    """
    folder = place_of(store)
    seq = store.manifest_seq() + 1
    # What came since may have left nothing of that snapshot, nor of its graph.
    known = earlier.manifest if earlier is not None and view.base is not None else None
    # To find out by filling the disk would make a commit fail that comes at the same time.
    folders.require_room(folder, _bytes_of(view, with_graph=known is None))
    try:
        manifest = snapshot.write(folder, seq, view, earlier=known, stop=stop)
        seq = store.publish(manifest.encode(), manifest.generation)
    except BaseException:
        _remove_strays(store)
        raise
    _remove_strays(store)
    return Footing(folder, seq, manifest, checked=True)


def _bytes_of(view: View, *, with_graph: bool) -> int:
    """Return about how large the files of a snapshot become, rather too much than too little."""
    vectors = 1 if view.value_vectors is None else 2
    slot = _SLOT_BYTES + vectors * view.keys.dtype.itemsize * view.keys.shape[1]
    size = view.size * slot + view.edge_count * _EDGE_BYTES
    if with_graph and view.base is not None:
        size += view.base.size * (_LEVEL_BYTES + _LINK_BYTES * view.base.parameters["neighbours"])
    return size + size // 10


def snapshot_problems(store: Store) -> list[Problem]:
    """Examine the newest snapshot of a store; nothing is wrong where there is none."""
    while (newest := store.manifest()) is not None:
        seq, record = newest
        problems = _problems_of(store, seq, record)
        if not problems or store.manifest_seq() == seq:  # else it was replaced meanwhile
            return problems
    return []


def _problems_of(store: Store, seq: int, record: bytes) -> list[Problem]:
    try:
        footing = Footing(place_of(store), seq, Manifest.decode(record), checked=False)
        return footing.find_problems()
    except StoreError as error:
        return [Problem("snapshot", str(seq), str(error))]


def place_of(store: Store) -> Path:
    """Return where the snapshots of a store belong.

    Raises
    ------
    StoreError
        If it has no place on disk, or another memory stands there by now.
    """
    if store.folder is None or not store.is_current():
        raise StoreError(f"{store.folder}: expected the folder of an open memory")
    return store.folder


def _from_manifest(
    store: Store, seq: int, manifest: Manifest, examine: bool, stop: threading.Event | None
) -> Shown:
    folder = store.folder
    if folder is None:
        raise StoreError("expected a store with a folder, got one without")
    as_recorded = snapshot.is_as_recorded(folder, manifest)
    footing = Footing(folder, seq, manifest, checked=examine or not as_recorded)
    problems = footing.find_problems(stop) if footing.checked else []
    if problems:
        raise StoreCorruptError(str(problems[0]))
    view = caught_up(snapshot.open_view(folder, manifest, {}), store)
    if view is None:
        raise StoreError(
            f"expected a log that goes back to generation {manifest.generation}, got a shorter one"
        )
    if not as_recorded and not store.read_only:
        footing = _restamped(store, footing)
    return Shown(view, footing)


def _restamped(store: Store, footing: Footing) -> Footing:
    """Record the times that the examined files have now, so that the next open trusts them."""
    try:
        folders.require_room(footing.folder, 0)
    except StoreFullError:  # a failed commit would close the store; to read it needs no room
        return footing
    manifest = snapshot.restamped(footing.folder, footing.manifest)
    seq = store.publish(manifest.encode(), manifest.generation)
    return replace(footing, seq=seq, manifest=manifest)


def _withdraw(store: Store) -> None:
    try:
        store.publish(b"", store.generation())
    except StoreError as error:
        _log.warning("%s: a useless snapshot stays: %s", store.folder, error)


def _remove_strays(store: Store) -> None:
    """Remove the files that the newest manifest does not name."""
    try:
        newest = store.manifest()
        keep = None if newest is None else Manifest.decode(newest[1])
        snapshot.remove_strays(place_of(store), keep)
    except StoreError as error:
        _log.warning("%s: files of old snapshots may be left: %s", store.folder, error)


def _until(stop: threading.Event | None) -> Callable[..., None]:
    """Return what ends a reading that reports its progress."""

    def look(*_: object) -> None:
        if stop is not None and stop.is_set():
            raise Stopped

    return look
