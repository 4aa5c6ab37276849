"""Aliases and a shortened log under examination, repair and compaction, and in older files."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import lmdb
import numpy as np
import pytest

from storage_backends import codec, layout, trust
from storage_backends.compaction import compact, expect
from storage_backends.copying import copy
from storage_backends.engine import Engine
from storage_backends.errors import StoreCorruptError, StoreUsageError
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage.build import concepts, edges, events, ids
from tests.storage.damage import (
    PAGE,
    data_file,
    flip,
    flipped,
    key_of,
    make,
    overwrite,
    pages_of,
    record_in,
    replace_record,
)
from tests.storage.engines import LARGE, large_batch
from tests.storage.mending import repaired, seen
from tests.storage.picture import picture, rows
from tests.storage.place import first_batch

_LEAF = 2


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Return a memory with aliases of 2, 4 and 60, and of events the numbers 3 to 6."""
    directory = tmp_path / "memory"
    make(
        directory,
        first_batch(),
        WriteBatch(
            deleted=ids(2, 4), edges={1: edges(3), 5: edges(1)}, aliases={2: 1, 4: 3, 60: 5}
        ),
        WriteBatch(events=events([4, 5, 6, 7]), most_events=4),
    )
    return directory


def alias(source: int, target: int) -> tuple[str, bytes, bytes]:
    (record,) = codec.encode_aliases(ids(source), ids(target))
    return codec.ALIAS, key_of(source), record


def test_a_copy_has_aliases_and_the_numbers_of_events(memory: Path, tmp_path: Path) -> None:
    assert copy(memory, tmp_path / "copy", verify=True).problems == ()
    assert seen(tmp_path / "copy") == seen(memory)
    assert seen(memory)["resolved"] == {1: 1, 2: 1, 3: 3, 4: 3, 5: 5, 60: 5}
    assert seen(memory)["first_event"] == 3


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (alias(5, 1), "an id without a concept"),
        (alias(0, 1), "an id above 0"),
        (alias(61, 61), "a chain of aliases that ends"),
    ],
    ids=["of a concept", "of 0", "in a circle"],
)
def test_an_alias_that_breaks_a_rule_is_found_and_taken_out_alone(
    memory: Path, record: tuple[str, bytes, bytes], expected: str
) -> None:
    before = seen(memory)
    replace_record(memory, *record)
    (problem,) = examine(memory).problems
    assert (problem.table, problem.key) == ("alias", str(codec.decode_number(record[1])))
    assert expected in problem.message
    report = repaired(memory)
    assert [(each.table, each.key) for each in report.moved] == [("alias", problem.key)]
    assert seen(memory) == before | {"generation": report_generation(memory)}


def report_generation(directory: Path) -> int:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return store.generation()


def test_no_circle_keeps_a_store_from_answering(memory: Path) -> None:
    for record in (alias(61, 62), alias(62, 61), alias(63, 61)):
        replace_record(memory, *record)
    with closing(LMDBStore.open(memory, read_only=True)) as store:
        assert store.resolve(ids(61, 2, 63)).tolist() == [0, 1, 0]
        assert {problem.key for problem in store.verify()} == {"61", "62", "63"}


def test_an_alias_that_is_not_sound_is_put_aside_alone(memory: Path) -> None:
    flip(memory, "alias", key_of(2))
    report = repaired(memory)
    assert [(each.table, each.key) for each in report.moved] == [("alias", "2")]
    assert (report.before.aliases, report.after.aliases) == (3, 2)
    assert "1 of 3 aliases" in report.lost
    assert seen(memory)["resolved"] == {1: 1, 3: 3, 4: 3, 5: 5, 60: 5}


def test_aliases_of_a_concept_that_is_put_aside_lead_nowhere(memory: Path) -> None:
    flip(memory, "key", key_of(3))
    repaired(memory)
    assert seen(memory)["resolved"] == {1: 1, 2: 1, 5: 5, 60: 5}


@pytest.mark.parametrize("lost", [3, 4, 6])
def test_the_events_of_a_shortened_log_are_numbered_anew_from_its_first(
    memory: Path, lost: int
) -> None:
    before = seen(memory)["events"]
    replace_record(memory, "evolution", key_of(lost), None)
    if lost == 6:  # the last: only the count could tell, and there is none
        assert examine(memory).problems == ()
        return
    report = repaired(memory)
    assert report.rebuilt == ("the numbers of 3 events",)
    assert "1 of 4 events" in report.lost
    after = seen(memory)
    assert (after["first_event"], after["events"]) == (
        3,
        [*before[: lost - 3], *before[lost - 2 :]],
    )


