"""A pack in memory: its records, that nothing writes to it, and how it goes elsewhere."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from aesg.errors import AESGStorageError
from aesg.packs import Pack, read_pack
from tests.pack_build import pack_columns, write_tiny


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return read_pack(write_tiny(tmp_path / "some.aesgpack", payloads={3: b"\xa4note"}))


def unpickled_size(content: bytes) -> tuple[str, int]:
    pack: Pack = pickle.loads(content)
    return pack.digest, pack.node_count


def test_nodes_are_records_of_the_documented_fields(pack: Pack) -> None:
    columns = pack_columns()
    assert (len(pack.nodes), pack.node_count, len(pack.edges), pack.edge_count) == (12, 12, 36, 36)

    node = pack.nodes[5]
    assert node["id"] == columns["ids"][5]
    np.testing.assert_allclose(node["vector"], columns["keys"][5] * columns["norms"][5], rtol=1e-6)
    for field, column in (
        ("created_at", "created"),
        ("modified_at", "modified"),
        ("use_frequency", "frequency"),
        ("relevance", "relevance"),
        ("age", "age"),
        ("stability", "stability"),
        ("region_id", "region"),
        ("value_kind", "value_kinds"),
        ("value_id", "value_ids"),
    ):
        assert node[field] == columns[column][5]
        np.testing.assert_array_equal(pack.nodes[field], columns[column])
    assert pack.nodes["vector"].shape == (12, 4)


def test_edges_are_records_that_name_concepts_by_id(pack: Pack) -> None:
    columns = pack_columns()
    sources = np.repeat(columns["ids"], columns["edge_counts"])

    np.testing.assert_array_equal(pack.edges["source_id"], sources)
    np.testing.assert_array_equal(pack.edges["target_id"], columns["ids"][columns["edge_targets"]])
    edge = pack.edges[35]
    assert edge["source_id"] == sources[35]
    assert edge["weight"] == columns["edge_weights"][35]
    assert edge["confidence"] == columns["edge_confidences"][35]
    assert edge["use_count"] == columns["edge_uses"][35]


def test_records_are_chosen_as_in_a_sequence(pack: Pack) -> None:
    for records, size in ((pack.nodes, 12), (pack.edges, 36)):
        name = records.dtype.names[0]  # type: ignore[index]
        ids = records[name].tolist()
        assert [record[name] for record in records] == ids
        assert records[-1][name] == ids[-1]
        assert records[2:9:3][name].tolist() == ids[2:9:3]
        assert records[::-1][name].tolist() == ids[::-1]
        assert records[np.array([3, 1])][name].tolist() == [ids[3], ids[1]]
        assert records[np.arange(size) == 4][name].tolist() == [ids[4]]
        assert records[np.int64(3)][name] == ids[3]
        assert np.asarray(records).tobytes() == records[:].tobytes()
        assert len(records[5:5]) == 0
        with pytest.raises(IndexError):
            records[size]
        with pytest.raises(KeyError, match=f"expected one of {name}, .*, got 'value'"):
            records["value"]


def test_records_are_iterated_over_in_parts_that_join(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "some.aesgpack", concepts=5_000, edges_each=2)
    pack = read_pack(path)
    for records, name in ((pack.nodes, "id"), (pack.edges, "target_id")):
        assert [record[name] for record in records] == records[name].tolist()


def test_edges_of_concepts_without_edges_are_skipped(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "some.aesgpack", edges_each=0)
    pack = read_pack(path)
    assert len(pack.edges) == 0
    assert pack.edges["source_id"].tolist() == []


def test_payloads_are_of_their_concept(pack: Pack) -> None:
    found = [pack.payload(position) for position in range(12)]
    assert found == [b"\xa4note" if position == 3 else None for position in range(12)]
    for position in (-1, 12):
        with pytest.raises(IndexError, match="expected a position below 12"):
            pack.payload(position)


def test_payloads_are_decoded_for_whoever_reads_a_pack(pack: Pack) -> None:
    assert pack.payloads() == [None] * 3 + ["note"] + [None] * 8
    for positions in ([4, 3], (4, 3), np.array([4, 3]), slice(4, 2, -1), [-8, -9], range(4, 2, -1)):
        assert pack.payloads(positions) == [None, "note"]
    assert pack.payloads(3) == pack.payloads(np.arange(12) == 3) == ["note"]
    assert pack.payloads([]) == []
    for wrong in (12, [3, 12], -13):
        with pytest.raises(IndexError):
            pack.payloads(wrong)


def test_nothing_writes_to_a_pack(pack: Pack) -> None:
    for rows in pack.columns.values():
        with pytest.raises(ValueError, match="read-only"):
            rows[:1] = 0
    records = pack.nodes[:]
    records["relevance"] = 0
    assert pack.nodes["relevance"].any()
    with pytest.raises(AttributeError):
        pack.name = "other"  # type: ignore[misc]


def test_a_pack_says_what_it_is_in_few_words(pack: Pack) -> None:
    assert repr(pack) == "Pack('some', concepts=12, edges=36, vector_dim=4)"
    assert repr(pack.edges) == (
        "PackEdges(36 of source_id, target_id, weight, confidence, use_count)"
    )


def test_copies_are_the_pack_itself(pack: Pack) -> None:
    assert copy.copy(pack) is pack
    assert copy.deepcopy([pack])[0] is pack


def test_a_pack_of_a_file_is_pickled_as_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path / "some.aesgpack", concepts=5_000)
    monkeypatch.chdir(tmp_path)
    pack = read_pack("some.aesgpack", name="mine")
    content = pickle.dumps(pack)
    monkeypatch.chdir("/")

    again = pickle.loads(content)

    assert len(content) < 1_000
    assert (again.name, again.digest) == ("mine", pack.digest)
    np.testing.assert_array_equal(again.columns["keys"], pack.columns["keys"])


def test_a_pickled_pack_is_not_another_that_took_its_place(pack: Pack) -> None:
    content = pickle.dumps(pack)
    assert pack.path is not None
    write_tiny(pack.path, seed=1)
    with pytest.raises(AESGStorageError, match=f"expected SHA-256 {pack.digest}, got "):
        pickle.loads(content)
    os.unlink(pack.path)
    with pytest.raises(AESGStorageError, match="No such file"):
        pickle.loads(content)


def test_a_pack_without_a_file_is_pickled_by_value(pack: Pack) -> None:
    loose = Pack("loose", 4, pack.columns, pack.provenance, pack.digest, None, 2)

    again = pickle.loads(pickle.dumps(loose))

    assert (again.name, again.path, again.provenance) == ("loose", None, pack.provenance)
    for name, rows in pack.columns.items():
        np.testing.assert_array_equal(again.columns[name], rows)
        assert not again.columns[name].flags.writeable


@pytest.mark.long
def test_a_pack_goes_to_another_process(pack: Pack) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(unpickled_size, pickle.dumps(pack)).result()
    assert found == (pack.digest, pack.node_count)
