"""Columns that are those of no pack are refused, by name and row."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aesg.errors import AESGStorageError
from aesg.packs import read_pack, validate, write_pack
from aesg.packs.columns import COLUMNS
from storage_backends.errors import StoreCorruptError
from tests.pack_build import PROVENANCE, pack_columns

Columns = dict[str, NDArray[Any]]

#: What is asked of single numbers: the column, a row, and what may not stand there.
NUMBERS: list[tuple[str, Any]] = [
    ("ids", 0),
    ("ids", 2**63),
    ("keys", np.nan),
    ("keys", np.inf),
    ("keys", 3e38),
    ("keys", 2.0),
    ("norms", -1.0),
    ("norms", np.nan),
    ("norms", np.inf),
    ("norms", 0.0),
    ("value_kinds", 3),
    ("value_ids", -1),
    ("value_vectors", np.nan),
    ("value_vectors", -np.inf),
    ("created", 2**63),
    ("modified", 2**64 - 1),
    ("relevance", np.nan),
    ("relevance", -0.5),
    ("stability", np.inf),
    ("updates", 2**63),
    ("edge_targets", 12),
    ("edge_targets", 2**32 - 1),
    ("edge_weights", np.nan),
    ("edge_weights", -1.0),
    ("edge_weights", np.inf),
    ("edge_confidences", 1.5),
    ("edge_confidences", -0.5),
    ("edge_confidences", np.nan),
    ("edge_kinds", 16),
    ("edge_kinds", 2**31),
    ("payload_sizes", 65_537),
    ("payload_sizes", 2**32 - 1),
]


def columns(**options: Any) -> Columns:
    return pack_columns(vectors=True, payloads={2: b"\xa4note", 5: b"\x93\x01\x02\x03"}, **options)


def refused(given: Columns, what: str, vector_dim: int = 4) -> None:
    with pytest.raises(StoreCorruptError) as caught:
        validate(given, vector_dim)
    assert what in str(caught.value)


def with_edges(counts: list[int], targets: list[int], weights: list[float], **more: Any) -> Columns:
    """Return columns of some concepts with these edges, of confidence 1."""
    return pack_columns(len(counts), edges_each=0) | {
        "edge_counts": np.array(counts, np.uint32),
        "edge_targets": np.array(targets, np.uint32),
        "edge_weights": np.array(weights, np.float32),
        "edge_confidences": np.ones(len(targets), np.float32),
        "edge_uses": np.ones(len(targets), np.uint32),
        "edge_kinds": np.ones(len(targets), np.uint32),
    }


@pytest.mark.parametrize("options", [{}, {"concepts": 0}, {"concepts": 1}, {"edges_each": 11}])
def test_columns_of_a_pack_are_sound(options: dict[str, Any]) -> None:
    validate(pack_columns(**options), 4)


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_a_number_out_of_range_is_refused_by_name(name: str, number: Any) -> None:
    given = columns()
    validate(given, 4)
    row = 7 if name == "value_ids" else 6  # which has an integer, and a vector
    given[name] = given[name].copy()
    given[name][row] = number
    refused(given, f"column '{name}'")


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_a_number_out_of_range_is_not_even_written(tmp_path: Path, name: str, number: Any) -> None:
    given = columns()
    given[name] = given[name].copy()
    given[name][6] = number
    path = tmp_path / "some.aesgpack"
    try:
        write_pack(path, given, vector_dim=4, provenance=PROVENANCE)
    except AESGStorageError as error:
        assert f"column '{name}'" in error.message
        assert not path.exists()
    else:  # what one column does not tell by itself
        assert name in ("value_ids", "norms", "edge_targets")
        with pytest.raises(AESGStorageError, match=r"Failed to read pack file .*column"):
            read_pack(path)


def test_the_row_and_the_number_are_told() -> None:
    given = columns()
    given["relevance"][6] = -0.5
    refused(given, "'relevance': expected finite numbers of 0 or more, got -0.5 in row 6")


def test_ids_ascend() -> None:
    for change in ([3, 2, 1], [1, 1, 2], [1, 3, 3]):
        given = pack_columns(3)
        given["ids"] = np.array(change, np.uint64)
        refused(given, "column 'ids': expected ascending ids")


def test_keys_are_of_length_one_or_zeros_with_norm_zero() -> None:
    given = columns()
    given["keys"][3], given["norms"][3] = 0, 0
    validate(given, 4)
    given["norms"][3] = 1
    refused(given, "column 'norms': expected 0 where the key is zeros, and only there")


def test_values_agree_with_their_kinds() -> None:
    given = columns()
    given["value_ids"][0] = 5  # of a vector
    refused(given, "column 'value_ids'")

    given = columns()
    given["value_vectors"][1] = 1  # of an integer
    refused(given, "column 'value_vectors'")

    given = columns()
    given["value_kinds"][:] = 1
    given["value_vectors"][:] = 0
    refused(given, "'value_vectors'")  # there is none

    given = pack_columns()
    given["value_kinds"][0], given["value_ids"][0] = 2, 0
    refused(given, "'value_vectors'")  # where is it?


@pytest.mark.parametrize(
    ("counts", "targets", "weights", "what"),
    [
        ([1, 0, 0], [0], [1], "positions of other concepts"),
        ([0, 0, 1], [3], [1], "positions of other concepts"),
        ([2, 0, 0], [1, 1], [1, 1], "no target twice"),
        ([2, 0, 0], [1, 1], [1, 0.5], "no target twice"),
        ([3, 0, 0], [1, 2, 1], [1, 0.5, 0.2], "no target twice"),
        ([2, 0, 0], [1, 2], [0.5, 1], "strongest first"),
        ([2, 0, 0], [2, 1], [1, 1], "strongest first"),
        ([1, 1, 0], [1], [1], "expected 1 edges, got 2"),
        ([0, 0, 0], [1], [1], "expected 1 edges, got 0"),
        ([2**32 - 1, 2, 0], [1], [1], "expected 1 edges"),
    ],
)
def test_edges_are_those_of_a_graph(
    counts: list[int], targets: list[int], weights: list[float], what: str
) -> None:
    refused(with_edges(counts, targets, weights), what)


def test_edges_of_different_concepts_are_compared_with_their_own_only() -> None:
    validate(with_edges([1, 2, 1], [1, 0, 2, 1], [0.1, 1, 1, 2]), 4)


def test_a_target_twice_among_very_many_edges_is_found() -> None:
    size = 300
    targets = np.arange(1, size)
    given = with_edges([size - 1, *[0] * (size - 1)], targets.tolist(), [1] * (size - 1))
    validate(given, 4)
    given["edge_targets"][-1] = 1
    given["edge_weights"][-1] = 0.5
    refused(given, "no target twice")


def test_faults_far_behind_the_first_part_are_found() -> None:
    size = 140_000
    given = pack_columns(size, 2, 3)
    validate(given, 2)
    for name, row, number in (
        ("ids", size - 1, given["ids"][-2]),
        ("keys", size - 1, 0.5),
        ("edge_targets", 3 * size - 1, size),
        ("edge_weights", 3 * size - 1, 9.0),
        ("relevance", size - 1, np.nan),
    ):
        changed = dict(given, **{name: given[name].copy()})
        changed[name][row] = number
        refused(changed, f"in row {row}", 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\xa5note",
        b"\xa4note!",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x91\x82\x01\x02\x92\x01\x02\x03",
        b"\xd4\xfe\x00",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x91" * 1_025 + b"\xc0",
        b"\x91" * 2_000,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_payloads_are_what_can_be_decoded(payload: bytes) -> None:
    refused(pack_columns(payloads={4: payload}), "column 'payloads': expected msgpack for row 4")


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc0",
        b"\x81\x01\x02",
        b"\x81\xd4\x05\x00\x02",
        b"\x91" * 1_000 + b"\xc0",
        msgpack.packb({"a": {"b": [None, b"x", 1.5, msgpack.Timestamp(1, 2)]}, None: {}}),
    ],
)
def test_payloads_of_any_kind_are_sound(payload: bytes) -> None:
    msgpack.unpackb(payload, strict_map_key=False)
    validate(pack_columns(payloads={0: payload, 11: payload}), 4)


@pytest.mark.parametrize("element", [b"\x90", b"\x80", b"\x81\x01\x80", b"\xd4\x05x"])
def test_what_is_in_a_payload_is_not_kept_while_it_is_checked(element: bytes) -> None:
    payload = b"\xdc\x4e\x20" + element * 20_000
    columns = pack_columns(payloads={0: payload})
    gc.collect()
    before, most = len(gc.get_objects()), 0

    def count(phase: str, info: dict[str, int]) -> None:
        nonlocal most
        most = max(most, len(gc.get_objects()) - before)

    gc.callbacks.append(count)
    try:
        validate(columns, 4)
        gc.collect()
    finally:
        gc.callbacks.remove(count)
    assert most < 5_000


def test_a_payload_that_is_slow_to_build_is_not_built() -> None:
    # All keys have one hash, so that a dict of them takes their number squared.
    keys = b"".join(b"\xcf" + (n * (2**61 - 1)).to_bytes(8, "big") + b"\xc0" for n in range(8))
    validate(pack_columns(payloads={0: b"\xde\x00\x08" + keys}), 4)
    assert msgpack.unpackb(b"\xde\x00\x08" + keys, strict_map_key=False) is not None


def test_sizes_and_payloads_agree() -> None:
    given = columns()
    given["payloads"] = given["payloads"][:-1]
    refused(given, "column 'payloads': expected 9 bytes, got 8")
    given = columns()
    given["payload_sizes"] = np.ones(1, np.uint32)
    refused(given, "column 'payloads': expected 12 bytes, got 9")


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "value_vectors"])
def test_every_column_must_be_there(name: str) -> None:
    given = pack_columns()
    del given[name]
    refused(given, f"got none for ['{name}']")


def test_no_other_columns_may_be_there() -> None:
    refused(pack_columns() | {"more": np.zeros(12)}, "further ['more']")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("keys", np.zeros((12, 5), np.float32)),
        ("keys", np.zeros((1, 4), np.float32)),
        ("keys", np.zeros(12, np.float32)),
        ("norms", np.zeros((12, 1), np.float32)),
        ("norms", np.zeros(11, np.float32)),
        ("norms", np.zeros(0, np.float32)),
        ("norms", np.zeros(12, np.float64)),
        ("norms", np.zeros(12, ">f4")),
        ("edge_targets", np.zeros(36, np.int64)),
        ("edge_uses", np.zeros(12, np.uint32)),
        ("payloads", np.zeros(0, np.int8)),
    ],
)
def test_types_and_shapes_are_those_of_the_column(name: str, rows: NDArray[Any]) -> None:
    refused(pack_columns() | {name: rows}, f"column '{name}'")


def test_the_width_is_that_of_the_pack() -> None:
    refused(pack_columns(), "column 'keys'", vector_dim=5)


def is_sound(counts: list[int], targets: list[int], weights: list[int]) -> bool:
    """Say it again, edge by edge."""
    if sum(counts) != len(targets):
        return False
    begin = 0
    for owner, count in enumerate(counts):
        row = list(zip(targets, weights, strict=True))[begin : begin + count]
        begin += count
        own = [target for target, _ in row]
        if len(set(own)) < count or owner in own or any(t >= len(counts) for t in own):
            return False
        if row != sorted(row, key=lambda edge: (-edge[1], edge[0])):
            return False
    return True


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_edges_are_sound_where_they_are_so_one_by_one(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    total = sum(counts)
    targets = data.draw(st.lists(st.integers(0, 4), min_size=total, max_size=total))
    weights = data.draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))
    edges = with_edges(counts, targets, [float(weight) for weight in weights])

    try:
        validate(edges, 4)
    except StoreCorruptError:
        assert not is_sound(counts, targets, weights)
    else:
        assert is_sound(counts, targets, weights)
