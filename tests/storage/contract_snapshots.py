"""Contract: manifests of derived files, and what the log keeps for them."""

from __future__ import annotations

import pytest

from storage_backends.errors import StoreReadOnlyError, StoreUsageError
from storage_backends.types import WriteBatch
from tests.storage.build import concepts
from tests.storage.picture import picture
from tests.storage.place import Place


class SnapshotContract:
    """`publish`, `manifest`, `manifest_seq`, `hold_log` and `follow`."""

    def test_a_new_store_has_no_manifest(self, empty: Place) -> None:
        assert empty.store.manifest() is None
        assert empty.store.manifest_seq() == 0

    def test_a_manifest_takes_the_place_of_the_last_one(self, place: Place) -> None:
        for number, manifest in enumerate([b"first", b"second", bytes(10_000)], 1):
            assert place.store.publish(manifest, 1) == number
            assert place.store.manifest() == (number, manifest)
            assert place.store.manifest_seq() == number

    def test_an_empty_manifest_leaves_none_and_its_number_is_used(self, place: Place) -> None:
        place.store.publish(b"first", 1)
        assert place.store.publish(b"", 1) == 2
        assert (place.store.manifest(), place.store.manifest_seq()) == (None, 2)
        assert place.store.publish(b"second", 1) == 3
        assert place.store.manifest() == (3, b"second")

    def test_a_manifest_stays(self, place: Place) -> None:
        place.store.publish(b"first", 1)
        for store in (place.reader(), place.replace_writer(), place.reader()):
            assert (store.manifest(), store.manifest_seq()) == ((1, b"first"), 1)

    def test_an_open_reader_sees_a_new_manifest(self, place: Place) -> None:
        reader = place.reader()
        for number in (1, 2):
            place.store.publish(b"manifest %d" % number, 0)
            assert reader.manifest_seq() == number
            assert reader.manifest() == (number, b"manifest %d" % number)

    def test_a_manifest_makes_no_generation_and_changes_no_record(self, place: Place) -> None:
        before = picture(place.store)
        place.store.publish(b"manifest", 1)
        assert picture(place.store) == before
        assert place.store.generation() == 1
        assert place.store.commit(WriteBatch()) == 2
        assert place.store.manifest() == (1, b"manifest")

    @pytest.mark.parametrize("generation", [-1, 2])
    def test_a_generation_that_has_not_been_is_refused(self, place: Place, generation: int) -> None:
        place.store.publish(b"manifest", 1)
        with pytest.raises(StoreUsageError, match=str(generation)):
            place.store.publish(b"another", generation)
        assert place.store.manifest() == (1, b"manifest")
        assert place.reopen().manifest() == (1, b"manifest")

    def test_a_reader_neither_publishes_nor_holds_the_log(self, place: Place) -> None:
        reader = place.reader()
        with pytest.raises(StoreReadOnlyError):
            reader.publish(b"manifest", 1)
        with pytest.raises(StoreReadOnlyError):
            reader.hold_log(1)
        assert place.store.manifest() is None

    def test_a_held_log_tells_what_changed(self, place: Place) -> None:
        place.store.hold_log(1)
        place.store.commit(WriteBatch(concepts=concepts([6])))
        place.store.hold_log(None)
        place.store.commit(WriteBatch(concepts=concepts([7])))
        changes = place.store.changes(1)
        assert changes is not None
        assert changes.concepts.ids.tolist() == [6, 7]

    def test_there_is_nothing_to_follow_where_nothing_took_the_place(self, place: Place) -> None:
        reader = place.reader()
        place.store.commit(WriteBatch())
        assert not place.store.follow()
        assert not reader.follow()
        assert reader.generation() == 2
