"""The nearest of many keys to many queries, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest

from aesg.graph import neighbours
from aesg.graph.arrays import unit
from aesg.graph.neighbours import nearest_among
from storage_backends.columns import Slots
from storage_backends.faiss_index import nearest
from storage_backends.types import Floats


def directions(count: int, seed: int) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32))


def grouped(monkeypatch: pytest.MonkeyPatch, group: int, groups: int) -> list[int]:
    """Let few keys count as many; return a list that gathers how many pairs are compared."""
    compared: list[int] = []

    def counted(queries: Floats, keys: Floats, k: int) -> tuple[Slots, Floats]:
        compared.append(len(queries) * len(keys))
        return nearest(queries, keys, k)

    for name, value in {
        "EXACT_BELOW": group * groups,
        "_GROUP": group,
        "_GROUPS": groups,
        "_MOST_OF_GROUP": 4 * group,
        "nearest": counted,
    }.items():
        monkeypatch.setattr(neighbours, name, value)
    return compared


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_few_keys_are_compared_with_every_query(count: int) -> None:
    queries, keys = directions(30, 0), directions(count, 1)
    rows, cosines = nearest_among(queries, keys, 4)
    assert rows.shape == cosines.shape == (30, 4)
    best = np.argsort(-(queries @ keys.T), axis=1)[:, :4]
    assert rows[:, : best.shape[1]].tolist() == best.tolist()
    assert (rows[:, best.shape[1] :] == -1).all()


def test_many_keys_are_found_by_what_resembles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped(monkeypatch, 40, 8)
    keys = directions(2_000, 1)
    noise = np.random.default_rng(2).normal(size=keys.shape).astype(np.float32)
    queries = unit(keys + np.float32(0.1) * noise)  # at a cosine of about 0.93
    rows, cosines = nearest_among(queries, keys, 5)
    assert (rows == np.arange(2_000)[:, None]).any(axis=1).mean() > 0.98
    alike = np.take_along_axis(queries @ keys.T, rows, axis=1)
    np.testing.assert_allclose(cosines, alike, atol=1e-5)
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())


def test_a_key_itself_is_always_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped(monkeypatch, 20, 3)
    keys = directions(900, 1)
    assert nearest_among(keys, keys, 2)[0][:, 0].tolist() == list(range(900))


@pytest.mark.parametrize("alike", [False, True])
def test_the_pairs_compared_grow_hardly_faster_than_the_queries(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = grouped(monkeypatch, 50, 4)
    for count in (1_000, 4_000):
        compared.clear()
        keys = np.repeat(directions(1, 1), count, axis=0) if alike else directions(count, 1)
        rows, _ = nearest_among(keys, keys, 3)
        assert (rows >= 0).all()
        centres = -(-count // 50)
        assert sum(compared) <= count * (2 * centres + 4 * 4 * 50)
