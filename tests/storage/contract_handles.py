"""Contract: handles opened, closed, opened again, and read-only."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import pytest

from storage_backends.errors import StoreClosedError, StoreReadOnlyError
from storage_backends.protocol import Store
from storage_backends.types import WriteBatch
from tests.storage.build import concepts, edges, ids
from tests.storage.picture import Picture, concept_rows, contents_picture, fold, picture, rows
from tests.storage.place import Place, first_batch

CALLS: dict[str, Callable[[Store], object]] = {
    "generation": lambda store: store.generation(),
    "commit": lambda store: store.commit(WriteBatch()),
    "load": lambda store: store.load(),
    "changes": lambda store: store.changes(0),
    "keys": lambda store: store.keys(ids(1)),
    "payloads": lambda store: store.payloads(ids(1)),
    "resolved_payloads": lambda store: store.resolved_payloads(ids(1)),
    "resolve": lambda store: store.resolve(ids(1)),
    "events": lambda store: store.events(),
    "shortterm": lambda store: store.shortterm(),
    "stats": lambda store: store.stats(),
    "publish": lambda store: store.publish(b"manifest", 0),
    "manifest": lambda store: store.manifest(),
    "manifest_seq": lambda store: store.manifest_seq(),
    "hold_log": lambda store: store.hold_log(None),
    "follow": lambda store: store.follow(),
    "verify": lambda store: store.verify(),
}


def stamped(generation: int) -> WriteBatch:
    """Return a batch that shows in every listed table which generation it makes."""
    return WriteBatch(
        concepts=concepts([1, 2, 3, 4, 5], seed=generation, values="mixed"),
        edges={1: edges(2, 3, seed=generation), 2: edges(1, seed=generation)},
        settings={"config": str(generation).encode()},
    )


def stamped_picture(generation: int) -> Picture:
    """Return what `Store.load` answers after `first_batch` and then `stamped` batches."""
    batch = stamped(generation)
    assert batch.concepts is not None
    return {
        "generation": generation,
        "concepts": concept_rows(batch.concepts),
        "edges": {source: rows(part) for source, part in batch.edges.items()} | {5: rows(edges(1))},
        "settings": {**batch.settings, "epoch": b"1"},
    }


class HandleContract:
    """Lives of handles."""

    def test_the_calls_of_this_suite_are_all_that_a_store_has(self) -> None:
        methods = {name for name in vars(Store) if not name.startswith("_")}
        assert methods == {*CALLS, "is_current", "read_only", "uuid", "folder", "close"}

    @pytest.mark.parametrize("name", CALLS)
    def test_a_closed_handle_refuses_every_call(self, place: Place, name: str) -> None:
        place.store.close()
        with pytest.raises(StoreClosedError):
            CALLS[name](place.store)

    @pytest.mark.parametrize("name", CALLS)
    def test_a_closed_reader_refuses_every_call(self, place: Place, name: str) -> None:
        reader = place.reader()
        reader.close()
        with pytest.raises(StoreClosedError):
            CALLS[name](reader)

    def test_a_handle_is_current_until_it_is_closed(self, place: Place) -> None:
        reader = place.reader()
        for store in (place.store, reader):
            assert store.is_current()
        place.store.commit(WriteBatch())
        for store in (place.store, reader):
            assert store.is_current()
            store.close()
            assert not store.is_current()

    def test_a_second_close_does_nothing(self, place: Place) -> None:
        before = place.seen()
        place.store.close()
        place.store.close()
        place.reopen()
        assert place.seen() == before

    def test_closing_a_reader_leaves_the_writer(self, place: Place) -> None:
        place.reader().close()
        assert place.store.commit(WriteBatch()) == 2

    def test_closing_the_writer_leaves_a_reader(self, place: Place) -> None:
        before = place.seen()
        reader = place.reader()
        place.store.close()
        assert picture(reader) == before

    def test_a_reader_stays_through_a_change_of_writers(self, place: Place) -> None:
        reader = place.reader()
        assert place.replace_writer().commit(WriteBatch(concepts=concepts([6]))) == 2
        assert picture(reader) == picture(place.store)
        reader.close()
        assert place.store.commit(WriteBatch()) == 3

    def test_every_answer_is_of_one_generation(self, place: Place) -> None:
        reader, last = place.reader(), 40
        writer = Thread(target=lambda: [place.store.commit(stamped(n)) for n in range(3, last + 1)])
        place.store.commit(stamped(2))
        older = contents_picture(reader.load())
        writer.start()
        try:
            while writer.is_alive():
                now = contents_picture(reader.load())
                assert now == stamped_picture(now["generation"])
                changed = reader.changes(2)
                assert changed is not None
                assert fold(older, changed) == stamped_picture(changed.generation)
        finally:
            writer.join()
        assert reader.generation() == last

    def test_a_reader_sees_later_commits(self, place: Place) -> None:
        reader, batch = place.reader(), concepts([6, 2], seed=1)
        assert reader.generation() == 1
        assert place.store.commit(WriteBatch(concepts=batch)) == 2
        assert reader.generation() == 2
        changed = reader.changes(1)
        assert changed is not None
        assert concept_rows(changed.concepts) == concept_rows(concepts([2, 6], seed=1))
        assert picture(reader) == picture(place.store)

    def test_a_reader_refuses_to_commit(self, place: Place) -> None:
        with place.unchanged(), pytest.raises(StoreReadOnlyError):
            place.reader().commit(WriteBatch(concepts=concepts([6])))
        assert not place.store.read_only
        reader = place.reader()
        assert reader.read_only
        with pytest.raises(StoreReadOnlyError):
            reader.commit(WriteBatch())
        assert reader.generation() == 1

    def test_a_reader_verifies(self, place: Place) -> None:
        assert list(place.reader().verify()) == []

    def test_generations_count_on_after_reopening(self, place: Place) -> None:
        seen = [place.store.generation()]
        for _ in range(3):
            seen.append(place.store.commit(WriteBatch(concepts=concepts([6]))))
            seen.append(place.reopen().generation())
        assert seen == [1, 2, 2, 3, 3, 4, 4]

    def test_the_identity_stays(self, place: Place) -> None:
        identity = place.store.uuid
        assert len(identity) == 32
        assert set(identity) <= set("0123456789abcdef")
        assert place.reader().uuid == identity
        place.store.commit(first_batch())
        assert place.reopen().uuid == identity

    def test_changes_are_known_after_reopening(self, place: Place) -> None:
        place.store.commit(WriteBatch(concepts=concepts([6])))
        changed = place.reopen().changes(1)
        assert changed is not None
        assert changed.concepts.ids.tolist() == [6]