def test_the_number_of_the_oldest_event_follows_from_the_events(memory: Path) -> None:
    before = seen(memory)
    record = flipped(record_in(memory, "sys", codec.FIRST_EVENT))
    replace_record(memory, "sys", codec.FIRST_EVENT, record)
    report = repaired(memory)
    assert report.rebuilt == ("the number of the oldest event: 3",)
    assert (report.before.events, report.after.events) == (4, 4)
    after = seen(memory)
    assert (after["events"], after["first_event"]) == (before["events"], 3)


def test_events_go_on_counting_after_all_were_lost(memory: Path) -> None:
    for number in range(3, 7):
        flip(memory, "evolution", key_of(number))
    assert "4 of 4 events" in repaired(memory).lost
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(events=events([8])))
        assert store.stats().first_event == 3
        assert rows(store.events()) == rows(events([8]))
        assert store.verify() == []


def zero_page_of(path: Path, table: str, key: bytes) -> None:
    record, content = record_in(path.parent.parent, table, key), path.read_bytes()
    for page in pages_of(path, _LEAF):
        if key + record in content[page * PAGE : (page + 1) * PAGE]:
            overwrite(path, page * PAGE, bytes(PAGE))


def test_aliases_on_a_damaged_page_are_counted(tmp_path: Path) -> None:
    aliases = {i: 1 + i % 5 for i in range(10, 1000)}
    path = make(tmp_path, first_batch(), WriteBatch(aliases=aliases))
    zero_page_of(path, "alias", key_of(500))
    report = repaired(tmp_path)
    assert report.before.aliases == 990
    assert report.after.aliases is not None
    assert 0 < report.after.aliases < 990
    assert report.lost == (f"{990 - report.after.aliases} of 990 aliases",)
    with closing(LMDBStore.open(tmp_path)) as store:
        found = store.resolve(np.array(sorted(aliases), np.uint64)).tolist()
    assert sum(map(bool, found)) == report.after.aliases
    assert all(end in (0, 1 + i % 5) for i, end in zip(sorted(aliases), found, strict=True))


def test_an_absorbed_concept_is_not_brought_back_from_a_snapshot(tmp_path: Path) -> None:
    with closing(Engine(LMDBStore.open(tmp_path), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(60), aliases={60: 59}))
    path = data_file(tmp_path)
    zero_page_of(path, "log", key_of(2))
    zero_page_of(path, "key", key_of(3))
    report = repaired(tmp_path)
    assert any("from the snapshot" in text for text in report.rebuilt)
    with closing(LMDBStore.open(tmp_path)) as store:
        assert 60 not in store.load().concepts.ids
        assert store.resolve(ids(60, 59)).tolist() == [59, 59]


def test_aliases_and_event_numbers_are_saved_from_a_damaged_file(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        WriteBatch(concepts=concepts(range(1, 400)), edges={1: edges(2)}),
        WriteBatch(aliases={i: i - 399 for i in range(400, 700)}, events=events(range(50))),
        WriteBatch(most_events=30),
    )
    before = seen(tmp_path)
    zero_page_of(path, "key", key_of(7))
    report = repaired(tmp_path)
    assert report.kept is not None
    assert (report.before.aliases, report.after.aliases) == (300, 300)
    after = seen(tmp_path)
    assert (after["events"], after["first_event"]) == (before["events"], 20)
    with closing(LMDBStore.open(tmp_path)) as store:
        assert store.resolve(ids(699, 698)).tolist() == [300, 299]


def test_compaction_drops_aliases_that_lead_nowhere_and_no_others(memory: Path) -> None:
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(aliases=dict.fromkeys(range(100, 120), 1)))
        store.commit(WriteBatch(deleted=ids(1), edges={5: edges()}, aliases={61: 3}))
        before, held = picture(store), store.stats().aliases
    assert held > 10  # most of those of 1, which is gone, are still there
    expected, report = expect(memory), compact(memory, verify=True)
    assert (report.done, report.problems) == (True, ())
    assert (report.before.aliases, report.after.aliases) == (held, 3)
    assert expected.after.aliases == 3
    assert seen(memory) == before


def test_compaction_keeps_as_many_events_as_the_memory_is_set_to(memory: Path) -> None:
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(settings={"max_events": b"3"}))
    before, expected = seen(memory), expect(memory)
    report = compact(memory, verify=True)
    assert (report.done, report.problems) == (True, ())
    assert (report.before.events, report.after.events, expected.after.events) == (4, 3, 3)
    after = seen(memory)
    assert after == before | {
        "events": before["events"][1:],
        "first_event": 4,
        "sizes": after["sizes"],
    }
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(events=events([8])))
        assert rows(store.events(5, 9)) == rows(events([6, 7, 8]))


@pytest.mark.parametrize("setting", [b"", b"0", b"-1", b"many", b"9"])
def test_without_a_limit_that_is_reached_all_events_stay(memory: Path, setting: bytes) -> None:
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(settings={"max_events": setting}))
    before = seen(memory)
    assert compact(memory).after.events == 4
    assert seen(memory) == before


