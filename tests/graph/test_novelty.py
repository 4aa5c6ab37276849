"""What the memory makes of an experience, against plain loops over the same queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph import novelty
from aesg.graph.novelty import Digest, Experience, digest
from aesg.graph.scope import PACK_ID
from storage_backends.types import Floats, ValueKind

THRESHOLD = 0.5
SAMENESS = 0.9
NEXT_ID = 101
TICK = 7


def circle(*degrees: float) -> Floats:
    """Return unit vectors ``(M, 2)``; the cosine of two is that of the angle between them."""
    angle = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32).reshape(-1, 2)


def experience(
    degrees: list[float],
    *,
    explained: list[float] | None = None,
    values: list[int] | None = None,
    vectors: Floats | None = None,
    found: list[list[int]] | None = None,
    cosines: list[list[float]] | None = None,
    right: list[list[bool]] | None = None,
    parents: list[list[int]] | None = None,
    previous: list[int] | None = None,
) -> Experience:
    """Return an experience in which nothing is explained, found or in sequence unless given."""
    count = len(degrees)
    ids = np.array(found or [], np.uint64).reshape(count, len(found[0]) if found else 0)
    return Experience(
        keys=circle(*degrees),
        norms=np.arange(1, count + 1, dtype=np.float32),
        value_kind=ValueKind.INTEGER if vectors is None else ValueKind.VECTOR,
        value_ids=np.array(values if values else [0] * count, np.int64),
        value_vectors=vectors,
        explained=np.array(explained if explained else [0.0] * count, np.float32),
        found=ids,
        cosines=np.array(cosines if cosines else np.zeros(ids.shape), np.float32).reshape(
            ids.shape
        ),
        right=np.array(right if right else np.zeros(ids.shape), np.bool_).reshape(ids.shape),
        parents=np.array(parents if parents else np.zeros(ids.shape), np.uint64).reshape(ids.shape),
        origins=np.arange(11, 11 + count, dtype=np.uint64),
        previous=np.array(previous if previous else [-1] * count, np.int64),
    )


def digested(met: Experience) -> Digest:
    return digest(met, THRESHOLD, SAMENESS, NEXT_ID, TICK)


def same(met: Experience, one: int, other: int) -> bool:
    """Tell whether two novel queries are one concept."""
    alike = met.keys[one] @ met.keys[other] >= SAMENESS
    if met.value_vectors is not None:
        pair = met.value_vectors[[one, other]]
        lengths = np.linalg.norm(pair, axis=1)
        alike &= pair[0] @ pair[1] >= SAMENESS * lengths[0] * lengths[1]
    return bool(alike and met.value_ids[one] == met.value_ids[other])


@dataclass
class Made:
    """What the reference makes of an experience: confirmations by row that makes an entry."""

    standing: list[int]
    repeats: dict[int, int]
    proved: dict[int, int]
    links: list[list[int]]
    travelled: list[list[int]]
    refined: dict[int, list[Floats]]  # the vectors that each concept explained


def reference(met: Experience) -> Made:
    """Take the queries one by one."""
    made = Made([], {}, {}, [], [], {})
    led: list[int] = []  # novel rows so far that no concept stood for
    leader: dict[int, int] = {}
    for row in range(len(met.keys)):
        candidates = [
            (-met.cosines[row, place], place)
            for place in range(met.found.shape[1])
            if met.right[row, place]
        ]
        for _, place in candidates:
            concept_id = int(met.found[row, place])
            made.proved[concept_id] = made.proved.get(concept_id, 0) + 1
            if met.parents[row, place]:
                made.travelled.append([int(met.parents[row, place]), concept_id])
        novel = met.explained[row] < THRESHOLD
        best = min(candidates, default=None)
        if best is not None and (not novel or -best[0] >= SAMENESS):
            made.standing.append(int(met.found[row, best[1]]))
            if not novel and met.value_vectors is not None:
                made.refined.setdefault(made.standing[-1], []).append(met.value_vectors[row])
        elif not novel:
            made.standing.append(0)
        else:
            led.append(row)
            first = next(each for each in led if each == row or same(met, each, row))
            leader[row] = leader.get(first, row)
            made.repeats[leader[row]] = made.repeats.get(leader[row], 0) + 1
            made.standing.append(NEXT_ID + sorted(made.repeats).index(leader[row]))
    for row, before in enumerate(met.previous):
        if before >= 0:
            pair = [made.standing[before], made.standing[row]]
            if pair[0] and pair[1] and pair[0] != pair[1]:
                made.links.append(pair)
    return made


@st.composite
def _experiences(draw: st.DrawFn) -> Experience:
    count, width = draw(st.integers(0, 12)), draw(st.integers(0, 4))
    rows = range(count)
    # 17 degrees apart is more alike than SAMENESS, 34 degrees apart is less.
    degrees = [17.0 * draw(st.integers(0, 5)) for _ in rows]
    # One query finds a concept once; padding comes last and is never right.
    held = [draw(st.lists(st.integers(1, 6), max_size=width, unique=True)) for _ in rows]
    found = [ids + [0] * (width - len(ids)) for ids in held]
    table = st.sampled_from([0.2, 0.8, 0.89, 0.91, 0.95])
    return experience(
        degrees,
        explained=[draw(st.sampled_from([0.0, 0.3, 0.5, 0.9])) for _ in rows],
        values=[draw(st.integers(0, 2)) for _ in rows],
        vectors=circle(*(60.0 * draw(st.integers(0, 1)) for _ in rows)) if draw(_flag) else None,
        found=found,
        cosines=[[draw(table) for _ in range(width)] for _ in rows],
        right=[[bool(number) and draw(_flag) for number in row] for row in found],
        parents=[[draw(st.integers(0, 6)) if number else 0 for number in row] for row in found],
        previous=[row - 1 if row and draw(_flag) else -1 for row in rows],
    )


_flag = st.booleans()


@settings(max_examples=100)
@given(_experiences(), st.sampled_from([1, 3, 256]))
def test_a_digest_is_that_of_a_loop_over_the_queries(met: Experience, together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "_TOGETHER", together)
        made, wanted = digested(met), reference(met)
    rows = sorted(wanted.repeats)
    assert made.standing.tolist() == wanted.standing
    assert made.entries["id"].tolist() == [NEXT_ID + place for place in range(len(rows))]
    assert made.entries["confirmations"].tolist() == [wanted.repeats[row] for row in rows]
    assert dict(zip(made.proved.tolist(), made.counts.tolist(), strict=True)) == wanted.proved
    assert made.links.tolist() == wanted.links
    assert made.travelled.tolist() == wanted.travelled
    assert made.refined.tolist() == sorted(wanted.refined)
    for concept_id, towards in zip(made.refined.tolist(), made.towards, strict=True):
        np.testing.assert_allclose(towards, np.mean(wanted.refined[concept_id], 0), atol=1e-6)
    np.testing.assert_array_equal(made.keys, met.keys[rows])
    for name, column in (
        ("origin", met.origins),
        ("norm", met.norms),
        ("value_id", met.value_ids),
    ):
        np.testing.assert_array_equal(made.entries[name], column[rows])
    assert (made.entries["value_kind"] == met.value_kind).all()
    assert (made.entries["tick"] == TICK).all()
    assert (made.vectors is None) == (met.value_vectors is None)
    if made.vectors is not None and met.value_vectors is not None:
        np.testing.assert_array_equal(made.vectors, met.value_vectors[rows])


def test_an_explained_query_makes_no_entry_and_a_novel_one_does() -> None:
    made = digested(experience([0, 90, 180], explained=[0.5, 0.49, 1.0]))
    assert made.entries["origin"].tolist() == [12]
    assert made.standing.tolist() == [0, NEXT_ID, 0]


def test_a_novel_query_is_absorbed_by_a_like_concept_that_was_right() -> None:
    found = [[5, 6]] * 4
    made = digested(
        experience(
            [0, 90, 180, 270],
            found=found,
            cosines=[[0.95, 0.99], [0.95, 0.99], [0.85, 0.2], [0.95, 0.99]],
            right=[[True, False], [True, True], [True, True], [False, False]],
        )
    )
    assert made.standing.tolist() == [5, 6, NEXT_ID, NEXT_ID + 1]
    assert dict(zip(made.proved.tolist(), made.counts.tolist(), strict=True)) == {5: 3, 6: 2}


def test_repeats_of_one_pattern_in_a_batch_confirm_its_first_meeting() -> None:
    made = digested(experience([0, 90, 1, 2], values=[3, 3, 3, 4]))
    assert made.standing.tolist() == [NEXT_ID, NEXT_ID + 1, NEXT_ID, NEXT_ID + 2]
    assert made.entries["confirmations"].tolist() == [2, 1, 1]
    assert made.entries["norm"].tolist() == [1, 2, 4]


def test_each_query_of_a_chain_follows_the_one_that_it_resembles_to_the_first() -> None:
    made = digested(experience([0, 20, 40, 60]))
    assert made.standing.tolist() == [NEXT_ID] * 4
    assert made.entries["confirmations"].tolist() == [4]


def test_vector_outcomes_tell_like_keys_apart() -> None:
    vectors = np.array([[2, 0], [5, 0.1], [0, 3], [0, 0]], np.float32)
    made = digested(experience([0, 0, 0, 0], vectors=vectors))
    assert made.standing.tolist() == [NEXT_ID, NEXT_ID, NEXT_ID + 1, NEXT_ID + 2]
    assert made.vectors is not None
    assert made.vectors.tolist() == vectors[[0, 2, 3]].tolist()


def test_links_join_standing_concepts_in_order_of_time() -> None:
    met = experience(
        [0, 90, 180, 180, 270],
        explained=[0, 1, 0, 0, 1],
        found=[[0], [9], [0], [0], [8]],
        cosines=[[0], [0.1], [0], [0], [0.1]],
        right=[[False], [True], [False], [False], [False]],
        previous=[-1, 0, 1, 2, 3],
    )
    # 101, then the known 9, then 102 twice (no link to itself), then nothing.
    assert digested(met).links.tolist() == [[NEXT_ID, 9], [9, NEXT_ID + 1]]


def test_an_edge_was_travelled_where_it_led_to_what_was_right() -> None:
    met = experience(
        [0, 90],
        found=[[5, 6, 7], [6, 8, 0]],
        right=[[True, True, False], [True, False, False]],
        parents=[[0, 5, 5], [5, 6, 0]],
    )
    # 5 was a seed; 7 and 8 were reached and wrong.
    assert digested(met).travelled.tolist() == [[5, 6], [5, 6]]


def test_a_large_batch_is_told_apart_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    met = experience([0, 90, 1, 180, 91, 181, 2])
    whole = digested(met)
    monkeypatch.setattr(novelty, "_BLOCK", 3)
    parted = digested(met)
    assert whole.standing.tolist() == [101, 102, 101, 103, 102, 103, 101]
    # Repeats are found within a block only: of (0, 90, 1), (180, 91, 181) and (2).
    assert parted.standing.tolist() == [101, 102, 101, 103, 104, 103, 105]
    assert parted.entries["confirmations"].tolist() == [2, 1, 2, 1, 1]


def digested_again(met: Experience, *own: int) -> Digest:
    return digest(met, THRESHOLD, SAMENESS, NEXT_ID, TICK, np.array(own, np.uint64))


def test_a_novel_query_confirms_its_own_concept_and_an_explained_one_only_re_keys_it() -> None:
    made = digested_again(experience([0, 90, 180], explained=[0, 1, 0]), 5, 6, 0)
    assert made.entries["id"].tolist() == [NEXT_ID]
    assert made.standing.tolist() == [5, 6, NEXT_ID]
    assert made.rekeyed.tolist() == [5, 6]
    assert made.rows.tolist() == [0, 1]
    assert (made.proved.tolist(), made.counts.tolist()) == ([5], [1])


def test_repeats_of_a_query_that_meets_its_own_concept_confirm_that_one() -> None:
    made = digested_again(experience([1, 90, 0, 2], values=[3, 3, 3, 4]), 0, 0, 5, 0)
    assert made.standing.tolist() == [5, NEXT_ID, 5, NEXT_ID + 1]
    assert made.entries["confirmations"].tolist() == [1, 1]
    assert made.entries["norm"].tolist() == [2, 4]
    assert (made.proved.tolist(), made.counts.tolist()) == ([5], [2])


def test_concepts_met_again_are_linked_in_order_of_time() -> None:
    met = experience([0, 90, 180], explained=[1, 0, 0], previous=[-1, 0, 1])
    assert digested_again(met, 5, 6, 0).links.tolist() == [[5, 6], [6, NEXT_ID]]


def test_the_concept_that_explained_is_refined_and_not_the_one_met_again() -> None:
    met = experience(
        [0], explained=[1], vectors=circle(60), found=[[9]], cosines=[[0.7]], right=[[True]]
    )
    of_no_sample = replace(met, origins=np.zeros(1, np.uint64))
    for asking, refined in ((met, []), (of_no_sample, [9])):
        made = digested_again(asking, 5)
        assert made.refined.tolist() == refined
        assert made.standing.tolist() == [5]


def test_nothing_met_again_is_as_without_concepts_of_its_own() -> None:
    met = experience([0, 90, 1], explained=[0, 0.9, 0], previous=[-1, 0, 1])
    again, plain = digested_again(met, 0, 0, 0), digested(met)
    assert again.standing.tolist() == plain.standing.tolist()
    assert again.entries.tolist() == plain.entries.tolist()
    assert len(again.rekeyed) == len(plain.rekeyed) == 0


def test_nothing_met_is_nothing_learned() -> None:
    made = digested(experience([]))
    for column in (made.entries, made.keys, made.proved, made.counts, made.standing, made.links):
        assert len(column) == 0


def test_an_experience_is_left_as_it_was() -> None:
    met = experience([0, 1, 90], found=[[4], [5], [6]], right=[[True], [False], [True]])
    kept = replace(met, found=met.found.copy(), keys=met.keys.copy(), right=met.right.copy())
    digested(met)
    for name in ("found", "keys", "right"):
        np.testing.assert_array_equal(getattr(met, name), getattr(kept, name))


def test_nothing_is_done_to_what_is_found_in_a_guest() -> None:
    first, second = PACK_ID + (1 << 40), PACK_ID + (1 << 40) + 1
    met = experience(
        [0, 90, 180],
        explained=[0.9, 0.1, 0.9],
        found=[[first, 3], [second, first], [second, 3]],
        cosines=[[1, 0.8], [1, 0.9], [1, 0.8]],
        right=[[True, False], [True, True], [True, True]],
        parents=[[second, 0], [first, second], [0, 4]],
        previous=[-1, 0, 1],
    )
    news = digested(met)
    assert news.entries["id"].tolist() == [NEXT_ID]  # of the query that nothing explained
    assert news.standing.tolist() == [0, NEXT_ID, 3]
    assert news.proved.tolist() == [3]
    assert news.links.tolist() == [[NEXT_ID, 3]]
    assert news.travelled.tolist() == [[4, 3]]
    assert met.right.sum() == 5  # what was met is left as it was


def test_a_guest_takes_the_place_of_no_concept_that_was_right_too() -> None:
    met = experience(
        [0, 0],
        explained=[0.9, 0.9],
        vectors=circle(10, 10),
        found=[[PACK_ID, 3], [PACK_ID, 5]],
        cosines=[[1, 0.8], [1, 0.7]],
        right=[[True, True], [True, False]],
    )
    news = digested(met)
    assert news.standing.tolist() == [3, 0]
    assert news.refined.tolist() == [3]
