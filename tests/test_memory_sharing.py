"""Handles: shared, copied, sent elsewhere, forked, closed and dropped."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aesg import (
    AESGConfigError,
    AESGDecoderLM,
    AESGMemory,
    AESGMemoryError,
    AESGStorageError,
    memory_durable,
)
from tests import memory_children as children
from tests.memory_build import born, config, digest, meet, near, opened, pattern, patterns
from tests.memory_children import Holder
from tests.memory_processes import child, run_child


def lock_is_free(directory: Path | str = "memory") -> bool:
    said: list[Any] = run_child(children.try_to_open, str(Path(directory).resolve()))
    return said == ["opened"]


def test_two_handles_on_a_directory_share_its_memory() -> None:
    first, second = opened(), opened()
    ids = first.remember(patterns(0, 1)).tolist()
    assert second.retrieve(pattern(1)).primary_concepts == ids[::-1]
    second.retrieve(pattern(2))
    first.retrieve(pattern(2))
    second.retrieve(pattern(2))
    assert born(first) == born(second) == 3


def test_a_directory_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    first = opened(tmp_path / "memory")
    ids = first.remember(pattern(0)).tolist()
    (tmp_path / "link").symlink_to("memory")
    for path in (tmp_path / "x" / ".." / "memory", "./memory", str(tmp_path / "link")):
        assert opened(path).retrieve(pattern(0)).primary_concepts == ids


def test_each_handle_has_its_own_mode_and_parameters() -> None:
    first, second = opened(), opened(memory_mode="ONLINE")
    second.set_mode("INFERENCE")
    with torch.no_grad():
        second.log_scale.fill_(1.0)
    assert first.mode.value == "TRAIN"
    assert first.log_scale.item() != 1.0
    meet(second, pattern(0))
    assert born(first) == 0
    meet(first, pattern(0))
    assert born(second) == 1


def test_a_reader_and_a_writer_of_one_process_see_the_same() -> None:
    opened().close()
    reader = AESGMemory.open("memory")
    writer = opened()
    ids = writer.remember(patterns(0, 1)).tolist()
    assert reader.retrieve(pattern(0)).primary_concepts == ids
    reader.set_mode("TRAIN")
    meet(reader, pattern(2))
    assert born(writer) == 3


def test_closing_one_handle_leaves_the_other() -> None:
    first, second = opened(), opened()
    meet(first, pattern(0))
    first.close()
    first.close()
    assert born(second) == 1
    meet(second, pattern(1))
    assert not lock_is_free()
    second.close()
    assert lock_is_free()
    with AESGMemory.open("memory") as again:
        assert born(again) == 2


_CALLS: dict[str, Callable[[AESGMemory], object]] = {
    "retrieve": lambda memory: memory.retrieve(pattern(0)),
    "recall": lambda memory: memory.recall(pattern(0)),
    "remember": lambda memory: memory.remember(pattern(0)),
    "update_topology": lambda memory: memory.update_topology(),
    "save": lambda memory: memory.save(),
    "refresh": lambda memory: memory.refresh(),
    "payloads": lambda memory: memory.payloads([1]),
    "storage": lambda memory: memory.storage,
    "logger": lambda memory: memory.logger.get_history(),
    "rates": lambda memory: memory.rates,
    "provisional_count": lambda memory: memory.provisional_count,
    "set_mode": lambda memory: memory.set_mode("TRAIN"),
}


@pytest.mark.parametrize("name", _CALLS)
def test_a_closed_handle_says_so(name: str) -> None:
    memory = opened()
    memory.close()
    with pytest.raises(AESGMemoryError, match="was closed through this handle: open it again"):
        _CALLS[name](memory)


def test_a_block_closes_its_memory_however_it_ends() -> None:
    with opened() as memory:
        memory.retrieve(pattern(0))
    with pytest.raises(ZeroDivisionError), opened() as again:
        assert again.provisional_count == 1
        raise ZeroDivisionError
    assert lock_is_free()


def test_a_dropped_memory_is_saved_and_let_go() -> None:
    memory = opened()
    memory.retrieve(pattern(0))
    knot: list[Any] = [memory]
    knot.append(knot)
    del memory, knot
    gc.collect()
    deadline = time.monotonic() + 30
    while not lock_is_free() and time.monotonic() < deadline:
        time.sleep(0.05)
    with opened() as again:
        assert again.provisional_count == 1
    assert lock_is_free()


def test_a_deepcopy_shares_the_memory_and_not_the_parameters() -> None:
    module = Holder(opened())
    ids = module.memory.remember(patterns(0, 1)).tolist()
    copied = copy.deepcopy(module)
    assert copied.memory.retrieve(pattern(0)).primary_concepts == ids
    with torch.no_grad():
        copied.memory.log_scale.fill_(1.0)
    assert module.memory.log_scale.item() != 1.0
    module.memory.close()
    meet(copied.memory, pattern(2))
    assert born(copied.memory) == 3


def test_a_copy_of_a_closed_handle_opens_anew() -> None:
    memory = opened()
    memory.remember(pattern(0))
    memory.close()
    assert born(copy.deepcopy(memory)) == 1


def test_a_pickled_memory_opens_its_directory_here_and_elsewhere() -> None:
    module = Holder(opened())
    module.memory.remember(patterns(0, 1))
    expected = module.memory.retrieve(pattern(0)).primary_concepts
    pickled = pickle.dumps(module)
    assert pickle.loads(pickled).memory.retrieve(pattern(0)).primary_concepts == expected
    module.memory.close()
    gc.collect()
    assert run_child(children.unpickle, pickled) == [expected]


def test_a_saved_model_gives_the_same_here_and_elsewhere(tmp_path: Path) -> None:
    path, directory = str(tmp_path / "model.pt"), str(tmp_path / "memory")
    (expected,) = run_child(children.train_and_save, directory, path)
    for _ in range(2):
        output, concepts = run_child(children.load, path)
        assert output == expected
        assert concepts == 20
    model = torch.load(path, weights_only=False).eval()
    model.memory.set_mode("INFERENCE")
    assert model(torch.arange(8).reshape(1, 8)).tolist() == expected


def test_a_state_dict_takes_parameters_from_handle_to_handle(tmp_path: Path) -> None:
    first, second = opened(), opened("other")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for memory in (first, second):
        memory.remember(patterns(0, 1))
    assert torch.equal(first.recall(near(0)).weights, second.recall(near(0)).weights)


def test_small_medium_and_large_run_one_after_another() -> None:
    tokens, models = torch.arange(6).reshape(1, 6), []
    for make in (AESGDecoderLM.small, AESGDecoderLM.medium, AESGDecoderLM.large):
        models.append(make(vocab_size=8).eval())
        assert models[-1](tokens).shape == (1, 6, 8)
    with pytest.raises(AESGConfigError, match="expected vector_dim=256, got 64"):
        models[0](tokens)
    assert models[2](tokens).shape == (1, 6, 8)


def test_a_reader_of_another_width_is_refused_and_takes_nothing_away() -> None:
    writer = opened()
    writer.retrieve(patterns(0, 1))
    with pytest.raises(AESGConfigError, match="expected vector_dim=16, got 8"):
        opened(vector_dim=8, memory_mode="INFERENCE")
    assert writer.provisional_count == 2
    assert writer.retrieve(pattern(0)).mask.any()


def test_a_directory_that_was_replaced_is_opened_anew() -> None:
    old = opened()
    old.remember(patterns(0, 1))
    Path("memory").rename("moved")
    with opened() as new:
        assert born(new) == 0
        new.remember(pattern(2))
        assert born(old) == 2
    old.close()
    with AESGMemory.open("moved") as moved, AESGMemory.open("memory") as again:
        assert (born(moved), born(again)) == (2, 1)


def test_a_reader_beside_a_writing_process_sees_what_it_commits(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    with opened(directory) as writer, child(children.follow, directory, pattern(0)) as reader:
        assert reader.next() == ([], [])
        for count in range(1, 4):
            ids = writer.remember(near(0, 0.3 - 0.1 * count), payloads=[count]).tolist()
            reader.tell("again")
            found, payloads = reader.next()
            assert found[0] == ids[0]
            assert payloads[0] == count
            assert len(found) == count


def test_a_reader_becomes_the_writer_when_there_is_no_other(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    writer = opened(directory)
    writer.remember(pattern(0))
    with child(children.try_mode, directory) as reader:
        mode, message, found = reader.next()
        assert (mode, found) == ("INFERENCE", 1)
        assert f"process {os.getpid()} on " in message
        writer.close()
        reader.tell("again")
        assert reader.next() == ("TRAIN", 2)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_workers_read_a_memory_that_the_trainer_writes(tmp_path: Path, start: str) -> None:
    directory = str(tmp_path / "memory")
    assert run_child(children.load_data, directory, start) == [(3, 0, [])]
    with AESGMemory.open(directory) as memory:
        assert born(memory) == 3


def test_a_forked_child_reads_cannot_write_and_disturbs_nothing(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    assert run_child(children.fork, directory) == [(3, 0, [])]
    with AESGMemory.open(directory) as memory:
        assert (born(memory), memory.provisional_count) == (3, 0)


def test_the_exit_of_a_child_closes_nothing_of_its_parents(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    assert run_child(children.fork_and_exit, directory) == [1]
    assert run_child(children.look, directory) == [(3, 0, 1)]


def test_an_interpreter_that_ends_saves_what_was_left_open(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    run_child(children.leave_open, directory)
    assert run_child(children.look, directory) == [(0, 0, 1)]


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_what_cannot_be_saved_at_exit_is_told_in_one_line(tmp_path: Path, level: str) -> None:
    directory = tmp_path / "memory"
    (logged,) = run_child(children.move_and_end, str(directory), level)
    first, *trace = logged.splitlines()
    assert first.startswith(f"a memory could not be saved at exit: {directory}: expected an open")
    assert "the directory was moved, deleted or replaced while it was open" in first
    assert ("Traceback (most recent call last):" in trace) == (level == "DEBUG")


def test_a_retrieval_that_cannot_write_says_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_durable, "_COMMIT_SECONDS", 0.0)
    memory = opened(novelty_birth_threshold=1)
    ids = memory.remember(pattern(0)).tolist()
    Path("memory").rename("moved")
    for _ in range(2):
        with pytest.raises(AESGStorageError) as caught:
            memory.retrieve(pattern(1))
        assert caught.value.message.startswith(
            f"Failed to write what memory '{memory.directory}' has learned "
            "(it waits for the next commit; recall() still retrieves): "
        )
        assert ids[0] in memory.recall(pattern(0)).primary_concepts
    Path("moved").rename("memory")
    memory.save()
    assert born(memory) == 2


def test_a_printed_handle_says_what_it_is() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    first = f"AESGMemory(\n  {str(memory.directory)!r}, mode=TRAIN, vector_dim=16"
    assert repr(memory).startswith(f"{first}, concepts=2\n")
    unopened = pickle.loads(pickle.dumps(memory))
    memory.close()
    assert repr(memory).startswith(f"{first}, closed\n")
    assert repr(unopened).startswith(f"{first}\n")
    assert lock_is_free()


def test_a_printed_storage_shows_its_counts() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    memory.save()
    storage = memory.storage
    shown = "StorageInfo(node_count=2, edge_count=0, generation=3, snapshot_generation=None)"
    assert repr(storage) == shown
    memory.close()
    assert repr(storage) == shown


def test_opening_to_read_changes_nothing() -> None:
    opened().close()
    before = digest("memory")
    AESGMemory.open("memory").close()
    AESGMemory("memory", config(memory_mode="INFERENCE", max_concepts=7)).close()
    assert digest("memory") == before
