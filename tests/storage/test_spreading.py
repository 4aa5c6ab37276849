"""Spreading activation against a plain reference, bit for bit."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from storage_backends.adjacency import Adjacency, pool_records
from storage_backends.columns import Column
from storage_backends.spreading import Spread, Spreading, spread
from storage_backends.types import EDGE

_ONE = 2**32

#: Target, weight, confidence, kind.
Edge = tuple[int, float, float, int]


@dataclass
class Graph:
    """A small graph: rows of edges, ids and regions by slot."""

    rows: list[list[Edge]]
    ids: list[int]
    regions: list[int]

    def adjacency(self) -> Adjacency:
        edges = [(target, w, c, 0, kind) for row in self.rows for target, w, c, kind in row]
        records = np.array(edges, EDGE)
        return Adjacency.empty().patched(
            len(self.rows),
            np.arange(len(self.rows)),
            np.array([len(row) for row in self.rows], np.int64),
            pool_records(records, records["target"].astype(np.int64)),
        )

    def spread(
        self, seeds: list[list[int]], activations: list[list[float]], how: Spread, top: int
    ) -> Spreading:
        width = len(seeds[0]) if seeds else 0
        return spread(
            self.adjacency(),
            Column.of(np.array(self.ids, np.uint64)),
            Column.of(np.array(self.regions, np.uint32)),
            np.array(seeds, np.int64).reshape(len(seeds), width),
            np.array(activations, np.float32).reshape(len(seeds), width),
            how,
            top,
        )


def reference(
    graph: Graph, seeds: list[int], activations: list[float], how: Spread, top: int
) -> list[tuple[int, np.float32, int]]:
    """Return slot, activation and parent of the most active concepts of one query."""
    total: dict[int, int] = defaultdict(int)
    parents: dict[int, int] = {}
    for slot, activation in zip(seeds, activations, strict=True):
        if slot >= 0:
            total[slot] += math.floor(float(np.float32(activation)) * _ONE)
            parents[slot] = -1
    favoured = _dominant(graph, total)
    arrived = dict(total)
    for _ in range(how.hops):
        sent = _sent(graph, arrived, favoured, how)
        arrived = {target: sum(units for units, _ in heard) for target, heard in sent.items()}
        for target, heard in sent.items():
            total[target] += arrived[target]
            loudest = min(heard, key=lambda one: (-one[0], graph.ids[one[1]]))
            parents.setdefault(target, loudest[1])
    best = sorted(total, key=lambda slot: (-total[slot], graph.ids[slot]))[:top]
    return [(slot, np.float32(total[slot] / _ONE), parents[slot]) for slot in best]


def _sent(
    graph: Graph, arrived: dict[int, int], favoured: int, how: Spread
) -> dict[int, list[tuple[int, int]]]:
    """Return for each target what it hears, as (units, source)."""
    sent: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for source, units in arrived.items():
        shares = []
        for target, weight, confidence, kind in graph.rows[source]:
            if kind & how.kinds:
                share = float(np.float32(weight) * np.float32(confidence))
                if favoured and graph.regions[target] == favoured:
                    share *= how.region_multiplier
                shares.append((target, share))
        fan = 0.0
        for _, share in shares:
            fan += share
        for target, share in shares:
            passed = math.floor(units * (how.decay * (share / max(fan, 1.0))))
            if passed >= how.floor * _ONE:
                sent[target].append((passed, source))
    return sent


def _dominant(graph: Graph, total: dict[int, int]) -> int:
    held: dict[int, int] = defaultdict(int)
    for slot, units in total.items():
        if graph.regions[slot]:
            held[graph.regions[slot]] += units
    return min(held, key=lambda region: (-held[region], region), default=0)


_share = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32, allow_subnormal=False)
)


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> Graph:
    slots = draw(st.integers(1, most))
    rows: list[list[Edge]] = []
    for source in range(slots):
        others = [slot for slot in range(slots) if slot != source]
        targets = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
        kinds = st.sampled_from([1, 2, 4, 3])
        rows.append([(t, draw(_share), draw(_share), draw(kinds)) for t in targets])
    ids = draw(st.lists(st.integers(1, 99), min_size=slots, max_size=slots, unique=True))
    regions = draw(st.lists(st.integers(0, 2), min_size=slots, max_size=slots))
    return Graph(rows, ids, regions)


_settings = st.builds(
    Spread,
    hops=st.integers(0, 4),
    decay=st.sampled_from([0.0, 0.5, 0.85, 1.0]),
    floor=st.sampled_from([1e-9, 1e-3, 0.1, 1.0]),
    region_multiplier=st.sampled_from([0.5, 1.0, 1.5]),
    kinds=st.sampled_from([0, 1, 2, 5, 0xFFFFFFFF]),
)


@st.composite
def queries(draw: st.DrawFn, graph: Graph) -> tuple[list[list[int]], list[list[float]]]:
    """Draw seeds, padded and with repeats, and their activations."""
    width = draw(st.integers(1, 5))
    slot = st.integers(-1, len(graph.rows) - 1)
    count = draw(st.integers(0, 4))

    def row(of: st.SearchStrategy[float] | st.SearchStrategy[int]) -> list[float]:
        return draw(st.lists(of, min_size=width, max_size=width))

    seeds = [[int(value) for value in row(slot)] for _ in range(count)]
    return seeds, [row(_share) for _ in range(count)]


@settings(max_examples=200)
@given(data=st.data(), graph=graphs(), how=_settings, top=st.integers(1, 10))
def test_the_result_is_that_of_the_reference_to_the_bit(
    data: st.DataObject, graph: Graph, how: Spread, top: int
) -> None:
    seeds, activations = data.draw(queries(graph))
    result = graph.spread(seeds, activations, how, top)
    assert result.slots.shape == (len(seeds), top)
    for row, (slots, heard) in enumerate(zip(seeds, activations, strict=True)):
        wanted = reference(graph, slots, heard, how, top)
        padding = [(-1, np.float32(0), -1)] * (top - len(wanted))
        columns = (result.slots[row], result.activations[row], result.parents[row])
        assert list(zip(*columns, strict=True)) == wanted + padding


@settings(max_examples=25)
@given(data=st.data(), graph=graphs(), how=_settings)
def test_a_query_gets_the_same_whatever_the_batch(
    data: st.DataObject, graph: Graph, how: Spread
) -> None:
    seeds, activations = data.draw(queries(graph).filter(lambda drawn: drawn[0]))
    copies = 300 // len(seeds) + 1  # more than are spread at once
    together = graph.spread(seeds * copies, activations * copies, how, 4)
    for row in range(len(seeds)):
        alone = graph.spread(seeds[row : row + 1], activations[row : row + 1], how, 4)
        for name in ("slots", "activations", "parents"):
            column = getattr(together, name)[row :: len(seeds)]
            assert (column == getattr(alone, name)).all()


@given(graph=graphs(), hops=st.integers(0, 4), decay=st.sampled_from([0.5, 0.85, 1.0]))
def test_all_activation_together_is_bounded_by_the_seeds(
    graph: Graph, hops: int, decay: float
) -> None:
    seeds = list(range(len(graph.rows)))
    how = Spread(hops, decay, 1e-9, region_multiplier=1.5)
    result = graph.spread([seeds], [[0.7] * len(seeds)], how, len(seeds))
    bound = 0.7 * len(seeds) * sum(decay**hop for hop in range(hops + 1))
    assert result.activations.sum(dtype=np.float64) <= bound * (1 + 1e-6)


def _dense(slots: int) -> Graph:
    rows = [[(t, 1.0, 1.0, 1) for t in range(slots) if t != s] for s in range(slots)]
    return Graph(rows, list(range(1, slots + 1)), [0] * slots)


@pytest.mark.parametrize("hops", [2, 4, 8])
def test_seeds_stay_on_top_of_a_dense_graph(hops: int) -> None:
    seeds = list(range(100, 110))
    result = _dense(150).spread([seeds], [[0.9] * 10], Spread(hops, 0.85), 20)
    assert sorted(result.slots[0, :10].tolist()) == seeds
    assert result.activations.max() < 2


def test_ties_go_to_the_lower_concept_id() -> None:
    rows: list[list[Edge]] = [[(slot, 1.0, 0.5, 1) for slot in (3, 1, 2)], [], [], []]
    graph = Graph(rows, [9, 8, 3, 5], [0] * 4)
    result = graph.spread([[0]], [[1.0]], Spread(1, 0.6), 3)
    assert result.slots.tolist() == [[0, 2, 3]]
    assert result.activations[0, 1] == result.activations[0, 2] == pytest.approx(0.2)


def test_of_equal_senders_the_lower_concept_id_is_the_parent() -> None:
    rows: list[list[Edge]] = [[(2, 1.0, 1.0, 1)], [(2, 1.0, 1.0, 1)], []]
    graph = Graph(rows, [7, 4, 9], [0] * 3)
    result = graph.spread([[0, 1]], [[1.0, 1.0]], Spread(1, 0.5), 3)
    assert dict(zip(result.slots[0].tolist(), result.parents[0].tolist(), strict=True))[2] == 1


def test_an_empty_memory_spreads_nothing() -> None:
    result = Graph([], [], []).spread([[-1, -1]], [[0.0, 0.0]], Spread(2, 0.85), 3)
    assert result.slots.tolist() == result.parents.tolist() == [[-1] * 3]
    assert not result.activations.any()


def test_settings_for_other_edges_differ_in_that_alone() -> None:
    assert Spread(2, 0.85, 0.01, 1.5).along(2) == Spread(2, 0.85, 0.01, 1.5, kinds=2)
