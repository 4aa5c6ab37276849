"""Contract: what a commit does, and that a failed one does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from storage_backends.errors import StoreError
from storage_backends.protocol import Store
from storage_backends.types import EVENT, Concepts, EdgeKind, WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.picture import concept_rows, rows
from tests.storage.place import Place, first_batch, first_concepts

#: One change of every field, each valid after `first_batch`.
CHANGES = {
    "deleted": WriteBatch(deleted=ids(5)),
    "concepts": WriteBatch(concepts=concepts([2, 6], seed=1, values="mixed")),
    "stats": WriteBatch(stats_ids=ids(3, 1), stats=stats([3, 1], seed=1)),
    "payloads": WriteBatch(payloads={1: b"", 2: b"second", 4: b"four"}),
    "edges": WriteBatch(edges={1: edges(4, 2, seed=1), 2: edges(), 3: edges(5)}),
    "aliases": WriteBatch(aliases={40: 3, 9: 5}),
    "events": WriteBatch(events=events([4, 5])),
    "most events": WriteBatch(most_events=2),
    "shortterm": WriteBatch(shortterm={"keys": b"wheel"}),
    "settings": WriteBatch(settings={"config": b"{1}", "epoch": b"", "next_id": b"6"}),
}

each_change = pytest.mark.parametrize("batch", CHANGES.values(), ids=CHANGES.keys())


class Interrupted(KeyboardInterrupt):
    """Stands for whatever may end a commit half-way."""


class Interrupting(Mapping[str, bytes]):
    """Settings that raise `Interrupted` at the n-th access."""

    def __init__(self, entries: Mapping[str, bytes], n: int) -> None:
        self._entries = dict(entries)
        self._left = n

    def __getitem__(self, name: str) -> bytes:
        self._count()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        for name in self._entries:
            self._count()
            yield name

    def __len__(self) -> int:
        return len(self._entries)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Interrupted


class WriteContract:
    """Each field of `WriteBatch` as commit and as rollback."""

    def test_a_first_batch_fills_every_table(self, place: Place) -> None:
        seen = place.seen()
        assert seen["generation"] == 1
        assert seen["concepts"] == concept_rows(first_concepts())
        assert seen["edges"] == {1: rows(edges(2, 3)), 2: rows(edges(1)), 5: rows(edges(1))}
        assert seen["payloads"] == {1: b"one", 2: b"two"}
        assert seen["events"] == rows(events([1, 2, 3]))
        assert seen["shortterm"] == {"keys": b"ring", "clock": b"7"}
        assert seen["settings"] == {"config": b"{}", "epoch": b"1"}
        assert seen["sizes"] == (5, 4, 2, 3)

    def test_deletion_removes_payload_and_out_edges(self, place: Place) -> None:
        before = place.seen()
        seen = place.commit(WriteBatch(deleted=ids(2), edges={1: edges(3)}))
        assert seen["concepts"] == {i: before["concepts"][i] for i in (1, 3, 4, 5)}
        assert seen["payloads"] == {1: b"one"}
        assert seen["edges"] == {1: rows(edges(3)), 5: rows(edges(1))}
        assert seen["sizes"] == (4, 2, 1, 3)

    def test_replaced_concepts_keep_payload_and_edges(self, place: Place) -> None:
        before, batch = place.seen(), concepts([1, 2], seed=1, values="mixed")
        seen = place.commit(WriteBatch(concepts=batch))
        assert seen["concepts"] == before["concepts"] | concept_rows(batch)
        assert (seen["payloads"], seen["edges"]) == (before["payloads"], before["edges"])
        assert seen["sizes"] == before["sizes"]

    @pytest.mark.parametrize("values", ["key", "integer", "vector"])
    def test_a_replacement_may_have_a_value_of_another_kind(
        self, place: Place, values: str
    ) -> None:
        kinds: dict[str, Concepts] = {
            "key": concepts([1, 2, 3], values="key"),
            "integer": concepts([1, 2, 3], values="integer"),
            "vector": concepts([1, 2, 3], values="vector"),
        }
        seen = place.commit(WriteBatch(concepts=kinds[values]))
        replaced = {i: seen["concepts"][i] for i in (1, 2, 3)}
        assert replaced == concept_rows(kinds[values])

    def test_new_statistics_leave_key_and_value(self, place: Place) -> None:
        before = place.seen()
        seen = place.commit(CHANGES["stats"])
        for concept_id, record in zip((3, 1), rows(stats([3, 1], seed=1)), strict=True):
            before["concepts"][concept_id]["stats"] = record
        assert seen["concepts"] == before["concepts"]

    def test_statistics_of_a_concept_put_by_the_same_batch_hold(self, place: Place) -> None:
        late = stats([6], seed=9)
        batch = WriteBatch(concepts=concepts([6]), stats_ids=ids(6), stats=late)
        assert place.commit(batch)["concepts"][6]["stats"] == rows(late)[0]

    def test_payloads_are_set_replaced_and_removed(self, place: Place) -> None:
        seen = place.commit(CHANGES["payloads"])
        assert seen["payloads"] == {2: b"second", 4: b"four"}
        assert seen["sizes"] == (5, 4, 2, 3)

    def test_edges_are_replaced_as_a_set_in_the_given_order(self, place: Place) -> None:
        seen = place.commit(CHANGES["edges"])
        expected = {1: edges(4, 2, seed=1), 3: edges(5), 5: edges(1)}
        assert seen["edges"] == {source: rows(part) for source, part in expected.items()}
        assert seen["sizes"] == (5, 4, 2, 3)

    def test_events_are_appended(self, place: Place) -> None:
        assert place.commit(CHANGES["events"])["events"] == rows(events([1, 2, 3, 4, 5]))

    def test_edges_of_every_kind_are_kept(self, place: Place) -> None:
        row = edges(2, 3, 4, 5)
        row["kind"] = list(EdgeKind)
        assert place.commit(WriteBatch(edges={1: row}))["edges"][1] == rows(row)

    def test_the_oldest_events_yield(self, place: Place) -> None:
        seen = place.commit(WriteBatch(events=events([4, 5]), most_events=3))
        assert (seen["events"], seen["first_event"]) == (rows(events([3, 4, 5])), 2)
        seen = place.commit(WriteBatch(events=events([6])))  # which names no limit
        assert (seen["events"], seen["first_event"]) == (rows(events([3, 4, 5, 6])), 2)
        seen = place.commit(WriteBatch(most_events=1))
        assert (seen["events"], seen["first_event"]) == (rows(events([6])), 5)

    def test_a_log_that_is_short_enough_keeps_all_events(self, place: Place) -> None:
        before = place.seen()
        assert place.commit(WriteBatch(most_events=3)) == before | {"generation": 2}

    def test_a_batch_of_more_events_than_the_log_keeps_leaves_its_last_ones(
        self, place: Place
    ) -> None:
        seen = place.commit(WriteBatch(events=events(range(4, 20)), most_events=4))
        assert (seen["events"], seen["first_event"]) == (rows(events(range(16, 20))), 15)

    def test_the_short_term_table_is_replaced_whole(self, place: Place) -> None:
        assert place.commit(CHANGES["shortterm"])["shortterm"] == {"keys": b"wheel"}

    def test_the_short_term_table_stays_where_the_batch_has_none(self, place: Place) -> None:
        seen = place.commit(WriteBatch(settings={"epoch": b"2"}))
        assert seen["shortterm"] == {"keys": b"ring", "clock": b"7"}

    def test_the_short_term_table_can_be_emptied(self, place: Place) -> None:
        assert place.commit(WriteBatch(shortterm={}))["shortterm"] == {}

    def test_settings_are_set_replaced_and_removed(self, place: Place) -> None:
        assert place.commit(CHANGES["settings"])["settings"] == {"config": b"{1}", "next_id": b"6"}

    def test_removing_what_is_not_there_is_no_error(self, place: Place) -> None:
        before = place.seen()
        seen = place.commit(
            WriteBatch(payloads={4: b""}, edges={4: edges()}, settings={"no such": b""})
        )
        assert seen == before | {"generation": 2}

    def test_an_empty_batch_makes_a_generation(self, place: Place) -> None:
        before = place.seen()
        assert place.store.commit(WriteBatch()) == 2
        assert place.seen() == before | {"generation": 2}

    def test_concepts_put_in_any_order_are_read_in_order_of_id(self, empty: Place) -> None:
        large = 2**63 + 5
        wanted = [300, 7, large, 1, 65536, 256]
        batch = concepts(wanted, values="mixed")
        empty.store.commit(WriteBatch(concepts=batch, edges={large: edges(300, 7)}))
        contents = empty.store.load()
        assert contents.concepts.ids.tolist() == sorted(wanted)
        assert concept_rows(contents.concepts) == concept_rows(batch)
        assert contents.edge_sources.tolist() == [large]

    def test_a_concept_deleted_and_put_by_one_batch_starts_afresh(self, place: Place) -> None:
        batch = WriteBatch(deleted=ids(2), concepts=concepts([2], seed=1))
        seen = place.commit(batch)
        assert seen["concepts"][2] == concept_rows(concepts([2], seed=1))[2]
        assert seen["payloads"] == {1: b"one"}
        assert seen["edges"] == {1: rows(edges(2, 3)), 5: rows(edges(1))}

    def test_large_records_come_back(self, empty: Place) -> None:
        payload, wide = bytes(range(256)) * 4096, concepts([1, 2], dim=3000, values="vector")
        many = concepts(range(1, 500), dim=2)
        empty.store.commit(WriteBatch(concepts=wide, payloads={1: payload}))
        assert concept_rows(empty.store.load().concepts) == concept_rows(wide)
        assert list(empty.store.payloads(ids(1, 2))) == [payload, None]
        empty.store.commit(WriteBatch(deleted=ids(1, 2)))
        batch = WriteBatch(concepts=many, edges={1: edges(*range(2, 500))})
        empty.store.commit(batch)
        contents = empty.reopen().load()
        assert rows(contents.edges) == rows(edges(*range(2, 500)))

    @each_change
    def test_every_change_can_be_seen(self, place: Place, batch: WriteBatch) -> None:
        # Without this the tests of rollback below could pass on a store that ignores the batch.
        before = place.seen()
        assert place.commit(batch) != before | {"generation": 2}

    @each_change
    def test_a_refused_batch_is_rolled_back_whole(self, place: Place, batch: WriteBatch) -> None:
        place.refuses(replace(batch, payloads={**batch.payloads, 60: b"no such concept"}))

    @each_change
    def test_an_interrupted_batch_is_rolled_back_whole(
        self, place: Place, batch: WriteBatch
    ) -> None:
        before, n = place.seen(), 1
        while self._is_interrupted(place.store, batch, n):
            place.expect(before)
            n += 1
        assert n > 1, "expected a commit to read the settings"
        assert place.seen() != before

    def test_a_store_works_on_after_a_refused_batch(self, place: Place) -> None:
        place.refuses(WriteBatch(deleted=ids(60)))
        assert place.commit(WriteBatch(events=np.empty(0, EVENT)))["generation"] == 2
        assert place.commit(first_batch())["sizes"] == (5, 4, 2, 6)

    def _is_interrupted(self, store: Store, batch: WriteBatch, n: int) -> bool:
        entries = Interrupting({**batch.settings, "config": b"{2}", "other": b"2"}, n)
        try:
            store.commit(replace(batch, settings=entries))
        except (Interrupted, StoreError):
            return True
        return False
