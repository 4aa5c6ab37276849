"""Directories that are no memory, or not this one; disks and commits that fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from aesg import AESGConfig, AESGConfigError, AESGMemory, AESGStorageError, MemoryMode
from storage_backends.engine import Engine
from storage_backends.errors import StoreFullError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests import memory_children as children
from tests.memory_build import DIM, born, config, data_file, meet, opened, pattern, patterns
from tests.memory_processes import child, run_child


def contents(directory: Path) -> dict[str, bytes]:
    """Return what a directory holds, but for notes of its last writer, readers and commit."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    kept = [path for path in files if path.name not in ("WRITER.lock", "lock.mdb", "STAMP")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in kept}


def test_open_draws_no_random_numbers() -> None:
    AESGMemory("memory", AESGConfig(vector_dim=8)).close()
    before = torch.get_rng_state()
    for mode in ("INFERENCE", "TRAIN"):
        AESGMemory.open("memory", mode=mode).close()
    assert torch.equal(torch.get_rng_state(), before)


def test_open_takes_the_parameters_from_disk() -> None:
    made = config(max_concepts=77, novelty_birth_threshold=1, max_edges_per_node=5)
    AESGMemory("memory", made).close()
    with AESGMemory.open("memory", mode="ONLINE") as memory:
        assert memory.mode.value == "ONLINE"
        meet(memory, pattern(0), times=1)
        assert born(memory) == 1
        assert memory.config == AESGConfig(
            vector_dim=DIM,
            max_concepts=77,
            novelty_birth_threshold=1,
            max_edges_per_node=5,
            memory_mode="ONLINE",
        )


def test_new_parameters_are_those_that_stay() -> None:
    opened(max_concepts=5).close()
    opened(max_concepts=6).close()
    AESGMemory("memory", config(max_concepts=7, memory_mode="INFERENCE")).close()
    with AESGMemory.open("memory") as memory:
        assert memory.config.max_concepts == 6


def test_parameters_are_stored_with_the_directory_itself() -> None:
    memory = opened(max_concepts=5)
    with AESGMemory.open("memory") as reader:
        assert reader.config.max_concepts == 5
    memory.close()


@pytest.mark.parametrize("mode", ["INFERENCE", "TRAIN"])
def test_a_missing_directory_is_not_made_by_open(tmp_path: Path, mode: str) -> None:
    with pytest.raises(AESGStorageError, match="expected a memory directory, found nothing"):
        AESGMemory.open(tmp_path / "missing", mode=mode)
    assert not (tmp_path / "missing").exists()


