"""Two packs are compared concept by concept and edge by edge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from aesg import AESGMemoryError
from aesg.packs import Pack, read_pack, write_pack
from aesg.packs.diff import ASPECTS, diff
from tests.pack_build import PROVENANCE, pack_columns, write_tiny
from tests.packs.exchange_build import DIM, edges_in, exported, grown, keys_of, link, opened

FILE = Path("some.aesgpack")
PAYLOADS = {3: b"\x03", 5: b"\xa1x"}


def _pack(path: str, uuid: str = PROVENANCE.memory_uuid, **columns: Any) -> Pack:
    """Write a pack with some columns other than those of `pack_columns`, and read it."""
    every = {**pack_columns(payloads=PAYLOADS), **columns}
    provenance = replace(PROVENANCE, memory_uuid=uuid)
    write_pack(path, every, name=path[0], vector_dim=4, provenance=provenance)
    return read_pack(path)


def _moved(name: str, row: int, by: Any) -> dict[str, Any]:
    rows = pack_columns(payloads=PAYLOADS)[name].copy()
    rows[row] += rows.dtype.type(by)
    return {name: rows}


def _only(name: str, rows: Any) -> dict[str, Any]:
    return {name: rows}


CHANGES = [
    (_moved("norms", 2, 1.0), 2, "key"),
    (_moved("value_ids", 4, 1), 4, "value"),
    ({"payloads": np.frombuffer(b"\x04\xa1x", np.uint8)}, 3, "payload"),
    (_moved("frequency", 6, 1), 6, "statistics"),
    (_moved("relevance", 7, 0.25), 7, "statistics"),
]


def test_a_pack_does_not_differ_from_itself() -> None:
    first = _pack("a.aesgpack")
    found = diff(first, _pack("b.aesgpack"))
    assert not found
    assert found.same == 12
    assert str(found) == "a and b hold the same: 12 concepts"
    assert diff(first, _pack("c.aesgpack", uuid="")).matched_by == "content"
    assert not diff(first, _pack("c.aesgpack", uuid=""))


@pytest.mark.parametrize(("columns", "position", "aspect"), CHANGES)
def test_what_changed_of_a_concept_is_said(
    columns: dict[str, Any], position: int, aspect: str
) -> None:
    found = diff(_pack("a.aesgpack"), _pack("b.aesgpack", **columns))
    assert found
    assert (found.matched_by, found.same, len(found.added), len(found.removed)) == ("id", 11, 0, 0)
    (changed,) = found.changed
    assert (changed["before"], changed["after"]) == (position, position)
    assert [name for name in ASPECTS if changed[name]] == [aspect]
    assert (found.edges_added, found.edges_removed, found.edges_changed) == (0, 0, 0)


@pytest.mark.parametrize("name", ["edge_weights", "edge_uses"])
def test_edges_that_changed_are_counted(name: str) -> None:
    rows = pack_columns(payloads=PAYLOADS)[name].copy()
    rows[::3] *= 2  # the strongest of each, which stay the strongest
    found = diff(_pack("a.aesgpack"), _pack("b.aesgpack", **_only(name, rows)))
    assert (found.edges_added, found.edges_removed, found.edges_changed) == (0, 0, 12)
    assert found
    assert len(found.changed) == 0


def test_the_packs_of_one_memory_are_compared_by_ids(tmp_path: Path) -> None:
    with grown(tmp_path / "memory") as memory:
        first = exported(memory, Path("before.aesgpack"))
        memory.remember(keys_of(2, 7), [50, 51])
        link(memory, {31: [(32, 1, 1, 1, 2), (1, 1, 1, 1, 2)]})
        later = exported(memory, Path("after.aesgpack"))
        part = exported(memory, Path("part.aesgpack"), predicate=lambda some: some.ids != 5)
    found = diff(first, later)
    assert found.matched_by == "id"
    assert later.columns["ids"][found.added].tolist() == [31, 32]
    assert (len(found.removed), len(found.changed), found.edges_added) == (0, 0, 2)
    without = [ends for ends in edges_in(later) if 5 in ends]
    found = diff(later, part)
    assert later.columns["ids"][found.removed].tolist() == [5]
    assert (found.edges_removed, found.edges_changed) == (len(without), 0)
    back = diff(part, later)
    assert np.array_equal(back.added, found.removed)
    assert back.edges_added == found.edges_removed


def test_what_was_learned_between_two_exports_is_a_change_of_statistics(tmp_path: Path) -> None:
    with opened(tmp_path / "memory") as memory:
        memory.remember(torch.eye(DIM), range(DIM))
        first = exported(memory, Path("before.aesgpack"))
        memory.retrieve(torch.eye(DIM)[2:3])
        found = diff(first, exported(memory, Path("after.aesgpack")))
    assert found.changed["before"].tolist() == [2]
    assert found.changed["statistics"].all()


def test_the_packs_of_two_memories_are_compared_by_content(tmp_path: Path) -> None:
    keys = keys_of(5)
    with opened(tmp_path / "one") as one, opened(tmp_path / "two") as two:
        one.remember(keys[[0, 1, 1, 2]], [0, 1, 1, 2])
        two.remember(keys[[3, 2, 1, 1, 1, 4]], [3, 2, 1, 1, 1, 4])
        two.remember(keys[:1], [9])
        packs = exported(one, Path("one.aesgpack")), exported(two, Path("two.aesgpack"))
    with patch("aesg.packs.diff._CHUNK", 2):
        found = diff(*packs)
    assert found.matched_by == "content"
    assert found.added.tolist() == [0, 4, 5, 6]
    assert found.removed.tolist() == [0]
    assert found.changed["before"].tolist() == [1, 2, 3]
    assert found.changed["after"].tolist() == [2, 3, 1]
    assert not found.changed["key"].any()
    assert not found.changed["value"].any()
    assert found.changed["statistics"].all()  # made at other moments


def test_what_was_merged_elsewhere_is_the_same_content(tmp_path: Path) -> None:
    with grown(tmp_path / "origin", count=60) as origin, opened(tmp_path / "copy") as copy:
        pack = exported(origin, Path("a.aesgpack"))
        copy.merge_pack(pack)
        again = exported(copy, Path("b.aesgpack"))
    assert (again.columns["keys"] != pack.columns["keys"]).any()  # rounded
    found = diff(pack, again)
    assert (len(found.added), len(found.removed)) == (0, 0)
    assert not any(found.changed[name].any() for name in ("key", "value", "payload"))
    assert (found.edges_added, found.edges_removed) == (0, 0)


def test_vector_values_are_compared(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as one:
        one.remember(keys_of(2), keys_of(2, 1))
        one.remember(keys_of(1, 3), [7])
        vectors = exported(one, Path("a.aesgpack"))
        plain = exported(one, Path("b.aesgpack"), values=False)
    found = diff(vectors, plain)
    assert found.changed["value"].tolist() == [True, True, True]
    moved = {**vectors.columns, "value_vectors": vectors.columns["value_vectors"] + 1}
    assert diff(vectors, replace(vectors, columns=moved)).changed["value"].sum() == 3
    assert not diff(vectors, vectors)


def test_a_diff_is_printed_as_a_table() -> None:
    columns = {**CHANGES[0][0], **CHANGES[3][0]}
    found = diff(_pack("a.aesgpack"), _pack("b.aesgpack", **columns))
    assert repr(found) == (
        "PackDiff(added=0, removed=0, changed=2, same=10, edges_added=0, edges_removed=0, "
        "edges_changed=0)"
    )
    lines = [line.split() for line in str(found).splitlines()]
    assert ["a", "->", "b,", "concepts", "by", "id"] in lines
    assert ["concepts", "0", "0", "2"] in lines
    assert ["key", "1"] in lines
    assert ["edges", "0", "0", "0"] in lines


def test_a_diff_can_be_written_as_json() -> None:
    found = diff(_pack("a.aesgpack"), _pack("b.aesgpack", **CHANGES[0][0]))
    told = json.loads(json.dumps(found.to_dict()))
    (changed,) = told.pop("changed")
    assert changed == {
        **dict.fromkeys(ASPECTS, False),
        **{"before": 2, "after": 2, "key": True},
    }
    edges = {"edges_added": 0, "edges_removed": 0, "edges_changed": 0}
    counts = {"added": [], "removed": [], "same": 11, **edges}
    assert told == {"names": ["a", "b"], "matched_by": "id", "differ": True, **counts}


def test_one_concept_is_one() -> None:
    write_tiny(FILE, concepts=1, edges_each=0)
    pack = read_pack(FILE)
    assert str(diff(pack, pack)) == "some and some hold the same: 1 concept"


def test_only_packs_are_compared() -> None:
    pack: Any = _pack("a.aesgpack")
    for pair in ((pack, "a.aesgpack"), (Path("a.aesgpack"), pack)):
        with pytest.raises(AESGMemoryError, match=r"expected a Pack, .*, got (str|PosixPath)$"):
            diff(*pair)


def test_packs_of_other_widths_are_not_compared() -> None:
    write_tiny(FILE, vector_dim=3)
    with pytest.raises(AESGMemoryError, match=r"expected equal vector_dim, got 4 .* and 3"):
        diff(_pack("a.aesgpack"), read_pack(FILE))
