"""What the documentation shows of `AESGMemory`, and of one retrieval."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aesg import (
    AESGConfig,
    AESGConfigError,
    AESGError,
    AESGMemory,
    AESGMemoryError,
    AESGNavigationError,
    MemoryMode,
)
from tests.memory_build import DIM, born, config, meet, near, opened, pattern, patterns


def test_a_memory_is_made_where_it_is_opened() -> None:
    memory = AESGMemory("./test", AESGConfig(vector_dim=16, max_concepts=100))
    assert (memory.storage.node_count, memory.storage.edge_count) == (0, 0)
    assert memory.mode is MemoryMode.TRAIN
    assert memory.mode.value == "TRAIN"
    assert memory.vector_dim == 16
    assert memory.logger.get_history() == []
    assert memory.storage.file_bytes > 0
    assert memory.storage.verify() == []
    assert Path("test").is_dir()


def test_the_default_directory_is_that_of_the_documentation() -> None:
    assert AESGMemory(config=config()).directory == Path("aesg_memory").resolve()
    named = AESGMemory(config=config(storage_directory="elsewhere"))
    assert named.directory == Path("elsewhere").resolve()


def test_an_invalid_configuration_is_told_whole_and_nothing_is_written() -> None:
    bad = AESGConfig(vector_dim=-1, spreading_activation_decay=5.0)
    with pytest.raises(AESGConfigError) as caught:
        AESGMemory("./test", bad)
    assert str(caught.value) == (
        "Configuration validation failed:\n"
        "Parameter 'vector_dim': got -1, expected integer >= 1\n"
        "Parameter 'spreading_activation_decay': got 5.0, expected float in [0.0, 1.0]"
    )
    assert not Path("test").exists()


def test_an_invalid_mode_is_told_in_the_documented_words() -> None:
    memory = opened()
    with pytest.raises(AESGMemoryError) as caught:
        memory.set_mode("INVALID")
    assert f"[{caught.value.subsystem}] {caught.value.message}" == (
        "[memory] Invalid memory mode 'INVALID'. "
        "Valid modes: ['TRAIN', 'FINETUNE', 'INFERENCE', 'ONLINE']"
    )
    assert isinstance(caught.value, AESGError)
    assert memory.mode is MemoryMode.TRAIN


@pytest.mark.parametrize("mode", ["FINETUNE", "INFERENCE", "ONLINE"])
def test_a_mode_lasts_until_another_is_set(mode: str) -> None:
    memory = opened()
    memory.set_mode(mode)
    assert memory.mode is MemoryMode(mode)
    memory.set_mode("TRAIN")
    assert memory.mode is MemoryMode.TRAIN
    assert AESGMemory("other", config(memory_mode=mode)).mode is MemoryMode(mode)


def test_every_event_says_when_and_what() -> None:
    memory = opened()
    meet(memory, pattern(0))
    (event,) = memory.logger.get_history()
    assert event["type"] == "CREATE"
    assert event["id1"] == memory.retrieve(pattern(0)).primary_concepts[0]
    assert event["timestamp"] > 1.5e9
    assert set(event) == {"timestamp", "type", "id1", "id2", "val"}


def test_the_log_level_of_the_configuration_is_that_of_the_logger() -> None:
    import logging

    opened(log_level="ERROR")
    assert logging.getLogger("aesg").level == logging.ERROR
    opened()
    assert logging.getLogger("aesg").level == logging.INFO


def test_a_single_query_gives_a_context_without_a_leading_axis() -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1, 2, 3, 4))
    found = memory.retrieve(near(0))
    assert found.vectors.shape == found.keys.shape == (5, DIM)
    assert found.weights.shape == found.mask.shape == found.activations.shape == (5,)
    assert found.aggregate().shape == (DIM,)
    assert found.primary_concepts[0] == ids[0]
    assert found.primary_concepts == found.concept_ids[:3].tolist()
    assert found.secondary_concepts == found.concept_ids[3:].tolist()
    assert sorted(found.concept_ids.tolist()) == sorted(ids.tolist())
    assert found.paths == [[concept_id] for concept_id in found.concept_ids.tolist()]
    assert found.weights.argmax() == 0
    assert 0 < float(found.weights.detach().sum() + found.abstract_weight.detach()) < 1
    assert float(found.best_cosine) == pytest.approx(1 / 1.01**0.5, rel=1e-5)


def test_forward_is_retrieve() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    assert memory(near(1)).concept_ids.tolist() == memory.retrieve(near(1)).concept_ids.tolist()


def test_an_empty_memory_gives_nothing_and_zeros() -> None:
    for query in (pattern(0), patterns(0, 1), patterns(0, 1).reshape(1, 2, DIM)):
        found = opened().recall(query)
        assert found.vectors.shape == (*query.shape[:-1], 0, DIM)
        assert found.mask.shape == (*query.shape[:-1], 0)
        assert torch.equal(found.aggregate(), torch.zeros(query.shape))
        assert (found.primary_concepts, found.paths) == ([], [])
        assert not found.best_cosine.any()


@pytest.mark.parametrize("shape", [(6, DIM), (2, 3, DIM), (3, 1, 2, DIM)])
@pytest.mark.parametrize("mode", ["INFERENCE", "ONLINE"])
def test_a_batch_gives_each_query_what_it_gets_alone(shape: tuple[int, ...], mode: str) -> None:
    memory = opened()
    generator = torch.Generator().manual_seed(1)
    memory.remember(torch.randn(50, DIM, generator=generator))
    meet(memory, torch.randn(20, DIM, generator=generator), times=4)
    memory.update_topology()
    memory.set_mode(mode)
    queries = torch.randn(6, DIM, generator=generator)
    together = memory.recall(queries.reshape(shape), top_k=7, vectors=True)
    assert together.weights.shape == (*shape[:-1], 7)
    for row, query in enumerate(queries):
        alone = memory.recall(query, top_k=7, vectors=True)
        assert together.found.ids[row].tolist() == alone.concept_ids.tolist()
        for name in ("weights", "vectors", "keys", "activations", "value_ids", "best_cosine"):
            batched = getattr(together, name).flatten(0, len(shape) - 2)[row]
            torch.testing.assert_close(batched, getattr(alone, name))
        aggregate = together.aggregate().reshape(6, DIM)[row]
        torch.testing.assert_close(aggregate, alone.aggregate())


def test_what_a_query_does_not_find_is_masked() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), origins=torch.tensor([5, 6]))
    found = memory.recall(patterns(0, 1), origins=torch.tensor([5, 7]), vectors=True)
    assert found.mask.tolist() == [[True, False], [True, True]]
    weights = found.weights.detach()
    assert weights[0, 1] == 0
    assert not found.keys[0, 1].any()
    assert not found.vectors[0, 1].any()
    assert found.concept_ids[0, 1] == 0
    assert found.value_ids.tolist() == [[-1, -1], [-1, -1]]


def test_no_more_is_retrieved_than_asked_for_and_no_more_than_there_is() -> None:
    memory = opened()
    memory.remember(patterns(*range(10)))
    assert memory.recall(near(3), top_k=4).mask.tolist() == [True] * 4
    assert memory.recall(near(3)).mask.shape == (10,)
    assert memory.recall(near(3), top_k=10**9).mask.shape == (10,)


def test_gradient_reaches_query_projection_and_temperature() -> None:
    memory = opened()
    memory.remember(patterns(0, 1, 2))
    query = (pattern(0) + 0.5 * pattern(1)).requires_grad_()
    (memory.retrieve(query).aggregate() * torch.arange(DIM)).sum().backward()
    learned = (query, memory.abstraction_projection.weight, memory.log_scale, memory.null_logit)
    for tensor in learned:
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_a_context_keeps_what_it_found_when_the_memory_changes() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    found = memory.retrieve(pattern(0))
    before = (found.vectors.clone(), found.concept_ids.copy())
    memory.remember(patterns(*range(DIM)).repeat(20, 1))
    memory.close()
    assert torch.equal(found.vectors, before[0])
    assert (found.concept_ids == before[1]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_queries_of_any_float_type_are_answered(dtype: torch.dtype) -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1))
    query = near(1).to(dtype).requires_grad_()
    found = memory.retrieve(query)
    assert found.primary_concepts[0] == ids[1]
    found.aggregate().sum().backward()
    assert query.grad is not None and query.grad.dtype is dtype


def test_a_memory_in_half_precision_answers() -> None:
    memory = opened()
    ids = memory.remember(patterns(0, 1))
    expected = memory.recall(near(1)).weights
    found = memory.to(torch.bfloat16).recall(near(1).to(torch.bfloat16))
    assert found.primary_concepts[0] == ids[1]
    torch.testing.assert_close(found.weights, expected, atol=0.02, rtol=0.02)


def test_autocast_does_not_coarsen_the_attention() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    expected = memory.recall(near(1)).weights
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory.recall(near(1)).weights, expected)


def test_queries_need_not_be_contiguous() -> None:
    memory = opened()
    memory.remember(patterns(0, 1, 2))
    queries = torch.stack([near(0), near(1), near(2)], dim=1)  # (D, N)
    assert not queries.t().is_contiguous()
    found = memory.recall(queries.t())
    assert (found.concept_ids == memory.recall(queries.t().contiguous()).concept_ids).all()


@pytest.mark.parametrize("shape", [(0, DIM), (0, 3, DIM), (2, 0, DIM)])
@pytest.mark.parametrize("held", [0, 3])
def test_an_empty_batch_is_answered_and_teaches_nothing(shape: tuple[int, ...], held: int) -> None:
    memory = opened()
    memory.remember(patterns(*range(held)) if held else torch.empty(0, DIM))
    found = memory.retrieve(torch.empty(shape))
    assert found.weights.shape == (*shape[:-1], 0)
    assert found.aggregate().shape == shape
    memory.defer(found, torch.zeros(shape[:-1], dtype=torch.long))
    memory.update_topology()
    assert memory.provisional_count == memory.rates.queries == 0


def test_a_query_without_direction_teaches_nothing() -> None:
    memory = opened()
    for _ in range(4):
        memory.retrieve(torch.zeros(DIM))
    assert memory.provisional_count == born(memory) == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_length_of_a_query_decides_nothing(scale: float) -> None:
    memory = opened()
    meet(memory, scale * pattern(3))
    assert born(memory) == 1
    found = memory.retrieve(pattern(3))
    assert float(found.best_cosine) == pytest.approx(1)
    torch.testing.assert_close(found.vectors[0], scale * pattern(3))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (torch.zeros(DIM + 1), r"expected \(\.\.\., 16\), got \(17,\)"),
        (torch.zeros(2, 3), r"expected \(\.\.\., 16\), got \(2, 3\)"),
        (torch.tensor(1.0), r"expected \(\.\.\., 16\), got \(\)"),
        (torch.zeros(DIM, dtype=torch.long), "float tensor, got torch.int64"),
        (torch.full((DIM,), torch.nan), "Query 0: .*NaN"),
        (torch.stack([torch.ones(DIM), torch.full((DIM,), torch.inf)]), "Query 1: .*infinity"),
        (torch.full((DIM,), 1e30), "length"),
        ([1.0] * DIM, "float tensor, got list"),
    ],
)
def test_a_query_that_cannot_be_answered_is_told(query: Any, words: str) -> None:
    memory = opened()
    memory.remember(patterns(0))
    with pytest.raises(AESGNavigationError, match=words) as caught:
        memory.retrieve(query)
    assert caught.value.subsystem == "navigation"
    assert memory.provisional_count == 0


@pytest.mark.parametrize("top_k", [0, -3, 2.5, True, None])
def test_top_k_is_a_positive_integer(top_k: Any) -> None:
    with pytest.raises(AESGNavigationError, match="top_k: expected an integer >= 1"):
        opened().retrieve(pattern(0), top_k=top_k)


@pytest.mark.parametrize(
    "arguments",
    [
        {"origins": torch.tensor([1, 2])},
        {"origins": torch.tensor([1.0])},
        {"origins": [1]},
        {"outcomes": torch.tensor([[1, 2]])},
        {"outcomes": torch.tensor([[1.0, 2.0, 3.0]])},
        {"outcomes": torch.tensor([[True, True, True]])},
    ],
)
def test_arguments_that_do_not_fit_the_queries_are_told(arguments: dict[str, Any]) -> None:
    with pytest.raises(
        AESGNavigationError, match=r"do not fit the queries: expected [13] integers"
    ):
        opened().recall(torch.ones(1, 3, DIM), **arguments)


def test_threads_retrieve_what_one_thread_does() -> None:
    memory = opened()
    generator = torch.Generator().manual_seed(2)
    memory.remember(torch.randn(200, DIM, generator=generator))
    memory.set_mode("INFERENCE")
    queries = torch.randn(4, 25, DIM, generator=generator)
    serial = [_answers(memory, part) for part in queries]
    parallel: list[Any] = [None] * 4

    def work(number: int) -> None:
        parallel[number] = _answers(memory, queries[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parallel == serial


def test_threads_may_learn_at_once() -> None:
    memory = opened(memory_mode="ONLINE")

    def work(number: int) -> None:
        for _ in range(20):
            memory.retrieve(near(number))
            memory.update_topology()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert born(memory) == 4
    assert memory.storage.verify() == []


def _answers(memory: AESGMemory, queries: Tensor) -> list[Any]:
    found = [memory.retrieve(query) for query in queries]
    return [(each.concept_ids.tolist(), each.weights.tolist()) for each in found]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: needs a CUDA device")
def test_queries_on_a_device_are_answered_there() -> None:
    memory = opened().to("cuda")
    ids = memory.remember(patterns(0, 1).cuda(), torch.tensor([4, 5]).cuda())
    query = near(1).cuda().requires_grad_()
    found = memory.retrieve(query)
    assert found.primary_concepts[0] == ids[1]
    assert {found.weights.device.type, found.vectors.device.type} == {"cuda"}
    assert found.value_ids[0] == 5
    found.aggregate().sum().backward()
    assert query.grad is not None


def test_vectors_that_were_not_asked_for_are_an_error_and_not_the_keys() -> None:
    memory = opened()
    memory.remember(patterns(0), values=2 * patterns(1))
    context = memory.recall(patterns(0), vectors=False)
    with pytest.raises(AESGMemoryError, match="vectors=True"):
        _ = context.vectors
    assert torch.equal(memory.recall(patterns(0)).vectors[0, 0], 2 * patterns(1)[0])
