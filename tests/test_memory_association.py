"""What ordinary calls teach, edges recall: answers that lie nowhere near their question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory

DIM = 64
CONFIG = AESGConfig(
    vector_dim=DIM,
    coactivation_threshold_create=2,
    consolidation_epoch_interval=1_000,
    durability="normal",
)
TOP = 10


def unit(*shape: int) -> NDArray[np.float32]:
    """Return random unit vectors."""
    vectors = np.random.default_rng(shape[0]).normal(size=shape)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    with AESGMemory(tmp_path / "memory", CONFIG) as made:
        yield made


def found(
    memory: AESGMemory, queries: NDArray[np.float32], wanted: NDArray[np.uint64], decay: float
) -> float:
    """Return the share of queries that retrieve the concept wanted, read with some hop decay."""
    config = replace(CONFIG, spreading_activation_decay=decay, memory_mode="INFERENCE")
    with AESGMemory(memory.directory, config) as reader:
        context = reader.retrieve(torch.from_numpy(queries), top_k=TOP)
    return float((context.concept_ids == wanted[:, None]).any(axis=1).mean())


def test_of_two_concepts_that_were_retrieved_together_one_recalls_the_other(
    memory: AESGMemory,
) -> None:
    keys = unit(500, DIM)
    ids = memory.remember(keys, np.arange(500))
    one, other, stranger = np.arange(60).reshape(3, 20)
    assert found(memory, keys[one], ids[other], 0.8) < 0.2
    for _ in range(20):
        memory.retrieve(torch.from_numpy(keys[one] + keys[other]))
        memory.reset_state()
        memory.update_topology()
    memory.save()
    assert found(memory, keys[one], ids[other], 0.8) == 1
    assert found(memory, keys[other], ids[one], 0.8) == 1
    assert found(memory, keys[one], ids[other], 0.0) < 0.2  # the nearest neighbours alone
    assert found(memory, keys[one], ids[stranger], 0.8) < 0.2  # they never met


@pytest.mark.parametrize("answers_first", [True, False])
def test_an_answer_of_two_steps_is_found_along_the_value_of_the_first(
    memory: AESGMemory, answers_first: bool
) -> None:
    countries, cities, currencies = unit(50, DIM), unit(300, DIM), unit(51, DIM)[:50]
    country_of, currency_of = 0.5 * unit(2, DIM)
    home = np.arange(300) % 50

    def tell_countries() -> NDArray[np.uint64]:
        return memory.remember(countries + currency_of, currencies)

    def tell_cities() -> None:
        memory.remember(cities + country_of, countries[home])

    if answers_first:
        facts = tell_countries()
        tell_cities()
    else:
        tell_cities()
        facts = tell_countries()
    questions = cities + country_of
    assert found(memory, questions, facts[home], 0.8) == 1
    assert found(memory, questions, facts[home], 0.0) < 0.1
