"""Packs that a memory keeps: attached by whoever opens it, in its copies, whole or not there."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from aesg import AESGDecoderLM, AESGMemory, AESGMemoryError, AESGStorageError, AESGTrainer
from aesg.packs import Pack
from storage_backends import copying, kept_packs, layout
from storage_backends.compaction import compact
from storage_backends.errors import StoreCorruptError
from storage_backends.examination import examine
from storage_backends.kept_packs import KeptPack
from storage_backends.repair import repair
from storage_backends.replacement import restore
from storage_backends.types import Problem
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted
from tests.memory_build import DIM, data_file, digest, opened, patterns
from tests.memory_processes import child, run_child
from tests.pack_build import write_tiny
from tests.packs import children
from tests.packs.fuzz_version1 import sound
from tests.packs.test_memory_packs import is_same, loaded, pack_file, queries
from tests.test_memory_threads import run
from tools.snapshot import main as snapshot
from tools.stats import main as stats
from tools.verify import main as verify


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    """A memory that keeps a pack, whose own file is gone."""
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(0, 1))
        memory.eval()
        memory.attach_pack(loaded(memory, tmp_path, "medical"), 80, keep=True)
        (tmp_path / "medical.aesgpack").unlink()
        yield memory


def kept_files(directory: Path | str) -> list[str]:
    folder = Path(directory, "packs")
    return sorted(os.listdir(folder)) if folder.exists() else []


def problems_of(directory: Path | str) -> list[Problem]:
    return list(examine(directory).problems)


def described(memory: AESGMemory) -> dict[str, tuple[int, bool]]:
    packs = memory.get_attached_packs()
    return {name: (each.priority, each.kept) for name, each in packs.items()}


# Whoever opens the memory


@pytest.mark.parametrize("mode", ["TRAIN", "INFERENCE"])
def test_every_handle_that_opens_the_memory_has_it_attached(memory: AESGMemory, mode: str) -> None:
    expected = memory.recall(queries())
    with AESGMemory.open(memory.directory, mode=mode) as other:
        assert described(other) == {"medical": (80, True)}
        found = other.recall(queries())
    there = [other.sources(context.concept_ids.ravel()) for context in (found,)]
    assert there == [memory.sources(expected.concept_ids.ravel())]


def test_a_process_that_only_reads_has_it_attached(memory: AESGMemory) -> None:
    expected = memory.sources(memory.recall(queries()).concept_ids.ravel())
    directory = str(memory.directory)
    assert run_child(children.open_and_recall, directory, queries()) == [expected]


def test_handles_of_a_process_share_one_pack(memory: AESGMemory) -> None:
    with AESGMemory.open(memory.directory) as one, AESGMemory.open(memory.directory) as other:
        packs = [each.get_attached_packs()["medical"].pack for each in (one, other)]
    assert packs[0] is packs[1]


def test_a_handle_that_was_open_does_not_see_it(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as early, opened(tmp_path / "memory") as other:
        other.attach_pack(loaded(other, tmp_path, "medical"), keep=True)
        assert described(early) == {}


def test_a_pack_that_is_not_kept_goes_with_its_handle(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.attach_pack(loaded(memory, tmp_path, "medical"))
    assert kept_files(tmp_path / "memory") == []
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert described(memory) == {}


def test_a_model_has_the_packs_of_its_memory(tmp_path: Path) -> None:
    def model() -> AESGDecoderLM:
        torch.manual_seed(0)
        made = AESGDecoderLM.sized(
            vocab_size=12, hidden_size=DIM, nhead=2, num_layers=1, storage_dir=tmp_path / "memory"
        ).eval()
        made.memory.set_mode("INFERENCE")
        return made

    tokens = torch.arange(8).reshape(1, 8)
    first = model()
    without = first(tokens)
    path = write_tiny(tmp_path / "medical.aesgpack", vector_dim=first.memory.vector_dim)
    first.memory.set_mode("TRAIN")
    first.memory.attach_pack(first.memory.load_pack(path), keep=True)
    first.memory.set_mode("INFERENCE")
    expected = first(tokens)
    assert not torch.equal(expected, without)
    first.memory.close()
    assert torch.equal(model()(tokens), expected)


def test_a_pickled_handle_needs_the_kept_file_alone(memory: AESGMemory) -> None:
    other = pickle.loads(pickle.dumps(memory))
    assert described(other) == {"medical": (80, True)}
    assert is_same(other.recall(queries()), memory.recall(queries()))


# What is kept


def test_the_file_is_kept_byte_for_byte_under_its_hash(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        path = pack_file(tmp_path, "medical")
        memory.attach_pack(memory.load_pack(path), keep=True)
        [name] = kept_files(memory.directory)
        held = memory.directory / "packs" / name
        assert held.read_bytes() == path.read_bytes()
        assert memory.get_attached_packs()["medical"].pack.path == held


@pytest.mark.parametrize("change", ["gone", "another", "damaged"])
def test_what_was_loaded_is_kept_whatever_has_become_of_its_file(
    tmp_path: Path, change: str
) -> None:
    with opened(tmp_path / "memory") as memory:
        pack = loaded(memory, tmp_path, "medical")
        ids = pack.columns["ids"].tolist()
        path = tmp_path / "medical.aesgpack"
        if change == "gone":
            path.unlink()
        elif change == "another":
            write_tiny(path, seed=9, vector_dim=DIM)
        else:
            path.write_bytes(path.read_bytes()[:-20] + bytes(20))
        memory.attach_pack(pack, keep=True)
    assert problems_of(tmp_path / "memory") == []
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert memory.get_attached_packs()["medical"].pack.columns["ids"].tolist() == ids


@pytest.mark.parametrize("is_there", [True, False])
def test_a_pack_of_release_3_is_kept(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "old.aesgpack"
    path.write_bytes(sound(DIM, 10, 20))
    with opened(tmp_path / "memory") as memory:
        pack = memory.load_pack(path)
        if not is_there:
            path.unlink()
        memory.attach_pack(pack, keep=True)
        expected = memory.sources(memory.recall(queries()).concept_ids.ravel())
        assert memory.get_attached_packs()["old"].pack.version == (1 if is_there else 2)
    assert problems_of(tmp_path / "memory") == []
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert memory.sources(memory.recall(queries()).concept_ids.ravel()) == expected


def test_names_of_all_kinds_are_kept(tmp_path: Path) -> None:
    names = ["médecine", "a'b\"c", "x" * 200, "name with spaces", "\U0001f9ec"]
    with opened(tmp_path / "memory") as memory:
        path = pack_file(tmp_path, "medical")
        for name in names:
            memory.attach_pack(memory.load_pack(path, name=name), keep=True)
    assert len(kept_files(tmp_path / "memory")) == 1  # of one content
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert list(memory.get_attached_packs()) == names


@pytest.mark.parametrize("is_attached", [True, False])
def test_another_pack_of_the_name_takes_its_place(
    memory: AESGMemory, tmp_path: Path, is_attached: bool
) -> None:
    before = kept_files(memory.directory)
    if not is_attached:
        memory.detach_pack("medical")
    memory.attach_pack(loaded(memory, tmp_path, "medical", seed=1), 20, keep=True)
    assert len(kept_files(memory.directory)) == 1
    assert kept_files(memory.directory) != before
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (20, True)}


def test_a_script_that_keeps_a_pack_can_run_again(
    memory: AESGMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "second", seed=1), keep=True)
    before = memory.get_attached_packs()["medical"]
    memory.close()
    monkeypatch.setattr(kept_packs, "put", None)  # nothing is copied
    with opened(memory.directory) as other:
        pack = loaded(other, tmp_path, "medical")
        first_id = other.get_attached_packs()["medical"].first_id
        other.attach_pack(pack, 30, keep=True)
        after = other.get_attached_packs()["medical"]
        assert (after.priority, after.first_id) == (30, first_id)
        assert after.pack.path == before.pack.path
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (30, True), "second": (50, True)}
        assert list(described(other)) == ["medical", "second"]


def test_a_full_house_can_replace_one(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        path = pack_file(tmp_path, "medical")
        for number in range(16):
            memory.attach_pack(memory.load_pack(path, name=f"pack {number}"), keep=True)
        later = pack_file(tmp_path, "later", seed=1)
        memory.attach_pack(memory.load_pack(later, name="pack 3"), 9, keep=True)
        assert described(memory)["pack 3"] == (9, True)
        expected = described(memory)
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert described(memory) == expected


def test_what_is_attached_is_replaced_only_by_one_to_keep_in_the_place_of_one_that_is(
    memory: AESGMemory, tmp_path: Path
) -> None:
    kept = loaded(memory, tmp_path, "medical", seed=1)
    with pytest.raises(AESGMemoryError, match=r"attach_pack\(\.\.\., keep=True\) replaces"):
        memory.attach_pack(kept)
    loose = loaded(memory, tmp_path, "loose")
    memory.attach_pack(loose)
    with pytest.raises(AESGMemoryError, match=r"set_pack_priority\('loose', priority, keep=True\)"):
        memory.attach_pack(loose, keep=True)
    with pytest.raises(AESGMemoryError, match=r"set_pack_priority\('loose', priority\) changes"):
        memory.attach_pack(loose)
    assert described(memory) == {"medical": (80, True), "loose": (50, False)}


def test_readers_that_open_while_a_pack_is_replaced_have_one_of_both(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        paths = [pack_file(tmp_path, f"pack {seed}", seed=seed) for seed in range(2)]
        packs = [memory.load_pack(path, name="medical") for path in paths]
        memory.attach_pack(packs[0], keep=True)
        with child(children.open_often, str(memory.directory)) as opening:
            assert opening.next() == "begin"
            for number in range(60):
                memory.attach_pack(packs[(number + 1) % 2], keep=True)
            assert opening.said() == [{1}]


def test_a_kept_file_that_vanishes_while_the_memory_is_opened_is_looked_for_again(
    memory: AESGMemory, tmp_path: Path
) -> None:
    memory.close()
    with AESGMemory.open(memory.directory) as reader, opened(memory.directory) as writer:
        later = loaded(writer, tmp_path, "medical", seed=1)
        writer.attach_pack(later, 7, keep=True)
        reader.detach_pack("medical")
        reader._attach_kept(reader._state)  # whose view is that of before
        assert described(reader) == {"medical": (7, True)}
        assert reader.get_attached_packs()["medical"].pack.digest == later.digest


def test_a_kept_priority_can_be_changed(memory: AESGMemory) -> None:
    memory.set_pack_priority("medical", 10)
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (80, True)}
    memory.set_pack_priority("medical", 10, keep=True)
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (10, True)}


def test_a_pack_that_is_attached_can_be_kept_later(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.attach_pack(loaded(memory, tmp_path, "medical"), 30)
        memory.set_pack_priority("medical", 30, keep=True)
        assert described(memory) == {"medical": (30, True)}
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert described(memory) == {"medical": (30, True)}


def test_at_most_16_packs_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        path = pack_file(tmp_path, "medical")
        for number in range(17):
            pack = memory.load_pack(path, name=f"pack {number}")
            if number < 16:
                memory.attach_pack(pack, keep=True)
                memory.detach_pack(pack.name)
        with pytest.raises(AESGMemoryError, match=r"at most 16 packs that memory .* keeps"):
            memory.attach_pack(pack, keep=True)
        assert described(memory) == {}
        memory.detach_pack("pack 3", forget=True)
        memory.attach_pack(pack, keep=True)


# Detached and forgotten


def test_a_detached_pack_is_still_kept(memory: AESGMemory) -> None:
    assert isinstance(memory.detach_pack("medical"), Pack)
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (80, True)}


def test_a_forgotten_pack_leaves_nothing(memory: AESGMemory) -> None:
    expected = memory.recall(queries())
    pack = memory.detach_pack("medical", forget=True)
    assert pack is not None
    assert kept_files(memory.directory) == []
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {}
    memory.attach_pack(pack, 80)  # it is still loaded
    found = pickle.loads(pickle.dumps(memory)).recall(queries())
    assert memory.sources(found.concept_ids[0]) != memory.sources(expected.concept_ids[0])
    assert torch.equal(found.keys, expected.keys)


def test_a_forgotten_pack_can_be_kept_again(memory: AESGMemory) -> None:
    held = kept_files(memory.directory)
    pack = memory.detach_pack("medical", forget=True)
    assert pack is not None
    memory.attach_pack(pack, 60, keep=True)
    assert kept_files(memory.directory) == held  # the same content gives the same bytes
    assert problems_of(memory.directory) == []
    with AESGMemory.open(memory.directory) as other:
        assert described(other) == {"medical": (60, True)}


@pytest.mark.parametrize("mode", ["TRAIN", "INFERENCE"])
def test_no_handle_says_that_what_was_forgotten_is_kept(memory: AESGMemory, mode: str) -> None:
    directory = memory.directory
    memory.close()
    with AESGMemory.open(directory, mode=mode) as one, opened(directory) as two:
        expected = one.recall(queries())
        two.detach_pack("medical", forget=True)
        assert described(one) == {"medical": (80, False)}
        again = pickle.loads(pickle.dumps(one))
        assert is_same(again.recall(queries()), expected)


def test_no_handle_says_that_what_was_replaced_is_kept(memory: AESGMemory, tmp_path: Path) -> None:
    with opened(memory.directory) as other:
        other.attach_pack(loaded(other, tmp_path, "medical", seed=1), 5, keep=True)
        assert described(other) == {"medical": (5, True)}
        assert described(memory) == {"medical": (80, False)}
        other.set_pack_priority("medical", 6, keep=True)
        assert described(other) == {"medical": (6, True)}


def test_any_handle_can_replace_what_the_memory_keeps(memory: AESGMemory, tmp_path: Path) -> None:
    with AESGMemory.open(memory.directory, mode="TRAIN") as other:
        other.attach_pack(loaded(other, tmp_path, "medical", seed=1), keep=True)
        assert described(memory) == {"medical": (80, False)}
        memory.attach_pack(loaded(memory, tmp_path, "medical", seed=2), 30, keep=True)
        assert described(memory) == {"medical": (30, True)}
        assert described(other) == {"medical": (50, False)}


def test_a_handle_says_that_what_another_has_kept_is_kept(
    memory: AESGMemory, tmp_path: Path
) -> None:
    pack = loaded(memory, tmp_path, "chemical")
    memory.attach_pack(pack, keep=True)
    with AESGMemory.open(memory.directory, mode="TRAIN") as other:
        again = memory.detach_pack("chemical", forget=True)
        assert described(other)["chemical"] == (50, False)
        memory.attach_pack(again, keep=True)
        assert described(other)["chemical"] == (50, True)


def test_a_signature_that_cannot_be_kept_is_missed_aloud(
    memory: AESGMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = replace(loaded(memory, tmp_path, "signed"), signer=bytes(32))
    (tmp_path / "signed.aesgpack").unlink()
    memory.attach_pack(pack, keep=True)
    assert "keeps pack 'signed' without its signature" in caplog.text


def test_what_another_handle_has_forgotten_can_be_kept_again(memory: AESGMemory) -> None:
    other = opened(memory.directory)
    memory.detach_pack("medical", forget=True)
    other.set_pack_priority("medical", 60, keep=True)
    assert problems_of(memory.directory) == []
    with AESGMemory.open(memory.directory) as third:
        assert described(third) == {"medical": (60, True)}


def test_a_pack_that_is_not_attached_can_be_forgotten(memory: AESGMemory) -> None:
    memory.detach_pack("medical")
    assert memory.detach_pack("medical", forget=True) is None
    assert kept_files(memory.directory) == []
    with pytest.raises(AESGMemoryError, match="expected the name of an attached one"):
        memory.detach_pack("medical", forget=True)


def test_a_handle_that_only_reads_keeps_and_forgets_nothing(
    memory: AESGMemory, tmp_path: Path
) -> None:
    memory.close()
    with AESGMemory.open(memory.directory) as reader:
        reader.detach_pack("medical")
        pack = loaded(reader, tmp_path, "other")
        calls: list[Callable[[], object]] = [
            lambda: reader.attach_pack(pack, keep=True),
            lambda: reader.detach_pack("medical", forget=True),
        ]
        for call in calls:
            with pytest.raises(AESGMemoryError, match=r"expected a handle that may write.*TRAIN"):
                call()
        assert described(reader) == {}
        reader.attach_pack(pack)
        with pytest.raises(AESGMemoryError, match="may write to keep a pack"):
            reader.set_pack_priority("other", 3, keep=True)
    assert len(kept_files(memory.directory)) == 1


def test_a_handle_in_inference_keeps_and_forgets_nothing(
    memory: AESGMemory, tmp_path: Path
) -> None:
    memory.save()
    memory.set_mode("INFERENCE")
    before, files = digest(memory.directory), kept_files(memory.directory)
    calls: list[Callable[[], object]] = [
        lambda: memory.attach_pack(loaded(memory, tmp_path, "other"), keep=True),
        lambda: memory.set_pack_priority("medical", 3, keep=True),
        lambda: memory.detach_pack("medical", forget=True),
    ]
    for call in calls:
        with pytest.raises(AESGMemoryError, match=r"expected a mode that writes.*got INFERENCE"):
            call()
    assert described(memory) == {"medical": (80, True)}
    assert (digest(memory.directory), kept_files(memory.directory)) == (before, files)


# Copies


def damage(path: Path) -> None:
    """Damage a file, but no other name of it."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"!")


