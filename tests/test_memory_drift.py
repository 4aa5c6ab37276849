"""A sample that comes again meets its own concepts, and their keys follow the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aesg import AESGDecoderLM, AESGMemory, AESGMemoryError, AESGNavigationError, AESGTrainer
from tests.memory_build import born, digest, opened, pattern, patterns

OWN = torch.tensor([7])
OUTCOME = torch.tensor([3])
RECOGNISING = ["TRAIN", "FINETUNE"]


def met(
    memory: AESGMemory, query: Tensor, outcomes: Tensor | None = OUTCOME, origins: Tensor = OWN
) -> None:
    """Let a sample ask, and learn what came, which nobody expected."""
    context = memory.recall(query, origins=origins)
    integers = outcomes is not None and not outcomes.is_floating_point()
    log_probs = torch.zeros(*query.shape[:-1], 20).log_softmax(-1) if integers else None
    memory.defer(context, outcomes, log_probs)
    memory.update_topology()


def best(memory: AESGMemory, number: int) -> float:
    """Return how close a concept is to a pattern, for one that is of no sample."""
    return float(memory.recall(pattern(number)).best_cosine)


@pytest.mark.parametrize("mode", RECOGNISING)
def test_a_sample_that_comes_again_re_keys_its_concept_and_makes_no_other(mode: str) -> None:
    memory = opened(memory_mode=mode)
    met(memory, patterns(0))
    met(memory, 4 * patterns(1))
    assert memory.provisional_count == 1
    assert (best(memory, 0), best(memory, 1)) == (0, 1)
    assert memory.recall(pattern(1)).vectors.tolist() == [(4 * pattern(1)).tolist()]


def test_what_three_epochs_do_not_explain_is_born() -> None:
    memory = opened()
    counts = []
    for epoch in range(3):
        met(memory, patterns(epoch))
        counts.append((memory.provisional_count, born(memory)))
    assert counts == [(1, 0), (1, 0), (0, 1)]
    memory.save()
    assert best(memory, 2) == 1
    assert memory.storage.verify() == []


def test_an_explained_sample_re_keys_its_concept_without_confirming_it() -> None:
    memory = opened()
    met(memory, patterns(0))
    sure = torch.tensor([[-20.0, -20.0, -20.0, 0.0]]).log_softmax(-1)
    for epoch in range(1, 6):
        context = memory.recall(patterns(epoch), origins=OWN)
        memory.defer(context, OUTCOME, sure)
        memory.update_topology()
    assert (memory.provisional_count, born(memory)) == (1, 0)
    assert best(memory, 5) == 1


def test_another_outcome_of_the_same_sample_is_another_concept() -> None:
    memory = opened()
    met(memory, patterns(0))
    met(memory, patterns(0), torch.tensor([4]))
    assert memory.provisional_count == 2


def test_another_sample_with_the_same_outcome_is_another_concept() -> None:
    memory = opened(novelty_birth_threshold=9)
    met(memory, patterns(0))
    met(memory, patterns(1), origins=torch.tensor([8]))
    for number in (5, 6):
        met(memory, patterns(number), origins=torch.tensor([0]))  # of no sample
    assert memory.provisional_count == 4
    assert [best(memory, number) for number in (0, 1, 5, 6)] == [1, 1, 1, 1]


@pytest.mark.parametrize("mode", RECOGNISING)
def test_a_sample_never_reads_what_it_left_however_often_it_comes(mode: str) -> None:
    memory = opened(memory_mode=mode, novelty_birth_threshold=2)
    for _ in range(5):
        met(memory, patterns(0))
        memory.save()
        assert not memory.recall(patterns(0), origins=OWN).mask.any()
    assert memory.recall(patterns(0)).mask.any()


def test_online_a_sample_that_comes_again_is_taken_as_new() -> None:
    memory = opened(memory_mode="ONLINE")
    met(memory, patterns(0))
    met(memory, patterns(1))
    assert memory.provisional_count == 2
    assert (best(memory, 0), best(memory, 1)) == (1, 1)


def test_a_born_concept_is_re_keyed_and_keeps_id_edges_and_events(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        sequence, came = patterns(0, 1, 2).unsqueeze(0), torch.tensor([[3, 4, 5]])
        for _ in range(3):
            met(memory, sequence, came)
        memory.save()
        assert born(memory) == 3
        before = memory.recall(pattern(0)).primary_concepts[0]
        edges = memory.storage.edge_count
        met(memory, patterns(8, 9, 10).unsqueeze(0), came)
    with AESGMemory.open(tmp_path) as memory:
        assert memory.recall(pattern(8)).primary_concepts[0] == before
        assert best(memory, 8) == pytest.approx(1)
        assert (born(memory), memory.storage.edge_count) == (3, edges)
        assert edges == 2
        assert memory.storage.verify() == []


def test_a_sample_that_is_retrieved_with_again_is_confirmed() -> None:
    memory = opened()
    for _ in range(3):
        memory.retrieve(patterns(0), origins=OWN)
    assert (memory.provisional_count, born(memory)) == (0, 1)


def test_the_reach_of_a_vector_outcome_decides_which_concept_is_met() -> None:
    memory = opened()
    values = patterns(12, 13)
    both = torch.tensor([7, 7])
    met(memory, patterns(0, 1), values, both)
    met(memory, patterns(5, 4), values.flip(0), both)
    assert memory.provisional_count == 2
    assert memory.recall(pattern(4)).vectors[0].tolist() == values[0].tolist()
    assert memory.recall(pattern(5)).vectors[0].tolist() == values[1].tolist()


def test_keys_are_given_anew_durably_and_nothing_else_is_learned(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        origins = torch.tensor([7, 8])
        memory.remember(patterns(0, 1), [3, 4], origins=origins)
        queries, came = patterns(5, 6), torch.tensor([3, 9])
        assert memory.rekey(queries, came, origins=origins) == 1
        assert memory.rates.queries == memory.provisional_count == 0
    with AESGMemory.open(tmp_path) as memory:
        assert [best(memory, number) for number in (0, 1, 5, 6)] == pytest.approx([0, 1, 1, 0])


def test_keys_of_sequences_are_given_anew_by_one_origin_each() -> None:
    memory = opened()
    keys = patterns(0, 1, 2, 3)
    memory.remember(keys, [3, 3, 4, 4], origins=torch.tensor([7, 7, 8, 8]))
    again, came = keys.view(2, 2, -1).flip(0), torch.tensor([[3, 3], [4, 4]])
    assert memory.rekey(again, came, origins=torch.tensor([7, 8])) == 4
    values = memory.recall(keys, top_k=1).value_ids.flatten().tolist()
    assert values == [4, 4, 3, 3]


@pytest.mark.parametrize("saved", [False, True], ids=["provisional", "born"])
def test_a_query_without_direction_leaves_keys_as_they_are(saved: bool) -> None:
    memory = opened()
    if saved:
        memory.remember(patterns(0), OUTCOME, origins=OWN)
    else:
        met(memory, patterns(0))
    nothing = torch.zeros_like(patterns(0))
    assert memory.rekey(nothing, OUTCOME, origins=OWN) == 0
    met(memory, nothing)
    memory.defer(memory.recall(nothing, origins=OWN), OUTCOME)
    assert memory.update_keys() == 0
    assert best(memory, 0) == 1


def test_a_vector_without_direction_is_not_known_to_have_come() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), patterns(8, 9), origins=OWN.repeat(2))
    came = torch.stack([torch.zeros_like(pattern(9)), pattern(9)])
    assert memory.rekey(patterns(5, 6), came, origins=OWN.repeat(2)) == 1
    assert [best(memory, number) for number in (0, 1, 5, 6)] == [1, 0, 0, 1]


def test_who_may_not_re_key_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    memory = opened()
    memory.remember(patterns(0), [3], origins=OWN)
    memory.set_mode("INFERENCE")
    assert memory.rekey(patterns(1), OUTCOME, origins=OWN) == 0
    assert "rekey wrote nothing: the handle is in mode INFERENCE" in caplog.text
    assert "remember" not in caplog.text


def test_inference_gives_no_keys_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.remember(patterns(0), [3], origins=OWN)
    before = digest(tmp_path)
    with AESGMemory.open(tmp_path) as memory:
        assert memory.rekey(patterns(1), OUTCOME, origins=OWN) == 0
        assert not memory.can_rekey
    assert digest(tmp_path) == before


@pytest.mark.parametrize(
    ("outcomes", "origins", "error"),
    [
        (torch.tensor([1, 2]), OWN, AESGMemoryError),
        (torch.tensor([-3]), OWN, AESGMemoryError),
        (torch.full((1, 16), torch.nan), OWN, AESGMemoryError),
        (torch.tensor([True]), OWN, AESGMemoryError),
        (OUTCOME, torch.tensor([7, 8]), AESGNavigationError),
        (OUTCOME, None, AESGNavigationError),
    ],
)
def test_keys_are_not_given_for_what_does_not_fit(
    outcomes: Tensor, origins: Tensor, error: type[Exception]
) -> None:
    memory = opened()
    memory.remember(patterns(0), [3], origins=OWN)
    with pytest.raises(error):
        memory.rekey(patterns(1), outcomes, origins=origins)
    assert best(memory, 0) == 1


def test_an_outcome_that_is_not_known_re_keys_nothing() -> None:
    memory = opened()
    memory.remember(patterns(0), [3], origins=OWN)
    assert memory.rekey(patterns(1, 2), torch.tensor([-100, 3]), origins=OWN.repeat(2)) == 1
    assert best(memory, 2) == 1


def test_update_keys_re_keys_what_waits_and_learns_nothing() -> None:
    memory = opened()
    met(memory, patterns(0))
    with memory.asking_only():
        asked = memory.recall(patterns(1, 2), origins=torch.tensor([7, 9]))
    assert not asked.mask.any()
    memory.defer(asked, torch.tensor([3, 3]))
    assert memory.can_rekey
    assert memory.update_keys() == 1
    assert memory.update_keys() == 0  # nothing waits any more
    assert (memory.provisional_count, memory.rates.queries) == (1, 1)
    assert best(memory, 1) == 1


def test_at_rest_and_online_no_keys_are_updated() -> None:
    memory = opened()
    met(memory, patterns(0))
    context = memory.recall(patterns(1), origins=OWN)
    with memory.at_rest():
        memory.defer(context, OUTCOME)
        assert not memory.can_rekey
        assert memory.update_keys() == 0
    memory.set_mode("ONLINE")
    memory.defer(context, OUTCOME)
    assert memory.update_keys() == 0
    assert best(memory, 0) == 1


def test_a_memory_without_samples_has_nothing_to_re_key() -> None:
    memory = opened()
    assert not memory.can_rekey
    memory.remember(patterns(0), [3])
    assert not memory.can_rekey


class Searching(AESGDecoderLM):
    """Does not say that its queries need no retrieval."""

    asks_first = False


def trained(kind: type[AESGDecoderLM], directory: Path, *, refresh: bool) -> Tensor:
    """Train a small model; return how close the nearest key is to each query of its text."""
    tokens = torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(0))
    pairs = [(row[:-1], row[1:]) for row in tokens]
    torch.manual_seed(0)
    model = kind.small(20, directory, vector_dim=16, memory_dropout=0.0, hidden_size=32)
    with model.memory as memory:
        AESGTrainer(model, learning_rate=0.03, refresh_keys=refresh).fit(pairs, epochs=2)
        model.eval()
        queries = model.queries(tokens[:, :-1])
        memory.set_mode("INFERENCE")  # where a sample sees what it left
        assert 0 < memory.provisional_count + born(memory) <= queries[..., 0].numel()
        return memory.recall(queries).best_cosine.detach()


def test_fit_leaves_the_keys_that_the_trained_model_asks_with(tmp_path: Path) -> None:
    stale = trained(AESGDecoderLM, tmp_path / "stale", refresh=False)
    fresh = trained(AESGDecoderLM, tmp_path / "fresh", refresh=True)
    searched = trained(Searching, tmp_path / "searched", refresh=True)
    assert stale.min() < 0.99
    assert fresh.min() > 0.99
    torch.testing.assert_close(fresh, searched)


def test_concepts_whose_keys_come_together_are_merged() -> None:
    memory = opened(consolidation_epoch_interval=1)
    memory.remember(patterns(0, 1), [3, 3], origins=torch.tensor([7, 8]))
    memory.update_topology()
    assert born(memory) == 2
    assert memory.rekey(patterns(5, 5), torch.tensor([3, 3]), origins=torch.tensor([7, 8])) == 2
    memory.update_topology()
    memory.save()
    assert born(memory) == 1
    assert best(memory, 5) == pytest.approx(1)
    assert memory.storage.verify() == []