def test_a_compaction_may_be_told_how_many_events_to_keep(memory: Path) -> None:
    with closing(LMDBStore.open(memory)) as store:
        store.commit(WriteBatch(settings={"max_events": b"3"}))
    assert expect(memory, most_events=9).after.events == 4
    assert expect(memory, most_events=1).after.events == 1
    assert compact(memory, most_events=1).after.events == 1
    assert seen(memory)["events"] == rows(events([7]))
    for call in (expect, compact):
        with pytest.raises(StoreUsageError, match="most_events"):
            call(memory, most_events=0)


def test_the_room_of_events_that_go_is_given_back(tmp_path: Path) -> None:
    make(tmp_path, first_batch(), WriteBatch(events=events(range(20_000))))
    expected = expect(tmp_path, most_events=100)
    report = compact(tmp_path, most_events=100)
    assert report.after.data_bytes < report.before.data_bytes / 10
    assert abs(report.after.data_bytes - expected.after.data_bytes) <= 16 * PAGE
    assert expected.needed_bytes > report.before.data_bytes


def strip(directory: Path) -> None:
    """Make a memory as a release without aliases would have left it."""
    folder = layout.require_memory(directory)
    stamp = trust.read_stamp(folder)
    assert stamp is not None
    with closing(lmdb.open(os.fspath(folder), max_dbs=16, map_size=1 << 30)) as env:
        table = env.open_db(codec.ALIAS.encode(), create=False)
        with env.begin(write=True) as transaction:
            transaction.drop(table, delete=True)
    trust.write_stamp(folder, stamp.generation, durable=True)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    directory = tmp_path / "earlier"
    make(directory, first_batch())
    strip(directory)
    return directory


def test_a_memory_of_an_earlier_release_is_read_as_it_is(earlier: Path, tmp_path: Path) -> None:
    content = data_file(earlier).read_bytes()
    assert seen(earlier)["resolved"] == {i: i for i in range(1, 6)}
    assert examine(earlier).problems == ()
    assert expect(earlier).done
    assert data_file(earlier).read_bytes() == content
    assert copy(earlier, tmp_path / "copy", verify=True).problems == ()
    assert seen(tmp_path / "copy") == seen(earlier)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_damaged_name_of_the_table_does_not_make_a_memory_an_earlier_one(
    memory: Path, read_only: bool
) -> None:
    content = data_file(memory).read_bytes()
    data_file(memory).write_bytes(content.replace(b"alias", b"ahias"))
    with pytest.raises(StoreCorruptError, match=r"expected the tables .*alias, got b'ahias'"):
        LMDBStore.open(memory, read_only=read_only)
    assert b"alias" not in data_file(memory).read_bytes()  # nor is one made


def test_a_memory_of_an_earlier_release_takes_aliases(earlier: Path) -> None:
    before = seen(earlier)
    with (
        closing(LMDBStore.open(earlier, read_only=True)) as reader,
        closing(LMDBStore.open(earlier)) as writer,
    ):
        assert picture(writer) == picture(reader) == before
        writer.commit(WriteBatch(aliases={60: 1}))
        assert [store.resolve(ids(60)).tolist() for store in (writer, reader)] == [[1], [1]]
    assert trust.is_as_stamped(layout.require_memory(earlier))
    assert seen(earlier)["resolved"][60] == 1


def test_a_reader_of_another_process_sees_the_first_aliases(earlier: Path) -> None:
    with closing(LMDBStore.open(earlier, read_only=True)) as reader:
        before = picture(reader)
        pid = os.fork()
        if not pid:
            with closing(LMDBStore.open(earlier)) as writer:
                writer.commit(WriteBatch(aliases={60: 1}))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert picture(reader) == before | {
            "generation": 2,
            "resolved": before["resolved"] | {60: 1},
        }


def test_a_memory_of_an_earlier_release_is_compacted(earlier: Path) -> None:
    before = seen(earlier)
    assert compact(earlier, verify=True).done
    assert seen(earlier) == before


@pytest.mark.parametrize("damage", ["record", "page"])
def test_a_memory_of_an_earlier_release_is_repaired(tmp_path: Path, damage: str) -> None:
    make(tmp_path, first_batch())
    before = seen(tmp_path)
    if damage == "record":
        flip(tmp_path, "payload", key_of(2))
        strip(tmp_path)
    else:
        strip(tmp_path)
        overwrite(data_file(tmp_path), 0, bytes(PAGE))
    report = repaired(tmp_path)
    assert (report.before.aliases, report.after.aliases) == (0, 0)
    after = seen(tmp_path)
    assert (after["concepts"], after["resolved"]) == (before["concepts"], before["resolved"])
    with closing(LMDBStore.open(tmp_path)) as store:
        store.commit(WriteBatch(aliases={60: 1}))
        assert store.verify() == []
