"""What the engine shows is what a plain dict model holds, whatever the sequence of calls.

The model is written from the words of `WriteBatch` alone, and the view is read row by row.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from storage_backends.compaction import compact
from storage_backends.engine import Engine
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import Ids, ValueKind, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.engines import settled, until
from tests.storage.picture import concept_rows, rows

#: So few make a memory large here.
LARGE = 3
IDS = range(1, 13)

# Not shrunk: each step waits for the disk.
SHORT = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
LONG = settings(SHORT, max_examples=300, stateful_step_count=40)

Concept = dict[str, Any]
Edges = list[dict[str, Any]]


class Model:
    """A memory as two dicts."""

    def __init__(self) -> None:
        self.concepts: dict[int, Concept] = {}
        self.edges: dict[int, Edges] = {}
        self.settings: dict[str, bytes] = {}

    def commit(self, batch: WriteBatch) -> None:
        """Apply a batch in the order of its fields; edges to what is deleted go too."""
        deleted = batch.deleted.tolist()
        for concept_id in deleted:
            del self.concepts[concept_id]
            self.edges.pop(concept_id, None)
        for source, row in self.edges.items():
            self.edges[source] = [edge for edge in row if edge["target"] not in deleted]
        if batch.concepts is not None:
            self.concepts |= concept_rows(batch.concepts)
        for concept_id, record in zip(batch.stats_ids.tolist(), rows(batch.stats), strict=True):
            self.concepts[concept_id] = self.concepts[concept_id] | {"stats": record}
        for source, records in batch.edges.items():
            self.edges[source] = rows(records)
        self.settings |= batch.settings

    def seen(self) -> dict[str, Any]:
        """Return a copy of all of it."""
        return {
            "concepts": dict(self.concepts),
            "edges": {source: _ranked(row) for source, row in self.edges.items() if row},
            "settings": dict(self.settings),
        }


def _ranked(row: Edges) -> Edges:
    """Return edges as a view shows them: the strongest first, of equals the lowest target."""

    def rank(edge: dict[str, Any]) -> tuple[float, int]:
        return -float(np.float32(edge["weight"]) * np.float32(edge["confidence"])), edge["target"]

    return sorted(row, key=rank)


def seen(view: View) -> dict[str, Any]:
    """Return what a view shows in the form of the model."""
    live: Ids = np.sort(view.ids.whole()[view.alive.whole()])
    found = {int(concept_id): rows(view.edges(int(concept_id))) for concept_id in live}
    return {
        "concepts": {int(concept_id): _concept(view, concept_id) for concept_id in live},
        "edges": {source: row for source, row in found.items() if row},
        "settings": dict(view.settings),
    }


def _concept(view: View, concept_id: np.uint64) -> Concept:
    slots = view.slots(np.array([concept_id]))
    kind, value = ValueKind(view.value_kinds[slots][0]), None
    if kind is ValueKind.INTEGER:
        value = int(view.value_ids[slots][0])
    if kind is ValueKind.VECTOR:
        assert view.value_vectors is not None
        value = view.value_vectors[slots][0].tolist()
    # The keys of these tests are whole eighths, which scaling there and back leaves near.
    key = (np.round(view.raw_keys(slots)[0] * 8) / 8 + 0.0).tolist()
    return {"key": key, "value": (kind.name, value), "stats": rows(view.stats[slots])[0]}


@st.composite
def batches(draw: st.DrawFn, model: Model) -> WriteBatch:
    """Draw a batch that breaks no rule; edges to what it deletes are left to the engine."""
    held = sorted(model.concepts)
    deleted = draw(_some(held, 3)) if draw(st.integers(0, 2)) == 0 else []
    put, seed = draw(_some(IDS, 6)), draw(st.integers(0, 9))
    after = sorted(set(held) - set(deleted) | set(put))
    sources, touched = draw(_some(after, 3)), draw(_some(after, 3))
    return WriteBatch(
        deleted=ids(*deleted),
        concepts=concepts(put, seed=seed, values="mixed") if put else None,
        stats_ids=ids(*touched),
        stats=stats(touched, seed + 100),
        edges={
            source: edges(*draw(_some([i for i in after if i != source], 3)), seed=seed)
            for source in sources
        },
        settings={"epoch": b"%d" % seed},
    )


def _some(of: Any, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(of), unique=True, max_size=most) if of else st.just([])


class EngineMachine(RuleBasedStateMachine):
    """One writer, one reader, one directory; the upkeep of both may run at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="engine-machine-"))
        self._model = Model()
        self._generation = 0
        self._writer = self._open(read_only=False)
        self._reader = self._open(read_only=True)
        self._read = self._model.seen()  # what the reader last took in

    def _open(self, *, read_only: bool) -> Engine:
        return Engine(LMDBStore.open(self._folder / "memory", read_only=read_only), LARGE)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        batch = data.draw(batches(self._model))
        try:
            view = self._writer.commit(batch)
        except StoreCorruptError:  # once, where a snapshot was damaged
            view = self._writer.commit(batch)
        self._model.commit(batch)
        self._generation += 1
        assert view.generation == self._generation
        assert seen(view) == self._model.seen()

    @rule()
    def wait_for_the_upkeep(self) -> None:
        """Let the writer do what is due, and the reader follow it."""
        self._writer._housekeeper._rest_until = 0.0
        settled(self._writer)
        until(lambda: not self._reader._housekeeper._newer)

    @rule()
    def rebuild(self) -> None:
        view = self._writer.rebuild()
        assert view.dead == 0

    @rule()
    def write_a_snapshot(self) -> None:
        with self._writer._housekeeper.paused():
            self._writer._housekeeper.write()

    @rule()
    def reopen_the_writer(self) -> None:
        self._writer.close()
        self._writer = self._open(read_only=False)

    @rule()
    def lose_the_writer(self) -> None:
        """End it as a kill would, with nothing written at the end."""
        self._writer._housekeeper.stop()
        self._writer.store.close()
        self._writer = self._open(read_only=False)

    @rule()
    def reopen_the_reader(self) -> None:
        self._reader.close()
        self._reader = self._open(read_only=True)
        self._read = self._model.seen()

    @rule()
    def refresh(self) -> None:
        behind = self._reader.view().generation != self._generation
        assert self._reader.refresh() == behind
        self._read = self._model.seen()
        assert self._reader.view().generation == self._generation
        assert self._reader.verify() == []

    @rule()
    def compact(self) -> None:
        self._writer.close()
        report = compact(self._folder / "memory")
        assert report.done
        self._writer = self._open(read_only=False)

    @rule(which=st.integers(0, 1), thousandth=st.integers(0, 999), seen=st.booleans())
    def damage_a_snapshot(self, which: int, thousandth: int, seen: bool) -> None:
        self._writer.close()
        found = self._files()
        if found:
            _damage(found[which % len(found)], thousandth, seen)
        self._writer = self._open(read_only=False)
        self._writer._housekeeper.check()

    @invariant()
    def the_writer_shows_what_was_committed(self) -> None:
        assert seen(self._writer.view()) == self._model.seen()
        assert self._writer.verify() == []

    @invariant()
    def the_reader_shows_what_it_took_in(self) -> None:
        assert seen(self._reader.view()) == self._read

    @invariant()
    def a_search_finds_live_concepts_with_their_true_cosines(self) -> None:
        for engine in (self._writer, self._reader):
            view = engine.view()
            if not view.node_count:
                continue
            keys = view.keys.whole()
            queries = keys[view.alive.whole()]
            slots, cosines = view.index.search(queries, 4)
            assert (slots >= 0).sum(axis=1).tolist() == [min(4, view.node_count)] * len(queries)
            found = slots >= 0
            assert view.alive[slots[found]].all()
            expected = np.einsum("qd,qkd->qk", queries, keys[slots])
            assert np.allclose(cosines[found], expected[found], atol=1e-5)

    def teardown(self) -> None:
        self._reader.close()
        self._writer.close()
        shutil.rmtree(self._folder)

    def _files(self) -> list[Path]:
        folder = self._writer.store.folder
        assert folder is not None
        return sorted(path for path in folder.iterdir() if path.suffix in (".aesg", ".faiss"))


def _damage(path: Path, thousandth: int, seen: bool) -> None:
    """Change one bit somewhere in a file, by its time visibly or not."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) * thousandth // 1000] ^= 1
    changed = path.with_name("changed")  # the reader has mapped the other one
    changed.write_bytes(content)
    if not seen:
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(changed, path)


def test_the_engine_agrees_with_the_model() -> None:
    run_state_machine_as_test(EngineMachine, settings=SHORT)


@pytest.mark.long
def test_the_engine_agrees_with_the_model_over_long_histories() -> None:
    run_state_machine_as_test(EngineMachine, settings=LONG)
