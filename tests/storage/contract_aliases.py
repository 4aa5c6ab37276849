"""Contract: ids of concepts that are gone, and what stands for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from storage_backends.types import WriteBatch
from tests.storage.build import concepts, edges, ids
from tests.storage.place import Place

#: Absorbs 2 and 4 of the first batch into 1.
MERGE = WriteBatch(deleted=ids(2, 4), edges={1: edges(3), 5: edges(1)}, aliases={2: 1, 4: 1})


class AliasContract:
    """`WriteBatch.aliases` and `Store.resolve`."""

    def test_what_exists_stands_for_itself_and_what_never_was_for_nothing(
        self, place: Place
    ) -> None:
        found = place.store.resolve(ids(5, 60, 1, 5, 0))
        assert found.dtype == np.uint64
        assert found.tolist() == [5, 0, 1, 5, 0]
        assert place.store.resolve(ids()).tolist() == []

    def test_an_absorbed_concept_resolves_to_its_survivor(self, place: Place) -> None:
        assert place.commit(MERGE)["resolved"] == {1: 1, 2: 1, 3: 3, 4: 1, 5: 5}
        assert place.store.resolve(ids(4, 1, 2, 4)).tolist() == [1, 1, 1, 1]
        assert place.store.stats().aliases == 2

    def test_the_payload_of_what_an_id_stands_for_is_found_under_it(self, place: Place) -> None:
        place.store.commit(replace(MERGE, payloads={1: b"both"}))
        found = place.store.resolved_payloads(ids(4, 5, 2, 60, 1, 0, 2))
        assert list(found) == [b"both", None, b"both", None, b"both", None, b"both"]
        assert list(place.store.payloads(ids(4, 2, 1))) == [None, None, b"both"]
        assert list(place.store.resolved_payloads(ids())) == []

    def test_a_survivor_may_be_absorbed_in_turn(self, place: Place) -> None:
        place.store.commit(MERGE)
        seen = place.commit(WriteBatch(deleted=ids(1), edges={5: edges(3)}, aliases={1: 5}))
        assert seen["resolved"] == {1: 5, 2: 5, 3: 3, 4: 5, 5: 5}
        seen = place.commit(WriteBatch(deleted=ids(5), aliases={5: 3}))
        assert seen["resolved"] == dict.fromkeys(range(1, 6), 3)

    def test_an_id_may_be_told_to_stand_for_another_concept(self, place: Place) -> None:
        place.store.commit(MERGE)
        assert place.commit(WriteBatch(aliases={2: 3}))["resolved"][2] == 3

    def test_nothing_stands_for_what_was_absorbed_by_a_concept_that_is_gone(
        self, place: Place
    ) -> None:
        place.store.commit(MERGE)
        seen = place.commit(WriteBatch(deleted=ids(1), edges={5: edges()}))
        assert seen["resolved"] == {3: 3, 5: 5}

    def test_a_concept_that_is_put_again_stands_for_itself_from_then_on(self, place: Place) -> None:
        place.store.commit(MERGE)
        seen = place.commit(WriteBatch(concepts=concepts([2, 9])))
        assert seen["resolved"] == {1: 1, 2: 2, 3: 3, 4: 1, 5: 5, 9: 9}
        seen = place.commit(WriteBatch(deleted=ids(2)))
        assert 2 not in seen["resolved"]

    def test_two_concepts_may_absorb_each_other_one_after_the_other(self, place: Place) -> None:
        place.store.commit(MERGE)
        place.store.commit(WriteBatch(concepts=concepts([2])))
        seen = place.commit(WriteBatch(deleted=ids(1), edges={5: edges(2)}, aliases={1: 2}))
        assert seen["resolved"] == {1: 2, 2: 2, 3: 3, 4: 2, 5: 5}

    def test_ids_of_any_size_resolve(self, place: Place) -> None:
        large = 2**64 - 1
        place.store.commit(WriteBatch(concepts=concepts([large]), aliases={2**63: large, 256: 1}))
        place.reopen()
        assert place.store.resolve(ids(2**63, 256, 255, large)).tolist() == [large, 1, 0, large]

    def test_long_chains_resolve(self, empty: Place) -> None:
        store, last = empty.store, 40
        store.commit(WriteBatch(concepts=concepts(range(1, last + 1))))
        for gone in range(1, last):
            store.commit(WriteBatch(deleted=ids(gone), aliases={gone: gone + 1}))
        assert empty.seen()["resolved"] == dict.fromkeys(range(1, last + 1), last)