@pytest.fixture(params=["foreign", "file", "newer", "corrupt"])
def no_memory(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Return a path that is no memory, and words of the error that says so."""
    path = tmp_path / "place"
    if request.param == "foreign":
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
        return path, "memory"
    if request.param == "file":
        path.write_text("mine")
        return path, "expected a directory, got a file"
    opened(path).close()
    if request.param == "newer":
        env = lmdb.open(str(data_file(path).parent), max_dbs=16, lib_version=0)
        with env, env.begin(write=True, db=env.open_db(b"sys")) as transaction:
            transaction.put(b"schema", b"999")
        return path, "written by a newer release"
    data_file(path).write_bytes(b"not a database" * 1000)
    return path, "expected an LMDB data file"


@pytest.mark.parametrize("how", ["read", "write"])
def test_what_is_no_memory_is_told_and_left_alone(no_memory: tuple[Path, str], how: str) -> None:
    path, words = no_memory
    before = contents(path) if path.is_dir() else path.read_text()
    with pytest.raises(AESGStorageError, match=words) as caught:
        AESGMemory.open(path) if how == "read" else opened(path)
    assert caught.value.subsystem == "storage"
    assert str(path) in caught.value.message
    assert (contents(path) if path.is_dir() else path.read_text()) == before


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: needs root, to be another user")
def test_a_directory_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    directory = Path("/tmp") / f"aesg-{os.getpid()}" / "memory"
    opened(directory).close()
    try:
        for subsystem, message in run_child(children.write_elsewhere, str(directory)):
            assert subsystem == "storage"
            assert "Permission denied" in message
    finally:
        shutil.rmtree(directory.parent)


@pytest.mark.parametrize("mode", ["TRAIN", "INFERENCE"])
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("storage_backends.layout.file_system_of", lambda path, mounts: "nfs4")
    with pytest.raises(AESGStorageError, match="local file system, got nfs4") as caught:
        opened(tmp_path / "memory", memory_mode=mode)
    assert str(tmp_path) in caught.value.message
    assert os.listdir(tmp_path) == []


def test_a_second_writer_is_told_who_is_the_first(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    with child(children.hold, directory) as holder:
        pid = holder.next()
        with pytest.raises(AESGStorageError, match=f"process {pid} on ") as caught:
            opened(directory)
        assert caught.value.subsystem == "storage"
        with AESGMemory.open(directory) as reader:
            assert born(reader) == 0
        holder.tell("close")
        assert holder.next() == "closed"
    opened(directory).close()


def test_a_memory_with_concepts_keeps_its_width_and_its_bytes(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(0, 1))
        memory.retrieve(pattern(2))
    before = contents(tmp_path)
    for mode in ("TRAIN", "INFERENCE"):
        with pytest.raises(AESGConfigError) as caught:
            opened(tmp_path / "memory", vector_dim=32, memory_mode=mode)
        assert caught.value.message == (
            "The memory holds 2 concepts of another width: expected vector_dim=16, got 32. "
            "Pass AESGConfig(vector_dim=16), or choose another directory."
        )
        assert contents(tmp_path) == before
    assert run_child(children.try_to_open, str(tmp_path / "memory")) == ["opened"]
    with opened(tmp_path / "memory") as memory:
        assert (born(memory), memory.provisional_count) == (2, 1)


def test_a_width_refused_beside_a_handle_leaves_it_alone() -> None:
    memory = opened()
    meet(memory, pattern(0))  # born, and not committed yet
    with pytest.raises(AESGConfigError, match="holds 1 concepts of another width"):
        opened(vector_dim=32)
    assert born(memory) == 1


def test_an_empty_memory_takes_the_width_of_whoever_opens_it() -> None:
    with opened() as memory:
        memory.retrieve(pattern(0))
    with opened(vector_dim=8) as memory:
        assert memory.provisional_count == 0
        meet(memory, torch.eye(8)[0])
    with AESGMemory.open("memory") as memory:
        assert memory.vector_dim == 8
        assert born(memory) == 1
        assert memory.retrieve(torch.eye(8)[0]).mask.tolist() == [True]


@pytest.mark.parametrize("field", ["vector_dim", "max_concepts", "novelty_birth_threshold"])
def test_a_parameter_out_of_range_writes_nothing(tmp_path: Path, field: str) -> None:
    opened(tmp_path / "old").close()
    before = contents(tmp_path)
    for name in ("old", "new"):
        with pytest.raises(AESGConfigError, match=f"Parameter '{field}': got 0"):
            opened(tmp_path / name, **{field: 0})
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["old"]


def test_a_full_disk_is_told_loses_nothing_and_can_be_got_over(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    failure, survived, (expected, written) = run_child(children.fill, directory)
    assert failure[0] == "storage"
    assert "earlier commits are intact" in failure[1]
    assert survived == (expected - 1, expected - 1, [])
    assert expected > written  # what waited when the disk was full was born too
    with AESGMemory.open(directory) as memory:
        assert memory.storage.verify() == []
        assert born(memory) == expected


class _Failing:
    """An engine whose commits fail as often as they are told to."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.commit = Engine.commit

    def __call__(self, engine: Engine, batch: Any) -> Any:
        if self.times:
            self.times -= 1
            raise StoreFullError("no room")
        return self.commit(engine, batch)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Failing]:
    failing = _Failing(0)
    monkeypatch.setattr(Engine, "commit", lambda engine, batch: failing(engine, batch))
    yield failing


