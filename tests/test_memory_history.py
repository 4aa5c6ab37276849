"""The evolution log: filters, records, the exported file, growth."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from aesg import AESGMemory, AESGMemoryError, AESGStorageError
from aesg.history import EvolutionLog, Kept, kept
from storage_backends.types import EVENT, EventType, Records, WriteBatch
from tests.memory_build import config, meet, near, opened, pattern, patterns
from tests.storage.reference_store import Backing, ReferenceStore

TYPES = [kind.name for kind in EventType]

Event = tuple[int, str, int, int, float]


def records(events: Sequence[Event]) -> Records:
    made = np.zeros(len(events), EVENT)
    for row, (timestamp, kind, id1, id2, value) in zip(made, events, strict=True):
        row["timestamp"], row["type"], row["val"] = timestamp, EventType[kind], value
        row["id1"], row["id2"] = id1, id2
    return made


def log(events: Sequence[Event], forgotten: int = 0, concepts: int = 0) -> EvolutionLog:
    held = records(events)

    def read(newest: int | None) -> Kept:
        start = 0 if newest is None else max(len(held) - newest, 0)
        return Kept(held[start:], forgotten, concepts)

    return EvolutionLog(read)


#: Every type once, a second apart.
ONE_OF_EACH: list[Event] = [(100 + place, kind, place, 0, 0.5) for place, kind in enumerate(TYPES)]

_events = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.sampled_from(TYPES),
        st.integers(1, 9),
        st.integers(0, 1),
        st.just(1.0),
    ),
    max_size=30,
)


@given(
    events=_events,
    types=st.none() | st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES)),
    since=st.none() | st.floats(0, 20),
    until=st.none() | st.floats(0, 20),
    limit=st.none() | st.integers(0, 10),
)
def test_filters_keep_what_a_loop_would_keep(
    events: list[Event],
    types: str | list[str] | None,
    since: float | None,
    until: float | None,
    limit: int | None,
) -> None:
    wanted = TYPES if types is None else [types] if isinstance(types, str) else types
    kept = [
        event
        for event in events
        if event[1] in wanted
        and (since is None or event[0] + 1 > since)  # a part of its second is not too early
        and (until is None or event[0] < until)
    ]
    kept = kept if limit is None else kept[max(len(kept) - limit, 0) :]
    if since is not None and until is not None and since > until:
        with pytest.raises(AESGMemoryError, match="not later than until"):
            log(events).get_history(types, since, until, limit)
        return
    shown = log(events).get_history(types, since, until, limit)
    assert [tuple(event.values()) for event in shown] == kept
    assert log(events).records(types, since, until, limit).tolist() == records(kept).tolist()


def test_events_have_the_documented_keys_and_types() -> None:
    for event in log(ONE_OF_EACH).get_history():
        assert list(event) == ["timestamp", "type", "id1", "id2", "val"]
        assert [type(value) for value in event.values()] == [int, str, int, int, float]


@pytest.mark.parametrize("zone", [None, timezone.utc, timezone(timedelta(hours=9))])
def test_times_may_be_datetimes_with_or_without_a_zone(zone: timezone | None) -> None:
    begin, end = (datetime.fromtimestamp(second, zone) for second in (101, 103))
    assert [each["type"] for each in log(ONE_OF_EACH).get_history(since=begin, until=end)] == [
        "MERGE",
        "SPLIT",
    ]


def test_what_happens_after_a_moment_is_not_missed_in_the_second_of_that_moment() -> None:
    memory = opened()
    before = time.time()
    memory.remember(patterns(0, 1))
    after = time.time()
    assert len(memory.logger.get_history("CREATE", since=before)) == 2
    assert len(memory.logger.records(since=datetime.fromtimestamp(before))) == 2
    assert len(memory.logger.get_history("CREATE", until=after)) == 2


@pytest.mark.parametrize(
    ("since", "until", "seconds"),
    [
        (101, 103, [101, 102]),
        (101.9, 103.0, [101, 102]),
        (101.0, 102.1, [101, 102]),
        (102, 102, []),
        (np.float32(101.5), np.uint64(103), [101, 102]),
        (-5, 1e30, [100, 101, 102, 103, 104, 105]),
        (float("-inf"), float("inf"), [100, 101, 102, 103, 104, 105]),
        (datetime.max, None, []),
    ],
)
def test_an_event_counts_where_a_part_of_its_second_does(
    since: Any, until: Any, seconds: list[int]
) -> None:
    found = log(ONE_OF_EACH).records(since=since, until=until)
    assert found["timestamp"].tolist() == seconds


def test_numbers_may_be_those_of_numpy() -> None:
    assert len(log(ONE_OF_EACH).get_history(limit=np.int64(2))) == 2
    assert len(log(ONE_OF_EACH).growth(np.uint8(3)).count) == 3


def test_types_may_be_members_of_the_enumeration() -> None:
    assert len(log(ONE_OF_EACH).get_history(EventType.PRUNE)) == 1
    assert len(log(ONE_OF_EACH).get_history({EventType.PRUNE, "MERGE"})) == 2


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda log: log.get_history("BIRTH"), "expected one of ['CREATE', "),
        (lambda log: log.get_history(["CREATE", 3]), "got 3"),
        (lambda log: log.get_history(3), "got 3"),
        (lambda log: log.get_history([["CREATE"]]), "got [['CREATE']]"),
        (lambda log: log.records(since="yesterday"), "since: expected Unix seconds or a datetime"),
        (lambda log: log.records(until=float("nan")), "until: expected Unix seconds"),
        (lambda log: log.records(until=True), "got True"),
        (lambda log: log.get_history(limit=-1), "limit: expected an integer >= 0, got -1"),
        (lambda log: log.get_history(limit=1.5), "got 1.5"),
        (lambda log: log.get_history(limit=np.bool_(True)), "limit: expected an integer"),
        (lambda log: log.records(since=5, until=4), "since: expected a time that is not later"),
        (lambda log: log.records(since=datetime.min), "since: expected a time in range"),
        (lambda log: log.records(until=10**400), "until: expected a time in range"),
        (lambda log: log.records(since=torch.tensor(1.0)), "since: expected Unix seconds"),
        (lambda log: log.growth(0), "bins: expected an integer from 1 to 100000, got 0"),
        (lambda log: log.growth(None), "got None"),
        (lambda log: log.growth(10**9), "got 1000000000"),
    ],
)
def test_what_cannot_be_asked_is_refused_clearly(
    ask: Callable[[EvolutionLog], Any], said: str
) -> None:
    with pytest.raises(AESGMemoryError) as caught:
        ask(log(ONE_OF_EACH))
    assert said in caught.value.message


def test_the_exported_file_is_the_documented_binary_log(tmp_path: Path) -> None:
    events: list[Event] = [(2**40, "RESTRUCTURE", 2**64 - 1, 7, 0.25), *ONE_OF_EACH]
    path = tmp_path / "evolution.aesglog"
    path.write_text("what was there before")
    assert log(events).export(path) == len(events)
    written = path.read_bytes()
    assert len(written) == 32 * len(events)
    layout = struct.Struct("<QB3xQQf")
    assert [
        (timestamp, EventType(kind).name, *rest)
        for timestamp, kind, *rest in layout.iter_unpack(written)
    ] == events
    assert all(written[begin + 9 : begin + 12] == b"\0\0\0" for begin in range(0, len(written), 32))
    assert [each.name for each in tmp_path.iterdir()] == ["evolution.aesglog"]


def test_the_padding_of_records_is_not_written(tmp_path: Path) -> None:
    dirty = np.frombuffer(b"\xff" * 32, EVENT).copy()
    dirty["type"] = EventType.CREATE
    EvolutionLog(lambda newest: Kept(dirty, 0, 1)).export(tmp_path / "log")
    assert (tmp_path / "log").read_bytes()[9:12] == b"\0\0\0"


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(AESGStorageError, match="export the evolution log to"):
        log(ONE_OF_EACH).export(tmp_path / "nowhere" / "log")


@pytest.mark.parametrize(
    "path", ["", ".", None, 5, b"log", "folder", "folder/", "/dev/null", "a\0"]
)
def test_what_is_no_path_of_a_file_is_refused(path: Any) -> None:
    Path("folder").mkdir()
    with pytest.raises(AESGStorageError, match="export the evolution log: expected the path of a"):
        log(ONE_OF_EACH).export(path)
    assert [each.name for each in Path().iterdir()] == ["folder"]
    assert Path("/dev/null").is_char_device()


def test_a_missing_folder_is_named_as_it_was_written() -> None:
    with pytest.raises(AESGStorageError) as caught:
        log(ONE_OF_EACH).export("some/where/log")
    assert caught.value.message == (
        "Failed to export the evolution log to 'some/where/log': expected a folder 'some/where', "
        "found none"
    )


def test_an_export_touches_no_other_file(tmp_path: Path) -> None:
    for name in ("log.new", "log.tmp", ".log"):
        (tmp_path / name).write_text("mine")
    log(ONE_OF_EACH).export(tmp_path / "log")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".log", "log", "log.new", "log.tmp"]
    assert [(tmp_path / name).read_text() for name in ("log.new", "log.tmp", ".log")] == [
        "mine"
    ] * 3


def test_an_export_through_a_link_writes_what_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    for content in (None, "before"):  # a link to nothing yet, then to a file
        if content is not None:
            target.write_text(content)
        assert log(ONE_OF_EACH).export(link) == len(ONE_OF_EACH)
        assert link.is_symlink() and target.stat().st_size == 32 * len(ONE_OF_EACH)


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(AESGStorageError, match="symbolic links"):
        log(ONE_OF_EACH).export(link)
    assert link.is_symlink()


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    path.chmod(0o640)
    log(ONE_OF_EACH).export(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_export_that_fails_leaves_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "log").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AESGStorageError, match=r"No space left on device$"):
        log(ONE_OF_EACH).export(tmp_path / "log")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


_SIGNS = {"CREATE": 1, "SPLIT": 1, "MERGE": -1, "PRUNE": -1}


def _change(event: Event) -> int:
    """Return by how much the number of concepts changed.

    PRUNE with an id2 is of edges, and MERGE without one of a concept of a pack.
    """
    if event[1] in ("PRUNE", "MERGE") and bool(event[3]) == (event[1] == "PRUNE"):
        return 0
    return _SIGNS.get(event[1], 0)


@given(events=_events, bins=st.integers(1, 12), before=st.integers(0, 50))
def test_growth_follows_the_number_of_concepts(events: list[Event], bins: int, before: int) -> None:
    changes = [_change(event) for event in events]
    growth = log(events, concepts=before + sum(changes)).growth(bins)
    if not events:
        assert len(growth.times) == len(growth.count) == 0
        return
    first, last = min(events)[0], max(events)[0] + 1
    bins = min(bins, last - first)  # none shorter than a second
    assert len(growth.times) == bins + 1 and len(growth.net) == bins
    assert (growth.times[0], growth.times[-1]) == (first, last)
    for end, count in zip(growth.times[1:], growth.count.tolist(), strict=True):
        done = [change for event, change in zip(events, changes, strict=True) if event[0] < end]
        assert count == before + sum(done)
    assert growth.net.sum() == sum(changes)
    assert growth.births.sum() == sum(event[1] == "CREATE" for event in events)


def test_growth_prints_as_a_table_that_says_what_is_missing() -> None:
    growth = log(
        [(0, "CREATE", 1, 0, 0.0), (5, "CREATE", 2, 0, 0.0), (9, "PRUNE", 1, 0, 0.0)], 1234, 51
    ).growth(2)
    text = str(growth)
    rows = [line.split() for line in text.splitlines() if line.startswith(" 1970")]
    assert rows == [
        ["1970-01-01T00:00:05+00:00", "1", "0", "0", "0", "+1", "51"],
        ["1970-01-01T00:00:10+00:00", "1", "0", "0", "1", "+0", "51"],
    ]
    assert "1,234 older events are no longer in the log." in text
    assert "older" not in str(log(ONE_OF_EACH).growth())
    assert "births" in str(log([]).growth())


def test_growth_over_many_spans_prints_the_outer_ones() -> None:
    events: list[Event] = [(0, "CREATE", 1, 0, 0.0), (10**6, "CREATE", 2, 0, 0.0)]
    growth = log(events, concepts=2).growth(100_000)
    lines = str(growth).splitlines()
    assert sum(line.startswith(" 1970") for line in lines) == 100
    assert any("... 99,900 more" in line for line in lines)
    assert lines[-1].split()[-1] == "2"
    assert len(str(log(events, concepts=2).growth(100)).splitlines()) == 103
    assert repr(growth) == "Growth(bins=100000, net=2, forgotten=0)"


def test_growth_over_times_that_are_no_dates_prints_seconds() -> None:
    assert "second 1152921504606846976" in str(log([(2**60, "CREATE", 1, 0, 0.0)]).growth())


def test_what_the_store_no_longer_holds_is_counted() -> None:
    store = ReferenceStore(Backing())
    for second in range(5):
        store.commit(WriteBatch(events=records([(second, "CONSOLIDATE", second, 0, 0.0)])))
    assert kept(store).forgotten == 0
    assert kept(store, 2).records["timestamp"].tolist() == [3, 4]
    assert kept(store, 0).records.tolist() == []
    store.commit(WriteBatch(events=records([(5, "CONSOLIDATE", 5, 0, 0.0)]), most_events=2))
    assert kept(store).forgotten == 4
    assert kept(store).records["timestamp"].tolist() == [4, 5]
    assert kept(store, 1).records["timestamp"].tolist() == [5]
    assert kept(store, 9).records["timestamp"].tolist() == [4, 5]


def test_events_that_go_while_the_log_is_read_are_no_gap() -> None:
    """What was asked for is read again where a writer has dropped some of it meanwhile."""
    store = ReferenceStore(Backing())
    store.commit(WriteBatch(events=records(ONE_OF_EACH)))

    class Trimmed:
        """Drops old events at the first look at the events."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def events(self, start: int, limit: int) -> Records:
            if store.stats().first_event == 0:
                store.commit(WriteBatch(events=records(ONE_OF_EACH[:1]), most_events=3))
            return store.events(start, limit)

    read: Any = kept
    found = read(Trimmed())
    assert (len(found.records), found.forgotten) == (3, 4)


