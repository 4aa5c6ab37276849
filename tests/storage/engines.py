"""Engines for tests: small memories that count as large, and ways to wait for their upkeep."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from storage_backends.engine import Engine
from storage_backends.protocol import Store
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import shown

#: Number of concepts above which the memories of these tests have a graph and a snapshot.
LARGE = 20


def engine_on(
    backing: Backing | None = None, exact_below: int = LARGE, *, read_only: bool = False
) -> Engine:
    """Open an engine on a reference store."""
    return Engine(ReferenceStore(backing or Backing(), read_only=read_only), exact_below)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition to hold."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.002)


def settled(engine: Engine) -> Engine:
    """Return an engine once nothing is due any more."""
    until(lambda: engine._housekeeper._thread is None)
    return engine


def stored(store: Store) -> View:
    """Return the view of all that a store holds, read record by record."""
    return View.of(store.load())


def assert_shows_what_is_stored(engine: Engine) -> None:
    """Assert that nothing is wrong with an engine's view, by two ways of looking."""
    assert engine.verify() == []
    assert shown(engine.view()) == shown(stored(engine.store))


def large_batch(count: int = 30) -> WriteBatch:
    """Return a batch with more concepts than `LARGE`, each with edges to the next two."""
    wanted = range(1, count + 1)
    return WriteBatch(
        concepts=concepts(wanted, values="mixed"),
        edges={i: edges(i % count + 1, (i + 1) % count + 1) for i in wanted},
        settings={"config": b"{}"},
    )


def with_snapshot(folder: Path, count: int = 30) -> Backing:
    """Return a large memory with a snapshot of all that it holds."""
    backing = Backing(folder=folder)
    engine = engine_on(backing)
    engine.commit(large_batch(count))
    settled(engine).close()
    assert backing.manifest
    return backing


def files(folder: Path) -> list[str]:
    """Return the names of all files in a folder."""
    return sorted(path.name for path in folder.iterdir())