@pytest.mark.parametrize("failures", [1, 3])
def test_a_commit_that_fails_loses_nothing_that_waits(failing: _Failing, failures: int) -> None:
    memory = opened()
    memory.remember(pattern(9))
    meet(memory, patterns(0, 1))
    memory.retrieve(pattern(2))
    failing.times = failures
    for _ in range(failures):
        with pytest.raises(AESGStorageError, match=r"save memory '.*': no room") as caught:
            memory.save()
        assert caught.value.subsystem == "storage"
    assert len(memory.retrieve(pattern(0)).concept_ids) == 4
    memory.save()
    events = [(event["type"], event["id1"]) for event in memory.logger.get_history()]
    assert len(events) == len(set(events)) == born(memory) == 3
    memory.close()
    with AESGMemory.open("memory") as again:
        assert (born(again), again.provisional_count) == (3, 1)
        assert again.storage.verify() == []


@pytest.mark.parametrize("error", [StoreFullError("no room"), KeyboardInterrupt()])
def test_what_could_not_be_remembered_prunes_nothing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    memory = opened(max_concepts=3)
    ids = memory.remember(patterns(0, 1, 2), payloads=["a", "b", "c"])

    def fails(engine: Engine, batch: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "commit", fails)
        with pytest.raises((AESGStorageError, KeyboardInterrupt)):
            memory.remember(patterns(3, 4))
    memory.save()
    assert memory.payloads(ids) == ["a", "b", "c"]
    assert {event["type"] for event in memory.logger.get_history()} == {"CREATE"}


