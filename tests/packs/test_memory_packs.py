"""Packs attached to a handle: loaded, weighed, found, detached, and nothing changed by it."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from torch import Tensor

from aesg import (
    AESGDecoderLM,
    AESGError,
    AESGMemory,
    AESGMemoryError,
    AESGStorageError,
)
from aesg.context import COLUMNS, RetrievedContext
from aesg.packs import Pack, cache
from tests.memory_build import DIM, born, data_file, digest, opened, pattern, patterns
from tests.memory_processes import run_child
from tests.pack_build import write_tiny
from tests.packs import children

BASE = (0, 1)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    """A memory with two concepts, in a mode that learns nothing from retrievals."""
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(*BASE), [7, 8], ["seven", None])
        memory.eval()
        yield memory


def pack_file(folder: Path, name: str, *, seed: int = 0, vector_dim: int = DIM) -> Path:
    payloads = {0: msgpack.packb({"of": name})}
    path = folder / f"{name}.aesgpack"
    return write_tiny(path, seed=seed, vector_dim=vector_dim, payloads=payloads)


def loaded(memory: AESGMemory, folder: Path, name: str, *, seed: int = 0) -> Pack:
    return memory.load_pack(pack_file(folder, name, seed=seed))


def queries(rows: int = 4) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(5))


def tensors(context: RetrievedContext) -> list[Tensor]:
    return [getattr(context, name).detach() for name in COLUMNS]


def is_same(one: RetrievedContext, other: RetrievedContext) -> bool:
    return bool((one.concept_ids == other.concept_ids).all()) and all(
        torch.equal(first, second)
        for first, second in zip(tensors(one), tensors(other), strict=True)
    )


def names_in(memory: AESGMemory, context: RetrievedContext) -> set[str | None]:
    ids = context.concept_ids.ravel()
    return {name for name, _ in memory.sources(ids[ids != 0])}


# As documented


def test_a_loaded_pack_says_its_name_and_its_concepts_and_is_not_attached(
    memory: AESGMemory, tmp_path: Path
) -> None:
    before = memory.recall(queries())
    pack = memory.load_pack(str(pack_file(tmp_path, "medical_core")))
    assert (pack.name, len(pack.nodes)) == ("medical_core", 12)
    assert memory.get_attached_packs() == {}
    assert is_same(memory.recall(queries()), before)


def test_weights_are_the_shares_of_the_priorities(memory: AESGMemory, tmp_path: Path) -> None:
    priorities = {"medical": 90, "chemistry": 60, "general": 20}
    for seed, (name, priority) in enumerate(priorities.items()):
        memory.attach_pack(loaded(memory, tmp_path, name, seed=seed), priority=priority)
    weights = memory.get_pack_weights()
    assert list(weights) == ["medical", "chemistry", "general"]
    assert [f"{weight:.0%}" for weight in weights.values()] == ["53%", "35%", "12%"]
    packs = memory.get_attached_packs()
    assert [each.priority for each in packs.values()] == [90, 60, 20]
    assert {name: each.weight for name, each in packs.items()} == weights
    assert len(packs["medical"].nodes) == 12


def test_concepts_of_an_attached_pack_are_found_until_it_is_detached(
    memory: AESGMemory, tmp_path: Path
) -> None:
    before = memory.recall(queries())
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    assert names_in(memory, memory.recall(queries())) == {None, "medical"}
    assert memory.detach_pack("medical") is pack
    assert is_same(memory.recall(queries()), before)
    memory.attach_pack(pack, 80)  # it was only returned to be loaded
    assert "medical" in names_in(memory, memory.recall(queries()))


def test_to_detach_one_leaves_the_others(memory: AESGMemory, tmp_path: Path) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "one", seed=1), 30)
    alone = memory.recall(queries())
    memory.attach_pack(loaded(memory, tmp_path, "two", seed=2), 90)
    assert memory.get_pack_weights() == {"one": 0.25, "two": 0.75}
    memory.detach_pack("two")
    assert memory.get_pack_weights() == {"one": 1.0}
    assert is_same(memory.recall(queries()), alone)


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "INFERENCE", "ONLINE"])
def test_packs_take_part_in_every_mode(memory: AESGMemory, tmp_path: Path, mode: str) -> None:
    memory.set_mode(mode)
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    assert "medical" in names_in(memory, memory.recall(queries()))


def test_a_process_that_only_reads_attaches_packs_beside_the_writer(
    memory: AESGMemory, tmp_path: Path
) -> None:
    path = pack_file(tmp_path, "medical")
    memory.attach_pack(memory.load_pack(path))
    ours = memory.recall(queries())
    [theirs] = run_child(children.attach_and_recall, str(memory.directory), str(path), queries())
    assert theirs == memory.sources(ours.concept_ids.ravel())


def test_neither_the_memory_nor_the_pack_changes(memory: AESGMemory, tmp_path: Path) -> None:
    path = pack_file(tmp_path, "medical")
    held, generation = path.read_bytes(), memory.storage.generation
    pack = memory.load_pack(path)
    columns = {name: np.array(column) for name, column in pack.columns.items()}
    memory.attach_pack(pack)
    memory.recall(queries())
    memory.set_mode("INFERENCE")
    memory.retrieve(queries())
    memory.detach_pack("medical")
    assert (memory.storage.generation, born(memory)) == (generation, len(BASE))
    assert path.read_bytes() == held
    for name, column in pack.columns.items():
        np.testing.assert_array_equal(column, columns[name])
        assert not column.flags.writeable


def test_attachments_belong_to_the_handle(memory: AESGMemory, tmp_path: Path) -> None:
    other = opened(memory.directory)
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    assert other.get_attached_packs() == {}
    assert names_in(other, other.recall(queries())) == {None}
    other.attach_pack(loaded(other, tmp_path, "medical", seed=3))  # of the same name
    assert len(memory.get_attached_packs()) == len(other.get_attached_packs()) == 1


def test_an_empty_memory_has_what_its_packs_hold(tmp_path: Path) -> None:
    with opened(tmp_path / "empty") as memory:
        memory.attach_pack(loaded(memory, tmp_path, "medical"))
        found = memory.recall(queries(), top_k=12)
        assert names_in(memory, found) == {"medical"}


def test_an_empty_pack_can_be_attached(memory: AESGMemory, tmp_path: Path) -> None:
    before = memory.recall(queries())
    path = write_tiny(tmp_path / "empty.aesgpack", concepts=0, vector_dim=DIM)
    memory.attach_pack(memory.load_pack(path))
    assert memory.get_pack_weights() == {"empty": 1.0}
    assert is_same(memory.recall(queries()), before)


# Priorities


def test_another_priority_changes_all_weights(memory: AESGMemory, tmp_path: Path) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "one", seed=1), 50)
    memory.attach_pack(loaded(memory, tmp_path, "two", seed=2), 50)
    first_ids = [each.first_id for each in memory.get_attached_packs().values()]
    memory.set_pack_priority("one", 0)
    assert memory.get_pack_weights() == {"one": 0.0, "two": 1.0}
    memory.set_pack_priority("two", 0)
    assert memory.get_pack_weights() == {"one": 0.0, "two": 0.0}
    assert names_in(memory, memory.recall(queries())) == {None}
    assert [each.first_id for each in memory.get_attached_packs().values()] == first_ids


def test_a_pack_of_priority_0_takes_no_part(memory: AESGMemory, tmp_path: Path) -> None:
    before = memory.recall(queries())
    memory.attach_pack(loaded(memory, tmp_path, "medical"), priority=0)
    assert is_same(memory.recall(queries()), before)


@pytest.mark.parametrize("priority", [-1, 101, 5.0, True, "90", None])
def test_a_priority_is_an_integer_from_0_to_100(
    memory: AESGMemory, tmp_path: Path, priority: Any
) -> None:
    pack = loaded(memory, tmp_path, "medical")
    expected = re.escape(f"priority: expected an integer from 0 to 100, got {priority!r}")
    with pytest.raises(AESGMemoryError, match=expected):
        memory.attach_pack(pack, priority)
    assert memory.get_attached_packs() == {}
    memory.attach_pack(pack, np.int64(100))  # type: ignore[arg-type]
    with pytest.raises(AESGMemoryError, match=expected):
        memory.set_pack_priority("medical", priority)
    assert memory.get_attached_packs()["medical"].priority == 100


# Refusals


def test_at_most_16_packs_are_attached(memory: AESGMemory, tmp_path: Path) -> None:
    path = pack_file(tmp_path, "medical")
    for number in range(16):
        memory.attach_pack(memory.load_pack(path, name=f"pack {number}"))
    with pytest.raises(AESGMemoryError, match="at most 16 attached packs"):
        memory.attach_pack(memory.load_pack(path, name="one more"))
    memory.detach_pack("pack 3")
    memory.attach_pack(memory.load_pack(path, name="one more"))
    assert len(memory.get_attached_packs()) == 16


def test_a_name_is_attached_once(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    with pytest.raises(AESGMemoryError, match=r"'medical' is attached.*load_pack\(path, name"):
        memory.attach_pack(pack)
    memory.attach_pack(memory.load_pack(tmp_path / "medical.aesgpack", name="again"))
    assert list(memory.get_attached_packs()) == ["medical", "again"]


def test_what_is_not_attached_cannot_be_detached(memory: AESGMemory, tmp_path: Path) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    for name in ("chemistry", None, 3):
        with pytest.raises(AESGMemoryError, match="expected the name of an attached one"):
            memory.detach_pack(name)  # type: ignore[arg-type]
    with pytest.raises(AESGMemoryError, match=r"\('medical'\), got 'chemistry'"):
        memory.set_pack_priority("chemistry", 3)


def test_only_packs_are_attached(memory: AESGMemory, tmp_path: Path) -> None:
    with pytest.raises(AESGMemoryError, match=r"expected a Pack.*got str"):
        memory.attach_pack(str(tmp_path / "medical.aesgpack"))  # type: ignore[arg-type]


def test_a_pack_of_another_width_is_refused(memory: AESGMemory, tmp_path: Path) -> None:
    path = pack_file(tmp_path, "narrow", vector_dim=DIM // 2)
    with pytest.raises(AESGStorageError, match=f"vector_dim.*{DIM}, got {DIM // 2}"):
        memory.load_pack(path)
    with opened(tmp_path / "narrow", vector_dim=DIM // 2) as other:
        pack = other.load_pack(path)
    with pytest.raises(AESGStorageError, match=f"expected vector_dim={DIM}, got {DIM // 2}"):
        memory.attach_pack(pack)


def test_what_cannot_be_read_is_an_error_that_names_the_file(
    memory: AESGMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.aesgpack").write_text("no pack")
    Path("folder.aesgpack").mkdir()
    damaged = bytearray(pack_file(tmp_path, "medical").read_bytes())
    damaged[-9] ^= 4
    Path("damaged.aesgpack").write_bytes(damaged)
    for name in ("missing", "text", "folder", "damaged"):
        said = re.escape(f"Failed to read pack file './{name}.aesgpack': ")
        with pytest.raises(AESGStorageError, match=f"^{said}") as caught:
            memory.load_pack(f"./{name}.aesgpack")
        assert caught.value.subsystem == "storage"
    assert memory.get_attached_packs() == {}


@pytest.mark.parametrize("path", [None, 3, b"medical.aesgpack", "a\0b", ""])
def test_a_path_is_text(memory: AESGMemory, path: Any) -> None:
    with pytest.raises(AESGStorageError, match="Failed to read pack file"):
        memory.load_pack(path)


@pytest.mark.parametrize("name", ["", "two\nlines", "\x1b[2J", "x" * 201, 3])
def test_a_name_is_short_and_can_be_printed(memory: AESGMemory, tmp_path: Path, name: Any) -> None:
    path = pack_file(tmp_path, "medical")
    with pytest.raises(AESGMemoryError, match="Pack name: expected text of 1 to 200 characters"):
        memory.load_pack(path, name=name)


def test_a_closed_memory_attaches_nothing(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    memory.close()
    for call in (
        lambda: memory.load_pack(tmp_path / "medical.aesgpack"),
        lambda: memory.attach_pack(pack),
        lambda: memory.detach_pack("medical"),
    ):
        with pytest.raises(AESGMemoryError, match="was closed through this handle"):
            call()


# Ids


def test_ids_of_pack_concepts_say_where_they_are_from(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    ids = memory.recall(queries(1)[0], top_k=14).concept_ids
    ids = ids[ids != 0]
    assert len(ids) == 14
    sources = memory.sources(ids)
    ours = [concept_id for name, concept_id in sources if name is None]
    theirs = [concept_id for name, concept_id in sources if name == "medical"]
    assert sorted(ours) == [1, 2]
    assert sorted(theirs) == pack.columns["ids"].tolist()
    assert (memory.resolve(ids) == ids).all()
    payloads = dict(zip(sources, memory.payloads(ids), strict=True))
    assert payloads["medical", int(pack.columns["ids"][0])] == {"of": "medical"}
    assert payloads[None, 1] == "seven"
    assert sum(payload is not None for payload in payloads.values()) == 2


def test_edges_of_pack_concepts_lead_to_pack_concepts(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    first = memory.get_attached_packs()["medical"].first_id
    for position in range(pack.node_count):
        begin, end = pack.edge_ends[position : position + 2]
        edges = memory.edges(first + position)
        wanted = pack.columns["edge_targets"][begin:end].tolist()
        assert sorted(edge.target - first for edge in edges) == sorted(wanted)
        confidences = pack.columns["edge_confidences"][begin:end]
        assert sorted(edge.confidence for edge in edges) == sorted(confidences.tolist())


def test_ids_of_a_detached_pack_lead_nowhere(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    memory.attach_pack(pack)
    first = memory.get_attached_packs()["medical"].first_id
    memory.detach_pack("medical")
    memory.attach_pack(pack)  # which does not bring them back: their pack is attached anew
    assert memory.resolve([first, 1]).tolist() == [0, 1]
    assert memory.sources([first, 1]) == [(None, 0), (None, 1)]
    assert memory.payloads([first, 1]) == [None, "seven"]
    assert memory.edges(first) == []


def test_an_id_behind_the_last_concept_leads_nowhere(memory: AESGMemory, tmp_path: Path) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    first = memory.get_attached_packs()["medical"].first_id
    present = memory.resolve([first + 11, first + 12, 2**64 - 1])
    assert present.tolist() == [first + 11, 0, 0]


# Copies, processes, threads


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_of_a_handle_has_the_packs_attached(
    memory: AESGMemory, tmp_path: Path, copied: Any
) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "one", seed=1), 30)
    memory.attach_pack(loaded(memory, tmp_path, "two", seed=2), 90)
    before = memory.recall(queries())
    other = copied(memory)
    assert other.get_pack_weights() == {"one": 0.25, "two": 0.75}
    assert is_same(other.recall(queries()), before)  # by the same ids
    other.detach_pack("one")
    assert is_same(memory.recall(queries()), before)


def test_a_saved_model_takes_its_packs_along(tmp_path: Path) -> None:
    model = AESGDecoderLM.sized(
        vocab_size=12, hidden_size=DIM, nhead=2, num_layers=1, storage_dir=tmp_path / "memory"
    ).eval()
    model.memory.set_mode("INFERENCE")
    path = write_tiny(tmp_path / "medical.aesgpack", vector_dim=model.memory.vector_dim)
    tokens = torch.arange(8).reshape(1, 8)
    without = model(tokens)
    model.memory.attach_pack(model.memory.load_pack(path))
    expected = model(tokens)
    assert not torch.equal(expected, without)
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(tokens), expected)


@pytest.mark.parametrize("change", ["gone", "another", "damaged"])
def test_a_saved_model_loads_without_a_pack_whose_file_is_not_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    model = AESGDecoderLM.sized(
        vocab_size=12, hidden_size=DIM, nhead=2, num_layers=1, storage_dir=tmp_path / "memory"
    ).eval()
    width = model.memory.vector_dim
    path = write_tiny(tmp_path / "medical.aesgpack", vector_dim=width)
    model.memory.attach_pack(model.memory.load_pack(path), 30)
    other = write_tiny(tmp_path / "other.aesgpack", seed=1, vector_dim=width)
    model.memory.attach_pack(model.memory.load_pack(other), 90)
    torch.save(model, tmp_path / "model.pt")
    if change == "gone":
        path.unlink()
    elif change == "another":
        write_tiny(path, seed=2, vector_dim=width)
    else:
        path.write_bytes(path.read_bytes()[:-20])
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert again.memory.get_pack_weights() == {"other": 1.0}
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    [said] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert f"memory '{tmp_path / 'memory'}' is without its pack 'medical'" in said
    assert "attach_pack(memory.load_pack(path))" in said


def test_a_pack_of_many_concepts_is_searched_by_its_index_elsewhere_too(
    memory: AESGMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "EXACT_BELOW", 5)
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    other = pickle.loads(pickle.dumps(memory))
    assert other.get_attached_packs()["medical"].view.base is not None


def test_a_pack_whose_file_is_gone_travels_by_value(memory: AESGMemory, tmp_path: Path) -> None:
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    (tmp_path / "medical.aesgpack").unlink()
    expected = memory.recall(queries())
    content = pickle.dumps(memory)
    write_tiny(tmp_path / "medical.aesgpack", seed=3, vector_dim=DIM)
    other = pickle.loads(content)
    assert is_same(other.recall(queries()), expected)
    assert is_same(pickle.loads(pickle.dumps(other)).recall(queries()), expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_find_what_the_handle_has_attached(
    memory: AESGMemory, tmp_path: Path, start: str
) -> None:
    memory.set_mode("INFERENCE")
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    expected = memory.recall(queries()).concept_ids.tolist()
    assert run_child(children.recall_in_workers, memory, queries(), start) == [expected] * 2


def test_a_retrieval_sees_one_set_of_packs(memory: AESGMemory, tmp_path: Path) -> None:
    packs = [loaded(memory, tmp_path, name, seed=seed) for seed, name in enumerate("ab")]
    first = {pack.name: next(iter_ids(memory, pack)) for pack in packs}
    assert len(set(first.values())) == 2
    stop, found = threading.Event(), list[tuple[int, ...]]()

    def retrieve() -> None:
        while not stop.is_set():
            ids = memory.recall(queries(1)[0], top_k=26).concept_ids
            serials = (ids[ids >= 2**63] - np.uint64(2**63)) >> np.uint64(40)
            found.append(tuple(np.unique(serials, return_counts=True)[1].tolist()))

    thread = threading.Thread(target=retrieve)
    thread.start()
    try:
        for _ in range(30):
            memory.attach_pack(packs[0], 10)
            memory.attach_pack(packs[1], 90)
            memory.detach_pack("a")
            memory.detach_pack("b")
    finally:
        stop.set()
        thread.join(30)
    assert found
    assert set(found) <= {(), (12,), (12, 12)}


def iter_ids(memory: AESGMemory, pack: Pack) -> Iterator[int]:
    """Yield the first id of a pack, each time it is attached."""
    for _ in count():
        memory.attach_pack(pack)
        first = memory.get_attached_packs()[pack.name].first_id
        memory.detach_pack(pack.name)
        yield first


def test_no_two_attachments_have_the_same_ids(memory: AESGMemory, tmp_path: Path) -> None:
    pack = loaded(memory, tmp_path, "medical")
    ids = iter_ids(memory, pack)
    seen = [next(ids) for _ in range(5)]
    assert len(set(seen)) == 5
    assert all(first >= 2**63 and first % 2**40 == 0 for first in seen)


def test_the_operator_of_compiled_models_sees_the_packs_of_the_moment(
    memory: AESGMemory, tmp_path: Path
) -> None:
    def operated() -> list[Tensor]:
        hops = memory.config.spreading_activation_steps
        asked: tuple[Any, ...] = (queries(), memory.handle, 8, hops, None, [], None, True, False)
        return list(torch.ops.aesg.recall(*asked))

    before = operated()
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    during = operated()
    assert [each.shape for each in during] == [each.shape for each in before]
    assert not all(map(torch.equal, before, during))
    memory.detach_pack("medical")
    assert all(map(torch.equal, before, operated()))


def test_a_failed_load_leaves_the_memory_usable(memory: AESGMemory, tmp_path: Path) -> None:
    with pytest.raises(AESGError):
        memory.load_pack(tmp_path / "missing.aesgpack")
    assert memory.recall(pattern(0)).primary_concepts[0] == 1
    memory.attach_pack(loaded(memory, tmp_path, "medical"))
    assert memory.get_pack_weights() == {"medical": 1.0}


def test_a_memory_in_inference_is_not_written_to(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as writer:
        writer.remember(patterns(*BASE))
    before = digest(tmp_path / "memory")
    with AESGMemory.open(tmp_path / "memory") as memory:
        memory.attach_pack(loaded(memory, tmp_path, "medical"))
        memory.retrieve(queries())
    assert digest(tmp_path / "memory") == before
    assert data_file(tmp_path / "memory").parent.parent.name == "memory"
