"""What `AESGMemory.explain` tells is what retrieval did and what learning would make of it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from aesg import AESGMemory, AESGMemoryError, AESGNavigationError
from aesg.explanation import Activated, Explanation, Judgement, QueryExplanation
from storage_backends.types import EDGE, EdgeKind, WriteBatch
from tests.memory_build import DIM, config, digest, meet, near, opened, pattern, patterns
from tests.storage.build import ids as ids_of

MODES = ["TRAIN", "FINETUNE", "ONLINE", "INFERENCE"]


def judged(explanation: Explanation, query: int = 0) -> Judgement:
    judgement = explanation.queries[query].judgement
    assert judgement is not None
    return judgement


def shown(query: QueryExplanation, name: str) -> list[Any]:
    return [getattr(each, name) for each in query.concepts]


def link(memory: AESGMemory, *pairs: tuple[int, int]) -> None:
    """Write edges into the store."""
    rows: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for source, target in pairs:
        rows.setdefault(source, []).append((target, 1, 1, 1, EdgeKind.VALUE))
    edges = {source: np.array(row, EDGE) for source, row in rows.items()}
    memory._state.engine.commit(WriteBatch(edges=edges))


def test_an_explanation_shows_what_a_recall_retrieves() -> None:
    memory = opened()
    first, *_, last = memory.remember(patterns(*range(8)), list(range(8))).tolist()
    link(memory, (first, last))
    memory.retrieve(near(12))
    queries = torch.stack([near(0), near(3), near(12)])
    context = memory.recall(queries, top_k=4).detached()
    explanation = memory.explain(queries, top_k=4)
    everything = [each for query in explanation.queries for each in query.concepts]
    for name, column in (
        ("concept_id", context.concept_ids),
        ("cosine", context.found.cosines),
        ("activation", context.activations),
        ("weight", context.weights),
    ):
        wanted = column.reshape(-1).tolist()
        assert [getattr(each, name) for each in everything] == wanted, name
    values = [each.value for each in everything]
    assert values == [each if each >= 0 else None for each in context.value_ids.ravel().tolist()]
    assert None in values
    assert [each.path for each in everything] == context.paths
    assert [first, last] in context.paths
    for row, query in enumerate(explanation.queries):
        assert query.abstract_weight == pytest.approx(float(context.abstract_weight[row]))
        weights = [*shown(query, "weight"), query.abstract_weight, query.null_weight]
        assert sum(weights) == pytest.approx(1)


def test_a_path_leads_through_concepts_that_did_not_stay() -> None:
    memory = opened(spreading_activation_decay=1.0)
    keys = torch.stack([pattern(0), near(0, 0.01), pattern(3), pattern(4), pattern(5)])
    a, b, by_a, by_b, end = memory.remember(keys, [1, 2, 3, 4, 5]).tolist()
    edges = {(a, by_a), (b, by_b), (by_a, end), (by_b, end)}
    link(memory, *edges)
    context = memory.recall(pattern(0), top_k=2)  # the end hears from both, and drowns the others
    assert context.concept_ids.tolist() == [end, a]
    assert context.paths == [[a, by_a, end], [a]]
    (query,) = memory.explain(pattern(0), top_k=2).queries
    assert shown(query, "path") == context.paths
    assert shown(query, "hops") == [2, 0]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.sets(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=30))
def test_every_step_of_a_path_is_an_edge(
    links: set[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    edges = {(source, target) for source, target in links if source != target}
    with AESGMemory(tmp_path_factory.mktemp("memory"), config()) as memory:
        memory.remember(patterns(*range(12)), list(range(12)))
        link(memory, *edges)
        queries = torch.stack([near(each) for each in range(12)])
        for query in memory.explain(queries, top_k=3).queries:
            seeds = {each.concept_id for each in query.seeds}
            for concept in query.concepts:
                assert concept.path[0] in seeds
                assert concept.path[-1] == concept.concept_id
                assert set(pairwise(concept.path)) <= edges
                assert concept.hops <= config().spreading_activation_steps


def test_seeds_are_the_nearest_with_their_similarity() -> None:
    memory = opened()
    memory.remember(patterns(0, 1, 2))
    (query,) = memory.explain(pattern(0) + 0.5 * pattern(1), top_k=2).queries
    assert [each.concept_id for each in query.seeds] == [1, 2]
    assert [each.cosine for each in query.seeds] == pytest.approx([1 / 1.25**0.5, 0.5 / 1.25**0.5])
    assert not query.followed


@pytest.mark.parametrize("mode", MODES)
def test_explaining_changes_nothing_whatever_the_mode(mode: str) -> None:
    writer = opened()
    writer.remember(patterns(0, 1))
    writer.retrieve(pattern(5))
    writer.close()
    before = digest("memory")
    memory = opened(memory_mode=mode)
    generation, rates = memory.storage.generation, str(memory.rates)
    for _ in range(5):
        memory.explain(patterns(5, 9), torch.tensor([1, 2]))
        memory.explain(pattern(9))
    assert (memory.provisional_count, memory.storage.generation) == (1, generation)
    assert str(memory.rates) == rates
    memory.update_topology()
    assert memory.provisional_count == 1
    memory.close()
    assert mode != "INFERENCE" or digest("memory") == before


_numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12)


def _learn(memory: AESGMemory, query: Tensor, outcome: Tensor | None) -> None:
    memory.defer(memory.recall(query), outcome)
    memory.update_topology()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=_numbers, kind=st.sampled_from(["none", "integer", "vector"]))
def test_the_verdict_is_what_learning_then_makes_of_the_query(
    asked: list[tuple[int, int]], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    with AESGMemory(folder, config(novelty_birth_threshold=1000)) as memory:
        for number, came in asked:
            query = near(number, 0.3 * came)
            outcome = {"none": None, "integer": torch.tensor(came), "vector": pattern(came)}[kind]
            said = judged(memory.explain(query, outcome))
            before = memory.provisional_count
            _learn(memory, query, outcome)
            new = memory.provisional_count - before
            assert new == (said.novel and not said.standing)
            assert said.novel == (said.score < config().novelty_explanation_threshold)


def test_log_probabilities_decide_as_they_do_in_learning() -> None:
    memory = opened(memory_mode="ONLINE")
    log_probs = torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log()
    explanation = memory.explain(patterns(0, 1), torch.tensor([0, 1]), log_probs)
    assert [judged(explanation, each).score for each in (0, 1)] == pytest.approx([0.7, 0.3])
    assert [judged(explanation, each).novel for each in (0, 1)] == [False, True]
    assert judged(explanation, 1).basis == "probability given to 1"
    memory.defer(memory.recall(patterns(0, 1)), torch.tensor([0, 1]), log_probs)
    memory.update_topology()
    assert memory.provisional_count == 1


@pytest.mark.parametrize(
    ("query", "outcome", "basis", "verdict"),
    [
        (pattern(0), None, "cosine with 1, the nearest concept", "concept 1 is confirmed"),
        (pattern(9), None, "the nearest concept", "a provisional concept is made"),
        (
            pattern(0) + pattern(1),
            None,
            "cosine with the mix of what was",
            "concept 1 is confirmed",
        ),
        (near(0), torch.tensor(0), "value 0: 1 of those retrieved", "concept 1 is confirmed"),
        (near(0), torch.tensor(7), "value 7: none of them was", "a provisional concept is made"),
        (near(0), pattern(4), "cosine of what came with", "a provisional concept is made"),
        (torch.zeros(DIM), None, "without direction", "nothing is learned"),
    ],
)
def test_the_score_says_how_it_came_about_and_what_follows(
    query: Tensor, outcome: Tensor | None, basis: str, verdict: str
) -> None:
    memory = opened()
    memory.remember(patterns(0, 1), [0, 1])
    found = judged(memory.explain(query, outcome))
    assert basis in found.basis
    assert verdict in found.verdict


def test_a_novel_query_that_a_concept_all_but_is_makes_no_other() -> None:
    memory = opened()
    memory.remember(torch.stack([pattern(0), near(0, 0.01), near(0, 0.02)]), [5, 6, 7])
    found = judged(memory.explain(pattern(0), torch.tensor(5)))
    assert (found.novel, found.standing) == (True, 1)
    assert "concept 1 was right, and its key is nearly the same" in found.verdict


def test_an_empty_memory_explains_that_everything_is_new() -> None:
    memory = opened()
    explanation = memory.explain(patterns(0, 1))
    for query in explanation.queries:
        assert (query.seeds, query.concepts) == ([], [])
    assert judged(explanation).novel
    assert judged(explanation).basis == "score where nothing is retrieved"
    assert "seeds: none" in str(explanation)


def test_what_is_not_known_is_not_judged() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), [3, 4])
    explanation = memory.explain(patterns(0, 1, 0), torch.tensor([3, -100, 4]))
    assert [query.judgement is None for query in explanation.queries] == [False, True, False]
    vectors = torch.stack([pattern(8), torch.zeros(DIM), pattern(9)])
    of_vectors = memory.explain(patterns(0, 1, 0), vectors)
    assert [query.judgement is None for query in of_vectors.queries] == [False, True, False]
    assert shown(explanation.queries[0], "right") == [True, False]
    assert not any(shown(explanation.queries[1], "right"))
    assert "not known what came" in str(explanation)


def test_followed_sequences_say_so() -> None:
    memory = opened(memory_mode="ONLINE")
    a, b = memory.remember(patterns(0, 1), [7, 8]).tolist()
    row = np.array([(b, 1, 1, 1, EdgeKind.SUCCESSOR)], EDGE)
    memory._state.engine.commit(WriteBatch(edges={a: row}))
    queries = patterns(0, 9).unsqueeze(0)
    first, second = memory.explain(queries, torch.tensor([[7, -100]]), top_k=1).queries
    assert (first.followed, second.followed) == (False, True)
    assert [each.concept_id for each in second.seeds] == [b]
    assert second.seeds[0].cosine == pytest.approx(0)
    assert not any(each.followed for each in memory.explain(queries, top_k=1).queries)


def test_born_concepts_show_their_standing_and_provisional_ones_say_what_they_are() -> None:
    memory = opened(consolidation_epoch_interval=1, memory_mode="ONLINE")
    memory.remember(patterns(0), [3], payloads=[{"name": "a"}])
    memory.retrieve(pattern(5))
    for _ in range(4):
        memory.update_topology()
    stats = memory._state.view.stats[np.array([0])]
    stats["region"] = 9
    memory._state.engine.commit(WriteBatch(stats_ids=ids_of(1), stats=stats))
    (query,) = memory.explain(pattern(0)).queries
    concept, other = query.concepts
    assert (concept.value, concept.value_kind, concept.payload) == (3, "INTEGER", {"name": "a"})
    assert (concept.region, concept.age, concept.provisional) == (9, 4, False)
    assert concept.relevance == pytest.approx(0.95**4)
    assert (other.value, other.value_kind, other.payload, other.provisional) == (
        None,
        "KEY",
        None,
        True,
    )


def test_an_explanation_prints_a_table_for_each_query() -> None:
    memory = opened()
    a, b = memory.remember(patterns(0, 1), [3, 4], payloads=["[bold]sky[/]", None]).tolist()
    link(memory, (a, b))
    memory.retrieve(pattern(5))
    memory.remember(patterns(*range(6, 15)))
    text = str(memory.explain(torch.stack([near(0), near(5)]), top_k=9))
    for part in ("query 0", "query 1", "'[bold]sky[/]'", "(provisional)", "and 1 more"):
        assert part in " ".join(text.split())
    for heading in ("path", "cosine", "active", "weight", "payload", "region", "age", "relevance"):
        assert heading in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "score: 0.995 >= 0.600, the cosine with the mix of what was" in text
    assert text == str(memory.explain(torch.stack([near(0), near(5)]), top_k=9))


def test_a_concept_without_a_region_says_so() -> None:
    memory = opened()
    memory.remember(patterns(0), [3])
    explanation = memory.explain(pattern(0))
    assert explanation.queries[0].concepts[0].region is None
    assert str(explanation).split("\n")[4].split()[-3:] == ["none", "0", "1.000"]


def test_an_explanation_of_many_queries_is_short_to_look_at() -> None:
    memory = opened()
    memory.remember(patterns(0))
    explanation = memory.explain(torch.randn(500, DIM))
    text = str(explanation)
    assert "query 19\n" in text and "query 20\n" not in text
    assert text.endswith("... 480 more, all of them in `queries`")
    assert repr(explanation) == "Explanation(queries=500, threshold=0.6)"
    assert "more" not in str(memory.explain(torch.randn(20, DIM)))
    assert str(memory.explain(torch.zeros(0, DIM))) == "no queries"


def test_an_explanation_can_be_kept_as_json() -> None:
    memory = opened()
    memory.remember(patterns(0, 1), [3, 4], payloads=[{"a": [1]}, None])
    explanation = memory.explain(patterns(0, 1))
    kept = json.loads(json.dumps(explanation.to_dict()))
    assert kept["threshold"] == 0.6
    assert kept["queries"][0]["concepts"][0]["payload"] == {"a": [1]}
    assert set(kept["queries"][0]["concepts"][0]) == set(Activated.__dataclass_fields__)
    assert kept["queries"][1]["judgement"]["standing"] == 2


def test_a_payload_that_is_deep_or_long_or_meant_for_a_terminal_is_shown_in_short() -> None:
    deep: Any = None
    for _ in range(1_000):
        deep = [deep]
    payloads = [deep, list(range(20_000)), "\x1b[2J\x9b\u202egnp", {"\x1b]0;x\x07": "\r"}]
    memory = opened()
    memory.remember(patterns(*range(4)), list(range(4)), payloads=payloads)
    explanation = memory.explain(patterns(*range(4)), top_k=1)
    text = str(explanation)
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    for shown in ("[[[[[[[...]]]]]]]", "[0, 1, 2, 3, 4, 5...", "'\\x1b[2J\\x9b\\u202"):
        assert shown in text
    kept = [query["concepts"][0]["payload"] for query in explanation.to_dict()["queries"]]
    assert kept[1:] == payloads[1:]
    depth = 0
    while kept[0] is not None:
        (kept[0],), depth = kept[0], depth + 1
    assert depth == 1_000


def test_a_reader_explains_what_the_writer_committed() -> None:
    memory = opened()
    memory.remember(patterns(0), [3])
    with AESGMemory.open("memory") as reader:
        memory.remember(patterns(1), [4])
        assert judged(reader.explain(pattern(1), torch.tensor(4))).standing == 2


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda memory: memory.explain(torch.zeros(3)), AESGNavigationError),
        (lambda memory: memory.explain(pattern(0), top_k=0), AESGNavigationError),
        (lambda memory: memory.explain(pattern(0), torch.tensor([1, 2])), AESGMemoryError),
        (lambda memory: memory.explain(pattern(0), torch.tensor(-3)), AESGMemoryError),
        (lambda memory: memory.explain(pattern(0), [1]), AESGMemoryError),
        (lambda memory: memory.explain(patterns(0)[None], torch.tensor([1, 2])), AESGMemoryError),
    ],
)
def test_what_does_not_fit_is_refused(ask: Any, error: type[Exception]) -> None:
    memory = opened()
    memory.remember(patterns(0))
    with pytest.raises(error):
        ask(memory)


@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 2, 5)])
def test_log_probabilities_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    memory = opened()
    log_probs, outcomes = torch.zeros(shape), torch.tensor([0, 1])
    with pytest.raises(AESGMemoryError, match="for 2 of them, got shape"):
        memory.explain(patterns(0, 1), outcomes, log_probs)
    with pytest.raises(AESGMemoryError, match="Log-probabilities do not fit the queries"):
        memory.defer(memory.recall(patterns(0, 1)), outcomes, log_probs)


@pytest.mark.parametrize(
    "log_probs", [[0.0, 1.0], np.zeros((1, 2)), torch.zeros(1, 2, dtype=torch.long)]
)
def test_log_probabilities_of_another_type_are_refused(log_probs: Any) -> None:
    memory = opened()
    with pytest.raises(AESGMemoryError, match="expected a float tensor, got"):
        memory.explain(pattern(0), torch.tensor(0), log_probs)
    with pytest.raises(AESGMemoryError, match="expected a float tensor, got"):
        memory.defer(memory.recall(pattern(0)), torch.tensor(0), log_probs)


@pytest.mark.parametrize("wrong", [0.0, 2.0, -5.0, float("nan"), float("inf"), -float("inf")])
def test_what_are_no_probabilities_is_refused(wrong: float) -> None:
    memory = opened()
    log_probs = torch.stack([torch.full((3,), 1 / 3).log(), torch.full((3,), wrong)])
    with pytest.raises(AESGMemoryError, match="of query 1: expected logarithms of probabilities"):
        memory.explain(patterns(0, 1), torch.tensor([0, 1]), log_probs)
    assert memory.explain(patterns(0, 1), torch.tensor([0, -100]), log_probs)  # nobody reads it


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_probabilities_may_be_rounded_and_zero(dtype: torch.dtype) -> None:
    memory = opened()
    log_probs = torch.randn(4, 50_000).log_softmax(-1)
    log_probs[0] = -torch.inf
    log_probs[0, 3] = 0.0
    explanation = memory.explain(patterns(0, 1, 2, 3), torch.tensor([3] * 4), log_probs.to(dtype))
    assert judged(explanation).score == 1


def test_gradients_are_no_part_of_an_explanation() -> None:
    memory = opened()
    meet(memory, pattern(0))
    query = near(0).requires_grad_()
    assert isinstance(memory.explain(query).queries[0].concepts[0].weight, float)
    assert query.grad is None
