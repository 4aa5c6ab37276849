"""What `export_pack` writes is what the memory holds, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from aesg import AESGMemory, AESGMemoryError, AESGStorageError
from aesg.graph.consolidation import ages, relevances
from aesg.graph.decay import decayed
from aesg.graph.edges import EDGE_DECAY
from aesg.packs import Pack, read_head, read_pack
from aesg.packs.choosing import Candidates
from aesg.packs.gathering import EdgesWithin, concept_columns
from aesg.payload import unpack_payload
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.failing_calls import at_call, disk_full, interrupted
from tests.memory_processes import child
from tests.packs.exchange_build import (
    DIM,
    edges_in,
    edges_of,
    export_while_told,
    exported,
    grown,
    keys_of,
    link,
    memory_concepts,
    opened,
    remember_numbers,
    view_of,
)

FILE = "some.aesgpack"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AESGMemory]:
    with grown(tmp_path / "memory") as memory:
        yield memory


def _ids(pack: Pack) -> list[int]:
    ids: list[int] = pack.columns["ids"].tolist()
    return ids


def test_a_pack_has_what_the_memory_holds_of_each_concept(memory: AESGMemory) -> None:
    pack = exported(memory, Path(FILE))
    view, columns = view_of(memory), pack.columns
    ids = np.sort(view.ids.whole())
    slots, clock = view.slots(ids), memory._state.clock
    assert (clock.epoch, clock.tick) == (3, 3)
    stats = view.stats[slots]
    expected: dict[str, Any] = {
        "ids": ids,
        "keys": view.keys[slots],
        "norms": view.norms[slots],
        "value_kinds": view.value_kinds[slots],
        "value_ids": view.value_ids[slots],
        "relevance": relevances(stats, clock.epoch),
        "age": ages(stats, clock.epoch),
        "updates": clock.tick - stats["tick"],
        **{name: stats[name] for name in ("created", "modified", "origin", "frequency")},
        **{name: stats[name] for name in ("stability", "region")},
    }
    for name, rows in expected.items():
        assert np.array_equal(columns[name], rows), name
    assert len(set(columns["age"].tolist())) > 1
    assert len(set(columns["relevance"].tolist())) > 1
    assert len(set(columns["updates"].tolist())) > 1
    payloads = [unpack_payload(pack.payload(place)) for place in range(len(ids))]
    assert payloads == memory.payloads(ids)
    assert sum(each is not None for each in payloads) == 20


def test_the_edges_of_a_pack_are_as_strong_as_they_are_now(memory: AESGMemory) -> None:
    pack = exported(memory, Path(FILE))
    assert pack.edge_count == memory.storage.edge_count > 40
    assert edges_in(pack) == edges_of(memory, pack.columns["ids"])
    stated = view_of(memory).adjacency.rest.field("confidence").whole()
    assert not np.isin(pack.columns["edge_confidences"], stated).all()  # some have weakened since


def test_the_edges_of_a_concept_come_by_strength_and_then_by_target(tmp_path: Path) -> None:
    with opened(tmp_path / "memory", consolidation_epoch_interval=1) as memory:
        a, b, c, d, e = memory.remember(keys_of(5), range(5)).tolist()
        rows = [(e, 1.0, 0.5, 1, 2), (c, 0.5, 1.0, 1, 2), (d, 1.0, 0.9, 1, 2), (b, 1.0, 0.5, 1, 2)]
        link(memory, {a: rows, e: [(a, 0.0, 1.0, 1, 2)]})
        memory.update_topology()
        pack = exported(memory, Path(FILE))
    assert pack.edges["target_id"].tolist() == [d, b, c, e, a]


def test_ties_that_arise_from_weakening_are_broken_by_target(tmp_path: Path) -> None:
    some = np.arange(0.9, 1, 1e-5, dtype=np.float32)
    above = np.nextafter(some, np.float32(1))
    tied = np.flatnonzero(decayed(some, EDGE_DECAY, 5) == decayed(above, EDGE_DECAY, 5))
    weaker, stronger = float(some[tied[0]]), float(above[tied[0]])
    assert weaker < stronger
    with opened(tmp_path / "memory", consolidation_epoch_interval=1) as memory:
        a, b, c = memory.remember(keys_of(3), range(3)).tolist()
        link(memory, {a: [(b, 1.0, weaker, 1, 2), (c, 1.0, stronger, 1, 2)]})
        assert exported(memory, Path(FILE)).edges["target_id"].tolist() == [c, b]
        for _ in range(5):
            memory.update_topology()
        assert exported(memory, Path(FILE)).edges["target_id"].tolist() == [b, c]


def test_vector_values_go_along_where_a_concept_of_the_pack_has_one(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        plain = memory.remember(keys_of(3), [1, 2, 3])
        vectors = memory.remember(keys_of(3, 1), keys_of(3, 2))
        both = exported(memory, Path(FILE))
        assert both.columns["value_kinds"].tolist() == [1, 1, 1, 2, 2, 2]
        assert np.array_equal(both.columns["value_vectors"][3:], keys_of(3, 2))
        assert not both.columns["value_vectors"][:3].any()
        one = exported(memory, Path(FILE), ids=plain)
        assert "value_vectors" not in one.columns
        assert exported(memory, Path(FILE), ids=vectors).node_count == 3


def test_a_pack_of_some_concepts_has_the_edges_between_them_alone(memory: AESGMemory) -> None:
    wanted = set(view_of(memory).ids.whole()[5:20].tolist())
    pack = exported(memory, Path(FILE), ids=list(wanted))
    assert set(_ids(pack)) == wanted
    every = edges_of(memory, pack.columns["ids"])
    inside = {ends: told for ends, told in every.items() if ends[1] in wanted}
    assert 0 < len(inside) < len(every)
    assert edges_in(pack) == inside


def test_a_pack_has_the_concepts_that_fulfil_all_criteria(memory: AESGMemory) -> None:
    whole = exported(memory, Path(FILE)).nodes[:]
    relevant = whole[whole["relevance"] >= 0.86]
    assert 0 < len(relevant) < len(whole)
    assert _ids(exported(memory, Path(FILE), min_relevance=0.86)) == relevant["id"].tolist()
    even = relevant["id"][relevant["id"] % 2 == 0]
    pack = exported(
        memory, Path(FILE), min_relevance=0.86, predicate=lambda some: some.ids % 2 == 0
    )
    assert _ids(pack) == even.tolist()
    pack = exported(memory, Path(FILE), min_relevance=0.86, ids=even[1:], region_id=0)
    assert _ids(pack) == even[1:].tolist()


@pytest.mark.parametrize("by", ["relevance", "frequency"])
def test_the_best_concepts_are_chosen_last(memory: AESGMemory, by: str) -> None:
    whole = exported(memory, Path(FILE)).nodes[:]
    other = {"relevance": "use_frequency", "frequency": "relevance"}[by]
    first = {"relevance": "relevance", "frequency": "use_frequency"}[by]
    some = whole[whole["id"] > 4]
    best = sorted(some, key=lambda one: (-float(one[first]), -float(one[other]), one["id"]))[:7]
    pack = exported(
        memory, Path(FILE), top_n=7, by=by, predicate=lambda candidates: candidates.ids > 4
    )
    assert _ids(pack) == sorted(int(one["id"]) for one in best)
    assert exported(memory, Path(FILE), top_n=1000).node_count == len(whole)


def test_a_region_is_exported_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        ids = memory.remember(keys_of(6), range(6))
        state = memory._state
        stats = view_of(memory).stats.whole().copy()
        stats["region"] = [1, 2, 1, 0, 2, 1]
        state.apply(WriteBatch(stats_ids=ids, stats=stats))
        pack = exported(memory, Path(FILE), region_id=1)
        assert _ids(pack) == ids[[0, 2, 5]].tolist()
        assert pack.nodes["region_id"].tolist() == [1, 1, 1]
        assert _ids(exported(memory, Path(FILE), region_id=0)) == [int(ids[3])]
        with pytest.raises(AESGMemoryError, match=r"no region 7, but 2: 1, 2$"):
            memory.export_pack(FILE, region_id=7)


def test_a_predicate_is_told_what_the_memory_holds(memory: AESGMemory) -> None:
    whole = exported(memory, Path(FILE))
    nodes = whole.nodes[:]

    def looked_at(some: Candidates) -> Any:
        assert len(some) == len(nodes)
        assert np.array_equal(some.ids, nodes["id"])
        assert np.array_equal(some.keys, nodes["vector"])
        assert np.array_equal(some.relevance, nodes["relevance"])
        assert np.array_equal(some.age, nodes["age"])
        assert np.array_equal(some.regions, nodes["region_id"])
        assert np.array_equal(some.frequency, nodes["use_frequency"])
        assert np.array_equal(some.created, nodes["created_at"])
        assert np.array_equal(some.modified, nodes["modified_at"])
        assert np.array_equal(some.stability, nodes["stability"])
        assert np.array_equal(some.value_ids, whole.columns["value_ids"])
        assert np.array_equal(some.value_kinds, whole.columns["value_kinds"])
        assert not some.origins.any()
        assert some.value_vectors.shape == some.keys.shape
        assert some.payloads == memory.payloads(some.ids)
        return [each is not None for each in some.payloads]

    assert exported(memory, Path(FILE), predicate=looked_at).node_count == 20


def test_concepts_may_be_asked_for_by_ids_that_were_merged_or_none(tmp_path: Path) -> None:
    with opened(tmp_path / "memory", consolidation_epoch_interval=1) as memory:
        key = keys_of(1)
        first, second = memory.remember(np.concatenate([key, key]), [5, 5]).tolist()
        memory.update_topology()
        (stands,) = set(memory.resolve([first, second]).tolist())
        pack = exported(memory, Path(FILE), ids=torch.tensor([[0, first], [second, 0]]))
        assert _ids(pack) == [stands]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"region_id": -1}, r"region_id: expected an integer of 0 or more, got -1"),
    ({"region_id": 2**40}, r"there is no region 1099511627776, but none was found yet"),
    ({"region_id": "a"}, r"region_id: expected an integer of 0 or more, got 'a'"),
    ({"min_relevance": float("nan")}, r"min_relevance: expected a number in \[0, 1\], got nan"),
    ({"min_relevance": "much"}, r"min_relevance: expected a number in \[0, 1\]"),
    ({"min_relevance": 1.5}, r"min_relevance: expected a number in \[0, 1\], got 1.5"),
    ({"min_relevance": -0.1}, r"min_relevance: expected a number in \[0, 1\], got -0.1"),
    ({"min_relevance": 1}, r"got none of the 30 there are; min_relevance is 1"),
    ({"top_n": 0}, r"top_n: expected an integer of 1 or more, got 0"),
    ({"top_n": True}, r"top_n: expected an integer"),
    ({"by": "age"}, r"by: expected one of relevance, frequency, got 'age'"),
    ({"ids": [1, 12345]}, r"ids: expected concepts of memory '.*', got 12345$"),
    ({"ids": [2**63 + 9]}, r"got 9223372036854775817, which is of an attached pack"),
    ({"ids": []}, r"No concept to export"),
    ({"ids": [0.5]}, r"ids: expected integers"),
    ({"predicate": 3}, r"predicate: expected a callable, got 3"),
    ({"predicate": lambda some: [True]}, r"expected bool of shape \(30,\).* got bool of shape"),
    ({"predicate": lambda some: some.ids}, r"expected bool of shape \(30,\).* got uint64"),
    ({"predicate": lambda some: some.ids < 0}, r"No concept to export"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_criteria_that_choose_nothing_or_cannot_be_are_refused(
    memory: AESGMemory, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AESGMemoryError, match=message):
        memory.export_pack(FILE, **options)
    assert not Path(FILE).exists()


def test_an_error_of_the_predicate_itself_reaches_the_caller(memory: AESGMemory) -> None:
    with pytest.raises(OSError, match="mine"):
        memory.export_pack(FILE, predicate=_raises(OSError("mine")))


def _raises(error: Exception) -> Callable[[Candidates], Any]:
    def predicate(some: Candidates) -> Any:
        raise error

    return predicate


def test_an_empty_memory_has_nothing_to_export(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        for options in ({}, {"top_n": 3}, {"region_id": 1}, {"min_relevance": 0.1}):
            with pytest.raises(AESGMemoryError, match="none of the 0 there are"):
                memory.export_pack(FILE, **options)


def test_values_and_payloads_can_stay_behind(memory: AESGMemory) -> None:
    pack = exported(memory, Path(FILE), values=False)
    assert not pack.columns["value_kinds"].any()
    assert not pack.columns["value_ids"].any()
    assert pack.columns["payload_sizes"].any()
    pack = exported(memory, Path(FILE), payloads=False)
    assert not pack.columns["payload_sizes"].any()
    assert pack.columns["value_kinds"].all()


def test_a_pack_says_where_it_comes_from(memory: AESGMemory) -> None:
    pack = exported(memory, Path(FILE), name="numbers", notes="for\ntests", licence="CC0")
    view = view_of(memory)
    assert pack.name == "numbers"
    assert pack.provenance.memory_uuid == memory.storage.engine.store.uuid
    assert pack.provenance.generation == view.generation
    assert pack.provenance.created == view.stats.field("modified").whole().max()
    assert (pack.provenance.notes, pack.provenance.licence) == ("for\ntests", "CC0")
    assert pack.provenance.library
    memory.export_pack(FILE)
    assert read_head(FILE).name == ""
    assert read_pack(FILE).name == "some"


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [Path(f"{number}.aesgpack") for number in range(4)]
    with grown(tmp_path / "memory") as memory:
        memory.export_pack(files[0])
        memory.export_pack(files[1])
    with AESGMemory.open(tmp_path / "memory") as reader:
        reader.export_pack(files[2])
        reader.export_pack(files[3], notes="another")
    first, *others = (file.read_bytes() for file in files)
    assert [other == first for other in others] == [True, True, False]


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "INFERENCE", "ONLINE"])
def test_a_pack_is_exported_in_every_mode(memory: AESGMemory, mode: str) -> None:
    memory.set_mode(mode)
    assert exported(memory, Path(FILE)).node_count == 30


def test_what_waits_is_committed_first_and_provisional_concepts_stay_out(tmp_path: Path) -> None:
    with opened(tmp_path / "memory", novelty_birth_threshold=3) as memory:
        keys = torch.eye(DIM)
        for query in (keys[:1], keys[:1], keys[:2]):
            memory.retrieve(query)
        assert (memory.storage.node_count, memory.provisional_count) == (1, 1)
        memory.retrieve(keys[1:3])
        found = memory.retrieve(keys[1:2]).concept_ids
        pack = exported(memory, Path(FILE))
        assert (pack.node_count, memory.provisional_count) == (2, 1)
        assert 3 in found
        assert exported(memory, Path(FILE), ids=found).node_count == 2


def test_what_waits_is_left_alone_where_commits_are_counted(tmp_path: Path) -> None:
    with opened(tmp_path / "memory", novelty_birth_threshold=1) as memory:
        memory.remember(keys_of(2))
        with memory.counted_commits():
            memory.retrieve(torch.from_numpy(keys_of(1, 5)))
            generation = view_of(memory).generation
            assert exported(memory, Path(FILE)).node_count == 2
            assert view_of(memory).generation == generation
        assert exported(memory, Path(FILE)).node_count == 3


def _deleting(memory: AESGMemory, times: int) -> Callable[[Candidates], Any]:
    """Return a predicate that takes all but lets the memory lose its first concepts meanwhile."""
    left = list(range(times))

    def predicate(some: Candidates) -> Any:
        if left:
            left.pop()
            memory._state.apply(WriteBatch(deleted=some.ids[:1]))
        return np.ones(len(some), np.bool_)

    return predicate


def test_what_is_learned_meanwhile_is_not_in_the_pack(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        remember_numbers(memory, 3)
        generation = view_of(memory).generation

        def learning(some: Candidates) -> Any:
            remember_numbers(memory, 2)
            return np.ones(len(some), np.bool_)

        pack = exported(memory, Path(FILE), predicate=learning)
        assert (pack.node_count, pack.provenance.generation) == (3, generation)
        assert unpack_payload(pack.payload(2)) == "2"


def test_an_export_begins_anew_where_a_concept_goes_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        remember_numbers(memory, 5)
        pack = exported(memory, Path(FILE), predicate=_deleting(memory, 2))
        assert pack.provenance.generation == view_of(memory).generation
        assert _ids(pack) == [3, 4, 5]
        payloads = [unpack_payload(pack.payload(place)) for place in range(3)]
        assert payloads == ["2", "3", "4"]


def test_an_export_gives_up_where_concepts_go_all_the_while(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        remember_numbers(memory, 20)
        with pytest.raises(AESGStorageError, match=r"expected memory .* to keep its concepts"):
            memory.export_pack(FILE, predicate=_deleting(memory, 8))
        assert not Path(FILE).exists()
        predicate = _deleting(memory, 2)
        assert exported(memory, Path(FILE), predicate=predicate, payloads=False).node_count > 3


@pytest.mark.parametrize("act", [disk_full, interrupted])
def test_an_export_that_fails_leaves_the_file_that_was_there(
    memory: AESGMemory, tmp_path: Path, act: Callable[[], None]
) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    target = folder / FILE
    memory.export_pack(target, top_n=3)
    before = target.read_bytes()
    with at_call(None) as calls:
        memory.export_pack(folder / "other.aesgpack")
    after = (folder / "other.aesgpack").read_bytes()
    (folder / "other.aesgpack").unlink()
    assert len(calls.names) > 4
    failed = 0
    for number in range(len(calls.names)):
        try:
            with at_call(number, act):
                memory.export_pack(target)
            assert target.read_bytes() == after  # it was a call that may fail
        except (AESGStorageError, KeyboardInterrupt):
            failed += 1
            assert target.read_bytes() in (before, after)
        assert [each.name for each in folder.iterdir()] == [FILE]
        target.write_bytes(before)
    assert failed > 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "letter.txt",
            "Failed to write pack file 'letter.txt': expected no file or a pack",
        ),
        ("letter.txt/a", "Failed to write pack file 'letter.txt/a'"),
        ("folder/", "'folder/': expected the path of a file, got one of a folder"),
        ("memory/CURRENT", "expected a place outside of memory .*memory', got one in it"),
        ("memory/packs", "expected a place outside of memory"),
        ("memory", "expected a place outside of memory"),
        ("link/packs/a.aesgpack", "expected a place outside of memory"),
        (".", "Failed to write pack file '.'"),
        ("", "Failed to write pack file"),
        ("a\0b", "Failed to write pack file"),
        (3, "Failed to write pack file 3: expected a path, got int"),
    ],
)
def test_a_path_that_is_none_is_refused(memory: AESGMemory, path: Any, message: str) -> None:
    Path("letter.txt").write_text("Dear all")
    Path("link").symlink_to(memory.directory)
    there = sorted(Path().rglob("*"))
    with pytest.raises(AESGStorageError, match=message):
        memory.export_pack(path)
    assert sorted(Path().rglob("*")) == there
    assert Path("letter.txt").read_text() == "Dear all"


def test_of_provisional_concepts_alone_it_is_said_what_makes_them_born(tmp_path: Path) -> None:
    with opened(tmp_path / "other", novelty_birth_threshold=4) as other:
        for count, message in ((1, "got 1 provisional one only"), (3, "got 3 provisional ones")):
            other.retrieve(torch.from_numpy(keys_of(count)))
            other.save()
            with pytest.raises(AESGMemoryError, match=rf"{message}.*novelty_birth_threshold .*4"):
                other.export_pack(FILE)
        assert not Path(FILE).exists()


def test_ids_may_come_in_anything_that_can_be_gone_through(memory: AESGMemory) -> None:
    for ids in ({2, 4}, (each for each in (4, 2)), {2: "a", 4: "b"}.keys(), range(2, 5, 2)):
        assert _ids(exported(memory, Path(FILE), ids=ids)) == [2, 4]


@pytest.mark.parametrize("given", ["\r\n", "\r", "\n"])
def test_lines_of_notes_end_in_one_way(memory: AESGMemory, given: str) -> None:
    texts = {"notes": f"a{given}b{given}", "licence": f"MIT{given}or none"}
    provenance = exported(memory, Path(FILE), **texts).provenance
    assert (provenance.notes, provenance.licence) == ("a\nb\n", "MIT\nor none")


def test_payloads_of_many_concepts_wait_in_a_file_without_a_name(memory: AESGMemory) -> None:
    expected = exported(memory, Path(FILE))
    with patch("aesg.packs.payloads._HELD", 1), patch("aesg.packs.exporting._CHUNK", 4):
        pack = exported(memory, Path("other.aesgpack"))
    assert pack.digest == expected.digest


def test_concepts_are_gathered_part_by_part(memory: AESGMemory) -> None:
    ids = view_of(memory).ids.whole()[::2]
    expected = exported(memory, Path(FILE), ids=ids, predicate=lambda some: some.ids % 3 > 0)
    with patch("aesg.packs.gathering._CHUNK", 3), patch("aesg.packs.choosing._CHUNK", 4):
        pack = exported(
            memory, Path("other.aesgpack"), ids=ids, predicate=lambda some: some.ids % 3 > 0
        )
    assert pack.digest == expected.digest


def test_a_process_that_reads_exports_what_was_committed_beside_a_writer(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        remember_numbers(memory, 40)
        with child(export_while_told, str(tmp_path / "memory"), str(tmp_path / FILE)) as reader:
            told: list[int] = []
            while len(told) < 6:
                remember_numbers(memory, 5)
                told += [reader.next()] if reader.connection.poll() else []
            counts = [*told, *reader.kill()]
    assert sorted(counts) == counts
    assert counts[0] >= 40
    assert len(set(counts)) > 1


def test_progress_is_told_to_the_end(memory: AESGMemory) -> None:
    steps: dict[str, tuple[int, int]] = {}

    def progress(step: str, done: int, total: int) -> None:
        steps[step] = done, total

    memory.export_pack(FILE, progress=progress, predicate=lambda some: some.ids > 2)
    assert {"choosing concepts", "reading payloads", "writing the pack"} <= set(steps)
    assert all(done == total for done, total in steps.values())


def test_a_view_that_is_mapped_gives_the_same_columns(memory: AESGMemory) -> None:
    view, clock = view_of(memory), memory._state.clock
    arrays = {name: np.asarray(_whole(rows)) for name, rows in view.columns().items()}
    mapped = View.of_columns(arrays, view.generation, view.settings, None)
    slots = view.slots(np.sort(view.ids.whole())[3:])
    one, other = (
        {
            **concept_columns(each, slots, clock, values=True),
            **EdgesWithin(each, slots, clock.epoch, EDGE_DECAY).columns(),
        }
        for each in (view, mapped)
    )
    assert one.keys() == other.keys()
    for name, rows in one.items():
        assert len(rows) == len(other[name]) > 3
        assert np.array_equal(rows.part(2, len(rows)), other[name].part(2, len(rows))), name


def _whole(rows: Any) -> Any:
    return rows if isinstance(rows, np.ndarray) else rows.part(0, len(rows))


def test_keys_that_were_too_short_to_be_divided_exactly_are_exported_at_length_one(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.remember(keys_of(3))
        state, view = memory._state, view_of(memory)
        short = keys_of(3) * np.array([[1], [1e-44], [0]], np.float32)
        state.apply(WriteBatch(concepts=replace(memory_concepts(view), keys=short)))
        assert abs(np.linalg.norm(view_of(memory).keys[1]) - 1) > 1e-3
        pack = exported(memory, Path(FILE))
    lengths = np.linalg.norm(pack.columns["keys"], axis=1)
    assert lengths.tolist() == pytest.approx([1, 1, 0], abs=1e-5)


def test_a_folder_that_is_missing_is_made(memory: AESGMemory) -> None:
    memory.export_pack("packs/of/mine/some.aesgpack")
    assert read_pack("packs/of/mine/some.aesgpack").node_count == 30
