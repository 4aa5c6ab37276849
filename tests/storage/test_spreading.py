"""Spreading activation, in C and in numpy, against its definition, bit for bit."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from storage_backends.spreading import Part, Spread, spread, use
from storage_backends.spreading.dispatch import Name
from storage_backends.view import View
from tests.storage.reference_spreading import Concept, Edge, World
from tests.storage.spreading_worlds import (
    GONE,
    KERNELS,
    LAYOUTS,
    Laid,
    Layout,
    Seed,
    contents,
    laid,
    lone,
    row,
)

#: Sums of these are exact in float64, in any order.
_share = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(2**-16, 1, width=32, allow_subnormal=False)
)


@st.composite
def parts(draw: st.DrawFn) -> dict[int, Concept]:
    ids = sorted(draw(st.sets(st.integers(GONE + 1, 40), min_size=1, max_size=8)))
    concepts = {}
    for name in ids:
        others = [other for other in ids if other != name]
        targets = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
        kinds = st.sampled_from([1, 2, 4, 3])
        edges = [Edge(target, draw(_share), draw(kinds)) for target in targets]
        concepts[name] = Concept(edges, draw(st.integers(0, 2)), draw(st.integers(0, 6)))
    return concepts


@st.composite
def worlds(draw: st.DrawFn) -> World:
    drawn = draw(st.lists(parts(), min_size=1, max_size=3))
    weights = [draw(st.sampled_from([1.0, 0.5, 0.3])) for _ in drawn]
    return World(drawn, weights)


@st.composite
def queries(draw: st.DrawFn, world: World, least: int = 0) -> list[list[Seed]]:
    """Draw seeds, padded and with repeats."""
    names = [(number, name) for number, part in enumerate(world.parts) for name in part]
    seed = st.one_of(st.none(), st.tuples(st.sampled_from(names), _share))
    return draw(st.lists(st.lists(seed, min_size=1, max_size=5), min_size=least, max_size=4))


_settings = st.builds(
    Spread,
    hops=st.integers(0, 4),
    decay=st.sampled_from([0.0, 0.5, 0.85, 1.0]),
    floor=st.sampled_from([1e-9, 1e-3, 0.1, 1.0]),
    region_multiplier=st.sampled_from([0.0, 0.5, 1.0, 1.3]),
    kinds=st.sampled_from([0, 1, 2, 5, 0xFFFFFFFF]),
    frontier=st.sampled_from([0, 0, 1, 2, 5]),
    weakening=st.sampled_from([1.0, 0.99, 0.5, 0.0]),
    epoch=st.integers(0, 9),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=100)
@given(data=st.data(), world=worlds(), how=_settings, top=st.integers(1, 10))
def test_the_result_is_that_of_the_definition_to_the_bit(
    layout: Layout, data: st.DataObject, world: World, how: Spread, top: int
) -> None:
    graph = laid(world, layout)
    asked = data.draw(queries(world))
    for name in KERNELS:
        with use(name):
            found = graph.spread(asked, how, top)
        assert found.paths.shape == (len(asked), top, how.hops)
        for number, query in enumerate(asked):
            assert row(found, number) == graph.expected(query, how, top), name


@settings(max_examples=25)
@given(data=st.data(), world=worlds(), how=_settings)
def test_a_query_gets_the_same_whatever_the_batch(
    data: st.DataObject, world: World, how: Spread
) -> None:
    graph = laid(world, "in memory")
    asked = data.draw(queries(world, least=1))
    copies = 300 // len(asked) + 1  # more than are spread at once
    for name in KERNELS:
        with use(name):
            together = graph.spread(asked * copies, how, 4)
            for number, query in enumerate(asked):
                alone = graph.spread([query], how, 4)
                for column in ("slots", "activations", "paths"):
                    rows = getattr(together, column)[number :: len(asked)]
                    assert (rows == getattr(alone, column)).all()


def _dense(slots: int) -> World:
    names = range(2, slots + 2)
    part = {n: Concept([Edge(other, 1.0, 1) for other in names if other != n]) for n in names}
    return World([part], [1.0])


def _of(*parts: dict[int, Concept]) -> Laid:
    return laid(World(parts, [1.0] * len(parts)), "in memory")


@given(world=worlds(), hops=st.integers(0, 4), decay=st.sampled_from([0.5, 0.85, 1.0]))
def test_all_activation_together_is_bounded_by_the_seeds(
    world: World, hops: int, decay: float
) -> None:
    world.weights = [1.0] * len(world.parts)
    seeds: list[Seed] = [((p, name), 0.7) for p, part in enumerate(world.parts) for name in part]
    how = Spread(hops, decay, 1e-9, region_multiplier=1.5)
    result = laid(world, "in memory").spread([seeds], how, len(seeds))
    bound = 0.7 * len(seeds) * sum(decay**hop for hop in range(hops + 1))
    assert result.activations.sum(dtype=np.float64) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("hops", [2, 4, 8])
def test_seeds_stay_on_top_of_a_dense_graph(either: Name, hops: int) -> None:
    seeds: list[Seed] = [((0, name), 0.9) for name in range(100, 110)]
    graph = laid(_dense(150), "in memory")
    with use(either):
        result = graph.spread([seeds], Spread(hops, 0.85), 20)
    assert sorted(result.slots[0, :10].tolist()) == [graph.slot((0, n)) for n in range(100, 110)]
    assert result.activations.max() < 2


def test_ties_go_to_the_lower_part_and_then_to_the_lower_id(either: Name) -> None:
    star = {9: Concept([Edge(target, 0.5, 1) for target in (5, 3, 8)]), 3: Concept()}
    graph = _of(*[{**star, 5: Concept(), 8: Concept()}] * 2)
    with use(either):
        result = graph.spread([[((1, 9), 1.0), ((0, 9), 1.0)]], Spread(1, 0.6), 6)
    names = [(0, 9), (1, 9), (0, 3), (0, 5), (0, 8), (1, 3)]
    assert result.slots[0].tolist() == [graph.slot(name) for name in names]
    assert result.activations[0, 2] == result.activations[0, 5] == pytest.approx(0.2)


def test_of_equal_senders_the_lower_concept_id_is_the_parent(either: Name) -> None:
    graph = _of({7: Concept([Edge(9, 1.0, 1)]), 4: Concept([Edge(9, 1.0, 1)]), 9: Concept()})
    with use(either):
        result = graph.spread([[((0, 7), 1.0), ((0, 4), 1.0)]], Spread(1, 0.5), 3)
    paths = dict(zip(result.slots[0].tolist(), result.paths[0].tolist(), strict=True))
    assert paths[graph.slot((0, 9))] == [graph.slot((0, 4))]


def test_a_path_goes_through_concepts_that_are_not_among_the_top(either: Name) -> None:
    chain = {2: [Edge(3, 0.1, 1), Edge(4, 0.1, 1)], 3: [Edge(5, 1.0, 1)], 4: [Edge(5, 1.0, 1)]}
    graph = _of({**{n: Concept(edges) for n, edges in chain.items()}, 5: Concept()})
    with use(either):
        result = graph.spread([[((0, 2), 1.0)]], Spread(3, 1.0), 2)
    assert result.slots[0].tolist() == [graph.slot((0, name)) for name in (2, 5)]
    path = [graph.slot((0, name)) for name in (3, 2)]
    assert result.paths[0].tolist() == [[-1, -1, -1], [*path, -1]]


def test_the_frontier_lets_only_the_strongest_send(either: Name) -> None:
    edges = [Edge(3, 0.5, 1), Edge(4, 0.4, 1)]
    concepts = {2: Concept(edges), 3: Concept([Edge(5, 1.0, 1)]), 4: Concept([Edge(6, 1.0, 1)])}
    graph = _of({**concepts, 5: Concept(), 6: Concept()})
    with use(either):
        all_of_them = graph.spread([[((0, 2), 1.0)]], Spread(2, 1.0), 5)
        bounded = graph.spread([[((0, 2), 1.0)]], Spread(2, 1.0, frontier=1), 5)
    assert graph.slot((0, 6)) in all_of_them.slots
    assert graph.slot((0, 5)) in bounded.slots
    assert graph.slot((0, 6)) not in bounded.slots


def test_of_equal_regions_the_lower_is_favoured(either: Name) -> None:
    star = Concept([Edge(5, 0.25, 1), Edge(6, 0.25, 1)])
    regions = {2: 2, 3: 1, 5: 2, 6: 1}
    graph = lone({4: star, **{name: Concept(region=regions[name]) for name in regions}})
    with use(either):
        seeds: list[Seed] = [((0, name), 0.5) for name in (2, 3, 4)]
        result = graph.spread([seeds], Spread(1, 1.0, region_multiplier=2.0), 5)
    heard = dict(zip(result.slots[0].tolist(), result.activations[0].tolist(), strict=True))
    assert heard[graph.slot((0, 6))] == 2 * heard[graph.slot((0, 5))] == 0.25


def test_an_older_row_carries_less(either: Name) -> None:
    graph = _of({2: Concept([Edge(3, 0.5, 1)], epoch=4), 3: Concept()})
    with use(either):
        heard = [
            graph.spread([[((0, 2), 1.0)]], Spread(1, 1.0, weakening=0.5, epoch=epoch), 2)
            for epoch in (3, 4, 6)
        ]
    assert [each.activations[0, 1] for each in heard] == [0.5, 0.5, 0.125]


def test_a_weight_of_a_part_scales_its_seeds(either: Name) -> None:
    part = {2: Concept([Edge(3, 0.5, 1)]), 3: Concept()}
    graph = laid(World([part, part], [1.0, 0.5]), "in memory")
    with use(either):
        result = graph.spread([[((0, 2), 1.0), ((1, 2), 1.0)]], Spread(1, 1.0), 4)
    assert result.activations[0].tolist() == [1.0, 0.5, 0.5, 0.25]
    assert result.slots[0].tolist() == [graph.slot(n) for n in [(0, 2), (0, 3), (1, 2), (1, 3)]]


def test_an_empty_memory_spreads_nothing(either: Name) -> None:
    view = View.of(contents({}))
    part = Part(view.adjacency, view.ids, view.regions)
    with use(either):
        result = spread(
            [part], np.full((1, 2), -1), np.zeros((1, 2), np.float32), Spread(2, 0.85), 3
        )
    assert result.slots.tolist() == [[-1] * 3]
    assert result.paths.tolist() == [[[-1, -1]] * 3]
    assert not result.activations.any()


def test_settings_for_other_edges_differ_in_that_alone() -> None:
    assert Spread(2, 0.85, 0.01, 1.5).along(2) == Spread(2, 0.85, 0.01, 1.5, kinds=2)