def test_restore_replaces_a_damaged_file(memory: AESGMemory, tmp_path: Path) -> None:
    memory.copy(tmp_path / "copy")
    [name] = kept_files(memory.directory)
    damage(memory.directory / "packs" / name)
    memory.restore(tmp_path / "copy")
    assert described(memory) == {"medical": (80, True)}
    assert problems_of(memory.directory) == []
    assert problems_of(tmp_path / "copy") == []


def test_a_copy_has_what_a_link_leads_to(memory: AESGMemory, tmp_path: Path) -> None:
    [name] = kept_files(memory.directory)
    path = memory.directory / "packs" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    memory.copy(tmp_path / "copy")
    assert not (tmp_path / "copy" / "packs" / name).is_symlink()
    (tmp_path / "elsewhere").unlink()
    assert problems_of(tmp_path / "copy") == []
    memory.copy(tmp_path / "later")
    assert [each.key for each in problems_of(tmp_path / "later")] == ["medical"]
    assert kept_files(tmp_path / "later") == []


def test_copies_share_the_file_and_outlive_the_memory(memory: AESGMemory, tmp_path: Path) -> None:
    memory.copy(tmp_path / "copy")
    [name] = kept_files(tmp_path / "copy")
    assert os.stat(tmp_path / "copy" / "packs" / name).st_nlink == 2
    memory.detach_pack("medical", forget=True)
    assert problems_of(tmp_path / "copy") == []
    with AESGMemory.open(tmp_path / "copy") as made:
        assert described(made) == {"medical": (80, True)}


