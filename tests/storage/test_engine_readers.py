"""Engines that read beside one that writes: in threads, in processes, and across a compaction."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from storage_backends import compaction, snapshot
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.manifest import Manifest
from storage_backends.progress import Progress
from storage_backends.types import Problem, WriteBatch
from tests.storage import engine_children
from tests.storage.build import concepts, edges, ids
from tests.storage.engines import (
    LARGE,
    assert_shows_what_is_stored,
    engine_on,
    large_batch,
    settled,
    until,
    with_snapshot,
)
from tests.storage.processes import child, line


def _open(directory: Path, *, read_only: bool = False) -> Engine:
    return Engine(LMDBStore.open(directory, read_only=read_only), LARGE)


def _with_snapshot(directory: Path) -> None:
    with closing(_open(directory)) as engine:
        engine.commit(large_batch())
        settled(engine)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_directory_with_a_snapshot_is_opened_without_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    _with_snapshot(tmp_path)

    def unread(store: LMDBStore) -> None:
        raise AssertionError("read every record")

    with monkeypatch.context() as patch:
        patch.setattr(LMDBStore, "load", unread)
        engine = settled(_open(tmp_path, read_only=read_only))
    assert engine.view().outside == 0
    assert_shows_what_is_stored(engine)
    engine.close()


def test_threads_that_refresh_at_once_see_whole_generations_in_order(tmp_path: Path) -> None:
    _with_snapshot(tmp_path)
    writer, reader = _open(tmp_path), _open(tmp_path, read_only=True)
    done = threading.Event()
    seen: list[list[int]] = [[], [], []]

    def read(generations: list[int]) -> None:
        while not done.is_set():
            reader.refresh()
            view = reader.view()
            # Each commit below says its generation in the settings and by a new edge.
            assert view.settings.get("generation", b"1") == b"%d" % view.generation
            assert view.edge_count == 59 + view.generation
            generations.append(view.generation)

    threads = [threading.Thread(target=read, args=(generations,)) for generations in seen]
    for thread in threads:
        thread.start()
    for generation in range(2, 24):
        writer.commit(
            WriteBatch(
                edges={generation: edges(*range(generation + 1, generation + 4))},
                settings={"generation": b"%d" % generation},
            )
        )
        if generation % 8 == 0:
            writer.rebuild()
    until(lambda: all(generations and generations[-1] == 23 for generations in seen))
    done.set()
    for thread in threads:
        thread.join()
    for generations in seen:
        assert generations == sorted(generations)
    settled(reader)
    reader.refresh()
    assert reader.shown.footing == writer.shown.footing
    reader.close()
    writer.close()


def test_reading_processes_map_what_is_written_and_follow_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "Engine", partial(Engine, exact_below=LARGE))
    directory = tmp_path / "memory"
    writer = _open(directory)
    with ExitStack() as running:
        readers = [running.enter_context(child(engine_children.follow, directory)) for _ in "ab"]

        def told() -> list[str]:
            for reader in readers:
                assert reader.stdin is not None
                reader.stdin.write("\n")
                reader.stdin.flush()
            return [line(reader) for reader in readers]

        assert told() == ["0 0  0"] * 2
        writer.commit(large_batch())
        settled(writer)
        assert told() == ["1 0 gen-000001 1"] * 2
        writer.commit(WriteBatch(concepts=concepts([50]), deleted=ids(3)))
        writer.rebuild()
        assert told() == ["2 0 gen-000001 2"] * 2
        writer.close()
        assert compaction.compact(directory).done
        assert not (directory / "gen-000001").exists()
        assert [answer.rsplit(" ", 1)[0] for answer in told()] == ["2 0 gen-000002"] * 2


def test_the_graph_of_a_reader_outlives_the_files_that_it_is_mapped_from(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path)
    reader = settled(engine_on(backing, read_only=True))
    writer = engine_on(backing)
    view = reader.view()
    writer.rebuild()
    assert not (tmp_path / "columns-000001.aesg").exists()
    keys = view.keys.whole()
    assert view.index.search(keys, 1)[0][:, 0].tolist() == list(range(view.size))
    writer.close()
    reader.close()


def test_close_does_not_wait_for_a_comparison_with_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    begun = threading.Event()

    def endless(folder: Path, manifest: Manifest, progress: Progress) -> list[Problem]:
        while True:
            begun.set()
            progress("reading", 0, 1)

    monkeypatch.setattr(snapshot, "find_problems", endless)
    reader = engine_on(backing, read_only=True)
    assert begun.wait(30)
    reader.close()
    assert reader._housekeeper._thread is None
