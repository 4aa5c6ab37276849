"""Seed lookup against brute force."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from unittest.mock import patch

import faiss
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from storage_backends.columns import Column
from storage_backends.faiss_index import SeedIndex, one_thread
from storage_backends.hnsw import HnswBase
from storage_backends.types import Floats
from tests.storage.split import split

Mask = NDArray[np.bool_]


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit


def _clustered(seed: int, clusters: int, each: int, dim: int = 16) -> Floats:
    """Return unit keys, cluster after cluster."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 1, dim))
    keys = centres + 0.3 * rng.normal(size=(clusters, each, dim))
    return _unit(keys.reshape(-1, dim).astype(np.float32))


def _index(keys: Floats, alive: Mask | None, covered: int = 0, moved: int = 0) -> SeedIndex:
    """Return an index with a graph over the first keys, built before some of them moved."""
    earlier = keys.copy()
    slots = np.arange(moved) * 2
    earlier[slots] = -earlier[slots]
    base = HnswBase.build(Column.of(earlier[:covered])) if covered else None
    tombstones = None if alive is None else Column.of(alive)
    return SeedIndex(Column.of(keys), tombstones, base, slots)


def _best(queries: Floats, keys: Floats, alive: Mask, k: int) -> Floats:
    """Return the ``k`` highest cosines of each query among the live keys, descending."""
    cosines = queries.astype(np.float64) @ keys[alive].astype(np.float64).T
    return -np.sort(-cosines, axis=1)[:, :k].astype(np.float32)


def _recall(index: SeedIndex, queries: Floats, k: int) -> float:
    """Return the share of the answers that are as near as the true nearest."""
    alive = np.ones(len(index.keys), np.bool_) if index.alive is None else index.alive.whole()
    slots, cosines = index.search(queries, k)
    assert alive[slots[slots >= 0]].all()
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in slots)
    best = _best(queries, index.keys.whole(), alive, k)
    width = best.shape[1]
    near = (slots >= 0) & (cosines >= best[:, -1:] - 1e-5)
    return float(near[:, :width].mean())


@given(
    seed=st.integers(0, 99),
    count=st.integers(0, 30),
    k=st.integers(1, 40),
    asked=st.integers(0, 25),
    dead=st.sampled_from([0.0, 0.3, 1.0]),
    chunk=st.sampled_from([7, 1000]),
)
def test_an_exact_search_is_brute_force(
    seed: int, count: int, k: int, asked: int, dead: float, chunk: int
) -> None:
    rng = np.random.default_rng(seed)
    # Of few small numbers: zero vectors and duplicates abound.
    keys = _unit(rng.integers(-1, 2, (count, 3)).astype(np.float32))
    queries = _unit(rng.integers(-1, 2, (asked, 3)).astype(np.float32))
    alive = rng.random(count) >= dead
    index = SeedIndex(split(keys, seed), None if alive.all() else split(alive, seed + 1), None)
    with patch("storage_backends.faiss_index._CHUNK", chunk):
        slots, cosines = index.search(queries, k)
    assert slots.shape == cosines.shape == (asked, k)
    width = min(k, int(alive.sum()))
    assert ((slots >= 0).sum(axis=1) == width).all()
    np.testing.assert_array_equal(slots[:, width:], -1)
    np.testing.assert_array_equal(cosines[:, width:], 0)
    found = slots[:, :width]
    assert alive[found].all()
    assert all(len(set(row.tolist())) == width for row in found)
    np.testing.assert_allclose(cosines[:, :width], _best(queries, keys, alive, k), atol=1e-6)
    own = np.einsum("nd,nkd->nk", queries, keys[found])
    np.testing.assert_allclose(cosines[:, :width], own, atol=1e-6)


@pytest.mark.parametrize("queries", [1, 64])
def test_a_graph_with_a_delta_finds_the_nearest(queries: int) -> None:
    keys = _clustered(0, 60, 50)
    index = _index(keys, None, 2500)
    assert _recall(index, _clustered(1, queries, 1), 10) >= 0.95
    assert _recall(index, keys[2400 : 2400 + queries], 10) >= 0.95


@pytest.mark.parametrize("how", ["scattered", "clustered", "all but few"])
def test_tombstones_are_never_found_and_hide_nothing(how: str) -> None:
    keys = _clustered(2, 10, 300)
    alive = np.ones(len(keys), np.bool_)
    if how == "scattered":
        alive[np.random.default_rng(3).random(len(keys)) < 0.5] = False
    elif how == "clustered":
        alive[300:600] = False
        alive[900:1195] = False
    else:
        alive[np.arange(len(keys)) % 500 != 0] = False
    index = _index(keys, alive, 2900)
    for near in (keys[300:340], keys[900:940], keys[::100]):
        assert _recall(index, near + np.float32(0.01), 8) >= 0.95


@pytest.mark.parametrize("dead", [False, True])
def test_moved_keys_are_found_where_they_are_and_nowhere_else(dead: bool) -> None:
    keys = _clustered(8, 20, 50)
    alive = np.arange(1000) % 3 != 0
    index = _index(keys, alive if dead else None, 900, moved=200)
    assert index.uncovered == (alive[900:].sum() + alive[:400:2].sum() if dead else 300)
    for near in (keys[:400:10], -keys[:400:10], keys[900::5]):
        assert _recall(index, near, 8) >= 0.95


@pytest.mark.parametrize(("dim", "k"), [(16, 8), (64, 40)])
def test_duplicates_in_a_graph_are_all_found(dim: int, k: int) -> None:
    keys = np.repeat(_clustered(4, 20, 1, dim), 100, axis=0)
    assert _recall(_index(keys, None, len(keys)), keys[::50], k) == 1.0


@pytest.mark.parametrize("moved", [0, 4])
def test_more_may_be_asked_of_a_graph_than_it_holds(moved: int) -> None:
    keys = _clustered(5, 2, 10)
    alive = np.arange(20) % 2 == 0
    slots, cosines = _index(keys, alive, 15, moved).search(keys[:3], 30)
    assert [sorted(row[row >= 0].tolist()) for row in slots] == [list(range(0, 20, 2))] * 3
    assert (np.diff(cosines[:, :10]) <= 0).all()


def test_a_build_that_is_stopped_gives_no_graph() -> None:
    stop = threading.Event()
    stop.set()
    assert HnswBase.build(Column.of(_clustered(6, 2, 10)), stop) is None


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_thread_count_is_as_before_after_a_search_and_after_a_failure() -> None:
    index = _index(_clustered(7, 2, 10), None)
    index.search(index.keys.part(0, 1), 3)
    assert faiss.omp_get_max_threads() == 2
    with pytest.raises((ValueError, AssertionError)):  # FAISS raises the latter
        index.search(np.ones((1, 3), np.float32), 3)
    assert faiss.omp_get_max_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_one_thread_is_what_it_says() -> None:
    with one_thread():
        assert faiss.omp_get_max_threads() == 1
    with one_thread(False):
        assert faiss.omp_get_max_threads() == 2
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert faiss.omp_get_max_threads() == 2


_FORK = """
import os, signal, warnings
import faiss, numpy as np
from storage_backends.columns import Column
from storage_backends.faiss_index import SeedIndex
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just this
faiss.omp_set_num_threads(2)
keys = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
index = SeedIndex(Column.of(keys), None, None)
wanted = index.search(keys[:200], 3)[0]
pid = os.fork()
if not pid:
    signal.alarm(20)
    os._exit(0 if (index.search(keys[:200], 3)[0] == wanted).all() else 3)
print(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_can_search_after_its_parent_used_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0\n"
