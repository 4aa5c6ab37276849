"""Memories of release 3.0 come over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory, AESGStorageError
from aesg.migration import migrate
from aesg.packs import read_pack
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from tests.earlier_build import (
    edges_from,
    edges_of,
    event,
    history_of,
    meta_of,
    nodes_of,
    some_pairs,
    write_directory,
)
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted

COUNT = 40


@pytest.fixture
def nodes() -> NDArray[Any]:
    return nodes_of(COUNT)


@pytest.fixture
def edges(nodes: NDArray[Any]) -> NDArray[Any]:
    return edges_of(nodes, some_pairs(COUNT, 120))


@pytest.fixture
def events(nodes: NDArray[Any]) -> list[bytes]:
    born = [event(0, int(each), val=1.0) for each in nodes["id"]]
    return [*born, event(4, 0, COUNT), event(4, 1, COUNT), event(1, 5, 6), event(5)]


@pytest.fixture
def old(tmp_path: Path, nodes: NDArray[Any], edges: NDArray[Any], events: list[bytes]) -> Path:
    return write_directory(tmp_path / "old", nodes, edges, events)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new"


def state_of(directory: Path) -> dict[str, tuple[str, int]]:
    """Return hash and time of each file."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


def test_counts_are_told_and_nothing_is_left_out(old: Path, new: Path) -> None:
    report = migrate(old, new)
    assert (report.concepts, report.edges, report.events) == (COUNT, 120, COUNT + 4)
    assert (report.vector_dim, report.left_out, report.changed) == (6, {}, {})
    assert (report.unsaved_concepts, report.unsaved_edges) == (0, 0)
    with closing(LMDBStore.open(new, read_only=True)) as store:
        sizes = store.stats()
    assert (sizes.concepts, sizes.edges, sizes.events) == (COUNT, 120, COUNT + 4)
    assert not examine(new).problems


def test_the_old_directory_stays_as_it_is(old: Path, new: Path) -> None:
    before = state_of(old), old.stat().st_mtime_ns
    for path in old.iterdir():
        path.chmod(0o444)
    migrate(old, new)
    assert (state_of(old), old.stat().st_mtime_ns) == before


def test_vectors_and_statistics_come_over(old: Path, new: Path, nodes: NDArray[Any]) -> None:
    migrate(old, new)
    nodes = nodes[np.argsort(nodes["id"])]
    with closing(LMDBStore.open(new, read_only=True)) as store:
        held = store.load().concepts
    np.testing.assert_array_equal(held.ids, nodes["id"])
    np.testing.assert_allclose(held.keys, nodes["vector"], rtol=1e-6)
    stats = held.stats
    np.testing.assert_array_equal(stats["created"], nodes["created_at"] * 1_000_000)
    np.testing.assert_array_equal(stats["modified"], nodes["modified_at"] * 1_000_000)
    np.testing.assert_array_equal(stats["frequency"], nodes["use_frequency"])
    np.testing.assert_array_equal(stats["region"], nodes["region_id"])
    np.testing.assert_array_equal(stats["stability"], nodes["stability"])


def test_relevance_and_age_are_what_they_were(old: Path, new: Path, nodes: NDArray[Any]) -> None:
    migrate(old, new)
    order = np.argsort(nodes["id"])
    with AESGMemory.open(new) as memory:
        memory.export_pack("now.aesgpack")
    columns = read_pack("now.aesgpack").columns
    np.testing.assert_array_equal(columns["age"], nodes["age"][order])
    np.testing.assert_array_equal(columns["updates"], nodes["age"][order])
    np.testing.assert_allclose(columns["relevance"], nodes["relevance"][order], rtol=1e-5)


def test_a_query_finds_the_nearest_concepts(old: Path, new: Path, nodes: NDArray[Any]) -> None:
    migrate(old, new)
    units = nodes["vector"] / np.linalg.norm(nodes["vector"], axis=1, keepdims=True)
    queries = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    nearest = nodes["id"][np.argmax(queries @ units.T, axis=1)]
    with AESGMemory.open(new) as memory:
        found = memory.retrieve(torch.from_numpy(queries))
    rows = found.concept_ids
    assert all(wanted in row for wanted, row in zip(nearest, rows, strict=True))


