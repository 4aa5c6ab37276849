"""A pack that is merged is part of the memory, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aesg import AESGMemory, AESGMemoryError, AESGStorageError
from aesg.graph.arrays import unit
from aesg.packs import Pack, read_pack
from aesg.packs.matching import _Pairs, match
from aesg.packs.merging import Conflict, MergeReport
from aesg.payload import unpack_payload
from storage_backends.errors import StoreFullError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import STATS
from tests.memory_processes import child
from tests.pack_build import write_tiny
from tests.packs.exchange_build import (
    DIM,
    edges_in,
    edges_of,
    exported,
    grown,
    keys_of,
    link,
    merge_once,
    opened,
    view_of,
)

FILE = Path("some.aesgpack")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    with opened(tmp_path / "memory") as memory:
        yield memory


@pytest.fixture
def other(tmp_path: Path) -> Iterator[AESGMemory]:
    with opened(tmp_path / "other") as other:
        yield other


def _content(memory: AESGMemory) -> dict[str, Any]:
    """Return all that a memory holds of its concepts."""
    view = view_of(memory)
    slots = np.argsort(view.ids.whole())
    slots = slots[view.alive.whole()[slots]]
    ids = view.ids[slots]
    vectors = view.value_vectors
    return {
        "ids": ids.tolist(),
        "keys": view.raw_keys(slots).tolist(),
        "kinds": view.value_kinds[slots].tolist(),
        "values": view.value_ids[slots].tolist(),
        "vectors": None if vectors is None else vectors[slots].tolist(),
        "stats": view.stats[slots].tolist(),
        "payloads": memory.payloads(ids),
        "edges": edges_of(memory, ids),
        "events": len(memory.logger.get_history()),
    }


def test_a_pack_that_is_merged_into_an_empty_memory_is_there_as_it_was(
    tmp_path: Path, memory: AESGMemory
) -> None:
    with grown(tmp_path / "origin") as origin:
        pack = exported(origin, FILE)
    report = memory.merge_pack(pack)
    assert repr(report) == (
        f"MergeReport(added=30, merged=0, conflicts=0, edges_added={pack.edge_count}, "
        "edges_merged=0)"
    )
    again = exported(memory, Path("again.aesgpack"))
    names = ("keys", "norms", "value_kinds", "value_ids", "frequency", "stability", "created")
    for name in (*names, "edge_counts", "edge_weights", "edge_confidences", "edge_uses"):
        assert np.allclose(again.columns[name], pack.columns[name], rtol=1e-6), name
    for name in ("edge_targets", "edge_kinds", "payload_sizes", "payloads"):
        assert np.array_equal(again.columns[name], pack.columns[name]), name
    assert again.columns["ids"].tolist() == report.ids.tolist() == list(range(1, 31))
    assert memory.storage.verify() == []


def test_what_is_merged_is_as_old_and_as_relevant_as_it_was(
    tmp_path: Path, memory: AESGMemory
) -> None:
    with grown(tmp_path / "origin") as origin:
        pack = exported(origin, FILE)
    memory._state.clock.epoch, memory._state.clock.tick = 40, 90
    report = memory.merge_pack(pack)
    again = exported(memory, Path("again.aesgpack"))
    assert np.array_equal(again.columns["age"], pack.columns["age"])
    assert np.array_equal(again.columns["updates"], pack.columns["updates"])
    assert np.allclose(again.columns["relevance"], pack.columns["relevance"], rtol=1e-6)
    assert edges_in(again).keys() == {
        (report.ids[source - 1], report.ids[target - 1]) for source, target in edges_in(pack)
    }
    told = np.array(list(edges_in(again).values())), np.array(list(edges_in(pack).values()))
    assert np.array_equal(*told)


def test_in_a_young_memory_what_is_merged_is_no_older_than_the_memory(
    tmp_path: Path, memory: AESGMemory
) -> None:
    with grown(tmp_path / "origin") as origin:
        pack = exported(origin, FILE)
    assert pack.columns["age"].max() == 3
    memory._state.clock.epoch, memory._state.clock.tick = 1, 2
    memory.merge_pack(pack)
    again = exported(memory, Path("again.aesgpack"))
    assert np.array_equal(again.columns["age"], np.minimum(pack.columns["age"], 1))
    assert np.array_equal(again.columns["updates"], np.minimum(pack.columns["updates"], 2))
    assert np.allclose(again.columns["relevance"], pack.columns["relevance"], rtol=1e-6)


def test_what_is_older_than_its_relevance_allows_stays_as_relevant(memory: AESGMemory) -> None:
    write_tiny(FILE, vector_dim=DIM)
    pack = read_pack(FILE)
    relevance = np.linspace(0.1, 1, pack.node_count, dtype=np.float32)
    ages = np.full(pack.node_count, 5_000, np.uint32)
    memory._state.clock.epoch = 10_000
    memory.merge_pack(replace(pack, columns={**pack.columns, "age": ages, "relevance": relevance}))
    again = exported(memory, Path("again.aesgpack"))
    assert np.allclose(again.columns["relevance"], relevance, rtol=1e-6)


def test_a_pack_of_the_strangest_statistics_leaves_a_sound_memory(memory: AESGMemory) -> None:
    write_tiny(FILE, vector_dim=DIM)
    pack = read_pack(FILE)
    count = pack.node_count
    columns = {
        **pack.columns,
        "age": np.full(count, 2**32 - 1, np.uint32),
        "updates": np.full(count, 2**63 - 1, np.uint64),
        "frequency": np.full(count, 2**32 - 1, np.uint32),
        "relevance": np.full(count, 3e38, np.float32),
        "created": np.full(count, 2**63 - 1, np.uint64),
        "edge_weights": np.full(pack.edge_count, 3e38, np.float32),
        "edge_uses": np.full(pack.edge_count, 2**32 - 1, np.uint32),
    }
    memory._state.clock.epoch = 10**6
    for digest in ("00" * 32, "11" * 32):
        memory.merge_pack(replace(pack, columns=columns, digest=digest))
    again = exported(memory, Path("again.aesgpack"))
    assert again.node_count == count
    assert np.isfinite(again.columns["relevance"]).all()
    assert again.columns["relevance"].max() <= 1
    assert (again.columns["frequency"] == 2**32 - 1).all()
    assert (again.columns["edge_weights"] == 1).all()
    assert (again.columns["edge_uses"] == 2**32 - 1).all()
    assert again.columns["created"].max() < 2**52
    assert memory.storage.verify() == []


def test_a_concept_that_is_known_takes_over_what_the_pack_knows_of_it(
    memory: AESGMemory, other: AESGMemory
) -> None:
    keys = keys_of(3)
    theirs = other.remember(3 * keys, [1, 2, 3], ["theirs", "x", None])
    link(
        other, {int(theirs[0]): [(int(theirs[1]), 0.5, 0.9, 4, 2), (int(theirs[2]), 1, 0.4, 1, 8)]}
    )
    for _ in range(3):
        other.retrieve(torch.from_numpy(keys[:1]))
    pack = exported(other, FILE)
    created = _content(other)["stats"][0][0]
    near = keys + 0.01 * keys_of(3, 1)
    own = memory.remember(near, [1, 2, 3], [None, "y", "z"], origins=torch.tensor([7, 7, 7]))
    link(memory, {int(own[0]): [(int(own[1]), 0.8, 0.6, 3, 1)]})
    before = _content(memory)
    report = memory.merge_pack(pack)
    after = _content(memory)
    assert (report.added, report.merged, report.ids.tolist()) == (0, 3, own.tolist())
    assert report.conflicts == (Conflict(int(own[1]), 1, "payload"),)
    assert after["keys"] == before["keys"]
    assert after["payloads"] == ["theirs", "y", "z"]
    assert (report.edges_added, report.edges_merged) == (1, 1)
    one, two, three = own.tolist()
    assert after["edges"].keys() == {(one, two), (one, three)}
    assert after["edges"][one, two] == pytest.approx((0.8, 0.9, 7, 3))
    assert after["edges"][one, three] == pytest.approx((1.0, 0.4, 1, 8))
    names = view_of(memory).stats.dtype.names or ()
    told = dict(zip(names, after["stats"][0], strict=True))
    assert told["frequency"] == 1 + 4
    assert told["origin"] == 0
    assert told["created"] == created < before["stats"][0][0]


def test_of_a_like_key_with_another_value_both_are_kept(
    memory: AESGMemory, other: AESGMemory
) -> None:
    keys = keys_of(4)
    other.remember(keys, [1, 2, 3, 4])
    own = memory.remember(keys[:3], [1, 9, 8]).tolist()
    report = memory.merge_pack(exported(other, FILE))
    assert (report.added, report.merged) == (3, 1)
    assert report.conflicts == (Conflict(own[1], 1, "value"), Conflict(own[2], 2, "value"))
    assert report.ids.tolist() == [own[0], 4, 5, 6]
    assert _content(memory)["values"] == [1, 9, 8, 2, 3, 4]


def test_values_are_the_same_by_kind_number_vector_or_length_of_the_key(
    memory: AESGMemory, other: AESGMemory
) -> None:
    keys = keys_of(6)
    for each, scale in ((memory, 1.0), (other, 1.01)):
        each.remember(keys[:1] * scale)  # a value of its own key, about as long
        each.remember(keys[1:2] * scale**200)  # seven times as long
        each.remember(keys[2:3], keys_of(1, 1) * scale)
        each.remember(keys[3:4], keys_of(1, 1) * scale**200)
        each.remember(keys[4:5], keys_of(1, 1) if scale == 1 else keys_of(1, 2))
        each.remember(keys[5:], [0] if scale == 1 else None)
    report = memory.merge_pack(exported(other, FILE))
    assert [conflict.position for conflict in report.conflicts] == [1, 3, 4, 5]
    assert report.ids.tolist() == [1, 7, 3, 8, 9, 10]


@pytest.mark.parametrize(("similarity", "added"), [(0.5, 0), (0.999, 1), (1.0, 1), (1, 1)])
def test_how_alike_keys_must_be_can_be_said(
    memory: AESGMemory, other: AESGMemory, similarity: float, added: int
) -> None:
    keys = torch.eye(DIM)[:2].clone()
    memory.remember(keys, [1, 2])
    keys[1, 0] = 1.0  # a cosine of 0.71
    other.remember(keys, [1, 2])
    assert memory.merge_pack(exported(other, FILE), similarity=similarity).added == added


@pytest.mark.parametrize("similarity", [0, -1, 1.5, "much", True, float("nan")])
def test_a_similarity_that_is_none_is_refused(memory: AESGMemory, similarity: Any) -> None:
    write_tiny(FILE, vector_dim=DIM)
    with pytest.raises(AESGMemoryError, match=r"similarity: expected a number in \(0, 1\]"):
        memory.merge_pack(read_pack(FILE), similarity=similarity)


@pytest.mark.parametrize("into", ["another memory", "its own memory"])
def test_merging_a_pack_again_changes_nothing(
    tmp_path: Path, into: str, memory: AESGMemory
) -> None:
    with grown(tmp_path / "origin") as origin:
        pack = exported(origin, FILE)
        target = origin
        if into == "another memory":
            target = memory
            memory.remember(keys_of(4, 3), [1, 2, 3, 4])
            memory.remember(keys_of(6) + 0.02 * keys_of(6, 3), [0, 1, 2, 70, 71, 72], range(6))
            report = memory.merge_pack(pack)
            assert (report.added, report.merged, len(report.conflicts)) == (27, 3, 5)
        before = _content(target)
        again = target.merge_pack(pack)
        assert _content(target) == before
        assert (again.added, again.edges_added) == (0, 0)
        assert (again.merged, again.edges_merged) == (30, pack.edge_count)
        if into == "another memory":
            assert np.array_equal(again.ids, report.ids)
        else:
            assert np.array_equal(again.ids, pack.columns["ids"])


def test_concepts_of_a_pack_that_are_alike_stay_apart_and_are_found_again(
    memory: AESGMemory, other: AESGMemory
) -> None:
    key = keys_of(1)
    same = np.concatenate([key] * 40 + [key + 0.01 * keys_of(1, 1)] * 5 + [0 * key] * 3)
    theirs = other.remember(same, [5] * 48).tolist()
    link(other, {theirs[0]: [(theirs[1], 1, 1, 1, 2)], theirs[46]: [(theirs[47], 1, 1, 1, 2)]})
    pack = exported(other, FILE)
    report = memory.merge_pack(pack)
    assert report.added == 48
    again = memory.merge_pack(replace(pack, digest="00" * 32))
    assert np.array_equal(again.ids, report.ids)
    assert (again.merged, again.edges_added, again.edges_merged) == (48, 0, 2)


def test_what_a_concept_was_merged_with_is_found_again_beside_something_nearer(
    memory: AESGMemory, other: AESGMemory
) -> None:
    angles = np.radians([0, 16, 27])  # one after another they are alike, the ends are not
    keys = np.zeros((3, DIM), np.float32)
    keys[:, 0], keys[:, 1] = np.cos(angles), np.sin(angles)
    own = memory.remember(keys[:1], [5]).tolist()
    other.remember(keys[1:], [5, 5])
    pack = exported(other, FILE)
    report = memory.merge_pack(pack)
    assert report.ids.tolist() == [*own, 2]
    assert memory.merge_pack(pack).ids.tolist() == [*own, 2]


def test_what_a_concept_was_merged_with_is_found_again_beside_a_crowd_of_the_pack(
    memory: AESGMemory, other: AESGMemory
) -> None:
    """The crowd fills the nearest, and one in it has the value; the first match is farther."""
    keys = np.zeros((23, DIM), np.float32)
    keys[:, 0] = 1
    keys[1, 1], keys[2, 1] = 0.25, -0.27  # alike to the first, and not to each other
    keys[3:, 2] = np.linspace(0.255, 0.265, 20)
    own = memory.remember(keys[2:3], [0]).tolist()
    other.remember(keys[[0, 1, *range(3, 23)]], [0, 0, *range(1, 21)])
    pack = exported(other, FILE)
    for added in (21, 0, 0):
        report = memory.merge_pack(pack)
        assert report.added == added
        assert report.ids.tolist() == [*own, *range(2, 23)]


@pytest.mark.parametrize("similarity", [None, 0.5, 0.8])
def test_whatever_is_merged_again_stands_for_the_same_and_changes_nothing(
    tmp_path: Path, similarity: float | None
) -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)
        width = [4, 8, 32][seed % 3]
        centers = random.normal(size=(4, width))
        folder = tmp_path / str(seed)
        with (
            opened(folder / "memory", vector_dim=width, max_edges_per_node=3) as memory,
            opened(folder / "other", vector_dim=width) as other,
        ):
            for each in (memory, other):
                _fill(each, centers, random)
            pack = exported(other, folder / FILE)
            first = memory.merge_pack(pack, similarity=similarity)
            before = _content(memory)
            again = memory.merge_pack(pack, similarity=similarity)
            assert again.ids.tolist() == first.ids.tolist()
            assert (again.added, again.edges_added) == (0, 0)
            assert _content(memory) == before


def _fill(memory: AESGMemory, centers: Any, random: np.random.Generator) -> None:
    """Remember crowds: keys that are equal, equal but for rounding, alike, and not alike."""
    for moved in random.permutation([0, 1e-7, 0.003, 0.05, 0.2])[:3]:
        keys = centers[random.integers(0, len(centers), 60)]
        keys = keys + moved * random.normal(size=keys.shape)
        values = random.integers(0, random.choice([2, 30]), 60)
        ids = memory.remember(keys.astype(np.float32), values).tolist()
        link(memory, {ids[n]: [(ids[n + 12], 0.5, 0.5, 1, 2)] for n in range(12)})


@pytest.mark.parametrize("values", ["integers", "vectors"])
def test_what_is_known_is_found_in_a_crowd_of_other_values(
    memory: AESGMemory, other: AESGMemory, values: str
) -> None:
    """One context and what may follow it: keys that are nearly one, each with another value."""
    count = 30
    given: Any = range(count) if values == "integers" else keys_of(count, 2)
    crowd = keys_of(1) + 0.001 * keys_of(count, 1)
    other.remember(crowd, given)
    pack = exported(other, FILE)
    own = memory.remember(crowd[:2] + 0.1 * keys_of(2, 3), given[:2]).tolist()  # the farthest
    with patch("aesg.packs.matching._ROWS", 4), patch("aesg.packs.matching._CHUNK", 8):
        for added in (count - 2, 0, 0):
            report = memory.merge_pack(pack)
            assert report.added == added
            assert report.ids.tolist() == [*own, *range(3, count + 1)]
    memory.remember(keys_of(1) + 0.001 * keys_of(20, 5), range(100, 120))
    assert memory.merge_pack(pack).ids.tolist() == [*own, *range(3, count + 1)]


def _uses(memory: AESGMemory) -> list[int]:
    return [dict(zip(STATS.names or (), row, strict=True))["frequency"] for row in _rows(memory)]


def _rows(memory: AESGMemory) -> list[Any]:
    stats: list[Any] = _content(memory)["stats"]
    return stats


def test_uses_count_once_however_often_a_memory_is_exported(
    tmp_path: Path, memory: AESGMemory
) -> None:
    keys = torch.from_numpy(keys_of(2))
    memory.remember(keys[:1], [0])
    with opened(tmp_path / "origin") as origin:
        first, second = origin.remember(keys, [0, 1]).tolist()
        link(origin, {first: [(second, 0.5, 0.5, 3, 2)]})
        pack = exported(origin, FILE)
    memory.merge_pack(pack)
    assert _uses(memory) == [2, 1]
    with opened(tmp_path / "origin") as origin:  # another generation, the same content
        later = exported(origin, Path("later.aesgpack"))
        assert later.provenance.generation > pack.provenance.generation
        memory.merge_pack(later)
        assert _uses(memory) == [2, 1]
        for _ in range(4):
            origin.retrieve(keys[1:])
        memory.merge_pack(exported(origin, Path("later.aesgpack")))
    assert _uses(memory) == [2, 5]
    assert [edge[2] for edge in edges_of(memory, memory.resolve([1, 2])).values()] == [3]


def test_a_pack_of_no_named_memory_is_known_by_its_content(memory: AESGMemory) -> None:
    write_tiny(FILE, vector_dim=DIM)
    pack = read_pack(FILE)
    nameless = replace(pack, provenance=replace(pack.provenance, memory_uuid=""))
    memory.merge_pack(nameless)
    uses = _uses(memory)
    memory.merge_pack(replace(nameless, digest="00" * 32))
    assert _uses(memory) == uses
    more = {**pack.columns, "frequency": pack.columns["frequency"] + np.uint32(1)}
    memory.merge_pack(replace(nameless, columns=more))
    assert _uses(memory) == [2 * each + 1 for each in uses]


def test_origins_come_along_and_hide_a_sample_from_itself(
    memory: AESGMemory, other: AESGMemory
) -> None:
    keys, origins = torch.from_numpy(keys_of(4)), torch.tensor([11, 12, 13, 14])
    other.remember(keys, range(4), origins=origins)
    memory.remember(keys[:2], [0, 1], origins=torch.tensor([11, 99]))
    memory.merge_pack(exported(other, FILE))
    again = exported(memory, Path("again.aesgpack"))
    assert again.columns["origin"].tolist() == [11, 0, 13, 14]
    found = memory.recall(keys, top_k=1, origins=origins).concept_ids[:, 0]
    assert (found == [1, 2, 3, 4]).tolist() == [False, True, False, False]


@pytest.mark.parametrize("dry_run", [True, False])
def test_too_little_main_memory_is_an_error_of_storage(memory: AESGMemory, dry_run: bool) -> None:
    memory.remember(keys_of(2, 1), range(2))
    write_tiny(FILE, vector_dim=DIM)
    before = _content(memory)
    for step in ("match", "united_rows"):
        where = "matching.match" if step == "match" else "merging.united_rows"
        with (
            patch(f"aesg.packs.{where}", side_effect=MemoryError("of 3 GiB")),
            pytest.raises(AESGStorageError, match=r"merge pack 'some' into .*main memory.*3 GiB"),
        ):
            memory.merge_pack(read_pack(FILE), dry_run=dry_run)
    assert _content(memory) == before
    assert memory.merge_pack(read_pack(FILE)).added == 12


def test_several_concepts_of_a_pack_become_one_where_the_memory_has_it(
    memory: AESGMemory, other: AESGMemory
) -> None:
    key = keys_of(1)
    theirs = other.remember(
        np.concatenate([key + 0.01 * keys_of(1, seed) for seed in (1, 2, 3)]),
        [5, 5, 5],
        ["first", "second", "first"],
    ).tolist()
    link(other, {theirs[0]: [(theirs[1], 1, 1, 1, 2)], theirs[1]: [(theirs[2], 1, 1, 1, 2)]})
    own = memory.remember(key, [5]).tolist()
    report = memory.merge_pack(exported(other, FILE))
    assert report.ids.tolist() == own * 3
    assert (report.merged, report.edges_added, memory.edges(own[0])) == (3, 0, [])
    assert memory.payloads(own) == ["first"]
    assert report.conflicts == (Conflict(own[0], 1, "payload"),)
    assert _content(memory)["stats"][0][5] == 4


def test_the_strongest_edges_stay_where_there_are_too_many(
    tmp_path: Path, other: AESGMemory
) -> None:
    keys = keys_of(7)
    theirs = other.remember(keys, range(7)).tolist()
    link(other, {theirs[0]: [(each, 1, each / 10, 1, 2) for each in theirs[1:]]})
    with opened(tmp_path / "small", max_edges_per_node=4) as memory:
        own = memory.remember(keys[:2], [0, 1]).tolist()
        link(memory, {own[0]: [(own[1], 1, 0.65, 1, 1)]})
        report = memory.merge_pack(exported(other, FILE))
        kept = [edge.target for edge in memory.edges(own[0])]
        assert kept == [report.ids[6], own[1], report.ids[5], report.ids[4]]
        assert (report.edges_added, report.edges_merged) == (3, 1)


def test_a_merge_is_told_by_its_events_and_counted_once_as_growth(
    memory: AESGMemory, other: AESGMemory
) -> None:
    other.remember(keys_of(3), [1, 2, 3])
    (own,) = memory.remember(keys_of(1), [1]).tolist()
    report = memory.merge_pack(exported(other, FILE))
    history = memory.logger.get_history()[1:]
    assert [(event["type"], event["id1"], event["id2"]) for event in history] == [
        ("MERGE", own, 0),
        ("CREATE", report.ids[1], 0),
        ("CREATE", report.ids[2], 0),
    ]
    assert memory.logger.growth().count.tolist()[-1] == memory.storage.node_count == 3


def test_a_merge_needs_room_and_prunes_nothing(tmp_path: Path, other: AESGMemory) -> None:
    other.remember(keys_of(4), range(4))
    pack = exported(other, FILE)
    with opened(tmp_path / "small", max_concepts=5) as memory:
        memory.remember(keys_of(2, 1), range(2))
        before = _content(memory)
        with pytest.raises(AESGMemoryError, match=r"max_concepts=5, got 4 concepts .* beside 2"):
            memory.merge_pack(pack)
        assert _content(memory) == before
        memory.remember(keys_of(1), [0])
        with pytest.raises(AESGMemoryError, match="got 3 concepts"):
            memory.merge_pack(pack)
        memory.merge_pack(exported(other, FILE, top_n=3))


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "ONLINE"])
def test_a_pack_is_merged_in_every_mode_that_learns(memory: AESGMemory, mode: str) -> None:
    write_tiny(FILE, vector_dim=DIM)
    memory.set_mode(mode)
    assert memory.merge_pack(read_pack(FILE)).added == 12


def test_a_handle_that_only_reads_merges_nothing_and_says_so(
    memory: AESGMemory, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny(FILE, vector_dim=DIM)
    memory.set_mode("INFERENCE")
    with caplog.at_level(logging.WARNING, "aesg.memory"):
        report = memory.merge_pack(read_pack(FILE))
    assert (report.added, report.merged, report.conflicts) == (0, 0, ())
    assert report.ids.tolist() == [0] * 12
    assert "merge_pack wrote nothing" in caplog.text
    assert memory.storage.node_count == 0


@pytest.mark.parametrize("mode", ["TRAIN", "INFERENCE"])
def test_a_dry_run_tells_what_would_be_and_writes_nothing(memory: AESGMemory, mode: str) -> None:
    write_tiny(FILE, vector_dim=DIM)
    pack = read_pack(FILE)
    memory.remember(keys_of(2, 1), range(2))
    memory.set_mode(mode)
    before = _content(memory)
    told = memory.merge_pack(pack, dry_run=True)
    assert _content(memory) == before
    memory.set_mode("TRAIN")
    done = memory.merge_pack(pack)
    assert (told.added, repr(told)) == (12, repr(done))
    assert np.array_equal(told.ids, done.ids)


def test_a_dry_run_in_a_memory_opened_to_be_read_writes_nothing(tmp_path: Path) -> None:
    write_tiny(FILE, vector_dim=DIM)
    opened(tmp_path / "memory").close()
    with AESGMemory.open(tmp_path / "memory") as reader:
        assert reader.merge_pack(read_pack(FILE), dry_run=True).added == 12
        assert reader.storage.node_count == 0


@pytest.mark.parametrize("norm", [1e-45, 1e-38, 1e30, 3e38])
def test_keys_too_short_or_too_long_for_a_memory_keep_their_direction(
    memory: AESGMemory, norm: float
) -> None:
    write_tiny(FILE, vector_dim=DIM)
    pack = read_pack(FILE)
    norms = pack.columns["norms"].copy()
    norms[3:6] = norm
    pack = replace(pack, columns={**pack.columns, "norms": norms})
    report = memory.merge_pack(pack)
    again = exported(memory, Path("again.aesgpack"))
    assert np.allclose(again.columns["keys"], pack.columns["keys"], atol=1e-6)
    repeated = memory.merge_pack(replace(pack, digest="00" * 32))
    assert (repeated.added, repeated.ids.tolist()) == (0, report.ids.tolist())


def test_a_pack_that_does_not_fit_is_refused(memory: AESGMemory) -> None:
    write_tiny(FILE, vector_dim=DIM + 1)
    with pytest.raises(AESGStorageError, match=f"expected vector_dim={DIM}, got {DIM + 1}"):
        memory.merge_pack(read_pack(FILE))
    with pytest.raises(AESGMemoryError, match=r"expected a Pack, .* got str"):
        memory.merge_pack("some.aesgpack")  # type: ignore[arg-type]


def test_a_merge_that_fails_leaves_the_memory_as_it_was(memory: AESGMemory) -> None:
    memory.remember(keys_of(2, 1), range(2))
    write_tiny(FILE, vector_dim=DIM)
    pack, before = read_pack(FILE), _content(memory)
    with (
        patch.object(LMDBStore, "commit", side_effect=StoreFullError("no room")),
        pytest.raises(AESGStorageError, match="no room"),
    ):
        memory.merge_pack(pack)
    assert _content(memory) == before
    assert memory.merge_pack(pack).added == 12
    assert memory.storage.verify() == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_is_learned_during_the_search_is_known_to_a_merge(
    memory: AESGMemory, other: AESGMemory, times: int
) -> None:
    """The search takes long, and the memory may be written to by another thread."""
    keys = keys_of(4)
    other.remember(keys, range(4))
    pack, left = exported(other, FILE), list(range(times))

    def learning(*arguments: Any) -> Any:
        found = match(*arguments)
        if left:
            number = left.pop(0)
            memory.remember(keys[number : number + 1], [number])
        return found

    with patch("aesg.packs.matching.match", side_effect=learning):
        report = memory.merge_pack(pack)
    assert (report.merged, report.added) == (min(times, 2), 4 - min(times, 2))
    assert memory.storage.verify() == []


def test_a_process_that_is_killed_while_it_merges_has_merged_all_or_nothing(
    tmp_path: Path,
) -> None:
    write_tiny(tmp_path / FILE, vector_dim=DIM, concepts=2000)
    ends = set()
    for number, seconds in enumerate((0.0, 0.03, 60.0)):
        directory = tmp_path / str(number)
        with opened(directory) as memory:
            memory.remember(keys_of(2), [1, 2])
        with child(merge_once, str(directory), str(tmp_path / FILE)) as merging:
            assert merging.next() == "begins"
            merging.connection.poll(seconds)
            merging.kill()
        with AESGMemory.open(directory) as memory:
            assert memory.storage.verify() == []
            ends.add((memory.storage.node_count, memory.storage.edge_count))
    assert ends <= {(2, 0), (2002, 6000)}
    assert (2002, 6000) in ends


def test_what_waits_to_be_committed_is_known_to_a_merge(tmp_path: Path, other: AESGMemory) -> None:
    other.remember(torch.eye(DIM)[:2])
    pack = exported(other, FILE)
    with opened(tmp_path / "fast", novelty_birth_threshold=1) as memory:
        memory.retrieve(torch.eye(DIM)[:1])
        assert memory._state.view.node_count == 0
        assert memory.merge_pack(pack).merged == 1
        assert memory.storage.node_count == 2


def test_concepts_that_were_merged_are_retrieved_and_learned_from(
    tmp_path: Path, memory: AESGMemory
) -> None:
    with grown(tmp_path / "origin") as origin:
        report = memory.merge_pack(exported(origin, FILE))
    found = memory.retrieve(torch.from_numpy(keys_of(30)[:3]), top_k=1)
    assert found.concept_ids[:, 0].tolist() == report.ids[:3].tolist()
    memory.update_topology()
    memory.save()
    assert memory.storage.verify() == []
    assert memory.remember(keys_of(1, 9)).tolist() == [31]


def test_the_values_of_what_was_merged_lead_to_later_keys(
    tmp_path: Path, memory: AESGMemory
) -> None:
    values = keys_of(2, 4)
    with opened(tmp_path / "origin") as origin:
        origin.remember(keys_of(2), values)
        report = memory.merge_pack(exported(origin, FILE))
    (later,) = memory.remember(values[:1]).tolist()
    assert [edge.target for edge in memory.edges(int(report.ids[0]))] == [later]


def test_progress_is_told(memory: AESGMemory) -> None:
    memory.remember(keys_of(2, 1), range(2))
    write_tiny(FILE, vector_dim=DIM)
    steps: dict[str, tuple[int, int]] = {}
    memory.merge_pack(
        read_pack(FILE), progress=lambda step, done, total: steps.update({step: (done, total)})
    )
    assert steps == {"looking for what is known": (12, 12)}


worlds = st.tuples(
    st.integers(0, 2**16), st.integers(0, 12), st.integers(1, 12), st.sampled_from([0.3, 0.9, 1.0])
)


@settings(max_examples=12)
@given(worlds)
def test_what_is_known_is_what_a_comparison_with_all_finds(
    tmp_path_factory: pytest.TempPathFactory, world: tuple[int, int, int, float]
) -> None:
    seed, held, coming, similarity = world
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(seed)
    points = random.normal(size=(4, 3)).astype(np.float32)

    def some(count: int) -> tuple[Any, list[int]]:
        chosen = points[random.integers(0, 4, count)] * random.choice([1, 2], (count, 1))
        moved = chosen + random.choice([0, 0.3], (count, 1)) * random.normal(size=(count, 3))
        return moved.astype(np.float32), random.integers(0, 2, count).tolist()

    with opened(folder / "memory", vector_dim=3) as memory:
        if held:
            memory.remember(*some(held))
        with opened(folder / "other", vector_dim=3) as other:
            other.remember(*some(coming))
            pack = exported(other, folder / FILE)
        report = memory.merge_pack(pack, similarity=similarity)
        _check(memory, pack, report, held, similarity)


def _check(
    memory: AESGMemory, pack: Pack, report: MergeReport, held: int, similarity: float
) -> None:
    """Compare a merge with what the cosines of all pairs say; rounding may decide either way."""
    view = view_of(memory)
    slots = view.slots(np.arange(1, held + 1, dtype=np.uint64))
    cosines = unit(pack.columns["keys"]) @ unit(view.keys[slots]).T if held else np.empty((12, 0))
    values = view.value_ids[slots]
    conflicts = {each.position: each.id for each in report.conflicts}
    for position, own in enumerate(report.ids.tolist()):
        agree = values == pack.columns["value_ids"][position]
        alike = np.flatnonzero((cosines[position] >= similarity + 1e-6) & agree)
        perhaps = np.flatnonzero((cosines[position] >= similarity - 1e-6) & agree)
        if own <= held:
            assert own - 1 in perhaps
            assert position not in conflicts
        else:
            assert not len(alike)
            rivals = np.flatnonzero((cosines[position] >= similarity - 1e-6) & ~agree)
            assert (position in conflicts) <= (len(rivals) > 0)
            if position in conflicts:
                best = cosines[position][rivals].max()
                assert cosines[position][conflicts[position] - 1] >= best - 1e-5
            else:
                assert not (cosines[position][rivals] >= similarity + 1e-6).any()


def test_identical_keys_are_found_whatever_the_index_finds(memory: AESGMemory) -> None:
    keys = keys_of(300)
    memory.remember(keys, [n % 7 for n in range(300)])
    view = view_of(memory)
    with (
        patch("aesg.packs.matching._alike", side_effect=_nothing),
        patch("aesg.packs.matching._CHUNK", 32),
    ):
        found = match(view, view, 0.95)
    assert np.array_equal(found.stands, np.arange(300))


def _nothing(base: Any, pack: Any, similarity: float, positions: Any, progress: Any) -> Any:
    return _Pairs.of_slots(base, positions[:0], positions[:0], np.empty(0, np.float32))


def test_payloads_are_as_they_were(tmp_path: Path, memory: AESGMemory) -> None:
    with grown(tmp_path / "origin") as origin:
        pack = exported(origin, FILE)
    report = memory.merge_pack(pack)
    expected = [unpack_payload(pack.payload(place)) for place in range(pack.node_count)]
    assert memory.payloads(report.ids) == expected
