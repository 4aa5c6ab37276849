"""The kernel and its twin at work: large queries, threads, forks, damage, and which one is used."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from storage_backends import lookup
from storage_backends.columns import Column
from storage_backends.errors import StoreUsageError
from storage_backends.spreading import (
    Spread,
    Spreading,
    dispatch,
    explained,
    kernel,
    kernel_name,
    spread,
    use,
)
from storage_backends.spreading.dispatch import Name
from tests.storage import spreading_children
from tests.storage.processes import run_child
from tests.storage.reference_spreading import Concept, Edge
from tests.storage.spreading_worlds import (
    KERNELS,
    WIDE,
    Laid,
    laid,
    lone,
    random_queries,
    random_world,
    row,
)


@pytest.fixture(scope="module")
def large() -> Laid:
    """Give a graph of which a query reaches more than the kernel has room for at first."""
    return laid(random_world(2500, 12), "changed since")


@pytest.mark.parametrize(
    "how", [WIDE, WIDE.along(5), Spread(4, 1.0, 1e-5), Spread(3, 0.9, 1e-7, frontier=20)]
)
def test_both_agree_with_the_definition_where_activation_goes_far(large: Laid, how: Spread) -> None:
    asked = random_queries(large.world, 2)
    expected = [large.expected(query, how, 2000) for query in asked]
    assert sum(slot >= 0 for slot, _, _ in expected[0]) > 300
    for name in KERNELS:
        with use(name):
            found = large.spread(asked, how, 2000)
        assert [row(found, number) for number in range(len(asked))] == expected


@pytest.fixture(scope="module")
def tied() -> Laid:
    """Give a large graph in which many concepts end with the very same activation."""
    world = random_world(2500, 12)
    edges = {
        name: [replace(edge, strength=0.5) for edge in concept.edges]
        for name, concept in world.parts[0].items()
    }
    part = {
        name: replace(concept, edges=edges[name], epoch=0)
        for name, concept in world.parts[0].items()
    }
    return lone(part)


@pytest.mark.parametrize("top", [1, 7, 30])
@pytest.mark.parametrize(
    "how",
    [
        Spread(1, 0.9, 1e-6),
        Spread(2, 0.8, 1e-3),
        Spread(2, 1.0, 1e-6, region_multiplier=3.0),
        Spread(3, 0.9, 1e-5, frontier=9),
    ],
)
@pytest.mark.parametrize("graph", ["large", "tied"])
def test_only_what_cannot_be_among_the_top_is_left_out(
    graph: str, how: Spread, top: int, request: pytest.FixtureRequest
) -> None:
    world: Laid = request.getfixturevalue(graph)
    names = list(world.world.parts[0])[::97]
    heard = 0.5 if graph == "tied" else 0.6875  # both exact in float32
    few = [[((0, name), heard), ((0, name + 1), heard)] for name in names[:6]]
    many = [[((0, name), heard) for name in names]]  # more than the top has room for
    asked = few + many
    expected = [world.expected(query, how, top) for query in asked]
    for name in KERNELS:
        with use(name):
            found = world.spread(asked, how, top)
        assert [row(found, number) for number in range(len(asked))] == expected


def test_a_large_query_leaves_nothing_behind_for_the_next(either: Name, large: Laid) -> None:
    small = Spread(1, 0.5, 1e-2)
    asked = random_queries(large.world, 6)
    with use(either):
        for how in (WIDE, small):
            together = large.spread(asked, how, 50)
            alone = [large.spread([query], how, 50) for query in asked]
            assert [row(together, i) for i in range(6)] == [row(one, 0) for one in alone]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_nothing(
    either: Name, large: Laid, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Spread(2, 0.9, 1e-3, 1.5)
    asked = random_queries(large.world, 500)
    with use("numpy"):
        expected = large.spread(asked, how, 10)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: threads)
    with use(either):
        found = large.spread(asked, how, 10)
    for column in ("slots", "activations", "paths"):
        assert (getattr(found, column) == getattr(expected, column)).all()


def test_calls_of_several_threads_do_not_disturb_each_other(either: Name, large: Laid) -> None:
    asked = random_queries(large.world, 40)
    slots, heard = large.seeds(asked)

    def ask(which: int) -> Spreading:
        with use(either):
            each = slice(which, which + 1)
            return spread(large.parts, slots[each], heard[each], WIDE, 10)

    with use(either), ThreadPoolExecutor(4) as pool:
        together = large.spread(asked, WIDE, 10)
        apart = list(pool.map(ask, range(len(asked))))
    assert [row(together, i) for i in range(len(asked))] == [row(one, 0) for one in apart]


def test_a_child_spreads_after_a_fork_amid_calls(either: Name) -> None:
    assert run_child(spreading_children.fork_while_spreading, either) == "fine\n"


@pytest.mark.skipif(bool(kernel.why_not()), reason="NOT TESTED: needs the kernel")
def test_an_interrupt_amid_a_call_leaves_the_process_whole() -> None:
    assert run_child(spreading_children.interrupt_while_spreading) == "interrupted\n"


@pytest.mark.parametrize("seed", [2, 2**33])
def test_a_seed_that_is_no_slot_is_refused(either: Name, seed: int) -> None:
    graph = lone({2: Concept([Edge(3, 0.5, 1)]), 3: Concept()})
    seeds, activations = np.array([[seed]]), np.ones((1, 1), np.float32)
    with use(either), pytest.raises(IndexError):
        spread(graph.parts, seeds, activations, Spread(1, 1.0), 4)


def test_an_edge_that_leads_nowhere_is_refused(either: Name) -> None:
    graph = lone({2: Concept([Edge(3, 0.5, 1)]), 3: Concept()})
    leads = graph.views[0].adjacency.leads.whole().copy()
    leads["target"] = 2**31
    adjacency = replace(graph.views[0].adjacency, leads=Column.of(leads))
    parts = [replace(graph.parts[0], adjacency=adjacency)]
    with use(either), pytest.raises(IndexError):
        spread(parts, *graph.seeds([[((0, 2), 1.0)]]), Spread(2, 1.0), 4)


@pytest.mark.parametrize(("field", "value"), [("start", 2**40), ("count", 2**20)])
def test_a_row_that_goes_beyond_the_edges_is_refused(either: Name, field: str, value: int) -> None:
    graph = lone({2: Concept([Edge(3, 0.5, 1)]), 3: Concept()})
    rows = graph.views[0].adjacency.rows.whole().copy()
    rows[field][0] = value
    adjacency = replace(graph.views[0].adjacency, rows=Column.of(rows))
    parts = [replace(graph.parts[0], adjacency=adjacency)]
    with use(either), pytest.raises(IndexError):
        spread(parts, *graph.seeds([[((0, 2), 1.0)]]), Spread(1, 1.0), 4)


# ------------------------------------------------------------------------------ which one is used


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let the kernel be looked for anew, now and afterwards."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    kernel._loaded.cache_clear()
    dispatch._at_hand.cache_clear()


def test_the_environment_chooses_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AESG_KERNEL", "numpy")
    assert kernel_name() == "numpy"
    assert "numpy" in explained()


def test_the_environment_cannot_choose_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AESG_KERNEL", "Numpy")
    with pytest.raises(StoreUsageError, match=r"AESG_KERNEL: expected C or numpy, got 'Numpy'"):
        kernel_name()


@pytest.mark.usefixtures("fresh")
def test_without_a_kernel_the_twin_is_used_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("AESG_KERNEL", raising=False)
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    graph = lone({2: Concept([Edge(3, 0.5, 1)]), 3: Concept()})
    with caplog.at_level(logging.INFO, "storage_backends.spreading"):
        for _ in range(3):
            assert graph.spread([[((0, 2), 1.0)]], Spread(1, 1.0), 2).activations[0, 1] == 0.5
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert kernel_name() == "numpy"
    assert "not built" in explained()
    with pytest.raises(RuntimeError, match="not built"), use("C"):
        pass


@pytest.mark.usefixtures("fresh")
def test_a_file_that_is_no_kernel_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_kernel.abi3.so").write_bytes(b"no library")
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    assert str(tmp_path) in kernel.why_not()


@pytest.mark.usefixtures("fresh")
@pytest.mark.skipif("C" not in KERNELS, reason="no kernel")
def test_a_kernel_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_LAYOUT", -1)
    assert "another version" in kernel.why_not()


@pytest.mark.skipif("C" not in KERNELS, reason="no kernel")
def test_more_slots_than_the_kernel_counts_go_to_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = lone({2: Concept([Edge(3, 0.5, 1)]), 3: Concept()})
    monkeypatch.setattr(kernel, "_MOST_SLOTS", 1)
    monkeypatch.setattr(kernel, "spread", None)
    with use("C"):
        assert graph.spread([[((0, 2), 1.0)]], Spread(1, 1.0), 2).activations[0, 1] == 0.5


def test_the_command_says_which_ones_are_used() -> None:
    command = [sys.executable, "-m", "storage_backends.spreading"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{explained()}\n{lookup.explained()}\n"