def test_a_copy_to_another_file_system_has_its_own_file(
    memory: AESGMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    memory.copy(tmp_path / "copy")
    [name] = kept_files(tmp_path / "copy")
    assert os.stat(tmp_path / "copy" / "packs" / name).st_nlink == 1
    assert problems_of(tmp_path / "copy") == []


def test_a_copy_that_fails_leaves_no_packs(
    memory: AESGMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "publish", full)
    with pytest.raises(AESGStorageError):
        memory.copy(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_memory_without_the_file_can_be_copied_and_restored(
    memory: AESGMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [name] = kept_files(memory.directory)
    (memory.directory / "packs" / name).unlink()
    memory.copy(tmp_path / "copy")
    assert "expected the file of pack 'medical', found none" in caplog.text
    memory.remember(patterns(3))
    memory.restore(tmp_path / "copy")
    assert memory.storage.node_count == 2
    assert described(memory) == {}


def test_restore_brings_back_the_packs_of_the_copy(memory: AESGMemory, tmp_path: Path) -> None:
    memory.copy(tmp_path / "copy")
    memory.detach_pack("medical", forget=True)
    memory.attach_pack(loaded(memory, tmp_path, "later", seed=1), 5, keep=True)
    memory.attach_pack(loaded(memory, tmp_path, "by hand", seed=2), 7)
    other = opened(memory.directory)
    memory.restore(tmp_path / "copy")
    assert described(memory) == {"medical": (80, True), "by hand": (7, False)}
    assert described(other) == {"medical": (80, True)}
    assert len(kept_files(memory.directory)) == 1
    assert problems_of(memory.directory) == []


def test_a_restore_from_before_the_first_pack_leaves_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.copy(tmp_path / "copy")
        memory.attach_pack(loaded(memory, tmp_path, "medical"), keep=True)
        memory.restore(tmp_path / "copy")
        assert described(memory) == {}
        memory.attach_pack(loaded(memory, tmp_path, "later", seed=1), keep=True)
        assert len(kept_files(memory.directory)) == 1
        assert not problems_of(memory.directory)
    assert "found" not in caplog.text


def test_the_tools_take_packs_along(memory: AESGMemory, tmp_path: Path) -> None:
    copying.copy(memory.directory, tmp_path / "copy", verify=True)
    memory.detach_pack("medical", forget=True)
    memory.close()
    restore(tmp_path / "copy", memory.directory)
    compact(memory.directory)
    assert problems_of(memory.directory) == []
    with AESGMemory.open(memory.directory) as made:
        assert described(made) == {"medical": (80, True)}


def test_a_checkpoint_brings_the_packs_back(tmp_path: Path) -> None:
    model = AESGDecoderLM.sized(
        vocab_size=12, hidden_size=DIM, nhead=2, num_layers=1, storage_dir=tmp_path / "memory"
    )
    path = write_tiny(tmp_path / "medical.aesgpack", vector_dim=model.memory.vector_dim)
    model.memory.attach_pack(model.memory.load_pack(path), 40, keep=True)
    trainer = AESGTrainer(model)
    trainer.save(tmp_path / "checkpoint")
    model.memory.detach_pack("medical", forget=True)
    trainer.load(tmp_path / "checkpoint")
    assert described(model.memory) == {"medical": (40, True)}
    model.memory.close()
    assert problems_of(tmp_path / "memory") == []


# Missing, damaged, interrupted


@pytest.mark.parametrize("damage", ["missing", "damaged", "narrow", "another"])
def test_the_memory_opens_without_a_pack_that_cannot_be_used(
    memory: AESGMemory, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    memory.close()
    [name] = kept_files(memory.directory)
    path = memory.directory / "packs" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "damaged":
        path.write_bytes(content[:100] + bytes(50) + content[150:])
    elif damage == "narrow":
        write_tiny(path, vector_dim=DIM // 2)
    elif damage == "another":
        write_tiny(path, seed=4, vector_dim=DIM)
    with caplog.at_level(logging.WARNING), AESGMemory.open(memory.directory) as found:
        assert described(found) == {}
        assert len(found.recall(queries()).mask)
    [said] = [record.getMessage() for record in caplog.records]
    assert f"memory '{memory.directory}' is open without its pack 'medical'" in said
    assert "detach_pack('medical', forget=True)" in said
    assert [(each.table, each.key) for each in problems_of(memory.directory)] == [
        ("packs", "medical")
    ]
    path.write_bytes(content)
    with AESGMemory.open(memory.directory) as found:  # nothing was lost
        assert described(found) == {"medical": (80, True)}


@pytest.mark.parametrize("how", ["attach", "priority"])
def test_what_is_kept_again_is_whole_again(memory: AESGMemory, how: str) -> None:
    [name] = kept_files(memory.directory)
    damage(memory.directory / "packs" / name)
    if how == "attach":
        memory.attach_pack(memory.detach_pack("medical"), keep=True)
    else:
        memory.set_pack_priority("medical", 60, keep=True)
    assert problems_of(memory.directory) == []
    with AESGMemory.open(memory.directory) as other:
        assert list(described(other)) == ["medical"]


def test_packs_outlive_the_list_of_them(
    memory: AESGMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "second", seed=1), keep=True)
    memory.close()
    path = data_file(memory.directory)
    path.write_bytes(path.read_bytes().replace(b'[{"name": "m', b'[{"nome": "m'))
    report = repair(memory.directory)
    assert "the list of the packs that the memory keeps; their files stay in packs/" in report.lost
    held = kept_files(memory.directory)
    with opened(memory.directory) as again:
        assert described(again) == {}
        pack = again.load_pack(again.directory / "packs" / held[0], name="first")
        again.attach_pack(pack, keep=True)
        assert kept_files(memory.directory) == sorted([held[0], f"found-{held[1]}"])
        assert f"it stays as found-{held[1]}" in caplog.text
        found = again.directory / "packs" / f"found-{held[1]}"
        again.attach_pack(again.load_pack(found, name="second"), keep=True)
    assert problems_of(memory.directory) == []
    with opened(memory.directory) as again:
        assert list(described(again)) == ["first", "second"]


def test_the_tools_count_packs(
    memory: AESGMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "second", seed=1), keep=True)
    memory.close()
    assert verify([str(memory.directory)]) == 0
    assert capsys.readouterr().out.endswith("; 2 kept packs, whole\n")
    damage(memory.directory / "packs" / kept_files(memory.directory)[0])
    assert verify([str(memory.directory)]) == 1
    assert "1 of 2 kept packs are whole\n" in capsys.readouterr().out
    assert snapshot([str(memory.directory), str(tmp_path / "copy")]) == 0
    assert ", 2 kept packs, " in capsys.readouterr().out
    (memory.directory / "packs" / kept_files(memory.directory)[0]).unlink()
    assert snapshot([str(memory.directory), str(tmp_path / "later"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packs"] == ["medical", "second"]
    assert len(report["missing_packs"]) == 1


def test_the_tools_tell_of_packs(memory: AESGMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.close()
    assert verify([str(memory.directory)]) == 0
    assert stats([str(memory.directory)]) == 0
    assert "medical, priority 80, " in capsys.readouterr().out
    [name] = kept_files(memory.directory)
    (memory.directory / "packs" / name).unlink()
    assert verify([str(memory.directory)]) == 1
    said = capsys.readouterr().out
    assert "packs[medical]: " in said
    assert "--repair" not in said  # which could not mend it
    assert stats([str(memory.directory)]) == 0
    assert "its file is missing" in capsys.readouterr().out
    assert stats([str(memory.directory), "--json"]) == 0
    [pack] = json.loads(capsys.readouterr().out)["packs"]
    assert pack == {"name": "medical", "priority": 80, "file": f"packs/{name}", "bytes": None}


@pytest.mark.parametrize(
    "stored",
    [b"", b"{", b"null", b"[1]", b'[{"name": "a"}]', b"[]]"]
    + [
        kept_packs.encode([KeptPack(*fields)])
        for fields in (
            ("a", "../../etc/passwd", 5),
            ("a", "0" * 64 + ".aesgpack/..", 5),
            ("", "0" * 64 + ".aesgpack", 5),
            ("a", "0" * 64 + ".aesgpack", 101),
            ("a", "0" * 64 + ".aesgpack", True),
        )
    ]
    + [kept_packs.encode([KeptPack("a", "0" * 64 + ".aesgpack", 5)] * 2)],
)
def test_a_setting_that_is_none_is_refused(stored: bytes) -> None:
    with pytest.raises(StoreCorruptError, match="stored setting 'packs'"):
        kept_packs.decode({"packs": stored})


def keep_or_forget(memory: AESGMemory, pack: Pack) -> None:
    memory.attach_pack(pack, 5, keep=True)
    memory.detach_pack("other", forget=True)


@pytest.mark.parametrize("fails", [disk_full, disk_broken, interrupted])
def test_a_disk_that_fails_leaves_what_was_kept_or_what_was_to_be(
    memory: AESGMemory, tmp_path: Path, fails: Callable[[], None]
) -> None:
    pack = loaded(memory, tmp_path, "other", seed=1)
    with at_call(None) as calls:
        keep_or_forget(memory, pack)
    failed = 0
    for number in range(len(calls.names)):
        with at_call(number, fails):
            try:
                keep_or_forget(memory, pack)
            except (AESGStorageError, KeyboardInterrupt):
                failed += 1
        assert problems_of(memory.directory) == []
        with AESGMemory.open(memory.directory) as other:
            assert set(described(other)) - {"other"} == {"medical"}
        if "other" in memory.get_attached_packs():
            memory.detach_pack("other")
    assert failed > 3
    memory.attach_pack(pack, 5, keep=True)
    assert len(kept_files(memory.directory)) == 2
    memory.detach_pack("other", forget=True)
    assert len(kept_files(memory.directory)) == 1


def test_threads_keep_and_forget_packs_of_one_memory(tmp_path: Path) -> None:
    handles = [opened(tmp_path / "memory") for _ in range(3)]
    paths = [pack_file(tmp_path, f"pack {seed}", seed=seed) for seed in range(3)]

    def work(place: int) -> None:
        memory = handles[place]
        for number in range(3):
            memory.attach_pack(memory.load_pack(paths[place]), keep=True)
            memory.copy(tmp_path / f"copy {place} {number}")
            memory.recall(queries())
            memory.detach_pack(f"pack {place}", forget=number < 2)

    run(*(partial(work, place) for place in range(3)))
    assert len(kept_files(tmp_path / "memory")) == 3
    assert problems_of(tmp_path / "memory") == []
    for copied in tmp_path.glob("copy *"):
        assert problems_of(copied) == []
    with AESGMemory.open(tmp_path / "memory") as memory:
        assert sorted(described(memory)) == ["pack 0", "pack 1", "pack 2"]


def kill(chosen: Callable[[int], list[int]], tmp_path: Path) -> None:
    path = str(pack_file(tmp_path, "medical"))
    [count] = run_child(children.keep_at, str(tmp_path / "whole"), path, None)[1:]
    found = []
    for number in chosen(count):
        directory = tmp_path / f"memory-{number}"
        with child(children.keep_at, str(directory), path, number) as dying:
            assert dying.said() == ["begin"]
        assert problems_of(directory) == []
        with opened(directory) as memory:  # a writer, which sweeps
            names = list(memory.get_attached_packs())
        assert len(kept_files(directory)) == len(names)
        found.append(names)
    assert ["medical"] in found
    assert all(names in ([], ["medical"]) for names in found)


@pytest.mark.long
def test_a_process_that_dies_in_any_call_of_keeping_leaves_all_or_nothing(tmp_path: Path) -> None:
    kill(lambda count: list(range(count)), tmp_path)


def test_a_process_that_dies_while_it_keeps_leaves_all_or_nothing(tmp_path: Path) -> None:
    kill(lambda count: list(range(count))[-4:], tmp_path)


def test_a_writer_sweeps_what_no_setting_names(memory: AESGMemory) -> None:
    memory.close()
    folder = memory.directory / "packs"
    (folder / f"{'0' * 64}.aesgpack").write_bytes(b"left of a crash")
    (folder / f".{'0' * 16}.new").write_bytes(b"unfinished")
    (folder / "notes.txt").write_text("somebody's own")
    held = kept_files(memory.directory)
    with AESGMemory.open(memory.directory):
        assert kept_files(memory.directory) == held  # a reader removes nothing
    with opened(memory.directory):
        assert len(kept_files(memory.directory)) == 2
        assert "notes.txt" in kept_files(memory.directory)
