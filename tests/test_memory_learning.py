"""What becomes a concept, an edge, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aesg import AESGMemory, AESGMemoryError
from aesg.learning import Deferred
from tests.memory_build import DIM, born, digest, meet, near, opened, pattern, patterns
from tests.memory_children import look, meet_once
from tests.memory_processes import run_child

WRITING = ["TRAIN", "FINETUNE", "ONLINE"]


def step(memory: AESGMemory, queries: torch.Tensor, outcomes: torch.Tensor | None = None) -> None:
    memory.defer(memory.recall(queries), outcomes)
    memory.update_topology()


def test_a_single_outlier_never_becomes_a_concept() -> None:
    memory = opened()
    memory.retrieve(pattern(0))
    for _ in range(50):
        meet(memory, pattern(1), times=2)
        memory.update_topology()
    memory.save()
    assert born(memory) == 1
    assert memory.provisional_count == 1


@pytest.mark.parametrize("threshold", [1, 2, 3, 5])
def test_a_pattern_is_born_when_it_was_met_often_enough(threshold: int) -> None:
    memory = opened(novelty_birth_threshold=threshold)
    counts = []
    for meeting in range(threshold):
        memory.retrieve(near(4, 0.05 * meeting))
        counts.append(born(memory))
    assert counts == [0] * (threshold - 1) + [1]
    assert memory.provisional_count == 0


def test_meetings_count_for_the_pattern_whatever_its_place_in_a_batch() -> None:
    memory = opened()
    memory.retrieve(patterns(0, 1, 2))
    memory.retrieve(patterns(3, 0, 4))
    assert born(memory) == 0
    memory.retrieve(patterns(5, 6, 0))
    assert born(memory) == 1
    assert memory.provisional_count == 6


def test_different_patterns_in_one_place_of_a_batch_are_never_born() -> None:
    memory = opened()
    for number in range(10):
        memory.retrieve(pattern(number))
    assert born(memory) == 0


def test_repeats_within_one_batch_are_meetings_of_one_pattern() -> None:
    memory = opened()
    memory.retrieve(patterns(0, 1, 0, 0))
    assert born(memory) == 1
    assert memory.provisional_count == 1


def test_provisional_concepts_are_found_at_once_and_not_counted() -> None:
    memory = opened()
    memory.retrieve(near(0))
    found = memory.retrieve(pattern(0))
    assert len(found.primary_concepts) == memory.provisional_count == 1
    torch.testing.assert_close(found.vectors[0], near(0))
    assert born(memory) == 0
    assert memory.logger.get_history() == []


def test_a_born_concept_keeps_the_id_and_vector_it_was_met_with() -> None:
    memory = opened()
    memory.retrieve(near(0))
    first = memory.retrieve(near(0)).primary_concepts
    meet(memory, near(0), times=1)
    found = memory.retrieve(near(0))
    assert born(memory) == 1
    assert found.primary_concepts == first
    torch.testing.assert_close(found.vectors[0], near(0))


def test_what_is_learned_shows_from_the_next_call_on() -> None:
    memory = opened()
    assert memory.retrieve(pattern(0)).primary_concepts == []
    assert memory.retrieve(patterns(1, 1)).mask.any(-1).tolist() == [True, True]
    assert len(memory.retrieve(pattern(2)).concept_ids) == 2


def test_confirmations_outlive_the_navigation_state() -> None:
    memory = opened()
    for _ in range(3):
        memory.retrieve(pattern(0))
        memory.reset_state()
    assert born(memory) == 1


def test_confirmations_outlive_the_process() -> None:
    counts = [run_child(meet_once, "memory", 3)[0] for _ in range(3)]
    assert counts == [(0, 1), (0, 1), (1, 0)]
    assert run_child(look, "memory") == [(1, 0, 0)]


def test_saved_confirmations_outlive_a_close_without_more_to_write() -> None:
    with opened() as memory:
        memory.retrieve(pattern(0))
        memory.save()
        memory.retrieve(pattern(0))
    with opened() as memory:
        assert memory.provisional_count == 1
        memory.retrieve(pattern(0))
        assert born(memory) == 1


def test_a_concept_born_since_the_last_save_is_not_provisional_for_others(tmp_path: Path) -> None:
    memory = opened(tmp_path / "memory")
    memory.retrieve(pattern(0))
    memory.save()
    meet(memory, pattern(0), times=2)
    assert born(memory) == 1
    assert run_child(look, str(tmp_path / "memory")) == [(1, 0, 0)]


def test_finetune_lets_one_birth_in_ten_through() -> None:
    memory = opened(memory_mode="FINETUNE")
    counts = []
    for number in range(DIM):
        meet(memory, pattern(number))
        counts.append(born(memory))
    assert counts == [0] * 9 + [1] * 7
    assert memory.provisional_count == DIM - 1


def test_what_finetune_held_back_train_lets_be_born() -> None:
    memory = opened(memory_mode="FINETUNE")
    meet(memory, patterns(0, 1, 2))
    assert born(memory) == 0
    memory.set_mode("TRAIN")
    memory.retrieve(patterns(0, 1, 2))
    assert born(memory) == 3


def test_inference_learns_nothing_and_writes_not_one_byte() -> None:
    with opened() as memory:
        meet(memory, patterns(0, 1))
        memory.retrieve(pattern(2))
    before = digest("memory")
    with AESGMemory.open("memory") as memory:
        assert memory.mode.value == "INFERENCE"
        for _ in range(5):
            meet(memory, patterns(2, 3, 0))
            found = memory.recall(patterns(4, 5))
            memory.defer(found, torch.tensor([1, 2]))
            memory.observe(torch.tensor([1, 2]))
            memory.update_topology()
            assert memory.remember(pattern(6)).tolist() == []
        memory.save()
        assert (born(memory), memory.provisional_count) == (2, 1)
        assert memory.rates.queries == 0
    assert digest("memory") == before


def test_inference_beside_a_trainer_in_one_process_teaches_nothing() -> None:
    trainer = opened()
    meet(trainer, pattern(0))
    reader = AESGMemory.open("memory", mode="INFERENCE")
    meet(reader, patterns(1, 2))
    reader.update_topology()
    assert (born(trainer), trainer.provisional_count) == (1, 0)
    assert trainer.rates.queries == 3


def test_explained_queries_refine_the_nearest_concept() -> None:
    memory = opened()
    meet(memory, pattern(0))
    born(memory)
    before = _stats(memory, pattern(0))
    for _ in range(10):
        memory.update_topology()  # one consolidation: relevance fades
    memory.retrieve(near(0))
    memory.save()
    after = _stats(memory, pattern(0))
    assert after["frequency"] == before["frequency"] + 1
    assert 0.95 < after["relevance"] < before["relevance"] == 1
    assert after["tick"] > before["tick"]
    assert born(memory) == 1 and memory.provisional_count == 0


def test_rates_say_how_much_was_new() -> None:
    memory = opened()
    meet(memory, patterns(0, 1))
    memory.retrieve(patterns(0, 1, 2))
    rates = memory.rates
    assert (rates.queries, rates.provisional, rates.born) == (9, 3, 2)


def test_an_outcome_makes_a_concept_that_says_it() -> None:
    memory = opened()
    for _ in range(3):
        step(memory, patterns(0, 1), torch.tensor([7, -100]))
    found = memory.recall(patterns(0, 1))
    assert born(memory) == 1
    assert found.value_ids.tolist() == [[7], [7]]
    assert memory.provisional_count == 0


def test_another_outcome_at_the_same_key_is_novel() -> None:
    memory = opened()
    step(memory, patterns(0), torch.tensor([7]))
    step(memory, patterns(0), torch.tensor([8]))
    assert sorted(memory.recall(pattern(0)).value_ids.tolist()) == [7, 8]


def test_what_model_and_memory_expected_is_not_novel() -> None:
    memory = opened()
    expected = torch.tensor([[0.01, 0.98, 0.01], [0.7, 0.2, 0.1]]).log()
    for outcomes in ([1, 2], [1, 0], [1, -100]):
        memory.defer(memory.recall(patterns(0, 1)), torch.tensor(outcomes), expected)
        memory.update_topology()
    assert memory.recall(patterns(0, 1)).value_ids.tolist() == [[2], [2]]
    assert (memory.provisional_count, memory.rates.provisional) == (1, 1)


def test_observe_replaces_what_was_thought_to_come() -> None:
    memory = opened()
    memory.defer(memory.recall(patterns(0, 1)), torch.tensor([3, 4]))
    memory.observe(torch.tensor([5, 6], dtype=torch.int32))
    memory.update_topology()
    values = memory.recall(patterns(0, 1)).value_ids[:, 0]
    assert values.tolist() == [5, 6]


def test_vector_outcomes_are_what_a_concept_stands_for() -> None:
    memory = opened()
    step(memory, patterns(0), 3 * patterns(9))
    found = memory.recall(pattern(0), vectors=True)
    torch.testing.assert_close(found.vectors[0], 3 * pattern(9))
    torch.testing.assert_close(found.keys[0], pattern(0))


def test_a_vector_outcome_without_direction_teaches_nothing() -> None:
    memory = opened()
    came = torch.stack([torch.zeros(DIM), 3 * pattern(9)])
    for _ in range(3):
        step(memory, patterns(0, 1), came)
    assert (memory.provisional_count, born(memory), memory.rates.queries) == (0, 1, 3)
    assert memory.recall(pattern(0)).best_cosine == 0


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (torch.tensor([-7]), "expected an integer from 0 to 4, or -100"),
        (torch.tensor([5]), "expected an integer from 0 to 4, or -100"),
        (torch.full((1, DIM), torch.nan), "NaN or infinity"),
    ],
)
def test_outcomes_out_of_range_are_told(outcomes: torch.Tensor, words: str) -> None:
    memory = opened()
    memory.defer(memory.recall(patterns(0)), None, torch.full((1, 5), 0.2).log())
    memory.observe(outcomes)
    memory.defer(memory.recall(patterns(1)), torch.tensor([3]))
    with pytest.raises(AESGMemoryError, match=words):
        memory.update_topology()
    memory.update_topology()  # what did not fit is gone
    assert memory.provisional_count == 1  # and the other retrieval was learned from


_MISFITS: list[Any] = [
    (torch.arange(6).reshape(3, 2), r"6 integers in a tensor of shape \(2, 3\) or \(6,\), or one "),
    (torch.arange(3), r"or one for each sample, shape \(2,\), got shape \(3,\)"),
    (torch.arange(5), "expected 6 integers"),
    (torch.ones(2, 3), f"expected 6 vectors of width {DIM}"),
    (torch.ones(3, 2, DIM), f"expected 6 vectors of width {DIM}"),
    (torch.ones(2, 3, dtype=torch.bool), "got torch.bool"),
    (torch.ones(2, 3, dtype=torch.complex64), "got torch.complex64"),
    (None, "got NoneType"),
    ([1, 2, 3, 4, 5, 6], "got list"),
]


@pytest.mark.parametrize(("outcomes", "words"), _MISFITS)
def test_outcomes_of_another_shape_or_type_are_refused_at_once(outcomes: Any, words: str) -> None:
    memory = opened()
    memory.defer(memory.recall(patterns(0, 1, 2, 3, 4, 5).reshape(2, 3, DIM)))
    with pytest.raises(AESGMemoryError, match=words):
        memory.observe(outcomes)
    memory.observe(torch.arange(6))
    memory.update_topology()
    values = memory.recall(patterns(0, 1, 2, 3, 4, 5)).value_ids[:, 0]
    assert values.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (2, 3, 1)])
@pytest.mark.parametrize("observed", [False, True])
def test_an_outcome_of_a_sample_is_that_of_each_of_its_queries(
    shape: tuple[int, ...], observed: bool
) -> None:
    memory = opened()
    context = memory.recall(patterns(0, 1, 2, 3, 4, 5).reshape(*shape, DIM))
    labels = torch.tensor([7, 8])
    memory.defer(context, None if observed else labels)
    if observed:
        memory.observe(labels)
    memory.update_topology()
    values = memory.recall(patterns(0, 1, 2, 3, 4, 5)).value_ids[:, 0]
    assert values.tolist() == [7, 7, 7, 8, 8, 8]


def test_a_vector_of_a_sample_is_that_of_each_of_its_queries() -> None:
    memory = opened()
    step(memory, patterns(0, 1, 2, 3).reshape(2, 2, DIM), 3 * patterns(8, 9))
    found = memory.recall(patterns(0, 1, 2, 3), vectors=True)
    torch.testing.assert_close(found.vectors[:, 0], 3 * patterns(8, 8, 9, 9))


def test_a_label_of_a_sample_may_be_explained_and_re_keyed() -> None:
    memory = opened()
    queries, label = patterns(0, 1).reshape(1, 2, DIM), torch.tensor([4])
    judged = [query.judgement for query in memory.explain(queries, label).queries]
    assert None not in judged and len(judged) == 2
    memory.remember(patterns(2, 3), [4, 4], origins=torch.tensor([7, 7]))
    assert memory.rekey(queries, label, origins=torch.tensor([7])) == 2


@pytest.mark.parametrize("expects", ["log_probs", "expected"])
def test_a_retrieval_whose_outcome_never_came_teaches_nothing_and_says_so_once(
    expects: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = opened()
    told = {"log_probs": torch.full((2, 4), 0.25).log(), "expected": torch.ones(2, DIM)}[expects]
    for _ in range(3):
        memory.defer(memory.recall(patterns(0, 1)), **{expects: told})
        memory.update_topology()
    assert (memory.provisional_count, born(memory), memory.rates.queries) == (0, 0, 0)
    (said,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert "call model.observe(targets) before memory.update_topology()" in said
    memory.defer(memory.recall(patterns(0, 1)), **{expects: told})
    memory.observe(torch.tensor([1, 2]) if expects == "log_probs" else patterns(3, 4))
    memory.update_topology()
    assert memory.provisional_count == 2


@pytest.mark.parametrize(("mode", "learns"), [("TRAIN", 0), ("FINETUNE", 0), ("ONLINE", 1)])
@pytest.mark.parametrize("at_once", [False, True])
def test_in_eval_mode_only_online_learns(mode: str, learns: int, at_once: bool) -> None:
    memory = opened().eval()
    memory.set_mode(mode)
    if at_once:
        memory.retrieve(patterns(0))
    else:
        memory.defer(memory.recall(patterns(0)))
        memory.observe(torch.tensor([3]))
        memory.update_topology()
    assert (memory.provisional_count, memory.rates.queries) == (learns, learns)


def test_what_is_validated_between_two_steps_is_not_told_what_came_in_training() -> None:
    memory = opened()
    model = torch.nn.ModuleDict({"memory": memory}).eval()
    memory.defer(memory.recall(patterns(5, 6)))
    model.train()
    memory.defer(memory.recall(patterns(0, 1, 2)))
    memory.observe(torch.tensor([1, 2, 3]))
    memory.update_topology()
    assert memory.recall(patterns(0, 1, 2)).value_ids[:, 0].tolist() == [1, 2, 3]
    assert memory.provisional_count == 3


def test_each_retrieval_learns_what_was_observed_after_it() -> None:
    memory = opened()
    for first in (0, 4):
        memory.defer(memory.recall(patterns(first, first + 1)))
        memory.observe(torch.tensor([first + 10, first + 11]))
    memory.update_topology()
    values = memory.recall(patterns(0, 1, 4, 5)).value_ids[:, 0]
    assert values.tolist() == [10, 11, 14, 15]


@pytest.mark.parametrize(
    ("expected", "novel"), [((1, 1), 0), ((1, 0), 0), ((0, 1), 1), ((0, 0), 1)]
)
def test_a_vector_outcome_is_explained_as_far_as_it_was_expected(
    expected: tuple[int, int], novel: int
) -> None:
    memory = opened()
    likely = expected[0] * pattern(3) + expected[1] * pattern(4)
    memory.defer(memory.recall(patterns(0)), 5 * patterns(3), expected=likely.unsqueeze(0))
    memory.update_topology()
    assert memory.provisional_count == novel


@pytest.mark.parametrize(("wrong", "novel"), [(False, 0), (True, 1)])
def test_what_is_expected_goes_before_what_the_memory_alone_says(wrong: bool, novel: int) -> None:
    memory = opened()
    memory.remember(patterns(0), patterns(0))
    context = memory.recall(patterns(0) + 0.5 * patterns(1))
    memory.defer(context, patterns(0), expected=patterns(4) if wrong else None)
    memory.update_topology()
    assert memory.provisional_count == novel


def test_expected_vectors_keep_no_graph_alive() -> None:
    memory = opened()
    expected = patterns(3).requires_grad_()
    memory.defer(memory.recall(patterns(0)), patterns(3), expected=expected)
    (held,) = memory._deferred
    assert held.expected is not None
    assert not held.expected.requires_grad


@pytest.mark.parametrize(
    "expected",
    [
        patterns(3, 4),
        patterns(3)[:, :5],
        torch.tensor([3]),
        torch.full((1, DIM), torch.nan),
        [0.0] * DIM,
    ],
)
def test_expected_vectors_that_do_not_fit_are_refused(expected: Any) -> None:
    memory = opened()
    with pytest.raises(AESGMemoryError, match="Expected vectors"):
        memory.defer(memory.recall(patterns(0)), patterns(3), expected=expected)
    memory.update_topology()
    assert memory.rates.queries == 0


def test_reset_state_forgets_what_waits_to_be_learned() -> None:
    memory = opened()
    memory.defer(memory.recall(patterns(0)), torch.tensor([1]))
    memory.reset_state()
    memory.update_topology()
    assert memory.rates.queries == 0


def test_what_waits_to_be_learned_keeps_no_graph_alive() -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    query = near(0).requires_grad_()
    found = memory.recall(query)
    memory.defer(found)
    found.aggregate().sum().backward()  # type: ignore[no-untyped-call]
    (held,) = memory._deferred
    assert not held.context.weights.requires_grad
    assert not held.context.aggregate().requires_grad


def test_retrievals_that_are_never_learned_from_do_not_gather(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    one = memory.recall(pattern(0))
    monkeypatch.setattr("aesg.learning._MOST_DEFERRED", 4 * Deferred(one).nbytes)
    for _ in range(20):
        memory.defer(one)
    memory.update_topology()
    assert memory.rates.queries == 4


@pytest.mark.parametrize("mode", WRITING)
def test_no_more_concepts_are_born_than_may_be(mode: str) -> None:
    memory = opened(memory_mode=mode, max_concepts=4, novelty_birth_threshold=1)
    for number in range(DIM):
        meet(memory, pattern(number), times=20)
        memory.update_topology()
        assert born(memory) <= 4
    assert born(memory) == 4
    pruned = [event for event in memory.logger.get_history() if event["type"] == "PRUNE"]
    assert bool(pruned) == (mode == "TRAIN")
    assert memory.storage.verify() == []


def test_a_batch_of_births_beyond_the_limit_fills_it_and_no_more() -> None:
    memory = opened(max_concepts=5, novelty_birth_threshold=1)
    memory.remember(patterns(15, 14))
    memory.retrieve(patterns(*range(12)))
    assert born(memory) == 5
    assert memory.storage.verify() == []


def test_in_train_the_weakest_make_room() -> None:
    memory = opened(max_concepts=3)
    ids = memory.remember(patterns(0, 1, 2)).tolist()
    for number in (0, 2):
        memory.retrieve(pattern(number))
    memory.save()
    meet(memory, pattern(5))
    assert born(memory) == 3
    held = memory.recall(patterns(0, 1, 2, 5)).concept_ids
    assert ids[1] not in held
    assert {ids[0], ids[2]} <= set(held.ravel().tolist())


@pytest.mark.parametrize("mode", WRITING)
def test_only_train_prunes_what_is_old_irrelevant_and_rare(mode: str) -> None:
    memory = opened(memory_mode=mode, consolidation_epoch_interval=1)
    memory.remember(patterns(0, 1))
    for _ in range(80):
        memory.update_topology()
    memory.save()
    assert born(memory) == (0 if mode == "TRAIN" else 2)
    kinds = [event["type"] for event in memory.logger.get_history()]
    assert kinds.count("CONSOLIDATE") == 80
    assert kinds.count("PRUNE") == (2 if mode == "TRAIN" else 0)


def test_used_concepts_outlive_unused_ones() -> None:
    memory = opened(consolidation_epoch_interval=1)
    ids = memory.remember(patterns(0, 1)).tolist()
    for _ in range(80):
        memory.retrieve(pattern(1))
        memory.update_topology()
    memory.save()
    assert memory.recall(patterns(0, 1)).concept_ids.tolist() == [[ids[1]], [ids[1]]]


def test_consecutive_calls_make_successor_edges_once_both_ends_are_born() -> None:
    memory = opened()
    edges = []
    for _ in range(4):
        memory.reset_state()
        memory.retrieve(pattern(0))
        memory.retrieve(pattern(1))
        edges.append(memory.storage.edge_count)
    first, second = (memory.recall(pattern(n)).primary_concepts[0] for n in (0, 1))
    assert edges[0] == edges[1] == 0
    assert edges[-1] == 1
    assert _targets(memory, first) == [second]


def test_reset_state_ends_a_sequence() -> None:
    memory = opened()
    for _ in range(4):
        for number in (0, 1):
            memory.retrieve(pattern(number))
            memory.reset_state()
    assert born(memory) == 2
    assert memory.storage.edge_count == 0


def test_a_sequence_of_queries_makes_successor_edges() -> None:
    memory = opened()
    both = torch.stack([patterns(0, 1, 2), patterns(5, 6, 7)])
    for _ in range(4):
        memory.reset_state()
        memory.retrieve(both)
    memory.save()
    ids = [memory.recall(pattern(n)).primary_concepts[0] for n in (0, 1, 2, 5, 6, 7)]
    after = [_targets(memory, each) for each in ids]
    assert after == [[ids[1]], [ids[2]], [], [ids[4]], [ids[5]], []]


def test_consecutive_sequences_join_end_to_beginning() -> None:
    memory = opened()
    memory.remember(patterns(0, 1, 2, 3))
    memory.retrieve(patterns(0, 1)[None])
    memory.retrieve(patterns(2, 3)[None])
    memory.save()
    a, b, c, d = (memory.recall(pattern(n)).primary_concepts[0] for n in range(4))
    assert [_targets(memory, each) for each in (a, b, c, d)] == [[b], [c], [d], []]


def test_successors_of_what_was_right_are_followed_instead_of_a_search() -> None:
    memory = opened()
    sequence = patterns(0, 1, 2, 3)[None]
    outcomes = torch.tensor([[10, 11, 12, 13]])
    for _ in range(3):
        step(memory, sequence, outcomes)
    memory.save()
    found = memory.recall(sequence, outcomes=outcomes)
    assert found.found.followed.tolist() == [False, True, True, True]
    assert found.value_ids[0, :, 0].tolist() == [10, 11, 12, 13]
    wrong = memory.recall(sequence, outcomes=torch.tensor([[10, 99, 12, 13]]))
    assert wrong.found.followed.tolist() == [False, True, False, True]


def test_provisional_successors_are_followed_too() -> None:
    memory = opened()
    sequence, outcomes = patterns(0, 1, 2)[None], torch.tensor([[10, 11, 12]])
    step(memory, sequence, outcomes)
    assert born(memory) == 0
    assert memory.recall(sequence, outcomes=outcomes).found.followed.tolist() == [False, True, True]


def test_a_position_does_not_depend_on_what_comes_at_it_or_later() -> None:
    memory = opened()
    generator = torch.Generator().manual_seed(3)
    sequences = torch.randn(4, 6, DIM, generator=generator)
    outcomes = torch.randint(5, (4, 6), generator=generator)
    for _ in range(3):
        step(memory, sequences, outcomes)
    whole = memory.recall(sequences, outcomes=outcomes)
    for t in range(6):
        changed = outcomes.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 5
        part = memory.recall(sequences[:, : t + 1], outcomes=changed[:, : t + 1])
        ids = whole.concept_ids[:, t]
        assert ids[:, : part.mask.shape[-1]].tolist() == part.concept_ids[:, t].tolist()
        shared = whole.weights[:, t, : part.mask.shape[-1]]
        torch.testing.assert_close(shared, part.weights[:, t])


def test_concepts_active_together_often_enough_get_edges() -> None:
    memory = opened(coactivation_threshold_create=5, memory_mode="ONLINE")
    ids = memory.remember(patterns(0, 1)).tolist()
    both = pattern(0) + 0.9 * pattern(1)
    meet(memory, both, times=4)
    assert memory.storage.edge_count == 0
    meet(memory, both, times=1)
    assert memory.storage.edge_count == 2
    assert [_targets(memory, each) for each in ids] == [[ids[1]], [ids[0]]]


def test_activation_spreads_along_edges_and_paths_tell_how() -> None:
    memory = opened()
    ids = memory.remember(patterns(*range(8))).tolist()
    memory.retrieve(pattern(0))
    memory.retrieve(pattern(7))
    memory.save()
    found = memory.recall(pattern(0), top_k=2)
    assert found.concept_ids.tolist() == [ids[0], ids[7]]
    assert found.paths == [[ids[0]], [ids[0], ids[7]]]


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "ONLINE", "INFERENCE"])
def test_training_never_finds_concepts_of_its_own_origin(mode: str) -> None:
    memory = opened(memory_mode=mode if mode != "INFERENCE" else "TRAIN")
    writer = opened()
    own = writer.remember(patterns(0, 1), origins=torch.tensor([-5, 6])).tolist()
    memory.set_mode(mode)
    found = memory.recall(patterns(0, 0), origins=torch.tensor([-5, 0]))
    excluded = mode in ("TRAIN", "FINETUNE")
    assert (own[0] in found.concept_ids[0]) == (not excluded)
    assert own[0] in found.concept_ids[1]
    assert own[1] in found.concept_ids[0]


def _slot(memory: AESGMemory, concept_id: int) -> Any:
    view = memory.storage.engine.view()
    return int(view.slots(torch.tensor([concept_id]).numpy().astype("uint64"))[0])


def _targets(memory: AESGMemory, concept_id: int) -> list[int]:
    targets: list[int] = memory.storage.engine.view().edges(concept_id)["target"].tolist()
    return targets


def _stats(memory: AESGMemory, query: torch.Tensor) -> Any:
    concept_id = memory.recall(query).primary_concepts[0]
    return memory.storage.engine.view().stats[_slot(memory, concept_id)].copy()


@pytest.mark.parametrize("wrong", [0.0, 2.0, -5.0, float("nan"), float("inf")])
def test_scores_that_are_no_log_probabilities_are_refused(wrong: float) -> None:
    memory = opened()
    log_probs = torch.stack([torch.full((3,), 1 / 3).log(), torch.full((3,), wrong)])
    with pytest.raises(AESGMemoryError, match="of query 1: expected logarithms of probabilities"):
        memory.defer(memory.recall(patterns(0, 1)), torch.tensor([0, 1]), log_probs)
    memory.update_topology()
    assert memory.provisional_count == 0
    memory.defer(memory.recall(patterns(0, 1)), torch.tensor([0, -100]), log_probs)
    memory.update_topology()
    assert memory.provisional_count == 1