def test_edges_are_those_of_the_old_reader(
    old: Path, new: Path, nodes: NDArray[Any], edges: NDArray[Any]
) -> None:
    migrate(old, new)
    with AESGMemory.open(new) as memory:
        for place, concept in enumerate(nodes["id"].tolist()):
            found = [(e.target, e.weight, e.confidence, e.uses) for e in memory.edges(concept)]
            assert sorted(found) == sorted(edges_from(nodes, edges, place))


def test_the_history_is_that_of_the_old_reader(old: Path, new: Path) -> None:
    migrate(old, new)
    with AESGMemory.open(new) as memory:
        assert memory.logger.get_history() == history_of(old / "evolution.aesglog")


def test_the_memory_learns_on(old: Path, new: Path, nodes: NDArray[Any]) -> None:
    migrate(old, new)
    with AESGMemory.open(new, mode="TRAIN") as memory:
        (made,) = memory.remember(torch.ones(1, 6)).tolist()
        assert made == int(nodes["id"].max()) + 1
        memory.update_topology()
    with AESGMemory.open(new) as memory:
        assert memory.storage.node_count == COUNT + 1


def test_parameters_leave_room_for_what_is_there(tmp_path: Path, new: Path) -> None:
    migrate(write_directory(tmp_path / "old", nodes_of(30), room=30), new)
    with AESGMemory.open(new) as memory:
        assert (memory.vector_dim, memory.config.max_concepts) == (6, 30)


def test_an_empty_memory_keeps_its_width(tmp_path: Path, new: Path) -> None:
    report = migrate(write_directory(tmp_path / "old", nodes_of(0, dim=9)), new)
    assert (report.concepts, report.events) == (0, 0)
    with AESGMemory.open(new) as memory:
        assert (memory.vector_dim, memory.storage.node_count) == (9, 0)


def test_what_was_deleted_stays_away(
    tmp_path: Path, new: Path, nodes: NDArray[Any], edges: NDArray[Any]
) -> None:
    nodes["is_active"][:10] = 0
    gone = nodes["id"][:10]
    report = migrate(write_directory(tmp_path / "old", nodes, edges), new)
    alive = ~np.isin(edges["source_id"], gone) & ~np.isin(edges["target_id"], gone)
    assert (report.concepts, report.edges) == (COUNT - 10, int(alive.sum()))
    assert report.left_out["concepts that were deleted"] == 10
    assert sum(report.left_out.values()) == 10 + int((~alive).sum())


def test_an_unfinished_event_and_unknown_ones_are_left_out(
    tmp_path: Path, new: Path, events: list[bytes]
) -> None:
    log = [*events, event(255), event(6), event(0, 3), event(0)[:20]]
    report = migrate(write_directory(tmp_path / "old", nodes_of(2), events=log), new)
    assert report.events == len(events) + 1
    assert report.left_out == {
        "events whose writing was interrupted": 1,
        "events of no known type": 2,
    }


def unsaved(path: Path, saved: int) -> Path:
    """Write a directory that counts fewer records than it holds, as after a kill."""
    nodes = nodes_of(COUNT)
    edges = edges_of(nodes, some_pairs(COUNT, 30))
    write_directory(path, nodes[:saved], edges[:5])
    for name, records in (("nodes", nodes), ("edges", edges)):
        with open(path / f"{name}.aesg", "r+b") as file:
            file.write(records.tobytes())
    return path


def test_what_was_written_after_the_last_save_is_told(tmp_path: Path, new: Path) -> None:
    report = migrate(unsaved(tmp_path / "old", 10), new)
    assert (report.concepts, report.unsaved_concepts, report.unsaved_edges) == (10, COUNT - 10, 25)


