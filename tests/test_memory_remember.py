"""Concepts that a user writes, and what they carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from aesg import AESGMemory, AESGMemoryError, AESGNavigationError
from aesg.payload import MAX_BYTES
from tests.memory_build import DIM, born, near, opened, pattern, patterns
from tests.memory_children import in_data_worker, in_forked_child, remember_and_die
from tests.memory_processes import child, run_child

_PAYLOADS = ["a label", {"n": 1, 2: [None, True, 2.5]}, b"bytes", None, 0, "", [], 2**63]


def reopened(memory: AESGMemory) -> AESGMemory:
    memory.close()
    return AESGMemory.open(memory.directory)


def test_remembered_concepts_are_born_at_once() -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1))
    assert ids.dtype == np.uint64
    assert born(memory) == 2
    assert memory.provisional_count == 0
    history = memory.logger.get_history()
    assert [(event["type"], event["id1"]) for event in history] == [
        ("CREATE", ids[0]),
        ("CREATE", ids[1]),
    ]
    assert memory.storage.verify() == []


def test_without_a_value_a_concept_stands_for_its_key() -> None:
    memory = opened()
    memory.remember(near(0))
    found = reopened(memory).retrieve(pattern(0))
    torch.testing.assert_close(found.vectors[0], near(0))
    assert found.value_ids.tolist() == [-1]


@pytest.mark.parametrize(
    "values",
    [
        [3, 0],
        (3, 0),
        np.array([3, 0], np.uint8),
        torch.tensor([3, 0]),
        torch.tensor([3, 0], dtype=torch.int32),
    ],
)
def test_integer_values_are_found_again(values: Any) -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1), values)
    found = reopened(memory).retrieve(patterns(0, 1))
    assert found.concept_ids[:, 0].tolist() == ids.tolist()
    assert found.value_ids[:, 0].tolist() == [3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_vector_values_are_found_again(dtype: torch.dtype) -> None:
    memory = opened()
    memory.remember(patterns(0, 1).to(dtype), 4 * patterns(8, 9).to(dtype))
    found = reopened(memory).retrieve(patterns(0, 1))
    assert torch.equal(found.vectors[:, 0], 4 * patterns(8, 9))
    assert torch.equal(found.keys[:, 0], patterns(0, 1))


def test_the_largest_integer_value_is_kept() -> None:
    memory = opened()
    memory.remember(pattern(0), [2**63 - 1])
    assert memory.retrieve(pattern(0)).value_ids.tolist() == [2**63 - 1]


def test_payloads_come_back_as_they_were() -> None:
    memory = opened()
    ids = memory.remember(patterns(*range(len(_PAYLOADS))), payloads=_PAYLOADS)
    assert memory.payloads(ids) == _PAYLOADS
    again = reopened(memory)
    assert again.payloads(ids) == _PAYLOADS
    assert again.payloads(ids[:1].tolist()) == _PAYLOADS[:1]
    assert again.payloads([12345]) == [None]
    assert again.payloads([]) == []


def test_a_payload_that_there_is_no_room_for_is_an_error_of_the_memory() -> None:
    memory = opened()
    ids = memory.remember(pattern(0)[None], payloads=["zero"])
    with (
        patch("aesg.payload.msgpack.unpackb", side_effect=MemoryError),
        pytest.raises(AESGMemoryError, match="Payload of 5 bytes: expected room"),
    ):
        memory.payloads(ids)
    assert memory.payloads(ids) == ["zero"]


def test_payloads_of_a_context_are_those_of_its_concepts() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), payloads=["zero", "one"])
    assert memory.payloads(memory.retrieve(near(1)).primary_concepts) == ["one", "zero"]


def test_keys_may_be_numpy_arrays() -> None:
    memory = opened()
    keys = np.eye(DIM)[:3]
    keys.setflags(write=False)
    ids = memory.remember(keys)
    assert memory.retrieve(pattern(2)).primary_concepts[0] == ids[2]


def test_the_keys_stay_the_callers() -> None:
    memory = opened()
    keys = torch.stack([pattern(0), torch.full((DIM,), 1e-30)])
    before = keys.clone()
    memory.remember(keys)
    assert torch.equal(keys, before)
    keys.zero_()
    assert float(memory.retrieve(pattern(0)).best_cosine) == pytest.approx(1)


def test_nothing_is_remembered_of_nothing() -> None:
    memory = opened()
    assert memory.remember(torch.empty(0, DIM), [], []).tolist() == []
    assert born(memory) == 0


def test_origins_keep_a_concept_from_its_own_sample() -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1), origins=torch.tensor([4, -4])).tolist()
    origins = torch.tensor([4, -4])
    found = memory.recall(patterns(0, 0), origins=origins)
    assert [set(row) - {0} for row in found.concept_ids.tolist()] == [{ids[1]}, {ids[0]}]


_BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"keys": torch.zeros(2, 3)}, AESGNavigationError, "Key of wrong width"),
    ({"keys": torch.zeros(1, 2, DIM)}, AESGNavigationError, "Keys of wrong shape"),
    ({"keys": torch.zeros(2, DIM).long()}, AESGNavigationError, "Key of wrong type"),
    ({"keys": [[0.0] * DIM]}, AESGNavigationError, "Key of wrong type"),
    ({"keys": patterns(0, 1) * torch.nan}, AESGNavigationError, "Key 0: .*NaN"),
    ({"keys": np.full((2, DIM), 1e300)}, AESGNavigationError, "Key 0: .*infinity"),
    ({"origins": torch.tensor([1])}, AESGNavigationError, "Origins do not fit"),
    ({"values": [1]}, AESGMemoryError, "values: expected 2 integers"),
    ({"values": [1, -1]}, AESGMemoryError, "from -1 to 1"),
    ({"values": np.array([1, 2**63], np.uint64)}, AESGMemoryError, "values: expected 2 integers"),
    ({"values": [True, False]}, AESGMemoryError, "got bool"),
    ({"values": ["a", "b"]}, AESGMemoryError, "values: expected 2 integers"),
    ({"values": [[1.0], [1.0, 2.0]]}, AESGMemoryError, "values: expected"),
    ({"values": 1.5}, AESGMemoryError, r"shape \(\)"),
    ({"values": torch.zeros(DIM, 2)}, AESGMemoryError, r"shape \(16, 2\)"),
    ({"values": torch.full((2, DIM), torch.inf)}, AESGMemoryError, "finite floats"),
    ({"values": np.full((2, DIM), 1e300)}, AESGMemoryError, "finite floats"),
    ({"payloads": ["one"]}, AESGMemoryError, "payloads: expected a sequence of 2, got 1"),
    ({"payloads": "ab"}, AESGMemoryError, "payloads: expected a sequence of 2, got str"),
    ({"payloads": ["a", "b" * MAX_BYTES]}, AESGMemoryError, r"payloads\[1\]: expected at most"),
    ({"payloads": [{1, 2}, None]}, AESGMemoryError, r"payloads\[0\]: .* got set"),
    ({"payloads": ["a", {(1, 2): 3}]}, AESGMemoryError, r"payloads\[1\]: .* got dict"),
    ({"payloads": 5}, AESGMemoryError, "payloads: expected a sequence of 2, got int"),
    ({"payloads": {1: "a", 2: "b"}}, AESGMemoryError, "expected a sequence of 2, got dict"),
    ({"payloads": ["a", object()]}, AESGMemoryError, r"payloads\[1\]: .* got object"),
    ({"payloads": ["a", 2**64]}, AESGMemoryError, r"payloads\[1\]: .* got int"),
    ({"payloads": ["a", "\ud800"]}, AESGMemoryError, r"payloads\[1\]: .* got str"),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), _BAD)
def test_what_cannot_be_remembered_is_told_and_nothing_is_written(
    arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    memory = opened()
    memory.remember(pattern(5))
    memory.save()
    before = memory.storage.engine.view().generation
    with pytest.raises(kind, match=words):
        memory.remember(**{"keys": patterns(0, 1), **arguments})
    memory.save()
    assert memory.storage.engine.view().generation == before
    assert born(memory) == 1


def test_a_payload_of_the_greatest_length_is_kept() -> None:
    memory = opened()
    longest = "x" * (MAX_BYTES - 5)  # msgpack writes a long text behind five bytes or fewer
    ids = memory.remember(pattern(0), payloads=[longest])
    assert memory.payloads(ids) == [longest]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aesg.memory"]


def test_inference_remembers_nothing_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    memory = opened()
    memory.set_mode("INFERENCE")
    for _ in range(2):
        assert memory.remember(patterns(0, 1), [1, 2], ["a", "b"]).tolist() == []
    assert born(memory) == 0
    assert warnings_in(caplog) == [
        f"memory '{memory.directory}': remember wrote nothing: "
        "the handle is in mode INFERENCE and only reads; see set_mode"
    ]
    with AESGMemory.open("memory") as reader:
        reader.remember(pattern(0))
    assert len(warnings_in(caplog)) == 2


def test_to_remember_nothing_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    memory = opened()
    memory.set_mode("INFERENCE")
    memory.remember(torch.empty(0, DIM))
    memory.set_mode("TRAIN")
    memory.remember(pattern(0))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (in_data_worker, "a data worker only reads"),
        (in_forked_child, "this process was forked from the one that writes the memory"),
    ],
)
def test_who_only_reads_is_told_why_it_remembers_nothing(
    tmp_path: Path, place: Callable[..., None], why: str
) -> None:
    (logged,) = run_child(place, str(tmp_path / "memory"))
    assert len(logged) == 1
    assert f"remember wrote nothing: {why}" in logged[0]


@pytest.mark.parametrize("mode", ["FINETUNE", "ONLINE"])
def test_a_mode_that_may_not_prune_says_when_there_is_no_room(mode: str) -> None:
    memory = opened(memory_mode=mode, max_concepts=3)
    memory.remember(patterns(0, 1))
    with pytest.raises(AESGMemoryError, match=f"max_concepts=3, got 2 more beside 2 that {mode}"):
        memory.remember(patterns(2, 3))
    assert born(memory) == 2
    memory.remember(pattern(2))
    assert born(memory) == 3


def test_concepts_that_wait_to_be_born_count_when_room_is_made() -> None:
    memory = opened(max_concepts=3, novelty_birth_threshold=1)
    memory.retrieve(patterns(0, 1, 2))
    ids = memory.remember(patterns(3, 4, 5), payloads=["a", "b", "c"])
    assert born(memory) == 3
    assert memory.payloads(ids) == ["a", "b", "c"]


@pytest.mark.parametrize("ids", [["a"], [-1], [2**64], [1.5], [True], [[1], [1, 2]]])
def test_ids_that_are_none_are_told(ids: list[Any]) -> None:
    with opened() as memory, pytest.raises(AESGMemoryError, match="concept_ids: expected"):
        memory.payloads(ids)


def test_train_makes_room_for_what_is_remembered() -> None:
    memory = opened(max_concepts=3)
    memory.remember(patterns(0, 1))
    kept = memory.remember(patterns(2, 3)).tolist()
    assert born(memory) == 3
    assert set(kept) <= set(memory.recall(pattern(0)).concept_ids.tolist())
    with pytest.raises(AESGMemoryError, match="max_concepts=3, got 4 more"):
        memory.remember(patterns(4, 5, 6, 7))
    assert memory.storage.verify() == []


def test_what_was_remembered_survives_a_kill(tmp_path: Path) -> None:
    directory = str(tmp_path / "memory")
    with child(remember_and_die, directory) as writer:
        ids = writer.next()
        writer.kill()
    with AESGMemory.open(directory) as memory:
        assert memory.storage.verify() == []
        assert memory.payloads(ids) == ["seven", {"n": 8}]
        found = memory.retrieve(patterns(0, 1))
        assert found.concept_ids[:, 0].tolist() == ids
        assert found.value_ids[:, 0].tolist() == [7, 8]