def test_the_history_of_a_memory_tells_its_births_and_prunes() -> None:
    memory = opened()
    meet(memory, pattern(0))
    memory.remember(patterns(1, 2))
    births = memory.logger.get_history("CREATE")
    assert [event["type"] for event in births] == ["CREATE"] * 3
    assert memory.logger.get_history("CREATE", limit=2) == births[1:]
    assert memory.logger.get_history(limit=1) == memory.logger.get_history()[-1:]
    assert memory.logger.get_history(until=births[0]["timestamp"]) == []
    growth = memory.logger.growth(1)
    assert (growth.births.tolist(), growth.count.tolist()) == ([3], [3])
    assert memory.logger.forgotten == 0


def test_a_reader_reads_the_history_of_what_the_writer_committed(tmp_path: Path) -> None:
    memory = opened()
    memory.remember(patterns(0, 1))
    with AESGMemory.open("memory") as reader:
        assert reader.logger.get_history() == memory.logger.get_history()
        memory.remember(near(2).unsqueeze(0))
        assert reader.logger.export(tmp_path / "log") == 3
        assert reader.logger.growth(2).count[-1] == 3


def test_the_oldest_events_yield_at_the_limit_of_the_configuration() -> None:
    memory = AESGMemory("memory", config(max_events=4))
    for number in range(6):
        memory.remember(torch.eye(16)[number : number + 1])
    held = memory.logger.get_history()
    assert [event["id1"] for event in held] == [3, 4, 5, 6]
    assert memory.logger.forgotten == 2
    growth = memory.logger.growth(1)
    assert (growth.births.tolist(), growth.count.tolist(), growth.forgotten) == ([4], [6], 2)
    assert memory.storage.verify() == []


def test_the_events_of_a_life_account_for_every_concept() -> None:
    """Births, merges, splits and prunes add up to what is there, from the first event on."""
    memory = opened(
        novelty_birth_threshold=1,
        consolidation_epoch_interval=1,
        region_detection_interval=2,
        split_density_threshold=4,
        survival_threshold_relevance=0.9,
        merge_similarity_threshold=0.9,
        max_concepts=60,
    )
    dice = torch.Generator().manual_seed(4)
    centres = torch.randn(6, 16, generator=dice)
    for step in range(24):
        centre = centres[torch.randint(6, (8,), generator=dice)]
        around = centre + 0.35 * torch.randn(8, 16, generator=dice)
        if step % 3:
            memory.retrieve(around)
        else:
            memory.remember(around, [step % 2] * 8)
        memory.update_topology()
    memory.save()
    told = {event["type"] for event in memory.logger.get_history()}
    assert told == {"CREATE", "MERGE", "SPLIT", "PRUNE", "CONSOLIDATE", "RESTRUCTURE"}
    growth = memory.logger.growth(7)
    assert growth.net.sum() == memory.storage.node_count == growth.count[-1]
    assert (growth.count >= 0).all()
    assert memory.storage.verify() == []