def test_what_was_written_after_the_last_save_comes_over_if_asked(
    tmp_path: Path, new: Path
) -> None:
    report = migrate(unsaved(tmp_path / "old", 0), new, unsaved=True)
    assert (report.concepts, report.edges) == (COUNT, 30)
    assert (report.unsaved_concepts, report.unsaved_edges) == (COUNT, 25)


def test_many_concepts_take_several_transactions(
    tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesg.migration.new._CONCEPTS", 7)
    monkeypatch.setattr("aesg.migration.new._EVENTS", 3)
    monkeypatch.setattr("aesg.packs.earlier._CHUNK_BYTES", 500)
    nodes = nodes_of(COUNT)
    edges = edges_of(nodes, some_pairs(COUNT, 120))
    log = [event(0, number) for number in range(20)]
    report = migrate(write_directory(tmp_path / "old", nodes, edges, log), new)
    assert (report.concepts, report.edges, report.events) == (COUNT, 120, 20)
    with AESGMemory.open(new) as memory:
        assert [each["id1"] for each in memory.logger.get_history()] == list(range(20))
        for place, concept in enumerate(nodes["id"].tolist()):
            found = {edge.target for edge in memory.edges(concept)}
            assert found == {edge[0] for edge in edges_from(nodes, edges, place)}


def test_a_dry_run_reads_all_and_writes_nothing(old: Path, new: Path) -> None:
    report = migrate(old, new, dry_run=True)
    assert (report.concepts, report.edges, report.events) == (COUNT, 120, COUNT + 4)
    assert report.dry_run
    assert not new.exists()


def test_an_empty_directory_may_be_there(old: Path, new: Path) -> None:
    new.mkdir()
    assert migrate(old, new).concepts == COUNT


def test_what_is_there_is_never_replaced(old: Path, new: Path) -> None:
    new.mkdir()
    (new / "mine").write_text("text")
    with pytest.raises(AESGStorageError, match=r"expected an empty directory, found \['mine'\]"):
        migrate(old, new)
    assert os.listdir(new) == ["mine"]
    AESGMemory(new.parent / "memory", AESGConfig(vector_dim=6)).close()
    with pytest.raises(AESGStorageError, match="expected an empty directory"):
        migrate(old, new.parent / "memory")
    with pytest.raises(AESGStorageError, match="expected a directory, got a file"):
        migrate(old, new / "mine")


def test_nothing_is_made_within_the_old_directory(old: Path) -> None:
    for place in (old, old / "new"):
        with pytest.raises(AESGStorageError, match="expected a place outside"):
            migrate(old, place)


@pytest.mark.parametrize("name", ["next", "aesg-migrating-old"])
def test_an_old_directory_in_the_new_one_is_refused(old: Path, new: Path, name: str) -> None:
    new.mkdir()
    (new / "link").symlink_to(old.rename(new / name))
    before = state_of(new / name)
    for source in (new / name, new / "link"):
        with pytest.raises(AESGStorageError, match=r"expected a place that .* does not lie in"):
            migrate(source, new)
    assert state_of(new / name) == before


@pytest.mark.parametrize("name", ["next", "aesg-migrating-mine", "gen-000001"])
def test_a_folder_of_somebody_else_is_refused_and_kept(old: Path, new: Path, name: str) -> None:
    (new / name / "deep").mkdir(parents=True)
    (new / name / "deep" / "thesis").write_text("mine")
    for dry_run in (True, False):
        with pytest.raises(AESGStorageError, match="expected an empty directory, found"):
            migrate(old, new, dry_run=dry_run)
    assert (new / name / "deep" / "thesis").read_text() == "mine"


def test_what_a_killed_migration_left_is_removed(old: Path, new: Path) -> None:
    (new / "aesg-migrating-0" / "memory").mkdir(parents=True)
    (new / "aesg-migrating-0" / "MIGRATING").touch()
    (new / "aesg-migrating-1").mkdir()  # it was killed before it wrote anything
    migrate(old, new, dry_run=True)
    assert len(os.listdir(new)) == 2
    assert migrate(old, new).concepts == COUNT
    assert sorted(os.listdir(new)) == ["CURRENT", "gen-000001"]


class Once:
    """Does something when a migration begins to write."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._acts = [act]

    def __call__(self, step: str, done: int, total: int) -> None:
        if step == "writing concepts" and self._acts:
            self._acts.pop()()


def test_of_two_migrations_to_one_directory_one_is_refused(old: Path, new: Path) -> None:
    def again() -> None:
        for dry_run in (True, False):
            with pytest.raises(AESGStorageError, match="expected no other migration to it"):
                migrate(old, new, dry_run=dry_run)

    assert migrate(old, new, progress=Once(again)).concepts == COUNT
    assert is_whole(new)
    with pytest.raises(AESGStorageError, match="expected an empty directory"):
        migrate(old, new)
    assert is_whole(new)


def test_what_appears_meanwhile_is_kept_and_nothing_else(old: Path, new: Path) -> None:
    with pytest.raises(AESGStorageError, match=r"expected nothing new in it, found \['mine'\]"):
        migrate(old, new, progress=Once(lambda: (new / "mine").write_text("text")))
    assert os.listdir(new) == ["mine"]


def test_no_memory_can_be_made_where_one_comes_over(old: Path, new: Path) -> None:
    def make() -> None:
        with pytest.raises(AESGStorageError, match="expected a memory or an empty directory"):
            AESGMemory(new, AESGConfig(vector_dim=6))

    migrate(old, new, progress=Once(make))
    assert is_whole(new)


def test_a_dry_run_refuses_what_cannot_be_written(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.write_text("mine")
    for place in (new, new / "deep"):
        with pytest.raises(AESGStorageError, match="expected a directory, got a file"):
            migrate(old, place, dry_run=True)
    new.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as on a disk that is read only
    with pytest.raises(AESGStorageError, match="expected a directory that may be written"):
        migrate(old, new, dry_run=True)
    assert not new.exists()


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_path_with_a_null_byte_is_refused(old: Path, new: Path, name: str) -> None:
    paths = {"old": str(old), "new": str(new), name: f"{old}\0"}
    with pytest.raises(AESGStorageError, match="null byte"):
        migrate(paths["old"], paths["new"])


@pytest.mark.parametrize("mode", ["TRAIN", "INFERENCE"])
def test_who_opens_an_old_directory_is_told_what_to_do(old: Path, mode: str) -> None:
    before = state_of(old)
    with pytest.raises(AESGStorageError, match=r"`python -m tools\.migrate .* NEW` brings it over"):
        AESGMemory.open(old, mode=mode)
    with pytest.raises(AESGStorageError, match=r"a memory of release 3\.0"):
        AESGMemory(old, AESGConfig(vector_dim=6, memory_mode=mode))
    assert state_of(old) == before


def without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def short(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        path = directory / name
        path.write_bytes(path.read_bytes()[:200])

    return spoil


def test_a_migrated_memory_counts_on_whatever_its_ages_were(tmp_path: Path, new: Path) -> None:
    nodes = nodes_of(COUNT)
    nodes["age"][0] = 2**32 - 1
    report = migrate(write_directory(tmp_path / "old", nodes), new)
    assert report.changed == {
        "ages above 16,777,216 consolidations, set to that": 1,
        "concepts older than 1,000 consolidations, as if last used so long ago": 1,
    }
    with AESGMemory.open(new, mode="TRAIN") as memory:
        for _ in range(3):
            memory.retrieve(torch.ones(6))
            memory.update_topology()
        memory.save()
    with AESGMemory.open(new) as memory:
        assert memory.storage.node_count == COUNT


def test_a_concept_of_any_age_keeps_its_relevance(tmp_path: Path, new: Path) -> None:
    nodes = nodes_of(4)
    nodes["id"], nodes["age"] = [1, 2, 3, 4], [1000, 1001, 5000, 100_000]
    nodes["relevance"] = 0.75  # release 3.0 counted ages on, however often a concept was used
    report = migrate(write_directory(tmp_path / "old", nodes), new)
    assert sum(report.changed.values()) == 3
    with AESGMemory.open(new) as memory:
        memory.export_pack("now.aesgpack")
    columns = read_pack("now.aesgpack").columns
    np.testing.assert_allclose(columns["relevance"], 0.75, rtol=1e-5)
    np.testing.assert_array_equal(columns["updates"], nodes["age"])


def test_the_next_ids_stay_below_those_of_attached_packs(tmp_path: Path, new: Path) -> None:
    nodes = nodes_of(4)
    nodes["id"] = [2**63 - 2, 2**64 - 1, 0, 2**62 - 1]
    report = migrate(write_directory(tmp_path / "old", nodes), new)
    assert report.changed == {
        "concepts that got another id, because theirs is 0, too great or taken": 3
    }
    with AESGMemory.open(new, mode="TRAIN") as memory:
        ids = memory.remember(torch.eye(6)[:3]).tolist()
        assert ids == [2**62, 2**62 + 1, 2**62 + 2]
        memory.export_pack("all.aesgpack")
    assert read_pack("all.aesgpack").columns["ids"].tolist() == [1, 2, 3, 2**62 - 1, *ids]


@pytest.mark.parametrize("number", ["vector_dim", "cap_nodes", "cap_edges"])
@pytest.mark.parametrize("change", [-1, 1])
def test_files_of_another_size_than_was_made_are_refused(
    old: Path, new: Path, number: str, change: int
) -> None:
    said: dict[str, int] = meta_of(COUNT, 120, 6, 100)
    said[number] += change
    np.save(old / "meta.npy", said)  # type: ignore[arg-type]
    with pytest.raises(AESGStorageError, match=r"expected [\d,]+ bytes, .* as meta\.npy says, got"):
        migrate(old, new)


def test_room_that_was_doubled_and_not_counted_is_no_damage(old: Path, new: Path) -> None:
    nodes = old / "nodes.aesg"
    os.truncate(nodes, 2 * nodes.stat().st_size)
    assert migrate(old, new, dry_run=True).concepts == COUNT
    os.truncate(nodes, 2 * nodes.stat().st_size)
    with pytest.raises(AESGStorageError, match=r"as meta\.npy says, got"):
        migrate(old, new, dry_run=True)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nothing")


def looping(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [pipe, folder, dangling, looping])
@pytest.mark.parametrize("name", ["nodes.aesg", "edges.aesg", "meta.npy", "evolution.aesglog"])
def test_what_is_no_file_is_refused_at_once(
    old: Path, new: Path, name: str, make: Callable[[Path], None]
) -> None:
    (old / name).unlink()
    make(old / name)
    for dry_run in (True, False):
        with pytest.raises(AESGStorageError, match=name):
            migrate(old, new, dry_run=dry_run)
    assert not new.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        *map(without, ("nodes.aesg", "edges.aesg", "meta.npy")),
        *map(short, ("nodes.aesg", "edges.aesg", "meta.npy")),
    ],
)
def test_a_directory_that_is_not_whole_is_refused(
    old: Path, new: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(old)
    with pytest.raises(AESGStorageError, match=r"^Failed to migrate '.*': .*expected"):
        migrate(old, new)
    assert not new.exists()


@pytest.mark.parametrize("failure", [disk_full, disk_broken, interrupted])
def test_what_fails_leaves_nothing_or_all(
    old: Path, new: Path, failure: Callable[[], None]
) -> None:
    with at_call(None) as calls:
        migrate(old, new)
    failed = 0
    for number, name in enumerate(calls.names):
        place = new.parent / f"failed-{number}"
        with at_call(number, failure):
            try:
                migrate(old, place)
            except (AESGStorageError, KeyboardInterrupt):
                failed += 1
                assert not place.exists() or is_whole(place), name
            else:
                assert is_whole(place), name
    assert failed > len(calls.names) / 2


def is_whole(directory: Path) -> bool:
    if not (directory / "CURRENT").exists():
        return False
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return store.stats().events == COUNT + 4
