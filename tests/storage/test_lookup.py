"""Lookup in C against its definition: cosines to the bit, graphs against a plain beam search."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from storage_backends import lookup
from storage_backends.columns import Column, Slots
from storage_backends.cosines import best, cosines_of, laid_out
from storage_backends.faiss_index import SeedIndex, nearest
from storage_backends.hnsw import HnswBase
from storage_backends.spreading import use
from storage_backends.types import Floats

needs_c = pytest.mark.skipif(not lookup.is_used(), reason="NOT TESTED: needs the lookup in C")
roads = pytest.mark.parametrize("road", ["numpy", pytest.param("C", marks=needs_c)])

Found = tuple[Slots, Floats]


def _vectors(seed: int, count: int, width: int, scale: int = 0) -> Floats:
    """Return vectors that lie anywhere, or of few whole numbers, so that ties abound."""
    rng = np.random.default_rng(seed)
    if scale:
        return rng.integers(-scale, scale + 1, (count, width)).astype(np.float32)
    return rng.standard_normal((count, width), np.float32)


def _clustered(seed: int, clusters: int, each: int, width: int) -> Floats:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(clusters, 1, width)) + 0.3 * rng.normal(size=(clusters, each, width))
    keys = keys.reshape(-1, width)
    unit: Floats = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _same(one: Found, other: Found) -> None:
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1].tobytes() == other[1].tobytes()


# ---------------------------------------------------------------------------------------- cosines


def _sum_of_one(query: Floats, key: Floats) -> np.float32:
    """Return an inner product summed as it is defined, one number at a time."""
    width, sums = len(key), [np.float32(0)] * 16
    whole = width - width % 16
    terms = [(i % 16, i) for i in range(whole)]
    if width < 16:
        terms = [(i, i) for i in range(width)]
    elif width > whole:  # the end is read backwards from the last element
        terms += [(16 - width + i, i) for i in range(whole, width)]
    for place, i in terms:
        sums[place] += query[i] * key[i]
    for half in (8, 4, 2, 1):
        sums = [sums[i] + sums[i + half] for i in range(half)]
    return sums[0]


@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 31, 48, 64, 100])
def test_a_cosine_is_the_sum_in_its_one_order(width: int) -> None:
    queries, keys = _vectors(0, 3, width), _vectors(1, 5, width)
    rows = np.tile(np.arange(5), (3, 1))
    expected = [[_sum_of_one(query, key) for key in keys] for query in queries]
    found = cosines_of(queries, keys, rows)
    assert found.tobytes() == np.array(expected, np.float32).tobytes()
    np.testing.assert_allclose(found, queries @ keys.T, atol=1e-4)


def test_a_query_that_is_laid_out_meets_each_element_once() -> None:
    for width in range(1, 40):
        filled = laid_out(np.ones((2, width), np.float32))
        assert filled.shape[1] % 16 == 0
        assert (filled.sum(axis=1) == width).all()


def test_the_best_come_first_and_the_lower_slot_of_equals() -> None:
    slots = np.array([[7, -1, 3, 5, 2]])
    cosines = np.array([[0.5, 0.9, 0.5, 0.8, -0.1]], np.float32)
    found = best(slots, cosines, 7)
    assert found[0].tolist() == [[5, 3, 7, 2, -1, -1, -1]]
    np.testing.assert_allclose(found[1], [[0.8, 0.5, 0.5, -0.1, 0, 0, 0]])
    assert best(slots, cosines, 2)[0].tolist() == [[5, 3]]


# ----------------------------------------------------------------------------------- comparison


def _brute(queries: Floats, keys: Floats, k: int) -> Found:
    """Return the nearest keys: all cosines, sorted."""
    rows = np.tile(np.arange(len(keys)), (len(queries), 1))
    return best(rows, cosines_of(queries, keys, rows), k)


@needs_c
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 70),
    asked=st.integers(1, 13),
    width=st.integers(1, 40),
    k=st.integers(1, 80),
    scale=st.sampled_from([0, 1]),
)
def test_a_comparison_is_the_definition_to_the_bit(
    seed: int, count: int, asked: int, width: int, k: int, scale: int
) -> None:
    keys, queries = _vectors(seed, count, width, scale), _vectors(seed + 1, asked, width, scale)
    found = nearest(queries, keys, k)
    _same(found, _brute(queries, keys, min(k, count)))


@needs_c
def test_more_keys_than_a_block_has_room_for_are_compared() -> None:
    keys, queries = _vectors(0, 3_000, 33), _vectors(1, 9, 33)
    _same(nearest(queries, keys, 20), _brute(queries, keys, 20))


@needs_c
@given(seed=st.integers(0, 99), k=st.integers(1, 12), asked=st.sampled_from([1, 4, 6]))
def test_parts_that_are_compared_in_turn_are_as_one(seed: int, k: int, asked: int) -> None:
    rng = np.random.default_rng(seed)
    keys, queries = _vectors(seed, 30, 20, 1), _vectors(seed + 1, asked, 20, 1)
    chosen = np.sort(rng.choice(100, 11, replace=False))
    found = np.full((asked, k), -1), np.zeros((asked, k), np.float32)
    lookup.compare(found, queries, keys[:19], 200, None)
    lookup.compare(found, queries, keys[19:], 50, chosen)
    slots = np.concatenate([200 + np.arange(19), 50 + chosen])
    rows = np.tile(np.arange(30), (asked, 1))
    _same(found, best(np.tile(slots, (asked, 1)), cosines_of(queries, keys, rows), k))


@needs_c
def test_chosen_keys_may_lie_apart_in_memory() -> None:
    keys, chosen = _vectors(0, 10, 8), np.arange(20)[::2]
    found = np.full((10, 1), -1), np.full((10, 1), -np.inf, np.float32)
    lookup.compare(found, 4 * keys, keys, 100, chosen)
    expected = 100 + 2 * _brute(keys, keys, 1)[0]
    np.testing.assert_array_equal(found[0], expected)


@roads
def test_keys_of_no_width_are_all_as_near(road: Any) -> None:
    nothing = np.empty((3, 0), np.float32)
    with use(road):
        slots, cosines = nearest(nothing, nothing, 2)
    assert slots.tolist() == [[0, 1]] * 3
    assert not cosines.any()


@roads
def test_what_is_not_a_number_is_near_to_nothing(road: Any) -> None:
    keys = _clustered(0, 5, 20, 16)
    base = HnswBase.build(Column.over(keys))
    assert base is not None
    queries = np.stack([np.full(16, np.nan, np.float32), keys[3]])
    with use(road):
        for k in (1, 5):
            for found in (base.search(queries, k)[0], nearest(queries, keys, k)[0]):
                assert found[:, 0].tolist() == [-1, 3]


@roads
@pytest.mark.parametrize("count", [1, 300])
def test_what_a_query_finds_does_not_depend_on_its_batch(road: Any, count: int) -> None:
    keys, queries = _vectors(2, count, 64), _vectors(3, 41, 64)
    with use(road):
        together = nearest(queries, keys, 5)
        for begin, end in ((0, 1), (1, 4), (4, 9), (9, 41)):
            apart = nearest(queries[begin:end], keys, 5)
            _same(apart, (together[0][begin:end], together[1][begin:end]))


@roads
def test_what_is_no_number_is_never_found(road: Any) -> None:
    keys = _vectors(4, 10, 16)
    keys[3] = np.nan
    with use(road):
        slots, _ = SeedIndex(Column.of(keys), None, None).search(keys[:3], 10)
        nothing, _ = SeedIndex(Column.of(keys), None, None).search(keys[3:4], 4)
    assert sorted(slots[0].tolist()) == [-1, 0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert nothing.tolist() == [[-1] * 4]


# ---------------------------------------------------------------------------------------- graphs


def _beam(links: lookup.Links, query: Floats, effort: int, k: int) -> list[tuple[float, int]]:
    """Search as the paper says it, with heaps (Malkov and Yashunin, 2018, algorithms 2 and 5)."""

    def cosine(slot: int) -> float:
        return float(cosines_of(query[None], links.keys, np.array([[slot]]))[0, 0])

    def linked(slot: int, level: int) -> Iterator[int]:
        first = int(links.offsets[slot])
        row = links.links[first + links.room[level] : first + links.room[level + 1]].tolist()
        yield from row[: row.index(-1) if -1 in row else None]

    at = links.entry
    for level in range(links.top_level, 0, -1):
        moved = True
        while moved:
            nearer = max(linked(at, level), key=cosine, default=at)
            moved = cosine(nearer) > cosine(at)
            at = nearer if moved else at
    held = [(cosine(at), -at)]  # the worst first, of equals the higher slot
    open_, seen = [(-cosine(at), at)], {at}
    while open_:
        far, slot = heapq.heappop(open_)
        if (-far, -slot) not in held:
            continue  # what came since has put it out
        for other in linked(slot, 0):
            if other in seen:
                continue
            seen.add(other)
            entry = cosine(other), -other
            heapq.heappush(held, entry)
            heapq.heappush(open_, (-entry[0], other))
            if len(held) > effort:
                heapq.heappop(held)
    return [(found, -slot) for found, slot in sorted(held, reverse=True)[:k]]


def _graph(keys: Floats) -> HnswBase:
    base = HnswBase.build(Column.over(keys))
    assert base is not None
    return base


WORLDS = {
    "anywhere": _vectors(0, 400, 20),
    "clustered": _clustered(1, 8, 50, 64),
    "equal": np.repeat(_clustered(2, 20, 1, 20), 15, axis=0),
    "few": _clustered(3, 1, 3, 16),
    "one": _clustered(4, 1, 1, 16),
}


@needs_c
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("effort", "k"), [(1, 1), (12, 5), (40, 40)])
def test_a_search_is_the_definition_to_the_bit(world: str, effort: int, k: int) -> None:
    keys = WORLDS[world]
    links = _graph(keys)._links
    rng = np.random.default_rng(5)
    queries = keys[rng.integers(0, len(keys), 7)] + rng.normal(0, 0.05, (7, keys.shape[1]))
    asked: Floats = np.concatenate([queries, keys[:3]]).astype(np.float32)
    slots, cosines = lookup.search(links, asked, effort, k)
    for row, query in enumerate(asked):
        expected = _beam(links, query, effort, k)
        assert slots[row, : len(expected)].tolist() == [slot for _, slot in expected]
        assert cosines[row, : len(expected)].tolist() == [found for found, _ in expected]
        assert (slots[row, len(expected) :] == -1).all()
        assert (cosines[row, len(expected) :] == 0).all()


@needs_c
@pytest.mark.parametrize("world", ["anywhere", "clustered", "equal"])
def test_a_search_finds_as_much_as_that_of_faiss(world: str) -> None:
    keys = WORLDS[world]
    base, queries = _graph(keys), keys[::3] + np.float32(0.02)
    nearest_of_all = _brute(queries, keys, 10)[1][:, -1:]
    shares = {}
    for road in ("C", "numpy"):
        with use(road):
            shares[road] = (base.search(queries, 10)[1] >= nearest_of_all).mean()
    assert shares["C"] >= max(shares["numpy"] - 0.005, 0.9)


@roads
def test_what_a_graph_finds_does_not_depend_on_the_batch(road: Any) -> None:
    keys = WORLDS["clustered"]
    base, queries = _graph(keys), keys[::9] + np.float32(0.01)
    with use(road):
        slots, cosines = base.search(queries, 8)
        for row, query in enumerate(queries):
            _same(base.search(query[None], 8), (slots[row : row + 1], cosines[row : row + 1]))


@roads
def test_a_graph_and_a_comparison_say_the_same_cosine(road: Any) -> None:
    keys = WORLDS["clustered"]
    base, queries = _graph(keys), keys[::9] + np.float32(0.01)
    with use(road):
        exact = nearest(queries, keys, 3)
        _same(base.search(queries, 3), exact)


@needs_c
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = WORLDS["clustered"], _clustered(9, 120, 1, 64)
    base = _graph(keys)
    expected = base.search(queries, 6), nearest(queries, keys, 6)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: threads)
    monkeypatch.setattr(lookup, "_THREAD_WORK", 1)
    _same(base.search(queries, 6), expected[0])
    _same(nearest(queries, keys, 6), expected[1])


@needs_c
def test_calls_of_several_threads_do_not_disturb_each_other() -> None:
    keys, queries = WORLDS["clustered"], _clustered(9, 40, 1, 64)
    base = _graph(keys)
    slots, cosines = base.search(queries, 6)
    with ThreadPoolExecutor(4) as pool:
        apart = list(pool.map(lambda query: base.search(query[None], 6), queries))
    _same(
        (np.concatenate([a for a, _ in apart]), np.concatenate([b for _, b in apart])),
        (slots, cosines),
    )


@needs_c
@pytest.mark.parametrize("target", [400, 2**31 - 1])
def test_a_link_that_leads_outside_is_refused(target: int) -> None:
    links = _graph(WORLDS["anywhere"])._links
    damaged = replace(links, links=np.where(links.links >= 0, target, -1).astype(np.int32))
    with pytest.raises(IndexError, match="one that leads beyond"):
        lookup.search(damaged, links.keys[:2], 10, 5)


@needs_c
def test_links_that_would_lie_outside_are_refused() -> None:
    links = _graph(WORLDS["anywhere"])._links
    damaged = replace(links, offsets=np.full_like(links.offsets, 2**40))
    with pytest.raises(IndexError, match="one that leads beyond"):
        lookup.search(damaged, links.keys[:2], 10, 5)


@needs_c
@pytest.mark.parametrize("queries", [np.ones((2, 19), np.float32), np.ones(20, np.float32)])
def test_queries_of_another_width_are_refused(queries: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="expected queries of width 20"):
        lookup.search(_graph(WORLDS["anywhere"])._links, queries, 10, 5)
    with pytest.raises(ValueError, match="expected queries of width 20"):
        nearest(queries, WORLDS["anywhere"], 5)


# ------------------------------------------------------------------------------ which one is used


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let the library be looked for anew, now and afterwards."""
    lookup._loaded.cache_clear()
    yield
    lookup._loaded.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_the_library_faiss_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lookup, "__file__", str(tmp_path / "lookup.py"))
    assert "not built" in lookup.why_not()
    keys = WORLDS["clustered"]
    _same(nearest(keys[:9], keys, 4), _brute(keys[:9], keys, 4))
    _same(_graph(keys).search(keys[:9], 4), _brute(keys[:9], keys, 4))


@pytest.mark.usefixtures("fresh")
@needs_c
def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LAYOUT", -1)
    assert "another version" in lookup.why_not()
    assert not lookup.is_used()


@needs_c
def test_who_declines_the_kernels_in_c_has_no_lookup_in_c() -> None:
    with use("C"):
        assert lookup.is_used()
    with use("numpy"):
        assert not lookup.is_used()
