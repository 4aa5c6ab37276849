"""Contract: what `Store.changes` tells, of every kind of change."""

from __future__ import annotations

import pytest

from storage_backends.types import Contents, WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.contract_writes import CHANGES
from tests.storage.picture import check_form, contents_picture, edge_rows, fold, rows
from tests.storage.place import Place

BATCHES = {
    **CHANGES,
    "nothing": WriteBatch(),
    "edges removed": WriteBatch(edges={1: edges(), 5: edges()}),
    "deleted and put": WriteBatch(deleted=ids(1), concepts=concepts([1], seed=1)),
    "statistics of what it puts": WriteBatch(
        concepts=concepts([6]), stats_ids=ids(6, 1), stats=stats([6, 1], seed=2)
    ),
    "all at once": WriteBatch(
        deleted=ids(2, 3),
        concepts=concepts([6, 4], seed=1, values="mixed"),
        stats_ids=ids(5),
        stats=stats([5], seed=1),
        edges={1: edges(6), 6: edges(1, 4), 5: edges()},
        settings={"config": b"{1}"},
    ),
    "all gone": WriteBatch(deleted=ids(1, 2, 3, 4, 5)),
}


def changed_since(place: Place, since: int) -> Contents:
    """Return the change set, which a store must be able to tell so soon after."""
    changed = place.store.changes(since)
    assert changed is not None, f"the log no longer knows generation {since}"
    check_form(changed)
    return changed


def listed(changed: Contents) -> dict[str, list[int]]:
    """Return which ids a change set lists, and where."""
    return {
        "put": changed.concepts.ids.tolist(),
        "stats": changed.stats_ids.tolist(),
        "edges": changed.edge_sources.tolist(),
        "deleted": changed.deleted.tolist(),
    }


class ChangesContract:
    """A change set names all that changed and nothing else; folded in, it gives the present."""

    @pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
    def test_each_change_folds_into_the_present(self, place: Place, batch: WriteBatch) -> None:
        before = contents_picture(place.store.load())
        place.store.commit(batch)
        for _ in range(2):
            now = contents_picture(place.store.load())
            assert fold(before, changed_since(place, 1)) == now
            place.reopen()

    def test_the_changes_since_the_beginning_are_the_contents(self, place: Place) -> None:
        place.store.commit(BATCHES["all at once"])
        nothing = {"generation": 0, "concepts": {}, "edges": {}, "settings": {}}
        assert fold(nothing, changed_since(place, 0)) == contents_picture(place.store.load())

    @pytest.mark.parametrize("since", range(6))
    def test_several_generations_fold_into_the_present(self, empty: Place, since: int) -> None:
        pictures = [contents_picture(empty.store.load())]
        for batch in (
            WriteBatch(concepts=concepts([1, 2, 3]), edges={1: edges(2, 3), 2: edges(1)}),
            WriteBatch(deleted=ids(3), edges={1: edges(2)}, settings={"epoch": b"1"}),
            WriteBatch(concepts=concepts([3, 4], seed=1), edges={3: edges(4)}),
            WriteBatch(stats_ids=ids(1, 4), stats=stats([1, 4], seed=2)),
            WriteBatch(deleted=ids(4), edges={3: edges(), 1: edges(3)}, settings={"epoch": b""}),
        ):
            empty.store.commit(batch)
            pictures.append(contents_picture(empty.store.load()))
        assert fold(pictures[since], changed_since(empty, since)) == pictures[-1]

    def test_nothing_changed_since_the_present(self, place: Place) -> None:
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [], "edges": [], "deleted": []}
        assert (changed.generation, dict(changed.settings)) == (1, {"config": b"{}", "epoch": b"1"})

    def test_the_future_is_unknown(self, place: Place) -> None:
        assert place.store.changes(2) is None
        assert place.store.changes(10**9) is None

    @pytest.mark.parametrize("since", [-1, -2, -(10**9)])
    def test_before_the_beginning_is_unknown(self, place: Place, since: int) -> None:
        assert place.store.changes(since) is None

    def test_put_concepts_are_listed_as_they_are_now(self, place: Place) -> None:
        place.store.commit(WriteBatch(concepts=concepts([6, 2], seed=1)))
        place.store.commit(WriteBatch(stats_ids=ids(6), stats=stats([6], seed=2)))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [2, 6], "stats": [], "edges": [], "deleted": []}
        assert rows(changed.concepts.stats) == rows(stats([2], seed=1)) + rows(stats([6], seed=2))

    def test_new_statistics_alone_are_listed_apart(self, place: Place) -> None:
        place.store.commit(WriteBatch(stats_ids=ids(5, 1), stats=stats([5, 1], seed=1)))
        place.store.commit(WriteBatch(stats_ids=ids(1), stats=stats([1], seed=2)))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [1, 5], "edges": [], "deleted": []}
        assert rows(changed.stats) == rows(stats([1], seed=2)) + rows(stats([5], seed=1))

    def test_changed_edges_are_listed_whole_and_removed_ones_as_none(self, place: Place) -> None:
        place.store.commit(WriteBatch(edges={1: edges(), 3: edges(1, 2)}))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [], "edges": [1, 3], "deleted": []}
        assert edge_rows(changed) == {1: [], 3: rows(edges(1, 2))}

    def test_a_deleted_concept_is_listed_only_as_deleted(self, place: Place) -> None:
        place.store.commit(WriteBatch(concepts=concepts([5], seed=1), edges={5: edges(2)}))
        place.store.commit(WriteBatch(stats_ids=ids(5), stats=stats([5])))
        place.store.commit(WriteBatch(deleted=ids(5)))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [], "edges": [], "deleted": [5]}

    def test_a_concept_put_and_deleted_since_is_not_listed(self, place: Place) -> None:
        place.store.commit(WriteBatch(concepts=concepts([6]), edges={6: edges(1)}))
        place.store.commit(WriteBatch(deleted=ids(6)))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [], "edges": [], "deleted": []}
        assert listed(changed_since(place, 2))["deleted"] == [6]

    def test_a_concept_deleted_and_put_again_is_listed_as_put_without_its_edges(
        self, place: Place
    ) -> None:
        place.store.commit(WriteBatch(deleted=ids(5)))
        place.store.commit(WriteBatch(concepts=concepts([5], seed=1)))
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [5], "stats": [], "edges": [5], "deleted": []}
        assert edge_rows(changed) == {5: []}

    def test_settings_are_listed_whole(self, place: Place) -> None:
        place.store.commit(WriteBatch(settings={"epoch": b"", "next_id": b"6"}))
        assert changed_since(place, 1).settings == {"config": b"{}", "next_id": b"6"}

    def test_other_tables_change_nothing_that_is_listed(self, place: Place) -> None:
        place.store.commit(
            WriteBatch(payloads={1: b"uno"}, events=events([4]), shortterm={"keys": b"wheel"})
        )
        changed = changed_since(place, 1)
        assert listed(changed) == {"put": [], "stats": [], "edges": [], "deleted": []}
        assert changed.generation == 2

    def test_a_refused_batch_is_in_no_change_set(self, place: Place) -> None:
        place.refuses(WriteBatch(concepts=concepts([6]), payloads={60: b"no such concept"}))
        place.store.commit(WriteBatch(concepts=concepts([7])))
        assert listed(changed_since(place, 1))["put"] == [7]
