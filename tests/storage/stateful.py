"""A state machine that drives a store beside the reference store and compares their answers."""

from __future__ import annotations

import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage_backends.errors import StoreUsageError
from storage_backends.protocol import Store
from storage_backends.types import EventType, WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.contract_changes import listed
from tests.storage.picture import ID_LIMIT, Picture, contents_picture, fold, picture
from tests.storage.place import Opener, Place
from tests.storage.reference_store import Backing, ReferenceStore

IDS = range(1, 9)
UNKNOWN = 60
NAMES = ["config", "epoch", "next_id"]

#: Ways to spoil any batch, whatever the store holds.
SPOILS: dict[str, Callable[[WriteBatch], WriteBatch]] = {
    "unknown deletion": lambda batch: replace(
        batch, deleted=np.append(batch.deleted, ids(UNKNOWN))
    ),
    "repeated concept": lambda batch: replace(batch, concepts=concepts([1, 2, 1])),
    "unknown statistics": lambda batch: replace(
        batch, stats_ids=ids(UNKNOWN), stats=stats([UNKNOWN])
    ),
    "unknown payload": lambda batch: replace(batch, payloads={**batch.payloads, UNKNOWN: b""}),
    "unknown source": lambda batch: replace(batch, edges={**batch.edges, UNKNOWN: edges()}),
    "unknown target": lambda batch: replace(batch, edges={**batch.edges, 1: edges(UNKNOWN)}),
    "alias of a concept": lambda batch: replace(
        batch, concepts=concepts([1]), aliases={**batch.aliases, 1: 2}
    ),
    "unknown heir": lambda batch: replace(batch, aliases={**batch.aliases, UNKNOWN: UNKNOWN + 1}),
    "no events kept": lambda batch: replace(batch, most_events=0),
    "edge to itself": lambda batch: replace(batch, edges={**batch.edges, 1: edges(1)}),
}


def some(of: Collection[int], most: int = 4) -> st.SearchStrategy[list[int]]:
    """Draw at most ``most`` distinct members, in any order."""
    if not of:
        return st.just([])
    return st.lists(st.sampled_from(sorted(of)), unique=True, max_size=most)


@st.composite
def valid_batches(draw: st.DrawFn, now: Picture) -> WriteBatch:
    """Draw a batch that breaks no rule on a store that shows the picture ``now``."""
    live = set(now["concepts"])
    deleted = draw(st.just(sorted(live)) | some(live, 2)) if draw(st.booleans()) else []
    kept = live - set(deleted)
    put, seed = draw(some(IDS)), draw(st.integers(0, 63))
    after = kept | set(put)
    sources = draw(some(after))
    new_edges = {s: edges(*draw(some(after - {s})), seed=seed) for s in sources}
    restated = draw(some(after))
    blobs = st.binary(max_size=3)
    return WriteBatch(
        deleted=ids(*deleted),
        concepts=concepts(put, draw(_widths(now, kept)), seed, "mixed") if put else None,
        stats_ids=ids(*restated),
        stats=stats(restated, seed + 100),
        payloads={i: draw(blobs) for i in draw(some(after))},
        edges=_without_orphans(now, kept, after) | new_edges,
        events=events(
            draw(st.lists(st.integers(0, 2**32), max_size=3)), draw(st.sampled_from(EventType))
        ),
        aliases=draw(_aliases({*IDS, *deleted, UNKNOWN} - after, after)),
        most_events=draw(st.none() | st.integers(1, 6)),
        shortterm=draw(st.none() | st.dictionaries(st.sampled_from(NAMES), blobs)),
        settings=draw(st.dictionaries(st.sampled_from(NAMES), blobs)),
    )


def _aliases(gone: Collection[int], live: Collection[int]) -> st.SearchStrategy[dict[int, int]]:
    if not live:
        return st.just({})
    return st.dictionaries(st.sampled_from(sorted(gone)), st.sampled_from(sorted(live)), max_size=3)


def _widths(now: Picture, kept: Collection[int]) -> st.SearchStrategy[int]:
    if kept:
        return st.just(len(now["concepts"][min(kept)]["key"]))
    return st.sampled_from([2, 3])


def _without_orphans(now: Picture, kept: Collection[int], after: Collection[int]) -> dict[int, Any]:
    """Rewrite the edges that the deletions would leave without a target."""
    old = {s: [edge["target"] for edge in now["edges"].get(s, [])] for s in kept}
    return {
        source: edges(*(target for target in targets if target in after))
        for source, targets in old.items()
        if not set(targets) <= set(after)
    }


