"""Edges from values to the keys that they resemble, against plain loops over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph import association
from aesg.graph.association import Values, associate, unanswered
from storage_backends.types import Concepts, EdgeKind, Floats, ValueKind, WriteBatch
from storage_backends.view import View
from tests.graph.build import engine, stats
from tests.graph.evolving import row
from tests.storage.build import ids

LEAST = 0.7

#: Directions of keys and values in the plane, in degrees, and how long the vectors are.
_degrees = st.integers(0, 23).map(lambda part: 15 * part)
_pairs = st.lists(st.tuples(_degrees, st.one_of(st.none(), _degrees)), max_size=14)


def circle(degrees: Sequence[float], length: float = 1.0) -> Floats:
    angle = np.deg2rad(np.array(degrees, np.float64))
    return (length * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32).reshape(-1, 2)


def made(first: int, pairs: Sequence[tuple[int, int | None]]) -> Concepts:
    """Return concepts of a key and a vector value, or of a key alone, with ids from ``first``."""
    leads = np.array([value is not None for _, value in pairs], np.bool_)
    return Concepts(
        ids=ids(*range(first, first + len(pairs))),
        keys=circle([key for key, _ in pairs], 3.0),
        value_kinds=np.where(leads, ValueKind.VECTOR, ValueKind.KEY).astype(np.uint8),
        value_ids=np.zeros(len(pairs), np.int64),
        value_vectors=circle([value or 0 for _, value in pairs], 5.0),
        stats=stats(len(pairs)),
    )


def view(concepts: Concepts) -> View:
    holder = engine([])
    if len(concepts):
        holder.commit(WriteBatch(concepts=concepts))
    return holder.view()


def cosine(one: int, other: int) -> float:
    return float(np.cos(np.deg2rad(one - other)))


@settings(max_examples=150, deadline=None)
@given(old=_pairs, new=_pairs)
def test_each_new_value_leads_to_the_keys_nearest_to_it(
    old: list[tuple[int, int | None]], new: list[tuple[int, int | None]]
) -> None:
    found = associate(view(made(1, old)), made(51, new), Values.none(2), LEAST)
    keys = dict(enumerate([key for key, _ in old], start=1))
    keys |= dict(enumerate([key for key, _ in new], start=51))
    edges = dict(zip(map(tuple, found.pairs.tolist()), found.cosines.tolist(), strict=True))
    assert len(edges) == len(found.pairs)
    for source, (own, value) in enumerate(new, start=51):
        leads = {target: sure for (other, target), sure in edges.items() if other == source}
        if value is None or value == own:
            assert not leads
            continue
        alike = {each: cosine(value, key) for each, key in keys.items() if each != source}
        alike = {each: sure for each, sure in alike.items() if sure > LEAST}
        assert len(leads) == min(len(alike), 8)
        for target, sure in leads.items():
            assert sure == pytest.approx(alike[target], abs=1e-5)
        left = [sure for each, sure in alike.items() if each not in leads]
        assert max(left, default=0) <= min(leads.values(), default=1) + 1e-5
    wanting = [n for n, (own, value) in enumerate(new, 51) if value is not None and value != own]
    linked = {source for source, _ in edges}
    assert found.waiting.ids.tolist() == [each for each in wanting if each not in linked]


def test_a_value_that_found_no_key_is_linked_when_one_comes() -> None:
    first = made(1, [(0, 180)])
    nothing = associate(view(made(9, [])), first, Values.none(2), LEAST)
    assert not len(nothing.pairs)
    assert nothing.waiting.ids.tolist() == [1]
    later = associate(view(first), made(2, [(185, None), (90, None)]), nothing.waiting, LEAST)
    assert later.pairs.tolist() == [[1, 2]]
    np.testing.assert_allclose(later.cosines, [cosine(180, 185)], rtol=1e-5)
    assert not len(later.waiting)


def test_values_that_wait_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "MOST_WAITING", 3)
    held = made(1, [(0, 180), (0, 170)])
    waiting = associate(view(made(9, [])), held, Values.none(2), LEAST).waiting
    more = associate(view(held), made(3, [(10, 190), (10, 200)]), waiting, LEAST)
    assert more.waiting.ids.tolist() == [2, 3, 4]


def test_values_of_concepts_that_are_gone_wait_no_longer() -> None:
    waiting = Values(ids(1, 2), circle([180, 180]))
    found = associate(view(made(2, [(0, 180)])), made(3, [(180, None)]), waiting, LEAST)
    assert found.pairs.tolist() == [[2, 3]]


@pytest.mark.parametrize("kind", [ValueKind.INTEGER, ValueKind.KEY])
def test_only_vector_values_lead_anywhere(kind: ValueKind) -> None:
    new = made(3, [(0, 90), (90, 0)])
    new.value_kinds[:] = kind
    found = associate(view(made(1, [(0, None), (90, None)])), new, Values.none(2), LEAST)
    assert not len(found.pairs)
    assert not len(found.waiting)


def test_a_value_without_direction_leads_nowhere() -> None:
    new = made(3, [(0, 90)])
    assert new.value_vectors is not None
    new.value_vectors[:] = 0
    found = associate(view(made(1, [(90, None)])), new, Values.none(2), 0.0)
    assert not len(found.pairs)
    assert not len(found.waiting)


def test_at_a_threshold_of_nothing_keys_that_point_away_are_left_out() -> None:
    held = view(made(1, [(85, None), (180, None), (270, None)]))
    found = associate(held, made(4, [(200, 0)]), Values.none(2), 0.0)
    assert found.pairs.tolist() == [[4, 1]]


def test_a_graph_knows_the_newest_values_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "MOST_WAITING", 3)
    holder = engine([])
    own_keys = [(30, 30), (45, 45), (60, None), (75, 75)]
    pairs = [(0, 90), (0, 105), (0, 120), (0, 135), *own_keys, (0, 150)]
    holder.commit(WriteBatch(concepts=made(1, pairs)))
    assert unanswered(holder.view(), 2).ids.tolist() == [3, 4, 9]
    links = {4: row((1, 0.5), kind=EdgeKind.VALUE), 9: row((1, 0.5), kind=EdgeKind.SUCCESSOR)}
    holder.commit(WriteBatch(edges=links, deleted=ids(2)))
    found = unanswered(holder.view(), 2)
    assert found.ids.tolist() == [1, 3, 9]
    np.testing.assert_allclose(found.units, circle([90, 120, 150]), atol=1e-6)


def test_a_graph_without_vector_values_has_none_that_lead_nowhere() -> None:
    assert unanswered(engine([1, 2]).view(), 7).units.shape == (0, 7)
    assert unanswered(engine([]).view(), 7).units.shape == (0, 7)