def test_an_interrupt_between_a_commit_and_its_view_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = opened(max_concepts=4, novelty_birth_threshold=1)
    memory.remember(patterns(0, 1, 2, 3))

    def interrupted(engine: Engine, changes: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.remember(patterns(4, 5))
    for _ in range(2):
        memory.save()
        assert memory.storage.verify() == []
    assert born(memory) == 4
    events = [(event["type"], event["id1"]) for event in memory.logger.get_history()]
    assert len(events) == len(set(events)) == 6 + 2
    meet(memory, pattern(9))
    assert memory.recall(pattern(9)).best_cosine == pytest.approx(1)


def test_what_could_not_be_remembered_leaves_no_trace(failing: _Failing) -> None:
    memory = opened()
    failing.times = 1
    with pytest.raises(AESGStorageError, match="Failed to write to memory"):
        memory.remember(patterns(0, 1), payloads=["a", "b"])
    assert born(memory) == 0
    ids = memory.remember(pattern(2), payloads=["c"])
    assert memory.payloads(ids) == ["c"]
    assert [event["id1"] for event in memory.logger.get_history()] == ids.tolist()
    assert memory.storage.verify() == []


def test_a_close_that_fails_says_so_and_can_be_repeated(failing: _Failing) -> None:
    memory = opened()
    memory.retrieve(pattern(0))
    failing.times = 1
    with pytest.raises(AESGStorageError, match=r"close memory '.*': no room"):
        memory.close()
    memory.retrieve(pattern(1))
    memory.close()
    assert run_child(children.try_to_open, str(memory.directory)) == ["opened"]
    with AESGMemory.open("memory") as again:
        assert again.provisional_count == 2


def test_a_memory_without_a_config_keeps_the_one_it_was_written_with() -> None:
    with AESGMemory("kept", AESGConfig(vector_dim=5, novelty_birth_threshold=7)):
        pass
    with AESGMemory("kept") as memory:
        assert memory.config == AESGConfig(vector_dim=5, novelty_birth_threshold=7)
        assert memory.mode is MemoryMode.TRAIN


_BAD_SETTINGS = {
    "config of a newer release": ("config", b'{"brand_new": 3}'),
    "config that is no JSON": ("config", b"{nope"),
    "config that is no text": ("config", b"\xff\xfe"),
    "config out of range": ("config", b'{"vector_dim": -5}'),
    "words for a number": ("next_id", b"abc"),
    "negative tick": ("tick", b"-5"),
    "fraction": ("epoch", b"1.5"),
    "more epochs than rows of edges can state": ("epoch", b"4294967296"),
}


@pytest.mark.parametrize("name", _BAD_SETTINGS)
def test_a_stored_setting_that_cannot_be_one_is_told(name: str) -> None:
    opened().close()
    field, value = _BAD_SETTINGS[name]
    with LMDBStore.open("memory") as store:
        store.commit(WriteBatch(settings={field: value}))
    for make in (AESGMemory.open, opened):
        with pytest.raises(AESGStorageError, match=f"memory '.*/memory'.*'{field}'") as caught:
            make("memory")
        assert ("newer release" in caught.value.message) == (field == "config")


def test_the_last_epoch_but_one_can_still_be_counted_on_from() -> None:
    opened().close()
    with LMDBStore.open("memory") as store:
        store.commit(WriteBatch(settings={"epoch": b"4294967294"}))
    with opened(consolidation_epoch_interval=1) as memory:
        memory.remember(patterns(0, 1))
        memory.update_topology()
        memory.remember(pattern(2))
        assert memory.storage.verify() == []
    with AESGMemory.open("memory") as memory:
        assert memory._state.clock.epoch == 2**32 - 1


def test_a_memory_of_a_release_without_a_bound_on_hops_opens_with_the_most() -> None:
    opened().close()
    stored = config(spreading_activation_steps=1000).to_json().encode()
    with LMDBStore.open("memory") as store:
        store.commit(WriteBatch(settings={"config": stored}))
    with AESGMemory.open("memory") as memory:
        assert memory.config.spreading_activation_steps == 64


def test_no_id_is_given_twice_whatever_the_counter_says() -> None:
    with opened() as memory:
        ids = memory.remember(patterns(0, 1)).tolist()
    with LMDBStore.open("memory") as store:
        store.commit(WriteBatch(settings={"next_id": b"1"}))
    with opened() as memory:
        assert memory.remember(pattern(2)).tolist() == [ids[-1] + 1]
        assert born(memory) == 3


@pytest.mark.parametrize("path", ["nul\0x", b"bytes", "\ud800"])
def test_a_path_that_is_none_is_told(path: Any) -> None:
    with pytest.raises(AESGStorageError, match="expected a path of text"):
        opened(path)


@pytest.mark.parametrize("mode", ["INFERENCE", "TRAIN"])
def test_to_open_a_memory_reads_it_once(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    opened().close()
    loads: list[LMDBStore] = []
    load = LMDBStore.load

    def counted(store: LMDBStore) -> Any:
        loads.append(store)
        return load(store)

    monkeypatch.setattr(LMDBStore, "load", counted)
    AESGMemory.open("memory", mode=mode).close()
    assert len(loads) == 1


def test_a_clock_before_1970_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesg.graph.pending.time.time_ns", lambda: -(10**18))
    with opened() as memory:
        memory.remember(pattern(0))
        meet(memory, pattern(1))
        assert born(memory) == 2
        assert memory.storage.verify() == []


def test_storage_tells_commits_and_sizes_with_the_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aesg.memory_loaded.Engine", partial(Engine, exact_below=1))
    memory = opened()
    before = memory.storage.generation
    memory.remember(patterns(0, 1))
    storage = memory.storage
    assert storage.generation == before + 1
    assert storage.snapshot_generation is None
    assert storage.file_bytes == data_file("memory").stat().st_size
    storage.engine.rebuild()
    assert storage.snapshot_generation == storage.generation
    folder = data_file("memory").parent
    derived = [path for path in folder.iterdir() if path.suffix in (".aesg", ".faiss")]
    assert derived
    expected = data_file("memory").stat().st_size + sum(path.stat().st_size for path in derived)
    assert storage.file_bytes == expected
    memory.remember(pattern(2))
    assert storage.snapshot_generation == storage.generation - 1
