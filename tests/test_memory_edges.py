"""What `AESGMemory.edges` tells of the edges of a concept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aesg import AESGMemory, AESGMemoryError
from tests.memory_build import near, opened, pattern, patterns


def chain(**fields: Any) -> AESGMemory:
    """Return a memory in which 1 leads to 2 by its value, and 2 to 1."""
    memory = opened(consolidation_epoch_interval=1, memory_mode="ONLINE", **fields)
    memory.remember(patterns(0, 1), patterns(1, 0))
    return memory


def test_an_edge_tells_where_it_leads_and_why() -> None:
    (edge,) = chain().edges(1)
    assert (edge.target, edge.uses, edge.reasons) == (2, 1, ("VALUE",))
    assert (edge.weight, edge.confidence) == pytest.approx((1.0, 0.9))
    assert str([edge]) == (
        "[Edge(target=2, weight=1.000, confidence=0.900, uses=1, reasons=('VALUE',))]"
    )


def test_confidence_is_that_of_the_present() -> None:
    memory = chain()
    for epochs in range(1, 4):
        memory.update_topology()
        assert memory.edges(1)[0].confidence == pytest.approx(0.9 * 0.99**epochs)
    with AESGMemory.open("memory") as reader:
        memory.save()
        assert reader.edges(1) == memory.edges(1)


def test_what_has_just_been_learned_is_there_and_the_strongest_comes_first() -> None:
    memory = opened(memory_mode="ONLINE", coactivation_threshold_create=1)
    a, b, c = memory.remember(patterns(0, 1, 2), [1, 2, 3]).tolist()
    for other in (1, 2, 2, 2):
        memory.retrieve(pattern(0) + pattern(other), top_k=2)
        memory.reset_state()
    edges = memory.edges(a)
    assert [edge.target for edge in edges] == [c, b]
    assert [edge.uses for edge in edges] == [3, 1]
    assert edges[0].confidence > edges[1].confidence
    assert {edge.reasons for edge in edges} == {("COACTIVATION",)}
    assert memory.storage.generation == memory._state.view.generation


def test_an_edge_may_have_several_reasons() -> None:
    memory = chain(coactivation_threshold_create=1)
    memory.retrieve(pattern(0) + 0.9 * pattern(1), top_k=2)
    assert memory.edges(1)[0].reasons == ("COACTIVATION", "VALUE")


def test_a_merged_concept_has_the_edges_of_the_one_that_took_it_over() -> None:
    memory = opened(consolidation_epoch_interval=1)
    first, second, _ = memory.remember(
        torch.stack([pattern(0), near(0, 0.01), pattern(1)]), patterns(1, 1, 5)
    ).tolist()
    memory.update_topology()
    assert memory.resolve([first, second]).tolist() == [first, first]
    assert [edge.target for edge in memory.edges(second)] == [3]
    assert memory.edges(second) == memory.edges(np.uint64(first))


def test_where_there_is_no_edge_there_is_none() -> None:
    memory = opened(novelty_birth_threshold=9)
    assert memory.edges(1) == []
    (lone,) = memory.remember(patterns(0)).tolist()
    memory.retrieve(pattern(5))
    assert memory.provisional_count == 1
    assert [memory.edges(each) for each in (0, lone, lone + 1, 2**64 - 1)] == [[]] * 4


@pytest.mark.parametrize("wrong", [-1, 1.0, "1", None, [1, 2], [], True, 2**64])
def test_what_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(AESGMemoryError, match="concept_id"):
        chain().edges(wrong)


def test_a_handle_that_reads_changes_nothing() -> None:
    chain().close()
    with AESGMemory.open("memory") as reader:
        generation = reader.storage.generation
        assert [edge.target for edge in reader.edges(2)] == [1]
        assert reader.storage.generation == generation
