"""Explained queries refine the vector values that explained them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory

QUERY = torch.tensor([1.0, 0.0, 0.0, 0.0])
FIRST = torch.tensor([0.0, 2.0, 0.0, 0.0])
SECOND = torch.tensor([0.0, 2.0, 1.0, 0.0])


def met(memory: AESGMemory, outcome: Tensor, origin: int = 0) -> None:
    """Let the memory meet the query, and then what it led to."""
    origins = torch.tensor([origin])
    memory.defer(memory.recall(QUERY.unsqueeze(0), vectors=True, origins=origins))
    memory.observe(outcome.unsqueeze(0))
    memory.update_topology()


def value(memory: AESGMemory) -> Tensor:
    return memory.recall(QUERY, vectors=True).vectors[0]


@pytest.mark.parametrize("births", [1, 100], ids=["born", "provisional"])
def test_a_vector_value_moves_towards_what_came(tmp_path: Path, births: int) -> None:
    with AESGMemory(tmp_path, AESGConfig(vector_dim=4, novelty_birth_threshold=births)) as memory:
        met(memory, FIRST)
        assert (memory.storage.node_count == 1) == (births == 1)
        assert torch.equal(value(memory), FIRST)
        before = FIRST
        for _ in range(3):
            met(memory, SECOND)
            memory.save()
            after = value(memory)
            assert (SECOND - after).norm() < (SECOND - before).norm()
            before = after
        assert memory.provisional_count + memory.storage.node_count == 1
        assert memory.storage.verify() == []


def test_a_refined_value_is_what_the_next_process_reads(tmp_path: Path) -> None:
    config = AESGConfig(vector_dim=4, novelty_birth_threshold=1)
    with AESGMemory(tmp_path, config) as memory:
        met(memory, FIRST)
        memory.save()
        met(memory, SECOND)
        memory.save()
        moved = value(memory)
    with AESGMemory.open(tmp_path) as reader:
        assert torch.equal(value(reader), moved)
        assert not torch.equal(moved, FIRST)


def test_what_came_from_elsewhere_moves_nothing(tmp_path: Path) -> None:
    with AESGMemory(tmp_path, AESGConfig(vector_dim=4, novelty_birth_threshold=1)) as memory:
        met(memory, FIRST)
        memory.save()
        met(memory, torch.tensor([0.0, -2.0, 0.0, 0.0]))  # novel: a value of its own
        memory.save()
        assert memory.storage.node_count == 2
        held = memory.recall(QUERY, vectors=True).vectors
        assert any(torch.equal(each, FIRST) for each in held)


@pytest.mark.parametrize("births", [1, 100], ids=["born", "provisional"])
@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "ONLINE"])
def test_a_sample_refines_no_value_that_it_will_read_again(
    tmp_path: Path, mode: str, births: int
) -> None:
    config = AESGConfig(vector_dim=4, novelty_birth_threshold=births)
    with AESGMemory(tmp_path, config) as memory:
        met(memory, FIRST, origin=1)
        memory.set_mode(mode)
        for _ in range(3):
            met(memory, SECOND, origin=2)
            memory.save()
        assert torch.equal(value(memory), FIRST) == (mode != "ONLINE")
        assert memory.provisional_count + memory.storage.node_count == 1
        met(memory, SECOND)  # of no sample
        memory.save()
        assert not torch.equal(value(memory), FIRST)
