"""Repair: each kind of damage, made past the store, is mended or put aside, and told."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage_backends import codec, layout
from storage_backends.compaction import compact
from storage_backends.engine import Engine
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreLockedError,
    StoreSchemaError,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.repair import RepairReport, repair
from storage_backends.salvage import DataFile
from storage_backends.types import EDGE, WriteBatch
from tests.storage import maintenance_children as children
from tests.storage.build import edges, ids
from tests.storage.damage import (
    PAGE,
    data_file,
    flip,
    flipped,
    key_of,
    make,
    overwrite,
    pages_of,
    raw,
    record_in,
    replace_record,
    sealed,
)
from tests.storage.engines import LARGE, large_batch
from tests.storage.history import batch_of
from tests.storage.mending import repaired, seen
from tests.storage.place import first_batch
from tests.storage.processes import child, line, run_child

_LEAF, _BRANCH = 2, 1


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    directory = tmp_path / "memory"
    make(directory, first_batch())
    return directory


def quarantined(directory: Path, report: RepairReport) -> list[dict[str, Any]]:
    if report.quarantine is None:
        return []
    lines = (directory / report.quarantine).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_sound_memory_is_left_as_it_is(memory: Path) -> None:
    before = seen(memory), data_file(memory).read_bytes()
    report = repair(memory)
    assert (report.rebuilt, report.moved, report.damage, report.problems) == ((), (), (), ())
    assert (report.quarantine, report.kept) == (None, None)
    assert (seen(memory), data_file(memory).read_bytes()) == before


@pytest.mark.parametrize("table", ["key", "value", "meta"])
@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
def test_a_concept_with_a_bad_record_is_put_aside_whole(
    memory: Path, table: str, lost: bool
) -> None:
    before = seen(memory)
    parts = {name: record_in(memory, name, key_of(2)) for name in ("key", "value", "meta")}
    parts[table] = flipped(parts[table])
    replace_record(memory, table, key_of(2), None if lost else parts[table])
    report = repaired(memory)

    after = seen(memory)
    assert after["concepts"] == {i: row for i, row in before["concepts"].items() if i != 2}
    moved = {(each.table, each.key) for each in report.moved}
    expected = {(name, "2") for name in parts if not (lost and name == table)}
    # its payload, its edge to 1, and the edge of 1 to it
    assert moved == expected | {("payload", "2"), ("adjacency", "2"), ("adjacency", "1")}
    held = {(each["table"], each["key"]): each for each in quarantined(memory, report)}
    assert set(held) == moved
    for name in parts:
        if not (lost and name == table):
            assert base64.b64decode(held[name, "2"]["base64"]) == parts[name]
    assert all(each.reason for each in report.moved)


def test_the_edges_to_a_concept_put_aside_are_removed_and_told(memory: Path) -> None:
    flip(memory, "key", key_of(1))
    report = repaired(memory)
    told = {each.key: each.reason for each in report.moved if each.table == "adjacency"}
    assert set(told) == {"1", "2", "5"}
    assert told["5"] == "expected an existing concept, got an edge to 1"
    assert seen(memory)["edges"] == {}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (edges(3, 99), "an existing concept"),
        (edges(3, 2), "another concept than the source"),
        (np.concatenate([edges(3), edges(3)]), "each target once"),
    ],
    ids=["dangling", "to itself", "twice"],
)
def test_an_edge_that_breaks_a_rule_is_removed_alone(
    memory: Path, row: np.ndarray[Any, Any], expected: str
) -> None:
    source, count = np.array([2], np.uint64), np.array([len(row)], np.int64)
    (record,) = codec.encode_edges(source, count, np.asarray(row, EDGE))
    replace_record(memory, "adjacency", key_of(2), record)
    report = repaired(memory)
    assert [(each.table, each.key) for each in report.moved] == [("adjacency", "2")]
    assert expected in report.moved[0].reason
    assert [edge["target"] for edge in seen(memory)["edges"][2]] == [3]
    with closing(LMDBStore.open(memory, read_only=True)) as store:
        assert store.stats().edges == 4


@pytest.mark.parametrize(
    ("table", "key"),
    [("payload", key_of(2)), ("adjacency", key_of(1)), ("sys", b"config")],
)
def test_what_no_concept_needs_is_put_aside_alone(memory: Path, table: str, key: bytes) -> None:
    before = seen(memory)
    flip(memory, table, key)
    report = repaired(memory)
    assert [each.table for each in report.moved] == [table]
    assert seen(memory)["concepts"].keys() == before["concepts"].keys()


def test_a_bad_column_takes_the_short_term_table_with_it(memory: Path) -> None:
    flip(memory, "shortterm", b"keys")
    report = repaired(memory)
    assert {each.key for each in report.moved} == {"keys", "clock"}
    assert seen(memory)["shortterm"] == {}


@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
def test_events_are_numbered_anew_around_a_bad_one(memory: Path, lost: bool) -> None:
    before = seen(memory)
    bad = None if lost else flipped(record_in(memory, "evolution", key_of(1)))
    replace_record(memory, "evolution", key_of(1), bad)
    report = repaired(memory)
    assert report.rebuilt == ("the numbers of 2 events",)
    assert seen(memory)["events"] == [before["events"][0], before["events"][2]]
    assert len(report.moved) == (0 if lost else 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (codec.EDGE_COUNT, "the count of edges: 4"),
        (codec.GENERATION, "the log"),
        (codec.UUID, "the identity, which was lost: the memory has a new one"),
        (codec.SNAPSHOT, "the number of the last snapshot"),
    ],
)
@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
def test_counters_are_made_anew(memory: Path, name: bytes, told: str, lost: bool) -> None:
    before = seen(memory)
    replace_record(memory, "sys", name, None if lost else flipped(record_in(memory, "sys", name)))
    report = repaired_although_unreadable(memory)
    assert told in report.rebuilt
    assert seen(memory)["concepts"] == before["concepts"]


def repaired_although_unreadable(directory: Path) -> RepairReport:
    report = repair(directory)
    assert report.problems == ()
    return report


def test_a_wrong_count_of_edges_is_corrected(memory: Path) -> None:
    record = sealed("sys", codec.EDGE_COUNT, codec.encode_number(77))
    replace_record(memory, "sys", codec.EDGE_COUNT, record)
    assert repaired(memory).rebuilt == ("the count of edges: 4",)


def test_a_log_with_a_gap_is_replaced_and_readers_read_all_anew(tmp_path: Path) -> None:
    make(tmp_path, *map(batch_of, range(1, 8)))
    with closing(LMDBStore.open(tmp_path, read_only=True)) as reader:
        generation = reader.generation()
    replace_record(tmp_path, "log", key_of(4), None)
    assert repaired(tmp_path).rebuilt == ("the log",)
    with closing(LMDBStore.open(tmp_path)) as store:
        assert store.changes(generation) is None
        now = store.generation()
        assert now > generation
        assert store.commit(batch_of(8)) == now + 1
        assert store.changes(now) is not None


def test_lost_counters_of_the_caller_follow_from_the_concepts(memory: Path) -> None:
    with raw(memory) as put:
        for name in (b"next_id", b"tick"):
            put("sys", name, sealed("sys", name, b"17"))
    flip(memory, "sys", b"next_id")
    report = repaired(memory)
    assert "the setting next_id: 6" in report.rebuilt
    assert seen(memory)["settings"]["next_id"] == b"6"


@pytest.mark.parametrize("table", ["key", "adjacency"])
def test_damaged_pages_are_left_behind_with_all_that_can_be_read(
    tmp_path: Path, table: str
) -> None:
    path = make(tmp_path, *map(batch_of, range(1, 30)))
    before = seen(tmp_path)
    damaged = _zero_leaf_of(path, table)
    report = repaired(tmp_path)
    assert report.damage
    assert report.folder == "gen-000002"
    assert report.kept is not None
    assert (tmp_path / report.kept / layout.DATA).read_bytes() == damaged
    assert not (tmp_path / "gen-000001").exists()
    after = seen(tmp_path)
    assert set(after["concepts"]) <= set(before["concepts"])
    assert after["events"] == before["events"]
    assert (after["uuid"], after["settings"]) == (before["uuid"], before["settings"])
    assert after["generation"] > before["generation"]


def _zero_leaf_of(path: Path, table: str) -> bytes:
    """Zero the page that holds a record of a table; return the content of the file."""
    record = record_in(path.parent.parent, table, _first_key(path, table))
    content = path.read_bytes()
    for page in pages_of(path, _LEAF):  # freed ones, too: which are in use is hard to see
        if record in _page(content, page):
            overwrite(path, page * PAGE, bytes(PAGE))
    return path.read_bytes()


def _page(content: bytes, number: int) -> bytes:
    return content[number * PAGE : (number + 1) * PAGE]


def _first_key(path: Path, table: str) -> bytes:
    with closing(LMDBStore.open(path.parent.parent, read_only=True)) as store:
        contents = store.load()
    found = contents.concepts.ids if table == "key" else contents.edge_sources
    return key_of(int(found[0]))


def test_damaged_branch_pages_cost_no_record(tmp_path: Path) -> None:
    path = make(tmp_path, *map(batch_of, range(1, 120)))
    before = seen(tmp_path)
    branches = pages_of(path, _BRANCH)
    assert branches
    for page in branches:
        overwrite(path, page * PAGE, bytes(PAGE))
    report = repaired(tmp_path)
    assert report.moved == ()
    after = seen(tmp_path)
    for part in ("concepts", "edges", "events", "shortterm", "settings", "uuid"):
        assert after[part] == before[part]


def test_a_branch_page_that_would_be_garbled_by_a_deletion_is_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path, *map(batch_of, range(1, 120)))
    before, content = seen(tmp_path), path.read_bytes()
    for page in pages_of(path, _BRANCH):
        (node,) = struct.unpack_from("<H", content, page * PAGE + 18)  # of the second record
        size = page * PAGE + node + 6  # of its key, which then reaches into the next one
        overwrite(path, size, bytes([content[size] + 2]))
    report = repaired(tmp_path)
    assert all("holds damaged records" in text for text in report.damage)
    assert len(report.damage) == len(set(report.damage))
    assert (report.moved, report.kept is None) == ((), False)
    after = seen(tmp_path)
    for part in ("concepts", "edges", "events", "shortterm", "settings", "uuid"):
        assert after[part] == before[part]


def test_a_damaged_list_of_tables_costs_no_record(memory: Path) -> None:
    before, path = seen(memory), data_file(memory)
    with DataFile(path) as file:
        overwrite(path, file._meta.table_root * PAGE, bytes(PAGE))
    report = repaired(memory)
    assert report.moved == ()
    assert seen(memory)["concepts"] == before["concepts"]
    assert seen(memory)["uuid"] == before["uuid"]


def test_a_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    path = make(tmp_path, *map(batch_of, range(1, 60)))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4)
    repaired(tmp_path)


def test_without_meta_pages_nothing_is_touched(memory: Path) -> None:
    overwrite(data_file(memory), 0, bytes(2 * PAGE))
    before = data_file(memory).read_bytes()
    with pytest.raises(StoreCorruptError, match="restore a copy"):
        repair(memory)
    assert data_file(memory).read_bytes() == before
    assert sorted(path.name for path in memory.iterdir()) == [
        "CURRENT",
        "WRITER.lock",
        "gen-000001",
    ]


@pytest.mark.parametrize("content", [b"", b"gen-000009\n", b"\0\xff"])
def test_a_bad_current_is_written_anew(memory: Path, content: bytes) -> None:
    before = seen(memory)
    (memory / layout.CURRENT).write_bytes(content)
    report = repair(memory)
    assert report.rebuilt == ("CURRENT, which names gen-000001 again",)
    assert seen(memory) == before


def test_bytes_changed_within_a_record_are_found_and_put_aside(memory: Path) -> None:
    path, record = data_file(memory), record_in(memory, "key", key_of(4))
    content = path.read_bytes()
    for at in _places(content, record):
        overwrite(path, at, flipped(record))
    report = repaired(memory)
    assert {each.key for each in report.moved} == {"4"}
    assert report.kept is None


@pytest.mark.parametrize("bit", [0, 1, 3, 4, 9, 11])
@pytest.mark.parametrize("table", ["key", "payload", "adjacency", "evolution"])
def test_a_record_whose_key_has_another_length_costs_no_other(
    memory: Path, table: str, bit: int
) -> None:
    before, path, key = seen(memory), data_file(memory), key_of(1)
    content = path.read_bytes()
    size = 1 << bit ^ len(key)
    for at in _places(content, key + record_in(memory, table, key)):
        overwrite(path, at - 2, size.to_bytes(2, "little"))
    report = repaired(memory)
    assert report.lost
    after = seen(memory)
    touched = _TOUCHED.get(table, ())
    for part in ("concepts", "payloads", "edges"):
        left = {i: one for i, one in before[part].items() if i != 1 or part not in touched}
        if part == "edges" and table == "key":
            left = {i: [edge for edge in row if edge["target"] != 1] for i, row in left.items()}
        assert after[part] == {i: one for i, one in left.items() if one != []}
    assert len(after["events"]) == len(before["events"]) - (table == "evolution")
    assert (after["settings"], after["shortterm"]) == (before["settings"], before["shortterm"])


#: What is lost of a concept with a record of it.
_TOUCHED = {
    "key": ("concepts", "payloads", "edges"),
    "payload": ("payloads",),
    "adjacency": ("edges",),
}


def _places(content: bytes, part: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(part, at)]


def test_another_schema_is_not_repaired(memory: Path) -> None:
    path = data_file(memory)
    replace_record(memory, "sys", codec.SCHEMA, b"9")
    before = path.read_bytes()
    with pytest.raises(StoreSchemaError):
        repair(memory)
    assert path.read_bytes() == before


def test_repair_waits_for_no_writer_and_names_it(memory: Path) -> None:
    with (
        closing(LMDBStore.open(memory)),
        pytest.raises(StoreLockedError, match=f"process {os.getpid()} "),
    ):
        repair(memory)


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_memory_stays_as_it_was(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(NotAStoreError, match=name):
        repair(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.long)])
def test_a_repair_killed_at_any_step_can_be_run_again(tmp_path: Path, stride: int) -> None:
    pristine = tmp_path / "pristine"
    path = make(pristine, *map(batch_of, range(1, 30)))
    _zero_leaf_of(path, "key")
    found = run_child(children.die_at_every_step, "repair", pristine, stride).splitlines()
    assert len({text.split()[1] for text in found}) == 1  # the same is saved each time
    assert any("next" in text for text in found)


def test_a_reader_of_another_process_goes_on_over_a_repair(tmp_path: Path) -> None:
    make(tmp_path, *map(batch_of, range(1, 8)))
    with child(children.watch, tmp_path) as reader:
        assert line(reader) == "gen-000001"
        replace_record(tmp_path, "log", key_of(4), None)
        assert repair(tmp_path).rebuilt == ("the log",)
        assert compact(tmp_path).done
        assert line(reader) == "gen-000002"  # it has read the repaired records, and follows
        assert reader.stdin is not None
        reader.stdin.close()
        assert reader.wait(30) == 0


def test_a_damaged_name_of_a_table_costs_no_record(memory: Path) -> None:
    before, path = seen(memory), data_file(memory)
    with DataFile(path) as file:
        root = file._meta.table_root * PAGE
    at = path.read_bytes().index(b"adjacency", root, root + PAGE)
    overwrite(path, at, b"adjacencz")
    report = repaired(memory)
    assert report.moved == ()
    assert seen(memory)["edges"] == before["edges"]


@pytest.fixture
def mapped(tmp_path: Path) -> Path:
    """Return a memory of 60 concepts with payloads, edges, a snapshot and settings."""
    directory = tmp_path / "mapped"
    with closing(Engine(LMDBStore.open(directory), LARGE)) as engine:
        engine.commit(
            replace(
                large_batch(60),
                edges={i: edges(i + 1) for i in range(1, 60)},
                payloads={i: bytes(300) for i in range(1, 41)},
                settings={"config": b"{}", "next_id": b"61", "tick": b"7", "epoch": b"2"},
            )
        )
        engine.rebuild()
    return directory


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _without_meta_pages(path: Path) -> None:
    overwrite(path, 0, bytes(2 * PAGE))


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [_cut_in_half, _without_meta_pages, _empty])
def test_a_snapshot_beside_a_damaged_file_saves_concepts_and_edges(
    mapped: Path, damage: Callable[[Path], None]
) -> None:
    before = seen(mapped)
    damage(data_file(mapped))
    files = {path.name: path.read_bytes() for path in data_file(mapped).parent.iterdir()}
    report = repaired(mapped)
    after = seen(mapped)
    assert _approximate(after["concepts"]) == _approximate(before["concepts"])
    assert after["edges"] == before["edges"]
    assert (report.before.concepts, report.after.concepts) == (60, 60)
    assert (report.before.edges, report.after.edges) == (59, 59)
    assert report.lost
    assert report.kept is not None
    kept = {path.name: path.read_bytes() for path in (mapped / report.kept).iterdir()}
    assert kept == files


def _approximate(concepts: dict[int, Any]) -> dict[int, Any]:
    """Return concepts with rounded keys: of the product of two parts the last bit may differ."""
    return {i: row | {"key": np.round(row["key"], 4).tolist()} for i, row in concepts.items()}


def test_what_is_lost_with_both_meta_pages_is_told(mapped: Path) -> None:
    before = seen(mapped)
    _without_meta_pages(data_file(mapped))
    report = repaired(mapped)
    after = seen(mapped)
    assert (after["uuid"], after["settings"]) == (before["uuid"], before["settings"])
    assert (report.before.payloads, report.after.payloads) == (None, 0)
    assert any("unknown number of payloads" in text for text in report.lost)


def test_an_identity_and_settings_that_are_gone_are_told(mapped: Path) -> None:
    _empty(data_file(mapped))
    lost = repaired(mapped).lost
    assert "the identity: the memory has a new one" in lost
    assert any(text.startswith("the settings config, next_id, epoch, tick") for text in lost)


def test_files_of_packs_outlive_the_setting_that_names_them(mapped: Path) -> None:
    kept = mapped / "packs" / f"{'0' * 64}.aesgpack"
    kept.parent.mkdir()
    kept.write_bytes(b"a pack")
    _empty(data_file(mapped))
    lost = repaired(mapped).lost
    assert any(text.startswith("the settings config, next_id, epoch, tick, packs") for text in lost)
    LMDBStore.open(mapped).close()  # a writer, which sweeps
    assert kept.read_bytes() == b"a pack"


def test_a_snapshot_with_another_hash_is_not_used(mapped: Path) -> None:
    (columns,) = mapped.glob("gen-*/columns-*.aesg")
    overwrite(columns, 5 * PAGE, b"other")
    _without_meta_pages(data_file(mapped))
    with pytest.raises(StoreCorruptError, match="restore a copy"):
        repair(mapped)


def test_payloads_on_pages_that_cannot_be_read_are_counted(mapped: Path) -> None:
    path = data_file(mapped)
    record = record_in(mapped, "payload", key_of(3))
    content = path.read_bytes()
    for page in pages_of(path, _LEAF):
        if record in _page(content, page) and bytes(300) in _page(content, page):
            overwrite(path, page * PAGE, bytes(PAGE))
    report = repaired(mapped)
    assert report.before.payloads == 40
    assert report.after.payloads is not None
    assert 0 < 40 - report.after.payloads <= 13
    assert report.lost == (f"{40 - report.after.payloads} of 40 payloads",)


def test_a_deleted_concept_is_not_brought_back_from_a_snapshot(mapped: Path) -> None:
    with closing(LMDBStore.open(mapped)) as store:
        store.commit(WriteBatch(deleted=ids(60), edges={59: edges()}))
    path = data_file(mapped)
    damaged = _zero_leaf_of(path, "key")
    assert damaged
    report = repaired(mapped)
    after = seen(mapped)
    assert 60 not in after["concepts"]
    assert (report.before.concepts, len(after["concepts"])) == (59, 59)


def test_where_no_concept_can_be_told_and_no_snapshot_is_there_nothing_is_changed(
    mapped: Path,
) -> None:
    for path in mapped.glob("gen-*/*.aesg"):
        path.unlink()
    _cut_in_half(data_file(mapped))
    before = data_file(mapped).read_bytes()
    with pytest.raises(StoreCorruptError, match="nothing was changed: restore a copy"):
        repair(mapped)
    assert data_file(mapped).read_bytes() == before
    assert not list(mapped.glob("damaged-*"))
    assert not (mapped / "next").exists()
