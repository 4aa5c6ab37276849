"""Contract: what the reading methods answer, and that their answers belong to the caller."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from storage_backends.errors import StoreCorruptError, StoreUsageError
from storage_backends.types import Contents, WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.picture import contents_picture, rows
from tests.storage.place import Place


def arrays_of(record: Any) -> list[np.ndarray[Any, Any]]:
    """Return all arrays of a `WriteBatch` or `Contents`, those of its concepts included."""
    found: list[np.ndarray[Any, Any]] = []
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, np.ndarray):
            found.append(value)
        elif entry.name == "concepts":
            found += arrays_of(value)
        elif entry.name == "edges":
            found += value.values()
    return found


def overwrite(record: Any) -> None:
    """Overwrite every byte of every array."""
    for array in arrays_of(record):
        assert array.flags.writeable, f"expected an array of the caller's own, got {array!r}"
        array.view(np.uint8)[...] = 0x11


class ReadContract:
    """Reading: forms, pages, and who owns what."""

    def test_a_new_store_is_empty(self, empty: Place) -> None:
        seen = empty.seen()
        assert len(seen.pop("uuid")) == 32
        assert seen == {
            "generation": 0,
            "concepts": {},
            "edges": {},
            "settings": {},
            "payloads": {},
            "resolved": {},
            "events": [],
            "first_event": 0,
            "shortterm": {},
            "sizes": (0, 0, 0, 0),
        }

    def test_vectors_are_none_where_no_concept_has_one(self, empty: Place) -> None:
        empty.store.commit(WriteBatch(concepts=concepts([1, 2], values="vector")))
        assert empty.store.load().concepts.value_vectors is not None
        empty.store.commit(WriteBatch(concepts=concepts([1, 2], values="integer")))
        assert empty.store.load().concepts.value_vectors is None

    def test_input_arrays_may_be_reused_after_the_commit(self, place: Place) -> None:
        batch = WriteBatch(
            deleted=ids(5),
            concepts=concepts([6, 7, 8], values="mixed"),
            stats_ids=ids(1),
            stats=stats([1], seed=1),
            edges={1: edges(6)},
            events=events([4]),
        )
        before = place.commit(batch)
        overwrite(batch)
        assert place.seen() == before

    def test_a_mapping_may_be_reused_after_the_commit(self, place: Place) -> None:
        settings, shortterm, payloads = {"config": b"1"}, {"ring": b"1"}, {3: b"1"}
        batch = WriteBatch(settings=settings, shortterm=shortterm, payloads=payloads)
        before = place.commit(batch)
        settings["config"] = shortterm["ring"] = payloads[3] = b"2"
        assert place.seen() == before

    def test_arrays_of_an_answer_belong_to_the_caller(self, place: Place) -> None:
        place.store.commit(WriteBatch(deleted=ids(5), concepts=concepts([6], values="vector")))
        before = place.seen()
        for answer in (place.store.load(), place.store.changes(0)):
            assert isinstance(answer, Contents)
            overwrite(answer)
        found = place.store.events()
        assert found.flags.writeable
        found["id1"] = 77
        assert place.seen() == before

    def test_an_answer_outlives_later_commits_and_the_handle(self, place: Place) -> None:
        contents = place.store.load()
        before = copy.deepcopy(contents_picture(contents))
        place.store.commit(WriteBatch(deleted=ids(4, 5), concepts=concepts([1, 2, 3, 6], seed=1)))
        place.reopen()
        assert contents_picture(contents) == before

    def test_input_need_not_be_contiguous(self, empty: Place) -> None:
        dense = concepts([1, 2, 3, 4, 5], dim=6, values="mixed")
        assert dense.value_vectors is not None
        strided = type(dense)(
            ids=dense.ids[::2],
            keys=dense.keys[::2, ::2],
            value_kinds=dense.value_kinds[::2],
            value_ids=dense.value_ids[::2],
            value_vectors=dense.value_vectors[::2, ::2],
            stats=dense.stats[::2],
        )
        packed = type(dense)(
            **{entry.name: getattr(strided, entry.name).copy() for entry in fields(strided)}
        )
        sparse = edges(3, 1, 5)[::2]
        first = empty.commit(WriteBatch(concepts=strided, edges={1: sparse}))
        second = empty.commit(WriteBatch(concepts=packed, edges={1: sparse.copy()}))
        assert second == first | {"generation": 2}

    def test_input_may_be_read_only(self, empty: Place) -> None:
        batch = WriteBatch(concepts=concepts([1, 2], values="mixed"), edges={1: edges(2)})
        for array in arrays_of(batch):
            array.flags.writeable = False
        assert empty.commit(batch)["sizes"] == (2, 1, 0, 0)

    def test_keys_come_as_they_were_put_in_the_order_asked_for(self, place: Place) -> None:
        held = place.store.load().concepts
        order = np.arange(len(held))[::-1]
        assert len(order) > 1
        assert place.store.keys(held.ids[order]).tolist() == held.keys[order].tolist()
        assert place.store.keys(held.ids[[1, 1]]).tolist() == held.keys[[1, 1]].tolist()
        with pytest.raises(StoreCorruptError, match="expected"):
            place.store.keys(ids(int(held.ids[0]), 10**6))

    def test_payloads_come_in_the_order_asked_for(self, place: Place) -> None:
        assert list(place.store.payloads(ids(2, 60, 1, 3, 2))) == [
            b"two",
            None,
            b"one",
            None,
            b"two",
        ]
        assert list(place.store.payloads(ids())) == []

    @pytest.mark.parametrize(
        ("start", "limit", "expected"),
        [
            (0, None, range(1, 8)),
            (0, 3, (1, 2, 3)),
            (2, 3, (3, 4, 5)),
            (2, None, range(3, 8)),
            (5, 100, (6, 7)),
            (7, None, ()),
            (100, 5, ()),
            (3, 0, ()),
        ],
    )
    def test_events_are_paged(
        self, place: Place, start: int, limit: int | None, expected: range
    ) -> None:
        place.store.commit(WriteBatch(events=events([4])))
        place.store.commit(WriteBatch(events=events([5, 6, 7])))
        page = place.store.events(start, limit)
        assert rows(page) == rows(events(expected))

    @pytest.mark.parametrize(
        ("start", "limit", "expected"),
        [
            (0, None, (5, 6, 7)),
            (0, 2, (5, 6)),
            (3, 2, (5, 6)),
            (4, 2, (5, 6)),
            (5, 1, (6,)),
            (6, None, (7,)),
            (7, None, ()),
        ],
    )
    def test_events_keep_their_numbers_when_older_ones_have_gone(
        self, place: Place, start: int, limit: int | None, expected: tuple[int, ...]
    ) -> None:
        place.store.commit(WriteBatch(events=events([4, 5])))
        place.store.commit(WriteBatch(events=events([6, 7]), most_events=3))
        assert rows(place.store.events(start, limit)) == rows(events(expected))

    @pytest.mark.parametrize(("start", "limit"), [(-1, None), (0, -1)])
    def test_pages_before_the_first_event_are_refused(
        self, place: Place, start: int, limit: int | None
    ) -> None:
        with pytest.raises(StoreUsageError, match="-1"):
            place.store.events(start, limit)

    def test_pages_of_events_join_to_all_of_them(self, place: Place) -> None:
        place.store.commit(WriteBatch(events=events(range(4, 12))))
        pages = [place.store.events(start, 4) for start in range(0, 12, 4)]
        assert [len(page) for page in pages] == [4, 4, 3]
        assert rows(np.concatenate(pages)) == rows(place.store.events())

    def test_counts_follow_every_kind_of_change(self, place: Place) -> None:
        store = place.store
        counts = []
        store.commit(WriteBatch(aliases={60: 1}))
        assert store.stats().aliases == 1
        for batch in (
            WriteBatch(concepts=concepts([1, 6])),
            WriteBatch(edges={5: edges(1, 2, 3), 2: edges()}),
            WriteBatch(deleted=ids(2), edges={1: edges(3), 5: edges(1)}),
            WriteBatch(payloads={1: b""}, events=events([4])),
        ):
            store.commit(batch)
            sizes = store.stats()
            counts.append((sizes.concepts, sizes.edges, sizes.payloads, sizes.events))
        assert counts == [(6, 4, 2, 3), (6, 5, 2, 3), (5, 2, 1, 3), (5, 2, 0, 4)]
        assert store.stats().generation == store.generation() == 6
        assert store.stats().file_bytes >= 0
