"""Copies of a memory in use, and the way back to one: all of it, at once, or nothing."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from aesg import (
    AESGConfigError,
    AESGDecoderLM,
    AESGError,
    AESGMemory,
    AESGMemoryError,
    AESGStorageError,
)
from storage_backends import folders
from storage_backends.compaction import compact
from storage_backends.lmdb_store import LMDBStore
from tests import memory_children as children
from tests import memory_readers as readers
from tests.memory_build import born, meet, near, opened, pattern, patterns
from tests.memory_processes import child, run_child
from tests.memory_readers import STAMPED, replace_all, stamp
from tests.storage.damage import PAGE, overwrite
from tests.storage.interrupts import comes


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    """A memory with concepts, edges and payloads, of which some and a provisional one wait."""
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(0, 1), [7, 8], ["seven", None])
        for _ in range(3):
            memory.retrieve(patterns(0, 2, 1).unsqueeze(0))
        memory.retrieve(pattern(5))
        yield memory


@pytest.fixture
def saved(memory: AESGMemory, tmp_path: Path) -> Path:
    """A copy of it, after which it has gone on."""
    memory.copy(tmp_path / "copy")
    memory.remember(patterns(8, 9), [1, 2], ["new", "newer"])
    meet(memory, pattern(6))
    memory.retrieve(pattern(7))
    return tmp_path / "copy"


def told(memory: AESGMemory) -> dict[str, Any]:
    """Return all that a memory says of what it holds; what waits is committed first."""
    concepts = born(memory)
    view = memory._state.view
    ids = sorted(view.ids.whole()[view.alive.whole()].tolist())
    found = memory.recall(torch.eye(16), top_k=16)
    return {
        "concepts": concepts,
        "provisional": memory.provisional_count,
        "payloads": memory.payloads(ids),
        "edges": [[(e.target, e.weight) for e in memory.edges(i)] for i in ids],
        "found": (found.concept_ids[found.mask].tolist(), found.weights.tolist()),
        "events": memory._events(None).records[["type", "id1", "id2"]].tolist(),
        "window": memory._state.shortterm.entries.tolist(),
        "counters": (memory._state.clock.tick, memory._state.clock.epoch),
    }


def test_a_copy_holds_all_that_the_memory_holds_and_opens_by_itself(
    memory: AESGMemory, tmp_path: Path
) -> None:
    memory.copy(tmp_path / "below" / "copy")
    held = told(memory)
    assert held["provisional"] == 1
    assert any(held["edges"])
    with opened(tmp_path / "below" / "copy") as copied:
        assert told(copied) == held
        assert copied.storage.verify() == []
        copied.remember(pattern(12))
    assert told(memory) == held


def test_learning_goes_on_after_a_copy_as_if_there_were_none(tmp_path: Path) -> None:
    for name, copies in (("with", 3), ("without", 0)):
        with opened(tmp_path / name) as memory:
            for step in range(6):
                memory.retrieve(patterns(step % 3, step % 4, 5))
                if step < copies:
                    memory.copy(tmp_path / f"copy-{step}")
    with opened(tmp_path / "with") as one, opened(tmp_path / "without") as other:
        shown, wanted = told(one), told(other)
        for events in (shown["events"], wanted["events"]):
            events.sort()  # those of one commit are in the order of the ids
        assert shown == wanted
        assert born(one) > 0


def test_a_reader_copies_the_last_commit(memory: AESGMemory, tmp_path: Path) -> None:
    directory = memory.directory
    memory.close()
    with child(children.remember_and_die, str(directory)) as writer:
        assert len(writer.next()) == 2
        with AESGMemory.open(directory) as reader:
            held = told(reader)
            reader.copy(tmp_path / "copy")
    with AESGMemory.open(tmp_path / "copy") as copied:
        assert told(copied) == held
        assert held["concepts"] == 5


def test_a_copy_is_made_while_readers_live_and_the_lock_is_held(
    memory: AESGMemory, tmp_path: Path
) -> None:
    directory = str(memory.directory)
    with ExitStack() as running:
        reading = [running.enter_context(child(readers.read_for_ever, directory)) for _ in range(4)]
        inside = [reader.next() for reader in reading]
        for number in range(3):
            memory.copy(tmp_path / f"copy-{number}")
            memory.remember(pattern(10 + number))
        assert "process" in str(run_child(children.try_to_open, directory))  # still locked
        store = memory._state.engine.store
        assert isinstance(store, LMDBStore)
        table = store._lease.env.readers()
        assert all(f" {pid} " in table for pid in inside)
    with AESGMemory.open(tmp_path / "copy-2") as copied:
        assert born(copied) == born(memory) - 1
        assert copied.storage.verify() == []


@pytest.mark.parametrize("place", ["memory", "memory/inside", "full", "file", "file/below"])
def test_a_copy_goes_to_an_empty_place_outside(
    memory: AESGMemory, tmp_path: Path, place: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = told(memory)
    with pytest.raises(AESGStorageError, match=str(tmp_path / place)):
        memory.copy(tmp_path / place)
    assert told(memory) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "memory"]
    assert not (tmp_path / "memory" / "inside").exists()


def test_a_restored_memory_holds_what_the_copy_holds(memory: AESGMemory, saved: Path) -> None:
    uuid, after = memory._state.engine.store.uuid, told(memory)
    with AESGMemory.open(saved) as copied:
        wanted = told(copied)
    memory.restore(saved)
    assert told(memory) == wanted != after
    assert memory._state.engine.store.uuid == uuid
    assert memory.storage.verify() == []
    directory = memory.directory
    memory.close()
    with opened(directory) as again:
        assert told(again) == wanted
    with AESGMemory.open(saved) as copied:
        assert told(copied) == wanted


def test_learning_goes_on_from_a_copy_as_it_did_the_first_time(
    memory: AESGMemory, tmp_path: Path
) -> None:
    def learn() -> list[Any]:
        memory.reset_state()
        for number in (6, 7, 6, 5, 6, 5):
            memory.retrieve(patterns(number, 1))
        memory.save()
        found = memory.recall(torch.eye(16), top_k=16)
        return [found.value_ids.tolist(), found.weights.tolist(), born(memory)]

    memory.copy(tmp_path / "copy")
    first = learn()
    for _ in range(2):
        memory.restore(tmp_path / "copy")
        assert learn() == first


def test_no_id_is_given_twice(memory: AESGMemory, tmp_path: Path) -> None:
    memory.copy(tmp_path / "copy")
    given = set(memory.remember(patterns(8, 9)).tolist())
    memory.retrieve(pattern(10))  # provisional, and known to nobody but this process
    given |= set(memory._state.shortterm.entries["id"].tolist())
    memory.restore(tmp_path / "copy")
    again = memory.remember(patterns(8, 9)).tolist()
    assert min(again) > max(given)
    directory = memory.directory
    memory.close()
    with opened(directory) as memory:
        assert min(memory.remember(pattern(11)).tolist()) > max(again)


def test_what_waited_is_dropped_by_all_handles(memory: AESGMemory, saved: Path) -> None:
    other = opened(memory.directory)
    reader = AESGMemory.open(memory.directory)
    with AESGMemory.open(saved) as copied:
        wanted = told(copied)
    other.retrieve(patterns(10, 11).unsqueeze(0))  # its navigation stands at the second
    other.defer(other.recall(pattern(12)))
    memory.defer(memory.recall(pattern(13)))
    memory.restore(saved)
    assert told(reader) == told(other) == told(memory) == wanted
    concepts = wanted["concepts"] + wanted["provisional"]
    for handle in (memory, other):
        handle.update_topology()
        assert born(memory) + memory.provisional_count == concepts
    other.retrieve(pattern(0).unsqueeze(0))
    assert told(memory)["edges"] == wanted["edges"]  # nothing leads to it from what is gone


def test_a_handle_keeps_its_own_parameters(memory: AESGMemory, saved: Path) -> None:
    directory = memory.directory
    memory.close()
    with opened(directory, max_events=77, max_concepts=50) as other:
        other.restore(saved)
        assert other._state.config.max_events == 77
        other.remember(pattern(3))
    with AESGMemory.open(directory) as reader:
        assert (reader.config.max_events, reader.config.max_concepts) == (77, 50)


def test_a_new_memory_takes_the_content_of_another_one(
    memory: AESGMemory, saved: Path, tmp_path: Path
) -> None:
    with AESGMemory.open(saved) as copied:
        wanted = told(copied)
    with opened(tmp_path / "new") as new:
        uuid = new._state.engine.store.uuid
        new.restore(saved)
        assert told(new) == wanted
        assert new._state.engine.store.uuid == uuid
        new.restore(memory.directory)  # in use: what it has committed
        assert born(new) == memory._state.view.node_count > wanted["concepts"]


def test_a_reader_in_another_process_follows_at_its_next_retrieval(
    memory: AESGMemory, saved: Path
) -> None:
    with child(children.follow, str(memory.directory), pattern(8)) as reader:
        assert reader.next()[1][0] == "new"
        memory.restore(saved)
        reader.tell("again")
        assert "new" not in reader.next()[1]
        memory.remember(pattern(8), [3], ["newest"])
        reader.tell("again")
        assert reader.next()[1][0] == "newest"


def test_a_reader_that_slept_through_many_saves_sees_the_present_window(
    memory: AESGMemory, tmp_path: Path
) -> None:
    memory.copy(tmp_path / "copy")
    for _ in range(3):
        memory.retrieve(torch.rand(16))
        memory.save()
    with child(children.follow, str(memory.directory), pattern(15)) as reader:
        reader.next()
        memory.restore(tmp_path / "copy")
        for _ in range(3):
            memory.retrieve(pattern(14))
            memory.save()
        memory.remember(pattern(15), [3], ["seen"])
        reader.tell("again")
        assert reader.next()[1][0] == "seen"
    looked = run_child(children.look, str(memory.directory))[0]
    assert looked == (born(memory), memory.storage.edge_count, memory.provisional_count)


def test_four_readers_under_load_see_one_content_or_the_other(tmp_path: Path) -> None:
    directory, limits = tmp_path / "memory", {"max_concepts": STAMPED, "durability": "normal"}
    with opened(directory, novelty_birth_threshold=99, **limits) as memory:
        replace_all(memory, 1)
        memory.copy(tmp_path / "copy")
        replace_all(memory, 2)
        with ExitStack() as running:
            watching = [
                running.enter_context(child(readers.watch_stamps, str(directory))) for _ in range(4)
            ]
            assert [reader.next() for reader in watching] == [2] * 4
            for _ in range(3):
                memory.restore(tmp_path / "copy")
                assert [reader.next() for reader in watching] == [1] * 4
                replace_all(memory, 2)
                assert [reader.next() for reader in watching] == [2] * 4
            for reader in watching:
                reader.tell("stop")
            assert [reader.said() for reader in watching] == [[]] * 4


def test_threads_retrieve_and_learn_while_it_is_restored(tmp_path: Path) -> None:
    directory, limits = tmp_path / "memory", {"max_concepts": STAMPED, "durability": "normal"}
    with opened(directory, novelty_birth_threshold=99, **limits) as memory:
        replace_all(memory, 1)
        memory.copy(tmp_path / "copy")
        reader, other = AESGMemory.open(directory), opened(directory, **limits)
        failed: list[BaseException] = []
        stop = threading.Event()

        def run(job: Callable[[], object]) -> None:
            try:
                while not stop.is_set():
                    job()
            except BaseException as error:
                failed.append(error)

        def learn() -> None:
            other.defer(other.recall(pattern(9)))
            other.update_topology()

        def open_and_close() -> None:
            AESGMemory.open(directory).close()

        jobs = (lambda: stamp(reader), lambda: stamp(memory), learn, open_and_close)
        threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for value in range(2, 8):
            replace_all(memory, value)
            memory.restore(tmp_path / "copy")
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert stamp(memory) == 1
        assert memory.storage.verify() == []


def test_a_handle_that_infers_for_a_while_restores(memory: AESGMemory, saved: Path) -> None:
    memory.set_mode("INFERENCE")
    memory.restore(saved)
    assert memory.mode.value == "INFERENCE"
    with AESGMemory.open(saved) as copied:
        assert told(memory) == told(copied)


def test_a_model_goes_on_with_a_restored_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AESGDecoderLM.sized(8, tmp_path / "memory", hidden_size=16, num_layers=1, nhead=2)
    tokens = torch.arange(8).reshape(1, 8)
    model(tokens)
    model.memory.update_topology()
    model.memory.copy(tmp_path / "copy")
    model.eval()
    before = model(tokens)
    model.train()
    model(tokens.flip(1))  # not learned from yet
    model.memory.restore(tmp_path / "copy")
    assert not model.memory.awaits_outcomes
    model.eval()
    assert torch.equal(model(tokens), before)
    model.memory.close()


class TestWhatIsRefusedChangesNothing:
    @pytest.fixture
    def before(self, memory: AESGMemory, saved: Path) -> Iterator[dict[str, Any]]:
        """What the memory says before; after the test it says the same, and is sound."""
        memory.retrieve(pattern(6))  # waits
        state = memory._state
        waiting, shows = len(state._pending), state.shortterm.entries.tolist()
        yield {}
        assert waiting > 0
        assert (len(state._pending), state.shortterm.entries.tolist()) == (waiting, shows)
        memory.remember(pattern(3))
        assert memory.storage.verify() == []
        names = sorted(path.name for path in memory.directory.iterdir())
        assert names == ["CURRENT", "WRITER.lock", "gen-000001"]

    @pytest.mark.parametrize("place", ["missing", "file", "empty", "memory", "memory/inside"])
    def test_what_is_no_copy(
        self, memory: AESGMemory, tmp_path: Path, before: object, place: str
    ) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "empty").mkdir()
        (tmp_path / "memory" / "inside").mkdir()
        with pytest.raises(AESGStorageError, match=str(tmp_path / place)) as caught:
            memory.restore(tmp_path / place)
        assert caught.value.subsystem == "storage"
        (tmp_path / "memory" / "inside").rmdir()

    def test_another_width(self, memory: AESGMemory, tmp_path: Path, before: object) -> None:
        with opened(tmp_path / "wide", vector_dim=24) as wide:
            with pytest.raises(AESGConfigError, match="expected vector_dim=16, got 24"):
                memory.restore(tmp_path / "wide")
            with pytest.raises(AESGConfigError, match="expected vector_dim=24, got 16"):
                wide.restore(memory.directory)

    def test_damage(self, memory: AESGMemory, saved: Path, before: object) -> None:
        (path,) = saved.glob("gen-*/data.mdb")
        overwrite(path, path.stat().st_size // 2 // PAGE * PAGE, bytes(2 * PAGE))
        with pytest.raises(AESGStorageError, match=r"tools\.verify"):
            memory.restore(saved)

    def test_a_disk_that_is_full(
        self,
        memory: AESGMemory,
        saved: Path,
        before: object,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(folders, "room_in", lambda folder: 1000)
            with pytest.raises(AESGStorageError, match="room for"):
                memory.restore(saved)

    def test_a_path_that_is_none(self, memory: AESGMemory, before: object) -> None:
        with pytest.raises(AESGStorageError, match="path"):
            memory.restore(None)  # type: ignore[arg-type]
        with pytest.raises(AESGStorageError, match="path"):
            memory.copy(7)  # type: ignore[arg-type]

    def test_a_fork_of_the_writer(self, memory: AESGMemory, saved: Path, before: object) -> None:
        def restore() -> None:
            with pytest.raises(AESGMemoryError, match="forked processes cannot write"):
                memory.restore(saved)

        assert os.waitpid(readers.forked(restore), 0)[1] == 0


def test_a_handle_that_only_reads_restores_nothing(memory: AESGMemory, saved: Path) -> None:
    directory = memory.directory
    memory.close()
    with AESGMemory.open(directory) as reader:
        with pytest.raises(AESGMemoryError, match="set_mode"):
            reader.restore(saved)
        reader.set_mode("TRAIN")
        reader.restore(saved)
    with pytest.raises(AESGMemoryError, match="closed"):
        reader.restore(saved)


def test_a_folder_with_a_copy_in_it_is_told_from_the_copy(
    memory: AESGMemory, saved: Path, tmp_path: Path
) -> None:
    shutil.move(saved, tmp_path / "epoch_3" / "memory")
    with pytest.raises(AESGStorageError, match=r"with one in .*epoch_3/memory"):
        memory.restore(tmp_path / "epoch_3")
    memory.restore(tmp_path / "epoch_3" / "memory")


def test_another_memory_in_its_place_is_neither_copied_nor_overwritten(
    memory: AESGMemory, saved: Path, tmp_path: Path
) -> None:
    memory.save()
    moved = memory.directory.rename(tmp_path / "moved")
    shutil.copytree(saved, memory.directory)
    with pytest.raises(AESGStorageError, match="moved, deleted or replaced"):
        memory.copy(tmp_path / "new")
    with pytest.raises(AESGStorageError, match="moved, deleted or replaced"):
        memory.restore(saved)
    assert not (tmp_path / "new").exists()
    with AESGMemory.open(saved) as copied, AESGMemory.open(memory.directory) as other:
        assert told(other) == told(copied)
    shutil.rmtree(memory.directory)
    moved.rename(memory.directory)
    memory.copy(tmp_path / "new")


def test_a_reader_copies_what_a_compaction_has_put_in_place_meanwhile(
    memory: AESGMemory, tmp_path: Path
) -> None:
    directory = memory.directory
    memory.close()
    with AESGMemory.open(directory) as reader:
        compact(directory)
        reader.copy(tmp_path / "copy")
        with AESGMemory.open(tmp_path / "copy") as copied:
            assert told(copied) == told(reader)


@pytest.mark.parametrize("stride", [17, pytest.param(2, marks=pytest.mark.long)])
def test_an_interrupt_at_any_step_leaves_the_one_content_or_the_other(
    tmp_path: Path, stride: int
) -> None:
    with opened(tmp_path / "pristine") as memory:
        memory.remember(patterns(0, 1))
        memory.retrieve(pattern(5))
        memory.copy(tmp_path / "copy")
        new = told(memory)
        memory.remember(pattern(2))
        memory.retrieve(near(6))
        old = told(memory)
    outcomes = []
    for step in count(1, stride):
        directory = tmp_path / f"memory-{step}"
        shutil.copytree(tmp_path / "pristine", directory)
        with opened(directory) as memory:
            came = comes(KeyboardInterrupt, step, partial(memory.restore, tmp_path / "copy"))
            outcomes.append([old, new].index(told(memory)))
            memory.remember(pattern(3))
            assert memory.storage.verify() == []
        with opened(directory) as memory:
            assert born(memory) == [old, new][outcomes[-1]]["concepts"] + 1
        if not came:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}


def test_an_error_of_the_operating_system_is_one_of_storage(
    memory: AESGMemory, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(AESGError, match="Input/output error") as caught:
            memory.restore(saved)
    assert isinstance(caught.value, AESGStorageError)
    memory.remember(pattern(3))
    memory.restore(saved)
    assert memory.storage.verify() == []
