"""Graphs on disk: what is read answers as what was written, and damage is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from storage_backends.columns import Column
from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
from storage_backends.types import Floats


def _keys(count: int = 300, dim: int = 16) -> Floats:
    keys = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    keys.setflags(write=False)
    return keys


def _built(keys: Floats) -> HnswBase:
    base = HnswBase.build(Column.over(keys))
    assert base is not None
    return base


def _links(base: HnswBase) -> Any:
    return base.graph.hnsw  # the stubs of FAISS lack most of it


def _written(base: HnswBase, path: Path) -> Path:
    with open(path, "wb") as file:
        base.write(file.write)
    return path


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("check_links", [False, True])
def test_a_graph_that_was_read_answers_as_the_one_that_was_written(
    tmp_path: Path, dim: int, check_links: bool
) -> None:
    keys = _keys(dim=dim)
    built = _built(keys[:250])
    path = _written(built, tmp_path / "graph")
    read = HnswBase.read(path, keys, check_links=check_links)
    assert read.size == built.size == 250
    assert read.parameters == built.parameters
    for mine, other in zip(read.search(keys, 5), built.search(keys, 5), strict=True):
        np.testing.assert_array_equal(mine, other)
    again = _written(read, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def test_the_file_holds_no_keys_and_the_graph_compares_with_those_it_is_given(
    tmp_path: Path,
) -> None:
    keys = _keys(dim=64)
    base = _built(keys)
    path = _written(base, tmp_path / "graph")
    links = 4 * _links(base).neighbors.size()
    assert path.stat().st_size < links + 20 * len(keys)
    _, cosines = HnswBase.read(path, -keys).search(keys, 1)
    assert cosines.max() < 0.6  # of a key and the opposite of another


def test_the_keys_of_a_graph_are_the_true_ones() -> None:
    keys = _keys()
    slots, cosines = _built(keys).search(keys, 1)
    assert slots[:, 0].tolist() == list(range(len(keys)))
    np.testing.assert_allclose(cosines[:, 0], np.einsum("nd,nd->n", keys, keys), atol=1e-6)


@pytest.mark.parametrize("keys", [_keys(299), _keys(300, 8)], ids=["too few", "narrow"])
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, keys: Floats) -> None:
    path = _written(_built(_keys()), tmp_path / "graph")
    with pytest.raises(StoreCorruptError, match=r"graph: .*expected 1 to .*got 300 of width 16"):
        HnswBase.read(path, keys)


def test_another_kind_of_index_is_refused(tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(16)
    flat.add(_keys())
    faiss.write_index(flat, str(tmp_path / "flat"))
    faiss.write_index(_built(_keys()).graph, str(tmp_path / "full"))
    for name in ("flat", "full"):
        with pytest.raises(StoreCorruptError, match="without vectors"):
            HnswBase.read(tmp_path / name, _keys())


@pytest.mark.parametrize("target", [300, -2, 2**31 - 1])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, target: int) -> None:
    base = _built(_keys())
    faiss.rev_swig_ptr(_links(base).neighbors.data(), 10)[3] = target
    path = _written(base, tmp_path / "graph")
    with pytest.raises(StoreCorruptError, match=str(target)):
        HnswBase.read(path, _keys())


def test_a_link_to_a_key_that_is_not_on_its_level_is_refused_when_links_are_checked(
    tmp_path: Path,
) -> None:
    base = _built(_keys())
    hnsw = _links(base)
    levels = faiss.rev_swig_ptr(hnsw.levels.data(), 300)
    above = int(hnsw.offsets.at(hnsw.entry_point)) + hnsw.cum_nb_neighbors(1)
    faiss.rev_swig_ptr(hnsw.neighbors.data(), above + 1)[above] = np.flatnonzero(levels == 1)[0]
    path = _written(base, tmp_path / "graph")
    with pytest.raises(StoreCorruptError, match="links of level 1"):
        HnswBase.read(path, _keys(), check_links=True)


_DAMAGE = """
import sys
import threading
from pathlib import Path
from typing import Any
import numpy as np
from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
path, keys = Path(sys.argv[1]), np.load(sys.argv[2])
whole = path.read_bytes()
refused = 0
for seed in range(120):
    rng, content = np.random.default_rng(seed), bytearray(whole)
    place = int(rng.integers(len(whole) if seed % 2 else 300))
    if seed % 4 < 2:
        content[place] ^= 1 << int(rng.integers(8))
    else:
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    path.with_suffix(f".{seed}").write_bytes(content)
    try:
        base = HnswBase.read(path.with_suffix(f".{seed}"), keys, check_links=True)
        slots, _ = base.search(keys, 8)
        assert -1 <= slots.min() <= slots.max() < len(keys)
    except StoreCorruptError:
        refused += 1
