"""Snapshots: the view that comes back, the files that stay, and what is not taken for one."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from storage_backends import snapshot
from storage_backends.errors import StoreCorruptError, StoreError, StoreFullError
from storage_backends.hnsw import HnswBase
from storage_backends.manifest import Manifest
from storage_backends.recorded_file import Stopped
from storage_backends.view import View
from tests.storage.limits import files_no_longer_than
from tests.storage.shown import shown
from tests.storage.snapshots import grown, view_of

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "snapshot-format.md"

Written: TypeAlias = tuple[View, Manifest]


def found(view: View) -> tuple[list[list[int]], list[list[float]]]:
    """Return what a search for some directions finds in a view."""
    queries = np.random.default_rng(0).normal(size=(20, view.keys.shape[1])).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    slots, cosines = view.index.search(queries, 5)
    return slots.tolist(), cosines.tolist()


def assert_same(view: View, expected: View) -> None:
    assert shown(view) == shown(expected)
    assert found(view) == found(expected)
    assert view.ids.whole().tolist() == expected.ids.whole().tolist()
    assert view.moved.tolist() == expected.moved.tolist()


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def written(folder: Path, seq: int, view: View, earlier: Manifest | None = None) -> Manifest:
    return snapshot.write(folder, seq, view, earlier=earlier)


@pytest.fixture
def pair(tmp_path: Path) -> Written:
    """A view with a graph, tombstones, moved keys and edges, and its snapshot in ``tmp_path``."""
    view = view_of(graph=True)
    return view, written(tmp_path, 12, view)


def test_a_view_comes_back_as_it_was(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    assert view.dead
    assert view.moved.tolist()
    assert view.edge_count
    assert view.base is not None
    opened = snapshot.open_view(tmp_path, manifest, view.settings)
    assert_same(opened, view)
    assert opened.base is not None
    assert opened.base.size == view.base.size


def test_the_manifest_says_what_was_written(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    assert view.base is not None
    assert names_in(tmp_path) == ["columns-000012.aesg", "index-000012.faiss"]
    assert [record.name for record in manifest.files] == names_in(tmp_path)
    assert (manifest.generation, manifest.graph_size) == (view.generation, view.base.size)
    assert manifest.parameters == view.base.parameters
    assert sorted(manifest.parameters) == ["ef_construction", "neighbours"]
    assert snapshot.is_as_recorded(tmp_path, manifest)
    assert snapshot.find_problems(tmp_path, manifest) == []
    assert Manifest.decode(manifest.encode()) == manifest


def test_a_view_without_a_graph_has_one_file(tmp_path: Path) -> None:
    view = view_of(graph=False)
    manifest = written(tmp_path, 1, view)
    assert names_in(tmp_path) == ["columns-000001.aesg"]
    assert (manifest.graph, manifest.graph_size, manifest.parameters) == (None, 0, {})
    assert snapshot.find_problems(tmp_path, manifest) == []
    opened = snapshot.open_view(tmp_path, manifest, view.settings)
    assert opened.base is None
    assert_same(opened, view)


def test_settings_are_those_of_the_caller(tmp_path: Path, pair: Written) -> None:
    opened = snapshot.open_view(tmp_path, pair[1], {"epoch": b"9"})
    assert opened.settings == {"epoch": b"9"}


def test_an_opened_view_grows_like_the_one_that_was_written(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    opened = snapshot.open_view(tmp_path, manifest, view.settings)
    for _ in range(3):
        view, opened = grown(view), grown(opened)
        assert_same(opened, view)


def test_a_snapshot_of_a_grown_view_uses_its_graph_file_again(
    tmp_path: Path, pair: Written
) -> None:
    view, first = pair
    opened = grown(snapshot.open_view(tmp_path, first, view.settings))
    second = written(tmp_path, 13, opened, earlier=first)
    assert second.graph == first.graph
    assert second.graph_size == first.graph_size
    assert snapshot.remove_strays(tmp_path, second) == ["columns-000012.aesg"]
    assert snapshot.find_problems(tmp_path, second) == []
    assert_same(snapshot.open_view(tmp_path, second, opened.settings), grown(view))


def test_a_graph_file_that_is_gone_is_written_again(tmp_path: Path, pair: Written) -> None:
    view, first = pair
    opened = snapshot.open_view(tmp_path, first, view.settings)
    (tmp_path / "index-000012.faiss").unlink()
    second = written(tmp_path, 13, opened, earlier=first)
    assert names_in(tmp_path) == [
        "columns-000012.aesg",
        "columns-000013.aesg",
        "index-000013.faiss",
    ]
    assert_same(snapshot.open_view(tmp_path, second, view.settings), view)


def test_the_graph_of_another_snapshot_is_not_taken_for_its_own(
    tmp_path: Path, pair: Written
) -> None:
    view, _ = pair
    small = written(tmp_path, 13, view_of(graph=True, count=100))
    manifest = written(tmp_path, 14, view, earlier=small)
    assert manifest.graph is not None
    assert manifest.graph.name == "index-000014.faiss"
    assert_same(snapshot.open_view(tmp_path, manifest, view.settings), view)


def test_a_new_graph_gets_a_file_of_its_own(tmp_path: Path, pair: Written) -> None:
    view, first = pair
    renewed = view.compacted()
    renewed = replace(renewed, base=HnswBase.build(renewed.keys))
    second = written(tmp_path, 13, renewed)
    assert second.graph is not None
    assert second.graph.name == "index-000013.faiss"
    assert snapshot.find_problems(tmp_path, first) == []
    assert_same(snapshot.open_view(tmp_path, second, view.settings), renewed)


def test_a_mapped_view_outlives_its_files(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    opened = snapshot.open_view(tmp_path, manifest, view.settings)
    assert snapshot.remove_strays(tmp_path, None) == [
        "columns-000012.aesg",
        "index-000012.faiss",
    ]
    assert_same(opened, view)


def test_no_column_of_an_opened_view_can_be_written_to(tmp_path: Path, pair: Written) -> None:
    opened = snapshot.open_view(tmp_path, pair[1], {})
    edges = opened.adjacency
    assert edges.leads.base is not None
    for column in (opened.keys, opened.ids, opened.regions, edges.rows, edges.leads, edges.rest):
        with pytest.raises(ValueError, match="read-only"):
            column.base[:1] = column.base[:1]  # type: ignore[index]


def test_only_strays_are_removed(tmp_path: Path, pair: Written) -> None:
    view, first = pair
    second = written(tmp_path, 13, view)
    strays = ["columns-000014.aesg.new", "index-000014.faiss.new", "index-000011.faiss"]
    others = ["data.mdb", "lock.mdb", "columns.aesg", "index-000001.txt", "columns-000001.aesg.old"]
    for name in strays + others:
        (tmp_path / name).touch()
    removed = snapshot.remove_strays(tmp_path, second)
    assert removed == sorted([*strays, *(record.name for record in first.files)])
    assert names_in(tmp_path) == sorted([*others, *(record.name for record in second.files)])
    assert snapshot.remove_strays(tmp_path, second) == []


def test_strays_of_a_folder_that_is_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected to remove old snapshots"):
        snapshot.remove_strays(tmp_path / "nowhere", None)


def test_writing_stops_when_it_is_told_to_and_leaves_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        snapshot.write(tmp_path, 1, view_of(graph=True), stop=stop)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("room", [0, 4096, 20_000, "graph"])
def test_without_room_an_earlier_snapshot_stays_and_nothing_else(
    tmp_path: Path, pair: Written, room: int | str
) -> None:
    view, first = pair
    before = names_in(tmp_path)
    assert first.graph is not None
    graph = view_of(graph=True, width=2)  # the links are longer than the columns
    limit = room if isinstance(room, int) else first.graph.size - 1
    with files_no_longer_than(limit), pytest.raises(StoreFullError):
        written(tmp_path, 13, graph if room == "graph" else view)
    assert names_in(tmp_path) == before
    assert snapshot.find_problems(tmp_path, first) == []


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": lambda path: os.utime(path, ns=(0, 0)),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "a directory": become_a_directory,
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_file_is_not_as_recorded_and_is_reported(
    tmp_path: Path, pair: Written, kind: str, number: int
) -> None:
    _, manifest = pair
    name = manifest.files[number].name
    CHANGES[kind](tmp_path / name)
    assert not snapshot.is_as_recorded(tmp_path, manifest)
    problems = snapshot.find_problems(tmp_path, manifest)
    if kind == "touched":
        assert not problems
        assert snapshot.is_as_recorded(tmp_path, snapshot.restamped(tmp_path, manifest))
    else:
        assert [(problem.table, problem.key) for problem in problems] == [("snapshot", name)]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["longer", "shorter", "empty", "gone", "a directory"])
def test_a_file_of_another_length_is_not_opened(
    tmp_path: Path, pair: Written, kind: str, number: int
) -> None:
    _, manifest = pair
    CHANGES[kind](tmp_path / manifest.files[number].name)
    with pytest.raises(StoreError, match=manifest.files[number].name):
        snapshot.open_view(tmp_path, manifest, {})


def test_both_damaged_files_are_reported(tmp_path: Path, pair: Written) -> None:
    _, manifest = pair
    for record in manifest.files:
        with open(tmp_path / record.name, "r+b") as file:
            file.seek(record.size // 2)
            file.write(b"damage")
    problems = snapshot.find_problems(tmp_path, manifest)
    assert [problem.key for problem in problems] == [record.name for record in manifest.files]


def test_progress_counts_the_bytes_of_both_files(tmp_path: Path, pair: Written) -> None:
    _, manifest = pair
    told: list[tuple[str, int, int]] = []
    snapshot.find_problems(tmp_path, manifest, lambda *told_now: told.append(told_now))
    total = sum(record.size for record in manifest.files)
    assert told[-1][1:] == (total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_an_examination_ends_with_what_the_caller_raises(tmp_path: Path, pair: Written) -> None:
    def stop(step: str, done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        snapshot.find_problems(tmp_path, pair[1], stop)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    assert manifest.graph is not None
    small = written(tmp_path, 13, view_of(graph=True, count=100))
    wide = written(tmp_path, 14, view_of(graph=True, width=7))
    for other in (
        replace(manifest, generation=manifest.generation + 1),
        replace(manifest, graph_size=manifest.graph_size - 1),
        replace(manifest, graph=small.graph),
        replace(manifest, graph=wide.graph),
        replace(small, graph=manifest.graph, graph_size=manifest.graph_size),
        replace(manifest, graph=replace(manifest.columns, name=manifest.columns.name)),
        replace(manifest, columns=manifest.graph),
    ):
        with pytest.raises(StoreCorruptError):
            snapshot.open_view(tmp_path, other, {})
        assert snapshot.find_problems(tmp_path, other)
    assert snapshot.open_view(tmp_path, manifest, {}).generation == view.generation


def test_a_copy_is_a_snapshot_of_its_own(tmp_path: Path, pair: Written) -> None:
    view, manifest = pair
    to = tmp_path / "to"
    to.mkdir()
    copy = snapshot.copy_files(tmp_path, manifest, to)
    assert snapshot.is_as_recorded(to, copy)
    for record in manifest.files:
        os.truncate(tmp_path / record.name, 0)
    assert snapshot.find_problems(to, copy) == []
    assert_same(snapshot.open_view(to, copy, view.settings), view)


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_snapshot_is_not_copied(tmp_path: Path, pair: Written, number: int) -> None:
    _, manifest = pair
    to = tmp_path / "to"
    to.mkdir()
    with open(tmp_path / manifest.files[number].name, "r+b") as file:
        file.write(bytes(8))
    with pytest.raises(StoreCorruptError):
        snapshot.copy_files(tmp_path, manifest, to)
    assert not names_in(to)


def test_a_restored_snapshot_is_as_recorded_once_it_was_examined(
    tmp_path: Path, pair: Written
) -> None:
    view, manifest = pair
    restored = tmp_path / "restored"
    restored.mkdir()
    for record in manifest.files:
        shutil.copyfile(tmp_path / record.name, restored / record.name)
    assert not snapshot.is_as_recorded(restored, manifest)
    assert snapshot.find_problems(restored, manifest) == []
    stamped = snapshot.restamped(restored, manifest)
    assert snapshot.is_as_recorded(restored, stamped)
    assert_same(snapshot.open_view(restored, stamped, view.settings), view)


def test_the_documentation_names_every_column() -> None:
    text = DOCUMENTATION.read_text()
    columns = {name for name in view_of(graph=True).columns() if not name.startswith("stats.")}
    assert {name for name in columns if f"`{name}`" not in text} == set()
