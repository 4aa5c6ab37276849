"""Regions agree with communities that are known, and stay what they are."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph.regions import LEAST_SIZE, Found, detect, regroup
from storage_backends.columns import Slots
from storage_backends.types import EDGE, STATS, Contents, EventType, WriteBatch
from storage_backends.view import View
from tests.graph.partitions import agreement, engine_of, planted, rows, view_of
from tests.storage.build import concepts, ids

NO_CHANGE = np.empty(0, np.int64)


def cliques(*sizes: int) -> tuple[Slots, Slots]:
    """Return edges among all nodes of each clique; their nodes follow one another."""
    pairs = []
    first = 0
    for size in sizes:
        nodes = range(first, first + size)
        pairs += [(one, other) for one in nodes for other in nodes if one < other]
        first += size
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def found(view: View, previous: Found | None = None, changed: Slots | None = None) -> Found:
    before = np.zeros(view.size, np.uint32)
    if previous is not None:
        before[: len(previous.regions)] = previous.regions
    return detect(view, before, changed)


def modularity(count: int, source: Slots, target: Slots, labels: Slots) -> float:
    """Return the modularity by its definition, over all pairs of nodes."""
    weights = np.zeros((count, count))
    np.add.at(weights, (source, target), 0.5)
    weights += weights.T
    degrees, whole = weights.sum(1), weights.sum()
    same = labels[:, None] == labels[None, :]
    return float(((weights - np.outer(degrees, degrees) / whole) * same).sum() / whole)


# The measure itself


def test_agreement_is_one_for_the_same_parts_under_other_names() -> None:
    assert agreement(np.array([1, 1, 2, 3]), np.array([7, 7, 5, 0])) == pytest.approx(1)


def test_agreement_is_nothing_for_parts_that_say_nothing_of_each_other() -> None:
    assert agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0)


def test_agreement_by_hand() -> None:
    # Entropies log 2 and 1.5 log 2; the finer part tells all of the coarser: log 2 in common.
    assert agreement(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(0.8)


# What is found


@pytest.mark.parametrize(
    ("sizes", "degree", "mixing"),
    [
        pytest.param([8] * 4, 4, 0.1, id="four small ones"),
        pytest.param([30] * 10, 8, 0.2, id="ten"),
        pytest.param([50] * 20, 8, 0.4, id="much mixed"),
        pytest.param([10, 20, 40, 80, 160, 320], 8, 0.2, id="unequal"),
        pytest.param([30] * 100, 6, 0.3, id="a hundred"),
        pytest.param([1000] * 5, 6, 0.3, id="large and sparse"),
    ],
)
def test_planted_communities_are_found(sizes: list[int], degree: int, mixing: float) -> None:
    for seed in range(3):
        known, source, target = planted(sizes, degree, mixing, seed)
        result = found(view_of(len(known), source, target))
        assert agreement(known, result.regions) >= 0.8
        assert result.count == len(np.unique(result.regions[result.regions > 0]))


def test_cliques_that_a_single_edge_joins_are_regions_of_their_own() -> None:
    source, target = cliques(5, 4, 4)
    joined = np.append(source, [0, 5]), np.append(target, [5, 9])
    result = found(view_of(13, *joined))
    assert agreement(np.repeat([0, 1, 2], [5, 4, 4]), result.regions) == pytest.approx(1)
    assert sorted({*result.regions.tolist()}) == [1, 2, 3]


def test_the_largest_region_is_the_first() -> None:
    result = found(view_of(12, *cliques(3, 4, 5)))
    assert result.regions.tolist() == [3] * 3 + [2] * 4 + [1] * 5


def test_what_has_no_edge_or_too_few_companions_has_no_region() -> None:
    source, target = cliques(LEAST_SIZE, LEAST_SIZE - 1)
    result = found(view_of(LEAST_SIZE + LEAST_SIZE - 1 + 2, source, target))
    assert result.regions.tolist() == [1] * LEAST_SIZE + [0] * (LEAST_SIZE + 1)
    assert result.count == 1


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_graph_without_edges_has_no_regions(count: int) -> None:
    result = found(view_of(count, NO_CHANGE, NO_CHANGE))
    assert (result.regions.tolist(), result.count, result.modularity) == ([0] * count, 0, 0.0)


def test_the_strength_of_edges_decides() -> None:
    wanted = np.arange(1, 9, dtype=np.uint64)
    source, target = np.triu_indices(8, 1)
    same = source // 4 == target // 4
    weak = rows(wanted, source[~same], target[~same], 0.05)
    strong = rows(wanted, source[same], target[same], 0.9)
    both = {
        each: np.concatenate([part[each] for part in (weak, strong) if each in part])
        for each in {*weak, *strong}
    }
    regions = found(engine_of(8, both).view()).regions
    assert regions.tolist() == [regions[0]] * 4 + [3 - regions[0]] * 4


@given(seed=st.integers(0, 999), count=st.integers(3, 40), share=st.floats(0.0, 0.3))
@settings(deadline=None, max_examples=60)
def test_regions_of_any_graph(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    source, target = np.nonzero((rng.random((count, count)) < share) & ~np.eye(count, dtype=bool))
    view = view_of(count, source, target)
    result = found(view)
    sizes = np.bincount(result.regions)
    assert (sizes[1:] >= LEAST_SIZE).all()
    assert len(sizes) == result.count + 1
    assert (np.diff(sizes[1:]) <= 0).all()
    if len(source):
        labels = np.where(result.regions > 0, result.regions, -1 - np.arange(count))
        assert result.modularity >= modularity(count, source, target, labels) - 1e-6
        assert result.modularity >= -1e-9
        assert pieces(count, source, target, result.regions) == result.count


def pieces(count: int, source: Slots, target: Slots, regions: Slots) -> int:
    """Return into how many connected parts the regions fall."""
    near: dict[int, set[int]] = {node: set() for node in range(count) if regions[node]}
    for one, other in zip(source.tolist(), target.tolist(), strict=True):
        if regions[one] and regions[one] == regions[other]:
            near[one].add(other)
            near[other].add(one)
    parts, seen = 0, set[int]()
    for node in near:
        parts += node not in seen
        ahead = [node]
        while ahead:
            each = ahead.pop()
            if each not in seen:
                seen.add(each)
                ahead += near[each]
    return parts


def test_modularity_is_that_of_the_definition() -> None:
    known, source, target = planted([20] * 6, 6, 0.2)
    result = found(view_of(120, source, target))
    assert (result.regions > 0).all()
    wanted = modularity(120, source, target, result.regions.astype(np.int64))
    assert result.modularity == pytest.approx(wanted, abs=1e-5)
    assert wanted >= modularity(120, source, target, known) - 0.02


# What it depends on


def test_the_numbering_of_slots_does_not_matter() -> None:
    known, source, target = planted([20] * 10, 6, 0.3)
    wanted = np.random.default_rng(1).permutation(np.arange(1, 201)).astype(np.uint64) * 7
    edges = rows(wanted, source, target)
    one, other = engine_of(200, edges, wanted).view(), engine_of(200, edges, np.sort(wanted)).view()
    assert other.ids.whole().tolist() != one.ids.whole().tolist()
    first, second = found(one), found(other)
    assert first.regions[one.slots(wanted)].tolist() == second.regions[other.slots(wanted)].tolist()
    assert agreement(known, first.regions) >= 0.8
    changed = wanted[:20]
    again = (
        detect(one, first.regions, one.slots(changed)),
        detect(other, second.regions, other.slots(changed)),
    )
    assert again[0].regions[one.slots(wanted)].tolist() == (
        again[1].regions[other.slots(wanted)].tolist()
    )


def test_the_direction_of_edges_does_not_matter() -> None:
    _, source, target = planted([20] * 5, 6, 0.2)
    forth, back = view_of(100, source, target), view_of(100, target, source)
    assert found(forth).regions.tolist() == found(back).regions.tolist()


def test_tombstones_have_no_region() -> None:
    whole = view_of(10, *cliques(5, 5))
    before = found(whole)
    view = whole.advanced(deletion(1, 2))
    assert view.dead == 2
    for after in (found(view, before), found(view, before, np.array([2, 3]))):
        assert after.regions[:2].tolist() == [0, 0]
        assert after.regions[2:].tolist() == before.regions[2:].tolist()
    batch = regroup(view, found(view))
    assert batch is not None
    assert batch.stats_ids.tolist() == [*range(3, 11)]


def deletion(*wanted: int) -> Contents:
    """Return a change set that deletes concepts to which no other one leads."""
    no_ids, no_stats = np.empty(0, np.uint64), np.empty(0, STATS)
    no_edges = no_ids, np.empty(0, np.int64), np.empty(0, EDGE)
    return Contents(9, concepts([]), no_ids, no_stats, *no_edges, ids(*wanted), {})


# From one detection to the next


def test_where_nothing_changed_the_regions_stay() -> None:
    _, source, target = planted([30] * 20, 8, 0.4)
    view = view_of(600, source, target)
    first = found(view)
    again = found(view, first, NO_CHANGE)
    assert again.regions.tolist() == first.regions.tolist()
    assert again.modularity == first.modularity


def test_regions_keep_their_numbers_when_they_are_found_anew() -> None:
    view = view_of(12, *cliques(3, 4, 5))
    before = np.array([7] * 3 + [2] * 4 + [0] * 5, np.uint32)
    assert detect(view, before, None).regions.tolist() == [7] * 3 + [2] * 4 + [1] * 5


def test_the_number_goes_where_most_of_a_region_went() -> None:
    view = view_of(9, *cliques(4, 5))
    before = np.array([3, 3, 1, 1, 1, 3, 3, 3, 3], np.uint32)
    assert detect(view, before, None).regions.tolist() == [1] * 4 + [3] * 5


def test_concepts_that_are_born_together_become_a_region() -> None:
    ids_now = np.arange(1, 46, dtype=np.uint64)
    source, target = cliques(20, 20)
    before = found(engine_of(40, rows(ids_now, source, target)).view())
    born = cliques(5)
    view = engine_of(
        45, rows(ids_now, np.append(source, born[0] + 40), np.append(target, born[1] + 40))
    ).view()
    for changed in (np.arange(40, 45), NO_CHANGE):
        after = found(view, before, changed)
        assert after.regions[:40].tolist() == before.regions.tolist()
        assert after.regions[40:].tolist() == [3] * 5


def test_a_concept_whose_edges_changed_changes_its_region() -> None:
    wanted = np.arange(1, 41, dtype=np.uint64)
    source, target = cliques(20, 20)
    made = engine_of(40, rows(wanted, source, target))
    before = found(made.view())
    moved = np.zeros(20, EDGE)
    moved["target"], moved["weight"], moved["confidence"] = np.arange(21, 41), 1, 0.5
    made.commit(WriteBatch(edges={1: moved}))
    after = found(made.view(), before, np.array([0]))
    assert after.regions[0] == after.regions[20] == before.regions[20]
    assert after.regions[1:].tolist() == before.regions[1:].tolist()


def test_a_region_that_fell_apart_becomes_several() -> None:
    source, target = cliques(6, 6, 20)
    bridges = np.array([(one, other + 6) for one in range(6) for other in range(6)]).T
    whole = view_of(32, np.append(source, bridges[0]), np.append(target, bridges[1]))
    before = found(whole)
    assert before.count == 2
    after = found(view_of(32, source, target), before, np.arange(6))
    assert after.count == 3
    assert len(np.unique(after.regions[:6])) == len(np.unique(after.regions[6:12])) == 1
    assert after.regions[12:].tolist() == before.regions[12:].tolist()


@pytest.mark.parametrize("changes", [5, 60])
def test_later_detections_are_as_good_as_a_first_one(changes: int) -> None:
    known, source, target = planted([50] * 20, 8, 0.3)
    wanted = np.arange(1, 1001, dtype=np.uint64)
    made = engine_of(1000, rows(wanted, source, target))
    rng = np.random.default_rng(2)
    result = found(made.view())
    for _ in range(4):
        chosen = rng.choice(1000, changes, replace=False)
        known[chosen] = rng.integers(0, 20, changes)
        drawn = [rng.choice(np.flatnonzero(known == known[each]), 16) for each in chosen]
        kept = [np.setdiff1d(targets, [each]) for targets, each in zip(drawn, chosen, strict=True)]
        new = np.repeat(chosen, [len(targets) for targets in kept]), np.concatenate(kept)
        made.commit(WriteBatch(edges=rows(wanted, *new)))
        view = made.view()
        before, result = result, found(view, result, np.sort(chosen))
        afresh = found(view)
        assert np.count_nonzero(result.regions != before.regions) <= 6 * changes + 60
        assert agreement(known, result.regions) >= agreement(known, afresh.regions) - 0.03
        assert result.modularity >= afresh.modularity - 0.01


def test_few_changes_leave_most_rows_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    _, source, target = planted([50] * 40, 8, 0.1)
    view = view_of(2000, source, target)
    first = found(view)
    asked: list[int] = []
    real = type(view.adjacency).sources_of

    def counted(self: object, targets: Slots) -> Slots:
        asked.append(len(targets))
        return real(self, targets)  # type: ignore[arg-type]

    monkeypatch.setattr(type(view.adjacency), "sources_of", counted)
    found(view, first, np.array([3]))
    assert 0 < sum(asked) < 200
    asked.clear()
    found(view, first, np.arange(501))
    assert not asked  # more than a quarter: everything is looked at, from nothing


# What becomes of them


def test_concepts_are_told_their_region_and_keep_everything_else() -> None:
    made = engine_of(9, rows(np.arange(1, 10, dtype=np.uint64), *cliques(4, 3)))
    view = made.view()
    result = found(view)
    batch = regroup(view, result)
    assert batch is not None
    assert batch.stats_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    event = batch.events[0]
    assert len(batch.events) == 1
    assert event[["type", "id1", "id2"]].tolist() == (EventType.RESTRUCTURE, 0, 2)
    assert event["val"] == pytest.approx(result.modularity)
    before = view.stats.whole().copy()
    made.commit(batch)
    after = made.view().stats.whole()
    assert after["region"].tolist() == result.regions.tolist() == [1] * 4 + [2] * 3 + [0] * 2
    for name in set(STATS.names or ()) - {"region"}:
        assert after[name].tolist() == before[name].tolist()
    assert regroup(made.view(), result) is None


def test_only_changed_regions_are_written() -> None:
    made = engine_of(12, rows(np.arange(1, 13, dtype=np.uint64), *cliques(4, 4, 4)))
    batch = regroup(made.view(), found(made.view()))
    assert batch is not None
    made.commit(batch)
    regions = np.array([1] * 4 + [2] * 4 + [3] * 3 + [0], np.uint32)
    present = made.view().regions.whole()
    again = regroup(made.view(), Found(regions, 3, 0.5))
    assert again is not None
    assert again.stats_ids.tolist() == made.view().ids[np.flatnonzero(present != regions)].tolist()
    assert 0 < len(again.stats_ids) < 12


# WordNet

_NOUNS = Path("/usr/share/wordnet/data.noun")


def hypernyms() -> tuple[Slots, Slots, Slots]:
    """Return the lexicographer file of each noun synset, and its edges to what it is a kind of."""
    places: dict[str, int] = {}
    files: list[int] = []
    links: list[tuple[str, str]] = []
    for line in _NOUNS.read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split("|")[0].split()
            places[fields[0]] = len(places)
            files.append(int(fields[1]))
            pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
            kinds = zip(pointers[::4], pointers[1::4], strict=False)
            links += [(fields[0], above) for kind, above in kinds if kind in ("@", "@i")]
    ends = np.array([(places[one], places[other]) for one, other in links]).T
    return np.array(files), ends[0], ends[1]


def subtrees(source: Slots, target: Slots, count: int, least: int) -> Slots:
    """Return for each node the nearest node at or above it that has ``least`` nodes below it.

    Of several that a node is a kind of, the first counts.
    """
    above = np.full(count, -1)
    first, position = np.unique(source, return_index=True)
    above[first] = target[position]
    chain = np.arange(count)
    sizes = np.zeros(count, np.int64)
    while (chain >= 0).any():
        np.add.at(sizes, chain[chain >= 0], 1)
        chain = np.where(chain >= 0, above[chain], -1)
    place = np.arange(count)
    while (small := (sizes[place] < least) & (above[place] >= 0)).any():
        place = np.where(small, above[place], place)
    return place


@pytest.mark.long
@pytest.mark.skipif(not _NOUNS.exists(), reason="NOT TESTED: needs the package wordnet-base")
def test_regions_of_wordnet_are_subtrees_of_meaning() -> None:
    files, source, target = hypernyms()
    assert len(files) > 80_000
    result = found(view_of(len(files), source, target))
    grouped = result.regions > 0
    assert grouped.mean() > 0.99
    trees = subtrees(source, target, len(files), 200)
    assert agreement(trees[grouped], result.regions[grouped]) >= 0.8
    joint = np.zeros((int(result.regions.max()) + 1, int(files.max()) + 1))
    np.add.at(joint, (result.regions, files), 1)
    assert joint.max(axis=1)[1:].sum() / grouped.sum() >= 0.85
