"""Contract: which batches are refused, and that a refused batch leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage_backends.errors import StoreUsageError
from storage_backends.types import EDGE, ValueKind, WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.picture import concept_rows
from tests.storage.place import Place


def _put(**columns: Any) -> WriteBatch:
    """Return a batch that puts 6 and 7, with some columns spoilt."""
    return WriteBatch(concepts=replace(concepts([6, 7], values="vector"), **columns))


def _with(array: Any, place: Any, value: Any) -> Any:
    array = array.copy()
    array[place] = value
    return array


_GOOD = concepts([6, 7], values="vector")

#: Batches that break a rule after `first_batch`, with what the message must name.
REFUSED: dict[str, tuple[WriteBatch, str]] = {
    "deleted: unknown": (WriteBatch(deleted=ids(3, 60)), "60"),
    "deleted: zero": (WriteBatch(deleted=ids(0)), "0"),
    "deleted: repeated": (WriteBatch(deleted=ids(3, 4, 3)), "3"),
    "concepts: zero id": (_put(ids=ids(6, 0)), "0"),
    "concepts: repeated id": (_put(ids=ids(6, 6)), "6"),
    "concepts: more ids than keys": (_put(ids=ids(6, 7, 8)), "3"),
    "concepts: fewer keys": (_put(keys=_GOOD.keys[:1]), "1"),
    "concepts: fewer kinds": (_put(value_kinds=_GOOD.value_kinds[:1]), "1"),
    "concepts: fewer value ids": (_put(value_ids=_GOOD.value_ids[:1]), "1"),
    "concepts: fewer vectors": (_put(value_vectors=_GOOD.keys[:1]), "1"),
    "concepts: fewer stats": (_put(stats=_GOOD.stats[:1]), "1"),
    "concepts: key not finite": (_put(keys=_with(_GOOD.keys, (1, 2), np.nan)), "7"),
    "concepts: key infinite": (_put(keys=_with(_GOOD.keys, (1, 2), -np.inf)), "7"),
    "concepts: vector not finite": (_put(value_vectors=_with(_GOOD.keys, (1, 0), np.inf)), "7"),
    "concepts: other width": (WriteBatch(concepts=concepts([6], dim=3)), "3"),
    "concepts: other width, replacing": (WriteBatch(concepts=concepts([1], dim=5)), "5"),
    "concepts: keys in one row": (_put(keys=_GOOD.keys.ravel()), ""),
    "concepts: vectors of another width": (_put(value_vectors=_GOOD.keys[:, :3]), "3"),
    "concepts: unknown kind": (_put(value_kinds=_with(_GOOD.value_kinds, 1, 9)), "7"),
    "concepts: vectors missing": (_put(value_vectors=None), ""),
    "stats: unknown": (WriteBatch(stats_ids=ids(1, 60), stats=stats([1, 60])), "60"),
    "stats: zero": (WriteBatch(stats_ids=ids(0), stats=stats([1])), "0"),
    "stats: repeated": (WriteBatch(stats_ids=ids(1, 1), stats=stats([1, 1])), "1"),
    "stats: fewer records": (WriteBatch(stats_ids=ids(1, 2, 3), stats=stats([1, 2])), "2"),
    "stats: more records": (WriteBatch(stats_ids=ids(1), stats=stats([1, 2])), "2"),
    "stats: deleted by the batch": (
        WriteBatch(deleted=ids(4), stats_ids=ids(4), stats=stats([4])),
        "4",
    ),
    "payloads: unknown": (WriteBatch(payloads={1: b"new", 60: b"sixty"}), "60"),
    "payloads: unknown, removed": (WriteBatch(payloads={60: b""}), "60"),
    "payloads: zero": (WriteBatch(payloads={0: b"zero"}), "0"),
    "payloads: negative": (WriteBatch(payloads={-1: b"minus"}), "-1"),
    "payloads: too large an id": (WriteBatch(payloads={2**64: b"large"}), str(2**64)),
    "payloads: deleted by the batch": (WriteBatch(deleted=ids(4), payloads={4: b"four"}), "4"),
    "edges: unknown source": (WriteBatch(edges={3: edges(1), 60: edges(1)}), "60"),
    "edges: unknown source, removed": (WriteBatch(edges={60: edges()}), "60"),
    "edges: zero source": (WriteBatch(edges={0: edges(1)}), "0"),
    "edges: negative source": (WriteBatch(edges={-1: edges(1)}), "-1"),
    "edges: source deleted by the batch": (WriteBatch(deleted=ids(4), edges={4: edges(1)}), "4"),
    "edges: unknown target": (WriteBatch(edges={3: edges(1, 60)}), "60"),
    "edges: zero target": (WriteBatch(edges={3: edges(1, 0)}), "0"),
    "edges: target deleted by the batch": (WriteBatch(deleted=ids(4), edges={3: edges(4)}), "4"),
    "edges: to itself": (WriteBatch(edges={3: edges(1, 3)}), "3"),
    "edges: to itself, just put": (WriteBatch(concepts=_GOOD, edges={6: edges(6)}), "6"),
    "edges: repeated target": (WriteBatch(edges={3: edges(1, 2, 1)}), "1"),
    "aliases: of a concept": (WriteBatch(aliases={60: 1, 3: 1}), "3"),
    "aliases: of a concept just put": (WriteBatch(concepts=_GOOD, aliases={6: 1}), "6"),
    "aliases: of itself": (WriteBatch(aliases={3: 3}), "3"),
    "aliases: for what is none": (WriteBatch(aliases={60: 1, 61: 62}), "62"),
    "aliases: for what has another": (WriteBatch(aliases={60: 1, 61: 60}), "60"),
    "aliases: for what the batch deletes": (WriteBatch(deleted=ids(4), aliases={60: 4}), "4"),
    "aliases: zero": (WriteBatch(aliases={0: 1}), "0"),
    "aliases: negative": (WriteBatch(aliases={-1: 1}), "-1"),
    "aliases: for too large an id": (WriteBatch(aliases={60: 2**64}), str(2**64)),
    "most events: none": (WriteBatch(most_events=0), "0"),
    "most events: negative": (WriteBatch(most_events=-1), "-1"),
}

each_refused = pytest.mark.parametrize(
    ("batch", "named"), list(REFUSED.values()), ids=list(REFUSED)
)


class RefusalContract:
    """Every rule of `WriteBatch`, broken."""

    @each_refused
    def test_a_batch_that_breaks_a_rule_changes_nothing(
        self, place: Place, batch: WriteBatch, named: str
    ) -> None:
        # Valid changes travel along, so that a batch applied in part would be seen.
        message = place.refuses(
            replace(
                batch,
                events=events([9]),
                shortterm={"keys": b"wheel"},
                settings={"config": b"{1}"},
            )
        )
        assert named in message, f"expected the message to name {named}, got {message!r}"

    def test_the_valid_companions_of_refused_batches_are_accepted(self, place: Place) -> None:
        batch = WriteBatch(
            concepts=_GOOD,
            stats_ids=ids(1, 2),
            stats=stats([1, 2], seed=1),
            payloads={1: b"new", 6: b"six"},
            edges={3: edges(1, 7), 6: edges(7)},
            aliases={60: 1, 61: 6},
            most_events=3,
        )
        assert place.commit(batch)["sizes"] == (7, 7, 3, 3)

    @pytest.mark.parametrize(
        "columns",
        [
            pytest.param({"keys": _GOOD.keys.astype(np.float64)}, id="keys"),
            pytest.param({"value_vectors": _GOOD.keys.astype(np.float64)}, id="vectors"),
            pytest.param({"ids": np.array([6.0, 7.0])}, id="ids"),
            pytest.param({"stats": np.zeros(2, EDGE)}, id="stats"),
        ],
    )
    def test_columns_of_another_dtype_are_refused(
        self, place: Place, columns: dict[str, Any]
    ) -> None:
        place.refuses(_put(**columns))

    @pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint32])
    def test_ids_of_another_dtype_are_refused(self, place: Place, dtype: type) -> None:
        odd: Any = np.array([3], dtype)
        place.refuses(WriteBatch(deleted=odd))
        place.refuses(WriteBatch(stats_ids=odd, stats=stats([3])))

    def test_records_of_another_dtype_are_refused(self, place: Place) -> None:
        place.refuses(WriteBatch(stats_ids=ids(1), stats=np.zeros(1, EDGE)))
        place.refuses(WriteBatch(edges={3: stats([1])}))
        place.refuses(WriteBatch(events=stats([1])))

    def test_keys_without_width_are_refused(self, empty: Place) -> None:
        empty.refuses(WriteBatch(concepts=concepts([1], dim=0)))

    def test_the_width_may_change_while_the_store_is_empty(self, place: Place) -> None:
        place.store.commit(WriteBatch(deleted=ids(1, 2, 3, 4, 5)))
        assert place.reopen().stats().concepts == 0
        wide = concepts([6, 7], dim=9, values="mixed")
        assert place.commit(WriteBatch(concepts=wide))["concepts"] == concept_rows(wide)
        place.refuses(WriteBatch(concepts=concepts([8], dim=4)))

    def test_a_batch_that_deletes_all_may_put_another_width(self, place: Place) -> None:
        wide = concepts([1, 7], dim=9, values="mixed")
        batch = WriteBatch(deleted=ids(1, 2, 3, 4, 5), concepts=wide)
        assert place.commit(batch)["concepts"] == concept_rows(wide)

    def test_values_of_other_kinds_do_not_come_back(self, place: Place) -> None:
        # The contract asks for zeros there; a store may refuse anything else, or drop it.
        spoilt = replace(
            concepts([6, 7]), value_ids=np.array([5, 0], np.int64), value_vectors=_GOOD.keys
        )
        before = place.seen()
        try:
            place.store.commit(WriteBatch(concepts=spoilt))
        except StoreUsageError:
            place.expect(before)
        else:
            assert place.seen()["concepts"][6]["value"] == (ValueKind.KEY.name, None)

    def test_a_deletion_that_leaves_edges_behind_is_noticed(self, place: Place) -> None:
        # Concept 1 has an edge to 3. The rule is the caller's to keep: a store may refuse the
        # batch or report the edge, but never call the memory sound.
        before = place.seen()
        try:
            place.store.commit(WriteBatch(deleted=ids(3)))
        except StoreUsageError:
            place.expect(before)
            return
        found = place.store.verify()
        assert [(problem.table, problem.key) for problem in found] == [("adjacency", "1")]
        assert "3" in found[0].message
        place.store.commit(WriteBatch(edges={1: edges(2)}))

    @pytest.mark.parametrize("name", ["schema", "uuid", "seq", "generation", "metric", "log"])
    def test_a_setting_never_touches_what_the_store_keeps_itself(
        self, place: Place, name: str
    ) -> None:
        self._sets_or_refuses(place, {name: b"of the caller"})

    @pytest.mark.parametrize("name", ["", "n" * 600, "caf\u00e9", "a\0b", "\ud800"])
    def test_an_odd_name_of_a_setting_is_kept_or_refused(self, place: Place, name: str) -> None:
        self._sets_or_refuses(place, {name: b"odd"})

    def _sets_or_refuses(self, place: Place, settings: dict[str, bytes]) -> None:
        before = place.seen()
        try:
            place.store.commit(WriteBatch(settings=settings))
        except StoreUsageError:
            place.expect(before)
        else:
            changed = {"generation": 2, "settings": before["settings"] | settings}
            assert place.seen() == before | changed

    @pytest.mark.parametrize("name", ["", "n" * 600, "caf\u00e9", "a\0b", "\ud800"])
    def test_an_odd_name_in_the_short_term_table_is_kept_or_refused(
        self, place: Place, name: str
    ) -> None:
        before = place.seen()
        try:
            place.store.commit(WriteBatch(shortterm={name: b"odd"}))
        except StoreUsageError:
            place.expect(before)
        else:
            assert place.seen() == before | {"generation": 2, "shortterm": {name: b"odd"}}