class StoreMachine(RuleBasedStateMachine):
    """Subclass this and define `opener`."""

    #: How many generations back the store must tell what changed, if no manifest asks for more.
    log_length = 10**6

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self._product = Place(self.opener(self._folder / "memory"))
        self._model = Place(partial(ReferenceStore, Backing()))
        self._shown: int | None = None  # generation of the manifest
        self._told_from = 0  # first generation since which the store can tell the changes
        self._past = [contents_picture(self._product.store.load())]
        self._lost = set(range(1, ID_LIMIT))  # ids that nothing has stood for since they were named

    @abstractmethod
    def opener(self, folder: Path) -> Opener:
        """Return a function that opens the memory at ``folder``, and makes it at its first call."""

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        batch = data.draw(valid_batches(picture(self._model.store)))
        assert self._product.store.commit(batch) == self._model.store.commit(batch)
        self._past.append(contents_picture(self._product.store.load()))
        self._shorten_log()
        self._catch_up(self._product.store)
        self._lost -= {*batch.aliases, *(batch.concepts.ids.tolist() if batch.concepts else [])}
        self._lost |= set(range(1, ID_LIMIT)) - set(picture(self._model.store)["resolved"])

    @rule(data=st.data(), spoil=st.sampled_from(sorted(SPOILS)))
    def commit_what_breaks_a_rule(self, data: st.DataObject, spoil: str) -> None:
        batch = SPOILS[spoil](data.draw(valid_batches(picture(self._model.store))))
        for place in (self._product, self._model):
            with pytest.raises(StoreUsageError):
                place.store.commit(batch)

    @rule(manifest=st.binary(max_size=3), back=st.integers(0, 5))
    def publish(self, manifest: bytes, back: int) -> None:
        generation = max(len(self._past) - 1 - back, 0)
        number = self._product.store.publish(manifest, generation)
        assert number == self._model.store.publish(manifest, generation)
        self._shown = generation if manifest else None

    @rule()
    def reopen(self) -> None:
        identity = self._product.store.uuid
        assert self._product.reopen().uuid == identity
        self._model.reopen()

    @rule()
    def read_through_a_second_handle(self) -> None:
        reader = self._product.reader()
        assert picture(reader) == picture(self._product.store)
        assert list(reader.verify()) == []
        self._catch_up(reader)
        reader.close()

    @rule(start=st.integers(0, 12), limit=st.none() | st.integers(0, 5))
    def page_events(self, start: int, limit: int | None) -> None:
        found = self._product.store.events(start, limit)
        assert found.tolist() == self._model.store.events(start, limit).tolist()

    @invariant()
    def both_hold_the_same(self) -> None:
        found, wanted = picture(self._product.store), picture(self._model.store)
        # Of an id that nothing stood for the store may forget the alias, the model never does: put
        # the survivor again, and it is found.
        forgotten = self._lost & (wanted["resolved"].keys() - found["resolved"].keys())
        wanted["resolved"] = {i: s for i, s in wanted["resolved"].items() if i not in forgotten}
        assert found == wanted | {"uuid": found["uuid"]}
        assert self._product.store.manifest() == self._model.store.manifest()
        assert self._product.store.manifest_seq() == self._model.store.manifest_seq()

    @invariant()
    def the_store_finds_nothing_wrong(self) -> None:
        assert list(self._product.store.verify()) == []

    def teardown(self) -> None:
        self._product.finish()
        shutil.rmtree(self._folder)

    def _shorten_log(self) -> None:
        now = len(self._past) - 1
        kept = [now - self.log_length] + ([] if self._shown is None else [self._shown])
        self._told_from = max(self._told_from, min(kept))

    def _catch_up(self, store: Store) -> None:
        """Compare the change sets since every generation there was."""
        for since, before in enumerate(self._past):
            changed, expected = store.changes(since), self._model.store.changes(since)
            told = since >= self._told_from
            assert (changed is not None) == told, f"since {since} of {len(self._past) - 1}"
            assert expected is not None
            if changed is None:
                continue
            assert fold(before, changed) == self._past[-1]
            # Whether edges set to what they were have changed is open; the fold has judged them.
            assert listed(changed) | {"edges": []} == listed(expected) | {"edges": []}
        assert store.changes(len(self._past)) is None