print(refused)
"""


def test_no_damage_ends_the_process_when_links_are_checked(tmp_path: Path) -> None:
    path = _written(_built(_keys()), tmp_path / "graph")
    np.save(tmp_path / "keys.npy", _keys())
    command = [sys.executable, "-c", _DAMAGE, str(path), str(tmp_path / "keys.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def _crowded(dim: int) -> Floats:
    """Return keys in clusters so dense that neighbours differ by less than equal keys are moved."""
    rng = np.random.default_rng(1)
    centres = np.repeat(rng.normal(size=(10, dim)), 600, axis=0)
    keys = (centres + 0.1 * rng.normal(size=centres.shape)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return keys


@pytest.mark.parametrize("dim", [8, 64])
def test_nearly_every_key_of_a_dense_cluster_is_found_by_itself(dim: int) -> None:
    keys = _crowded(dim)
    found = _built(keys).search(keys, 10)[0]
    itself = (found == np.arange(len(keys))[:, None]).any(axis=1)
    assert itself.mean() > 0.99


@pytest.mark.parametrize("mapped", [False, True])
def test_a_graph_that_was_extended_answers_as_one_that_was_built_at_once(
    tmp_path: Path, mapped: bool
) -> None:
    keys = _crowded(16)[::3].copy()
    first = _built(keys[:1400])
    if mapped:
        first = HnswBase.read(_written(first, tmp_path / "graph"), keys)
    before = _written(first, tmp_path / "before").read_bytes()
    extended = first.extended(Column.over(keys))
    assert extended is not None
    assert extended.size == len(keys) == 2000
    assert extended.parameters == first.parameters
    assert _written(first, tmp_path / "after").read_bytes() == before
    truth = (keys @ keys.T).max(axis=1)
    for graph in (extended, _built(keys)):
        found = graph.search(keys, 10)[1]
        assert (found[:, 0] >= truth - 1e-5).mean() > 0.99
    read = HnswBase.read(_written(extended, tmp_path / "read"), keys, check_links=True)
    for mine, other in zip(read.search(keys, 5), extended.search(keys, 5), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_graph_keeps_its_links_when_it_is_extended() -> None:
    keys = _keys(64)
    first = _built(keys[:40])
    extended = first.extended(Column.over(keys[:40]))
    assert extended is not None
    for name in ("neighbors", "offsets", "levels"):
        held, kept = (_array(getattr(_links(each), name)) for each in (first, extended))
        np.testing.assert_array_equal(held, kept)


def test_equal_keys_on_both_sides_of_an_extension_are_found() -> None:
    keys = np.tile(_keys(20, 64), (40, 1))
    extended = _built(keys[:600]).extended(Column.over(keys))
    assert extended is not None
    slots, _ = extended.search(keys[:20], 40)
    assert (slots % 20 == np.arange(20)[:, None]).mean() > 0.99


def test_keys_of_another_place_are_found_after_an_extension() -> None:
    keys = np.concatenate([np.repeat(_keys(15), 40, axis=0), _crowded(16)])
    extended = _built(keys[:600]).extended(Column.over(keys))
    assert extended is not None
    found = extended.search(keys, 10)[1][:, 0]
    assert (found >= 1 - 1e-5).mean() > 0.99


def test_a_graph_with_room_for_other_numbers_of_links_is_extended_by_building_it_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = _keys(600)
    with monkeypatch.context() as patched:
        patched.setattr("storage_backends.hnsw.neighbours", lambda width: 20)
        first = _built(keys[:400])
    extended = first.extended(Column.over(keys))
    assert extended is not None
    assert (first.parameters["neighbours"], extended.parameters["neighbours"]) == (20, 7)
    assert extended.search(keys, 1)[0][:, 0].tolist() == list(range(600))


def test_an_extension_that_is_stopped_gives_no_graph() -> None:
    stop = threading.Event()
    stop.set()
    assert _built(_keys(40)).extended(Column.over(_keys(60)), stop) is None


def test_a_graph_tells_which_keys_it_does_not_find() -> None:
    keys = _keys()
    base = _built(keys)
    column = Column.over(keys)
    unreached = base.unreached(column)
    assert unreached is not None
    assert not len(unreached)
    links, offsets = _array(_links(base).neighbors), _array(_links(base).offsets)
    lonely = next(each for each in range(300) if _levels(base)[each] == 1)
    links[links == lonely] = -1  # none leads there any more
    for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        row = links[first:last]
        row[:] = np.concatenate([row[row >= 0], row[row < 0]])  # FAISS stops at the first gap
    unreached = base.unreached(column)
    assert unreached is not None
    assert lonely in unreached.tolist()
    stop = threading.Event()
    stop.set()
    assert base.unreached(column, stop) is None


def _array(vector: Any) -> Any:
    pointer: Any = vector.data()
    return faiss.rev_swig_ptr(pointer, vector.size())


def _levels(base: HnswBase) -> list[int]:
    levels: list[int] = _array(_links(base).levels).tolist()
    return levels


def test_a_graph_that_nobody_uses_is_mapped_no_more(tmp_path: Path) -> None:
    keys = _keys()
    path = _written(_built(keys), tmp_path / "graph")
    for _ in range(5):
        base = HnswBase.read(path, keys)
        assert len(base.search(keys[:1], 3)[0]) == 1
        del base
    gc.collect()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("NOT TESTED: needs /proc/self/maps")
    assert str(path) not in maps.read_text()
