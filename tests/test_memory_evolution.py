"""What training makes of the graph beside growing it: each step from ordinary calls alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aesg import AESGMemory, AESGStorageError
from aesg.evolution import Evolution
from aesg.graph import regions
from aesg.graph.fading import Fading, Thresholds
from aesg.graph.turns import Tour
from aesg.memory_durable import DurableState
from aesg.memory_stored import settings_of
from aesg.payload import pack_payloads
from storage_backends.errors import StoreFullError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EventType, WriteBatch
from storage_backends.view import View
from tests.memory_build import DIM, born, near, opened, pattern, patterns
from tests.memory_children import resolve
from tests.memory_processes import child

KEEPING = ["FINETUNE", "ONLINE", "INFERENCE"]


def events(memory: AESGMemory, kind: str) -> list[dict[str, Any]]:
    return [event for event in memory.logger.get_history() if event["type"] == kind]


def targets(memory: AESGMemory, concept_id: int) -> list[int]:
    held: list[int] = memory.storage.engine.view().edges(concept_id)["target"].tolist()
    return held


def confidence(memory: AESGMemory, source: int, target: int) -> float:
    """Return the confidence of an edge as its row states it."""
    row = memory.storage.engine.view().edges(source)
    return float(row["confidence"][row["target"] == target][0])


def region(memory: AESGMemory, concept_id: int) -> int:
    view = memory.storage.engine.view()
    return int(view.regions[view.slots(np.array([concept_id], np.uint64))][0])


def follow(memory: AESGMemory, *keys: Tensor) -> None:
    """Let a memory meet keys one after the other."""
    memory.reset_state()
    for key in keys:
        memory.retrieve(key)
    memory.reset_state()


def off(number: int, towards: int, share: float) -> Tensor:
    return pattern(number) + share * pattern(towards)


# A step each: what makes it due, and the event that tells of it.


def doubled(memory: AESGMemory) -> None:
    """Remember two concepts that say the same, and one that is linked to the later one."""
    memory.remember(torch.stack([near(0, 0.0), near(0, 0.2), pattern(5)]), [7, 7, 9])
    follow(memory, pattern(5), near(0, 0.2))


def crowded(memory: AESGMemory) -> None:
    """Remember a concept, and link it to two groups of others."""
    around = [off(2, each, 0.7) for each in (4, 5, 6)] + [off(3, each, 0.7) for each in (7, 8, 9)]
    memory.remember(torch.stack([pattern(0), *around]))
    for key in around:
        follow(memory, pattern(0), key)


def separate(memory: AESGMemory) -> None:
    """Link concepts in two circles."""
    memory.remember(patterns(*range(8)))
    for first in (0, 4):
        circle = [pattern(first + each % 4) for each in range(9)]
        follow(memory, *circle)


def huddled(memory: AESGMemory) -> None:
    """Link concepts that lie close together in a circle, and others that do not in another."""
    around = [off(0, each, 0.4) for each in range(1, 6)]
    memory.remember(torch.stack(around), [3] * 5)
    follow(memory, *around, *around)
    apart = patterns(8, 9, 10, 11, 12)
    memory.remember(apart)
    follow(memory, *apart, *apart)


STEPS: dict[str, tuple[Callable[[AESGMemory], None], str]] = {
    "merge": (doubled, "MERGE"),
    "split": (crowded, "SPLIT"),
    "regions": (separate, "RESTRUCTURE"),
    "abstraction": (huddled, "CREATE"),
}


def prepared(step: str, mode: str = "TRAIN", **fields: Any) -> AESGMemory:
    """Return a memory in which a step is due at the next update."""
    memory = opened(
        consolidation_epoch_interval=1,
        region_detection_interval=1,
        split_density_threshold=5,
        coactivation_threshold_create=1000,
        **fields,
    )
    STEPS[step][0](memory)
    memory.save()
    memory.set_mode(mode)
    return memory


def told(memory: AESGMemory, step: str) -> list[dict[str, Any]]:
    """Return the events of a step; of births only those of abstract concepts."""
    return [each for each in events(memory, STEPS[step][1]) if step != "abstraction" or each["id2"]]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_taken_in_training_logged_and_kept(step: str) -> None:
    memory = prepared(step)
    before = born(memory)
    memory.update_topology()
    memory.save()
    made = told(memory, step)
    assert made
    assert born(memory) - before == {"merge": -1, "regions": 0}.get(step, 1)
    assert memory.storage.verify() == []
    edges = memory.storage.edge_count
    memory.close()
    with AESGMemory.open(memory.directory) as again:
        assert told(again, step) == made
        assert again.storage.edge_count == edges
        assert again.storage.verify() == []


@pytest.mark.parametrize("mode", KEEPING)
@pytest.mark.parametrize("step", STEPS)
def test_a_mode_that_keeps_the_structure_takes_no_step(step: str, mode: str) -> None:
    memory = prepared(step, mode)
    before = born(memory), memory.storage.edge_count
    for _ in range(3):
        memory.update_topology()
    memory.set_mode("TRAIN")
    assert told(memory, step) == []
    assert (born(memory), memory.storage.edge_count) == before
    memory.update_topology()
    memory.save()
    assert told(memory, step)  # it was due all the while


@pytest.mark.parametrize("step", STEPS)
def test_a_step_once_taken_is_not_taken_again(step: str) -> None:
    memory = prepared(step)
    memory.update_topology()
    made = told(memory, step)
    after = born(memory)
    for _ in range(4):
        memory.update_topology()
    memory.save()
    assert told(memory, step) == made
    assert born(memory) == after


def test_whoever_knew_a_merged_concept_finds_what_stands_for_it() -> None:
    memory = prepared("merge")
    first, second, third = (memory.recall(each).primary_concepts[0] for each in MERGED)
    memory.update_topology()
    memory.save()
    (event,) = events(memory, "MERGE")
    stands, gone = event["id1"], event["id2"]
    assert {stands, gone} == {first, second}
    assert memory.resolve([gone, stands, third, 999]).tolist() == [stands, stands, third, 0]
    assert targets(memory, third) == [stands]
    found = memory.recall(near(0, 0.1))
    assert gone not in found.concept_ids
    assert found.value_ids.tolist()[0] == 7
    memory.close()
    with AESGMemory.open(memory.directory) as again:
        assert again.resolve([gone]).tolist() == [stands]


MERGED = (near(0, 0.0), near(0, 0.2), pattern(5))


def test_the_payload_of_a_merged_concept_is_found_by_either_id() -> None:
    memory = opened(consolidation_epoch_interval=1)
    ids = memory.remember(torch.stack(MERGED[:2]), [7, 7], [None, "kept"])
    memory.update_topology()
    assert born(memory) == 1
    assert memory.payloads(ids) == ["kept", "kept"]


def test_a_payload_is_found_by_a_reader_that_has_not_seen_the_merge_yet() -> None:
    memory = opened(consolidation_epoch_interval=1)
    ids = memory.remember(torch.stack(MERGED[:2]), [7, 7], [None, "kept"])
    reopen = partial(LMDBStore.open, "memory")
    with closing(DurableState(reopen(read_only=True), reopen, "full")) as reader:
        memory.update_topology()
        assert born(memory) == 1
        assert reader.view.node_count == 2  # it has not been told to look
        assert reader.payloads(ids) == pack_payloads(["kept", "kept"], 2)


def test_what_is_provisional_stands_for_itself() -> None:
    memory = opened()
    memory.retrieve(pattern(0))
    (concept_id,) = memory.recall(pattern(0)).primary_concepts
    assert memory.resolve([concept_id, concept_id + 1]).tolist() == [concept_id, 0]
    assert memory.resolve([]).tolist() == []


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_cannot_be_written_is_taken_later(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = prepared(step)
    engine = memory.storage.engine
    before = born(memory), engine.view().generation
    commit = engine.commit

    def fail(batch: WriteBatch) -> View:
        if STEPS[step][1] in {EventType(each).name for each in batch.events["type"].tolist()}:
            raise StoreFullError("full")
        return commit(batch)

    monkeypatch.setattr(engine, "commit", fail)
    with pytest.raises(AESGStorageError, match="full"):
        memory.update_topology()
    monkeypatch.undo()
    assert born(memory) == before[0]
    assert told(memory, step) == []
    memory.update_topology()
    memory.save()
    assert told(memory, step)
    assert memory.storage.verify() == []


def test_what_differs_in_value_or_payload_is_never_merged() -> None:
    memory = opened(consolidation_epoch_interval=1)
    memory.remember(torch.stack(MERGED[:2]), [7, 8])
    memory.remember(torch.stack([near(3, 0.0), near(3, 0.2)]), [7, 7], ["a", "b"])
    memory.update_topology()
    assert born(memory) == 4


def test_what_is_under_way_survives_a_merge() -> None:
    memory = opened(consolidation_epoch_interval=1, novelty_birth_threshold=2)
    memory.remember(torch.stack(MERGED[:2]))
    memory.retrieve(pattern(9))  # provisional, and before a concept that is about to go
    memory.retrieve(near(0, 0.0))
    waiting = memory.recall(near(0, 0.2))
    memory.update_topology()
    memory.defer(waiting)
    memory.update_topology()
    memory.retrieve(near(0, 0.0))
    memory.retrieve(pattern(9))  # born
    memory.save()
    assert born(memory) == 2
    one, other = (memory.recall(each).primary_concepts[0] for each in (pattern(9), near(0)))
    assert other in targets(memory, one)
    assert memory.storage.verify() == []


def test_a_query_near_either_part_of_a_split_concept_finds_that_part() -> None:
    memory = prepared("split")
    memory.update_topology()
    memory.save()
    (event,) = events(memory, "SPLIT")
    sides = [set(targets(memory, event[name])) - {event["id1"], event["id2"]} for name in ID]
    assert sorted(map(len, sides)) == [3, 3]
    assert not sides[0] & sides[1]
    assert event["id2"] in targets(memory, event["id1"])
    assert event["id1"] in targets(memory, event["id2"])
    for name, side in zip(ID, sides, strict=True):
        number = 2 if side & set(memory.recall(off(2, 4, 0.7)).primary_concepts[:1]) else 3
        found = memory.recall(pattern(0) + 0.5 * pattern(number), top_k=8).concept_ids.tolist()
        assert event[name] in found
        assert side <= set(found)


ID = ("id1", "id2")


@pytest.mark.parametrize(("most", "split"), [(6, True), (7, False)])
def test_a_concept_that_can_take_no_more_edges_is_split_however_many_the_threshold_lets(
    most: int, split: bool
) -> None:
    memory = opened(
        consolidation_epoch_interval=1,
        max_edges_per_node=most,
        split_density_threshold=800,
        coactivation_threshold_create=1000,
    )
    crowded(memory)
    memory.update_topology()
    memory.save()
    assert len(events(memory, "SPLIT")) == split
    assert memory.storage.verify() == []


def test_joint_activations_are_counted_on_after_a_restart() -> None:
    both = pattern(0) + pattern(1)
    with opened(coactivation_threshold_create=4) as memory:
        one, other = memory.remember(patterns(0, 1)).tolist()
        for _ in range(3):
            memory.retrieve(both)
            memory.reset_state()
        memory.save()
        assert targets(memory, one) == []
    with opened(coactivation_threshold_create=4) as memory:
        memory.retrieve(both)
        memory.save()
        assert (targets(memory, one), targets(memory, other)) == ([other], [one])


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[list[int] | None]:
    """Return a list that gathers the ids that each detection of regions is told changed."""
    told: list[list[int] | None] = []
    detect = regions.detect

    def noted(view: View, previous: Any, changed: Any) -> regions.Found:
        told.append(None if changed is None else sorted(view.ids[changed].tolist()))
        return detect(view, previous, changed)

    monkeypatch.setattr(regions, "detect", noted)
    return told


@pytest.mark.parametrize("is_told", [True, False])
def test_a_process_that_begins_goes_on_from_the_regions_there_are(
    is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_told:  # by what an earlier release has saved
        monkeypatch.setattr(Evolution, "load", lambda *_, is_all: None)
    every: dict[str, Any] = {"consolidation_epoch_interval": 1, "region_detection_interval": 2}
    memory = opened(**every)
    separate(memory)
    told = looked_at(monkeypatch)
    for _ in range(5):
        memory.update_topology()
    assert told == [None]  # most had changed; nothing did since
    before = [region(memory, each) for each in range(1, 9)]
    memory.close()
    with opened(**every) as memory:
        memory.update_topology()
        looked: list[Any] = [None] if is_told else [None, []]
        assert told == looked
        assert [region(memory, each) for each in range(1, 9)] == before
        memory.update_topology()
        follow(memory, pattern(0), pattern(1))
    with opened(**every) as memory:
        memory.update_topology()
        assert told == [*looked, [1]]


def test_circles_that_nothing_joins_are_two_regions() -> None:
    memory = prepared("regions", abstraction_enabled=False)
    ids = memory.recall(patterns(*range(8)), top_k=1).concept_ids[:, 0].tolist()
    memory.update_topology()
    memory.save()
    regions = [region(memory, each) for each in ids]
    assert len(set(regions)) == 2
    assert len(set(regions[:4])) == len(set(regions[4:])) == 1
    assert 0 not in regions
    (event,) = events(memory, "RESTRUCTURE")
    assert (event["id1"], event["id2"]) == (0, 2)


def test_regions_are_detected_at_their_interval() -> None:
    memory = opened(consolidation_epoch_interval=2, region_detection_interval=3)
    separate(memory)
    counts = []
    for _ in range(12):
        memory.update_topology()
        counts.append(len(events(memory, "RESTRUCTURE")))
    assert counts == [0] * 5 + [1] * 7


def test_an_abstract_concept_stands_above_its_group() -> None:
    memory = prepared("abstraction")
    ids = memory.recall(patterns(1, 2, 3, 4, 5), top_k=1).concept_ids[:, 0].tolist()
    memory.update_topology()
    memory.save()
    (event,) = told(memory, "abstraction")
    assert (event["id2"], event["val"]) == (5, 1.0)
    above = event["id1"]
    assert sorted(targets(memory, above)) == sorted(ids)
    assert all(above in targets(memory, each) for each in ids)
    found = memory.recall(pattern(0), top_k=1)
    assert found.primary_concepts == [above]
    assert found.value_ids.tolist() == [3]


def test_the_learned_projection_decides_where_an_abstract_concept_lies() -> None:
    memory = prepared("abstraction")
    with torch.no_grad():
        memory.abstraction_projection.weight.copy_(-torch.eye(DIM))
        memory.abstraction_projection.weight[14] = 1
    memory.update_topology()
    (event,) = told(memory, "abstraction")
    assert memory.recall(pattern(14), top_k=1).primary_concepts == [event["id1"]]


def test_without_abstraction_there_are_regions_only() -> None:
    memory = prepared("abstraction", abstraction_enabled=False)
    memory.update_topology()
    assert told(memory, "abstraction") == []
    assert len(events(memory, "RESTRUCTURE")) == 1


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "ONLINE"])
def test_only_train_drops_edges_that_nobody_uses(mode: str) -> None:
    memory = opened(consolidation_epoch_interval=1, prune_confidence_threshold=0.27)
    one, other = memory.remember(patterns(0, 1)).tolist()
    follow(memory, pattern(0), pattern(1))
    memory.save()
    memory.set_mode(mode)
    for _ in range(15):
        memory.update_topology()
    memory.save()
    assert targets(memory, one) == ([] if mode == "TRAIN" else [other])
    dropped = [(each["id1"], each["id2"]) for each in events(memory, "PRUNE")]
    assert dropped == ([(one, 1)] if mode == "TRAIN" else [])
    told = [(each["id1"], each["id2"], each["val"]) for each in events(memory, "CONSOLIDATE")]
    assert told[0] == (1, 1, 2.0)  # edges and concepts as it begins
    assert told[-1] == (15, len(targets(memory, one)), 2.0)
    assert born(memory) == 2


def test_what_an_interrupt_kept_from_being_noted_fades_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = opened(consolidation_epoch_interval=1)
    memory.remember(pattern(0))
    memory.update_topology()

    def interrupted(self: Evolution, *what: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Evolution, "committed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.remember(pattern(1))
    assert born(memory) == 2
    for _ in range(62):
        memory.update_topology()
    assert born(memory) == 0


def test_edges_that_are_used_outlive_those_that_are_not() -> None:
    memory = opened(consolidation_epoch_interval=1, prune_confidence_threshold=0.27)
    ids = memory.remember(patterns(0, 1, 2)).tolist()
    follow(memory, pattern(0), pattern(1))
    follow(memory, pattern(0), pattern(2))
    for _ in range(15):
        memory.update_topology()
        follow(memory, pattern(0), pattern(2))
    memory.save()
    assert targets(memory, ids[0]) == [ids[2]]


def test_an_edge_that_led_to_what_was_right_grows_stronger() -> None:
    memory = opened()
    one, _, _, other = memory.remember(patterns(0, 1, 2, 7), [4, 6, 6, 5]).tolist()
    follow(memory, pattern(0), pattern(7))
    memory.save()
    first = confidence(memory, one, other)
    for outcome, stronger in ((4, False), (5, True)):
        found = memory.recall(pattern(0)[None], top_k=2)
        memory.defer(found, torch.tensor([outcome]))
        memory.update_topology()
        memory.save()
        assert (confidence(memory, one, other) > first) == stronger


def test_co_activation_that_joins_two_concepts_is_an_event() -> None:
    memory = opened(coactivation_threshold_create=2)
    ids = memory.remember(patterns(0, 1)).tolist()
    for _ in range(3):
        follow(memory, pattern(0) + 0.9 * pattern(1))
    memory.save()
    (event,) = events(memory, "RESTRUCTURE")
    assert [event["id1"], event["id2"]] == ids
    assert event["val"] == pytest.approx(confidence(memory, *ids))


@pytest.mark.parametrize("together", [True, False])
def test_a_value_leads_to_the_concept_whose_key_it_resembles(together: bool) -> None:
    memory = opened()
    memory.remember(patterns(3, 4, 5))
    keys, values = patterns(0, 1), patterns(1, 2)
    if together:
        first, second = memory.remember(keys, values).tolist()
    else:
        first, second = (int(memory.remember(keys[n], values[n])[0]) for n in (0, 1))
    assert targets(memory, first) == [second]
    assert targets(memory, second) == []
    found = memory.recall(pattern(0), top_k=2)
    assert found.paths == [[first], [first, second]]
    assert memory.storage.verify() == []


def test_values_of_concepts_born_of_queries_lead_on_too() -> None:
    memory = opened(novelty_birth_threshold=1)
    known, other = memory.remember(torch.stack([pattern(1), off(0, 3, 1.0)])).tolist()
    memory.defer(memory.recall(patterns(0), top_k=1), patterns(1))
    memory.update_topology()
    memory.save()
    concept_id = memory.recall(pattern(0)).primary_concepts[0]
    assert concept_id not in (known, other)
    assert targets(memory, concept_id) == [known]


def test_the_log_keeps_as_many_events_as_it_may() -> None:
    memory = opened(max_events=5)
    for number in range(DIM):
        memory.remember(pattern(number))
    kept = events(memory, "CREATE")
    assert len(kept) == 5
    assert memory.storage.engine.view().settings["max_events"] == b"5"
    newest = memory.recall(pattern(DIM - 1)).primary_concepts[0]
    assert kept[-1]["id1"] == newest
    assert memory.storage.verify() == []


@pytest.mark.parametrize("step", ["merge", "split", "regions", "abstraction"])
def test_a_consolidation_is_told_of_with_the_first_that_it_changes(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = prepared(step)
    engine = memory.storage.engine
    commit, written = engine.commit, []

    def watched(batch: WriteBatch) -> View:
        view = commit(batch)
        told = [each for each in engine.store.events() if each["type"] == EventType.CONSOLIDATE]
        written.append((view.settings["epoch"], len(told)))
        return view

    monkeypatch.setattr(engine, "commit", watched)
    edges, count = memory.storage.edge_count, born(memory)
    memory.update_topology()
    assert written
    assert set(written) == {(b"1", 1)}
    (event,) = events(memory, "CONSOLIDATE")
    assert (event["id1"], event["id2"], event["val"]) == (1, edges, count)


def test_consolidations_that_change_nothing_are_written_before_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aesg.memory_durable._COMMIT_CHANGES", 10)
    memory = opened("other", consolidation_epoch_interval=1)
    for _ in range(25):
        memory.update_topology()
    assert len(memory.logger.get_history("CONSOLIDATE")) >= 20


@pytest.mark.parametrize("step", ["merge", "split", "abstraction"])
def test_what_a_process_was_not_told_of_has_its_turn(step: str) -> None:
    memory = prepared(step, "ONLINE")
    memory.close()
    with AESGMemory.open(memory.directory, mode="TRAIN") as again:
        for _ in range(3):
            again.update_topology()
        assert told(again, step)


def test_a_tour_comes_once_by_everything_alive() -> None:
    memory = opened()
    kept = memory.remember(torch.randn(100, DIM)).tolist()
    view = memory.storage.engine.view()
    tour, seen = Tour.of(view), []
    memory.remember(torch.randn(10, DIM))  # are told of, and not on the tour
    view = memory.storage.engine.view()
    for _ in range(4):
        seen += view.ids[tour.stage(view, 30)].tolist()
    assert seen == kept
    assert not len(tour.stage(view, 30))
    assert len(Tour.of(view).stage(view, 1000)) == 110


def test_handles_of_other_thresholds_do_not_look_at_everything_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    class Watched(Fading):
        def __init__(self, view: View, thresholds: Thresholds) -> None:
            looks.append(thresholds)
            super().__init__(view, thresholds)

    monkeypatch.setattr("aesg.evolution.Fading", Watched)
    memory = opened(consolidation_epoch_interval=1)
    memory.remember(patterns(0, 1))
    strict = opened(consolidation_epoch_interval=1, survival_threshold_relevance=0.9)
    counts = []
    for rounds in (4, 2, 4):
        for _ in range(rounds):
            memory.update_topology()
            strict.update_topology()
        counts.append(born(memory))
        if len(counts) == 1:
            memory.remember(pattern(5))
    assert counts == [2, 1, 0]  # those are due for the second handle alone
    assert len(looks) == 2


def test_many_thresholds_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = [
        opened(consolidation_epoch_interval=1, survival_threshold_relevance=0.01 * each)
        for each in range(9)
    ]
    for memory in memories:
        memory.update_topology()
    fadings = memories[0]._state._evolution._fadings
    assert len(fadings) == 4


@pytest.mark.parametrize("uses_a_member", [True, False])
def test_use_of_a_member_is_use_of_the_abstract_concept_above(uses_a_member: bool) -> None:
    memory = prepared("abstraction")
    memory.update_topology()
    above = told(memory, "abstraction")[0]["id1"]
    memory.set_mode("ONLINE")
    for _ in range(5):
        if uses_a_member:
            memory.retrieve(off(0, 1, 0.4), top_k=1)
        memory.update_topology()
    memory.save()
    view = memory.storage.engine.view()
    stats = view.stats[view.slots(np.array([above], np.uint64))]
    assert stats["epoch"].tolist() == [6 if uses_a_member else 1]


def test_the_same_queries_again_and_again_let_abstract_concepts_be() -> None:
    memory = prepared("abstraction", prune_confidence_threshold=0.29)
    keys = torch.stack([off(0, each, 0.4) for each in range(1, 6)])
    for _ in range(150):
        memory.retrieve(keys, top_k=1)
        memory.reset_state()
        memory.update_topology()
    memory.save()
    (birth,) = told(memory, "abstraction")
    assert birth["id1"] not in [each["id1"] for each in events(memory, "PRUNE")]
    assert len(targets(memory, birth["id1"])) == birth["id2"]


def test_duplicates_are_merged_where_few_edges_are_allowed() -> None:
    memory = opened(consolidation_epoch_interval=1, max_edges_per_node=3)
    memory.remember(patterns(4, 5, 6, 7))
    one, other = memory.remember(torch.stack([near(0, 0.0), near(0, 0.2)]), [7, 7]).tolist()
    for source, ends in ((near(0, 0.0), (4, 5)), (near(0, 0.2), (6, 7))):
        for end in ends:
            follow(memory, source, pattern(end))
    memory.save()
    assert len(targets(memory, one)) == len(targets(memory, other)) == 2
    memory.update_topology()
    assert len(set(memory.resolve([one, other]).tolist())) == 1


@pytest.mark.parametrize("reopens", [True, False])
def test_a_value_waits_for_its_key_whatever_process_brings_it(reopens: bool) -> None:
    memory = opened()
    memory.remember(patterns(3, 4, 5))
    (first,) = memory.remember(pattern(0), pattern(1)).tolist()
    if reopens:
        memory.close()
        memory = opened()
    (second,) = memory.remember(pattern(1), pattern(2)).tolist()
    assert targets(memory, first) == [second]
    assert memory.recall(pattern(0), top_k=2).paths == [[first], [first, second]]


def test_edges_of_an_earlier_release_weaken_from_now_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def undated(*what: Any, is_save: bool) -> dict[str, bytes]:
        settings = settings_of(*what, is_save=is_save)
        return {name: held for name, held in settings.items() if name != "edge_epochs"}

    with monkeypatch.context() as patched:
        patched.setattr("aesg.memory_durable.settings_of", undated)
        memory = opened(consolidation_epoch_interval=1, survival_threshold_relevance=0.0)
        first, second = memory.remember(patterns(0, 1)).tolist()
        follow(memory, pattern(0), pattern(1))
        patched.setattr(type(memory._state), "date_edges", lambda state: None)
        memory.save()
        memory.set_mode("ONLINE")
        for _ in range(200):
            memory.update_topology()
        memory.save()
    assert targets(memory, first) == [second]
    assert "edge_epochs" not in memory.storage.engine.view().settings
    seen = memory.recall(pattern(0), top_k=2).activations
    assert seen[1] > 0.2  # as it was stated, though 200 epochs have gone by
    memory.set_mode("TRAIN")
    memory.update_topology()
    memory.save()
    assert targets(memory, first) == [second]
    view = memory.storage.engine.view()
    assert view.stats[view.slots(np.array([first], np.uint64))]["edge_epoch"].tolist() == [200]
    assert "edge_epochs" in view.settings
    assert memory.storage.verify() == []
    for _ in range(120):
        memory.update_topology()
    assert targets(memory, first) == []


def test_a_consolidation_with_nothing_to_do_writes_nothing() -> None:
    memory = prepared("regions")
    memory.update_topology()
    memory.save()
    engine = memory.storage.engine
    before = engine.view().generation
    for _ in range(5):
        memory.update_topology()
    assert engine.view().generation == before
    memory.save()
    assert engine.view().generation == before + 1
    assert len(events(memory, "CONSOLIDATE")) == 6


def test_what_is_too_much_for_one_consolidation_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesg.evolution._MOST_COMPARED", 2)
    monkeypatch.setattr("aesg.evolution._ROUND", 0)
    memory = opened(consolidation_epoch_interval=1)
    memory.remember(torch.stack([near(each, share) for each in (0, 4, 8) for share in (0.0, 0.2)]))
    counts = []
    for _ in range(8):
        memory.update_topology()
        counts.append(born(memory))
    assert counts[0] == 5
    assert counts[-1] == 3


def test_regions_are_sought_again_where_the_graph_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = prepared("regions", abstraction_enabled=False)
    memory.remember(torch.randn(100, DIM, generator=torch.Generator().manual_seed(1)), [1] * 100)
    asked = []

    def detect(view: View, previous: Any, changed: Any) -> regions.Found:
        asked.append(None if changed is None else set(view.ids[changed].tolist()))
        return found(view, previous, changed)

    found = regions.detect
    monkeypatch.setattr("aesg.evolution.regions.detect", detect)
    memory.update_topology()
    follow(memory, pattern(0), pattern(5))
    one, other = (memory.recall(pattern(each), top_k=1).primary_concepts[0] for each in (0, 5))
    memory.update_topology()
    memory.update_topology()
    assert asked == [None, {one}]  # and nothing, where nothing had changed
    assert other in targets(memory, one)


def test_a_reader_beside_the_trainer_follows_a_merge() -> None:
    memory = opened(consolidation_epoch_interval=1)
    ids = memory.remember(torch.stack(MERGED[:2]), payloads=["kept", "kept"]).tolist()
    with child(resolve, str(memory.directory), ids) as reader:
        assert reader.next() == (ids, ["kept", "kept"])
        memory.update_topology()
        reader.tell("again")
        stands, payloads = reader.next()
    assert stands[0] == stands[1] in ids
    assert payloads == ["kept", "kept"]
