"""Packs mapped from a cache: the same as from the file, made once, and never in the way."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from aesg import AESGMemory, AESGStorageError
from aesg.context import COLUMNS as CONTEXT
from aesg.packs import Pack, cache, entries, read_pack
from aesg.packs.graph import kept_view, view_of, with_view
from aesg.packs.pack import Columns
from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
from storage_backends.housekeeping import built
from storage_backends.locks import WriterLock
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted
from tests.memory_build import DIM, opened
from tests.memory_processes import run_child
from tests.pack_build import PROVENANCE, pack_columns, write_tiny
from tests.packs import cache_children, fuzz_version1
from tests.packs.cache_children import FEW, found_in, holder_of
from tests.storage.limits import files_no_longer_than

COUNT = 40
PREPARED = ["COLUMNS", "GRAPH", "LOCK", "columns-000001.aesg", "columns-000002.aesg"]
PREPARED += ["index-000002.faiss"]


@pytest.fixture(autouse=True)
def _all_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pack be mapped, and have a seed index if it has more than a few concepts."""
    monkeypatch.setattr(cache, "MAPPED_FROM", 0)
    monkeypatch.setattr(cache, "EXACT_BELOW", FEW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    payloads = {3: b"\xa3two", 7: b"\x01"}
    return write_tiny(
        tmp_path / "large.aesgpack",
        concepts=COUNT,
        vector_dim=DIM,
        vectors=True,
        payloads=payloads,
    )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "aesg.memory")
    return lambda: [each.message for each in caplog.records if "cache" in each.message]


def folder() -> Path:
    return Path(os.environ["AESG_CACHE"])


def entry() -> Path:
    (found,) = (folder() / "packs").iterdir()
    return found


def require_same(columns: Columns, expected: Columns) -> None:
    assert columns.keys() == expected.keys()
    for name, rows in expected.items():
        assert columns[name].dtype == rows.dtype
        assert np.array_equal(columns[name], rows), name


def is_mapped(pack: Pack) -> bool:
    """Tell whether all columns of a pack are mapped from a file."""
    return all(isinstance(holder_of(rows), mmap.mmap) for rows in pack.columns.values())


class TestLoading:
    def test_a_large_pack_is_mapped_and_holds_what_the_file_holds(self, path: Path) -> None:
        plain, pack = read_pack(path), cache.load(path)
        assert is_mapped(pack) and not is_mapped(plain)
        require_same(pack.columns, plain.columns)
        assert pack.payload(3) == plain.payload(3) == b"\xa3two"
        for name in ("name", "vector_dim", "provenance", "digest", "path", "version", "signer"):
            assert getattr(pack, name) == getattr(plain, name)

    def test_a_small_pack_leaves_nothing_on_the_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache, "MAPPED_FROM", 1 << 20)
        monkeypatch.setattr(cache, "EXACT_BELOW", COUNT)
        pack = cache.indexed(cache.load(path))
        assert not is_mapped(pack) and not folder().exists()

    def test_the_second_time_nothing_is_decoded(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = cache.load(path)
        files = {each: each.stat().st_ino for each in entry().iterdir()}
        monkeypatch.setattr("aesg.packs.reading.validate", None)  # it would be called
        again = cache.load(path, name="again")
        require_same(again.columns, first.columns)
        assert again.name == "again"
        assert {each: each.stat().st_ino for each in entry().iterdir()} == files

    def test_nothing_can_be_written_through_a_pack(self, path: Path) -> None:
        for pack in (cache.load(path), cache.load(path), cache.indexed(cache.load(path))):
            for name in ("keys", "edge_weights", "updates"):
                with pytest.raises(ValueError, match="read-only"):
                    pack.columns[name][:] = 0

    def test_the_file_is_compared_with_its_hash_though_the_cache_knows_it(self, path: Path) -> None:
        cache.load(path)
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        with pytest.raises(AESGStorageError, match="expected SHA-256"):
            cache.load(path)

    def test_another_width_is_refused_though_the_cache_knows_the_pack(self, path: Path) -> None:
        cache.load(path, vector_dim=DIM)
        with pytest.raises(AESGStorageError, match=f"expected vector_dim {DIM + 1}, got {DIM}"):
            cache.load(path, vector_dim=DIM + 1)

    def test_content_that_is_refused_leaves_nothing(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(columns: Columns, vector_dim: int) -> None:
            raise StoreCorruptError("expected other content")

        monkeypatch.setattr("aesg.packs.reading.validate", refused)
        with pytest.raises(AESGStorageError, match="expected other content"):
            cache.load(path)
        assert list((folder() / "packs").iterdir()) == []

    def test_what_the_caller_raises_in_between_leaves_nothing(self, path: Path) -> None:
        def stop(step: str, done: int, total: int) -> None:
            if step == "reading the pack":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.load(path, progress=stop)
        assert list((folder() / "packs").iterdir()) == []
        assert is_mapped(cache.load(path))

    @pytest.mark.parametrize(
        ("concepts", "most"), [(60_000, 30), pytest.param(1_000_000, 100, marks=pytest.mark.long)]
    )
    def test_its_columns_are_never_in_the_memory_of_the_process(
        self, tmp_path: Path, concepts: int, most: int
    ) -> None:
        path = write_tiny(tmp_path / "large", concepts=concepts, vector_dim=128)
        ((columns, more),) = run_child(cache_children.load_watching_memory, str(path))
        assert columns > 500 * concepts
        assert more < most << 20

    def test_a_pack_is_mapped_in_the_process_that_it_is_sent_to(self, path: Path) -> None:
        pack = pickle.loads(pickle.dumps(cache.load(path)))
        assert is_mapped(pack)
        require_same(pack.columns, read_pack(path).columns)


class TestIndex:
    def test_a_pack_of_many_concepts_gets_a_seed_index(self, path: Path) -> None:
        pack = cache.indexed(cache.load(path))
        base = view_of(pack).base
        assert base is not None and base.size == COUNT
        assert sorted(each.name for each in entry().iterdir()) == PREPARED
        assert found_in(pack) == list(range(COUNT))

    def test_a_pack_of_few_concepts_is_searched_exactly(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache, "EXACT_BELOW", COUNT)
        pack = cache.load(path)
        assert cache.indexed(pack) is pack
        assert view_of(pack).base is None

    def test_it_is_built_once(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = cache.indexed(cache.load(path))
        assert cache.indexed(first) is first
        monkeypatch.setattr(cache, "built", None)  # it would be called
        again = cache.indexed(cache.load(path))
        queries = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
        slots, cosines = view_of(first).index.search(queries, 5)
        same_slots, same_cosines = view_of(again).index.search(queries, 5)
        assert np.array_equal(slots, same_slots) and np.array_equal(cosines, same_cosines)

    def test_a_pack_of_no_large_file_is_mapped_when_it_is_attached(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = read_pack(path)
        pack = cache.indexed(plain)
        assert is_mapped(pack) and not is_mapped(plain)
        require_same(pack.columns, plain.columns)
        monkeypatch.setattr(cache, "built", None)
        assert is_mapped(cache.indexed(replace(plain, name="another")))

    def test_the_wait_is_told_with_the_name_of_the_pack(self, path: Path) -> None:
        told: list[tuple[str, int, int]] = []
        cache.indexed(cache.load(path, name="medical"), lambda *step: told.append(step))
        step = "building the seed index of pack 'medical', once on this machine"
        assert (step, COUNT, COUNT) in told

    def test_concepts_that_the_index_does_not_lead_to_are_found(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moved = np.array([3, 8])
        monkeypatch.setattr(HnswBase, "unreached", lambda *given, **named: moved)
        cache.indexed(cache.load(path))
        monkeypatch.setattr(cache, "built", None)
        pack = cache.indexed(cache.load(path))
        assert view_of(pack).moved.tolist() == [3, 8]
        assert found_in(pack) == list(range(COUNT))

    def test_what_the_caller_raises_ends_the_building(self, path: Path) -> None:
        pack = cache.load(path)

        def stop(step: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.indexed(pack, stop)
        assert found_in(cache.indexed(pack)) == list(range(COUNT))

    def test_retrieval_is_the_same_to_the_bit_mapped_and_in_memory(
        self, path: Path, tmp_path: Path
    ) -> None:
        mapped, plain = cache.indexed(cache.load(path)), read_pack(path)
        shared = view_of(mapped)
        plain = with_view(plain, replace(view_of(plain), base=shared.base, moved=shared.moved))
        queries = torch.randn(6, 3, DIM, generator=torch.Generator().manual_seed(0))
        found = []
        for number, pack in enumerate((mapped, plain)):
            with opened(tmp_path / f"memory{number}") as memory:
                memory.eval()
                memory.attach_pack(pack)
                assert memory.get_attached_packs()[pack.name].view.base is shared.base
                found.append([memory.retrieve(queries), memory.recall(queries)])
        for one, other in zip(*found, strict=True):
            assert (one.concept_ids != 0).any()
            for name in CONTEXT:
                left, right = getattr(one, name), getattr(other, name)
                if name == "concept_ids":  # the number of the attachment is in it
                    left, right = left & 0xFFFFFFFF, right & 0xFFFFFFFF
                assert torch.equal(torch.as_tensor(left), torch.as_tensor(right)), name


def flip(path: Path, position: int) -> None:
    """Put a file with one other byte in the place of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: flip(path, -1000 if path.stat().st_size > 1000 else -1),
    "cut": cut,
    "empty": lambda path: os.truncate(path, 0),
    "gone": Path.unlink,
}


class TestIdentity:
    """Whose digest a pack has says nothing of its columns: anybody can make a pack."""

    def test_another_pack_with_the_same_digest_is_not_taken_for_it(self, path: Path) -> None:
        pack = cache.indexed(cache.load(path))
        columns = {**pack.columns, "keys": -pack.columns["keys"]}
        other = cache.indexed(replace(pack, columns=columns))
        require_same(other.columns, columns)
        assert found_in(other) == list(range(COUNT))
        assert len(list((folder() / "packs").iterdir())) == 2

    def test_it_cannot_take_its_place_either(self, path: Path) -> None:
        plain = read_pack(path)
        columns = {**plain.columns, "keys": -plain.columns["keys"]}
        cache.indexed(replace(plain, columns=columns))
        cache.indexed(replace(plain, columns=columns, version=1))
        require_same(cache.indexed(cache.load(path)).columns, plain.columns)

    def test_a_pack_of_release_3_is_not_known_by_the_hash_of_its_payload(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "old.aesgpack"
        path.write_bytes(fuzz_version1.sound(DIM, COUNT, 3 * COUNT))
        pack = cache.load(path)
        assert pack.version == 1 and is_mapped(pack)
        require_same(pack.columns, read_pack(path).columns)
        assert pack.digest not in entry().name
        assert found_in(cache.indexed(pack)) == list(range(COUNT))
        assert is_mapped(cache.load(path)) and entry()

    def test_a_digest_that_is_none_names_no_folder(self) -> None:
        columns = pack_columns(COUNT, DIM)
        pack = Pack("made", DIM, columns, PROVENANCE, "../../x", None, 2)
        assert found_in(cache.indexed(pack)) == list(range(COUNT))
        assert entry().parent == folder() / "packs"


class TestDamage:
    @pytest.mark.parametrize("name", [each for each in PREPARED if each != "LOCK"])
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_what_is_damaged_is_made_again(self, path: Path, name: str, damage: str) -> None:
        cache.indexed(cache.load(path))
        DAMAGES[damage](entry() / name)
        pack = cache.indexed(cache.load(path))
        assert is_mapped(pack)
        require_same(pack.columns, read_pack(path).columns)
        assert found_in(pack) == list(range(COUNT))
        made = (entry() / name).stat().st_ino
        cache.indexed(cache.load(path))
        assert (entry() / name).stat().st_ino == made

    def test_who_has_mapped_what_is_made_again_keeps_it(self, path: Path) -> None:
        pack = cache.indexed(cache.load(path))
        flip(entry() / "columns-000001.aesg", -1000)
        cache.load(path)
        shutil.rmtree(entry())
        require_same(pack.columns, read_pack(path).columns)
        assert found_in(pack) == list(range(COUNT))

    @pytest.mark.parametrize("act", [disk_full, disk_broken])
    @pytest.mark.parametrize(
        ("first", "stride"), [(3, 7), pytest.param(0, 1, marks=pytest.mark.long)]
    )
    def test_a_call_that_fails_is_no_error_of_the_pack(
        self,
        path: Path,
        act: Callable[[], object],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        first: int,
        stride: int,
    ) -> None:
        plain = read_pack(path)
        with at_call(None) as calls:
            cache.indexed(cache.load(path))
        assert len(calls.names) > 30
        for number in range(first, len(calls.names), stride):
            monkeypatch.setenv("AESG_CACHE", str(tmp_path / f"cache{number}"))
            with at_call(number, act):
                pack = cache.indexed(cache.load(path))
                require_same(pack.columns, plain.columns)
                assert found_in(pack) == list(range(COUNT))
            assert not list(folder().rglob("*.new"))
            assert is_mapped(cache.indexed(cache.load(path)))

    @pytest.mark.parametrize(
        ("number", "stride"), [(2, 9), pytest.param(0, 1, marks=pytest.mark.long)]
    )
    def test_an_interrupt_at_any_call_leaves_nothing_unfinished(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        number: int,
        stride: int,
    ) -> None:
        ended = False
        while not ended:
            monkeypatch.setenv("AESG_CACHE", str(tmp_path / f"cache{number}"))
            with at_call(number, interrupted):
                try:
                    cache.indexed(cache.load(path))
                    ended = True
                except KeyboardInterrupt:
                    pass
            assert found_in(cache.indexed(cache.load(path))) == list(range(COUNT))
            assert not list(folder().rglob("*.new"))
            number += stride
        assert number > 30

    @pytest.mark.parametrize(
        ("first", "stride"), [(8, 12), pytest.param(0, 1, marks=pytest.mark.long)]
    )
    def test_a_process_that_dies_at_any_call_leaves_what_the_next_one_finishes(
        self, path: Path, tmp_path: Path, first: int, stride: int
    ) -> None:
        caches = str(tmp_path / "caches")
        numbers = run_child(cache_children.die_at_calls, str(path), caches, first, stride)
        assert numbers[-1] > 30


class TestWhereThereIsNoCache:
    def require_private(self, path: Path, said: Callable[[], list[str]], reason: str) -> None:
        """Check that a pack is loaded and indexed without a cache, and that this is said."""
        loaded = cache.load(path)
        (line,) = said()
        assert str(path) in line and "held by this process for itself" in line and reason in line
        pack = cache.indexed(loaded)
        assert len(said()) == 1
        assert not is_mapped(pack)
        require_same(pack.columns, read_pack(path).columns)
        assert view_of(pack).base is not None
        assert found_in(pack) == list(range(COUNT))

    def test_a_home_that_cannot_be_written_to(
        self, path: Path, said: Callable[[], list[str]]
    ) -> None:
        folder().write_text("a file, where a folder should be")
        self.require_private(path, said, "File exists")

    def test_a_disk_that_is_full(
        self,
        path: Path,
        said: Callable[[], list[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        usage = shutil.disk_usage(path)
        little = usage._replace(free=10_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
        self.require_private(path, said, "got 10000")
        assert list((folder() / "packs").iterdir()) == []

    def test_room_that_is_not_there_after_all(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_room(*given: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", no_room)
        self.require_private(path, said, "No space left on device")
        assert list((folder() / "packs").iterdir()) == []

    def test_a_limit_on_the_length_of_files(
        self, path: Path, said: Callable[[], list[str]]
    ) -> None:
        with files_no_longer_than(8192):
            self.require_private(path, said, "File too large")

    @pytest.mark.parametrize("mode", [0o775, 0o707])
    @pytest.mark.parametrize("which", ["packs", "entry"])
    def test_a_folder_that_others_can_write_to(
        self, path: Path, said: Callable[[], list[str]], mode: int, which: str
    ) -> None:
        cache.load(path)
        (entry() if which == "entry" else entry().parent).chmod(mode)
        self.require_private(path, said, "expected that others cannot write to it")

    def test_a_folder_of_somebody_else(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.load(path)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        self.require_private(path, said, "expected a folder of user 12345")

    def test_a_link_in_the_place_of_an_entry(
        self, path: Path, said: Callable[[], list[str]], tmp_path: Path
    ) -> None:
        cache.load(path)
        found = entry()
        shutil.move(found, tmp_path / "elsewhere")
        found.symlink_to(tmp_path / "elsewhere")
        self.require_private(path, said, "expected a folder of user")

    def test_a_network_file_system(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("storage_backends.layout.file_system_of", lambda *given: "nfs")
        self.require_private(path, said, "expected a local file system, got nfs")

    def test_no_home(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("AESG_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", homeless)
        self.require_private(path, said, "there is no home folder")

    def test_a_place_that_depends_on_where_the_process_was_started(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AESG_CACHE", "here")
        self.require_private(path, said, "AESG_CACHE: expected an absolute path, got 'here'")

    def test_a_home_that_depends_on_it(
        self,
        path: Path,
        said: Callable[[], list[str]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "home")
        monkeypatch.setenv("AESG_CACHE", "~/here")
        with pytest.raises(entries.CacheUnusable, match="got 'home/here'"):
            entries.cache_folder()
        monkeypatch.delenv("AESG_CACHE")
        self.require_private(path, said, "HOME: expected an absolute path, got 'home'")
        assert not (tmp_path / "home").exists()

    def test_somebody_who_never_finishes(
        self, path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(entries, "_LONGEST_WAIT_SECONDS", 0.1)
        monkeypatch.setattr(entries, "_WAIT_SECONDS", 0.05)
        lock = WriterLock.acquire(entries.Entry.of(read_pack(path).digest).folder / "LOCK")
        try:
            self.require_private(path, said, "expected it to be free by now")
        finally:
            lock.release()


class TestFolder:
    def test_where_it_is(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.setenv("AESG_CACHE", str(tmp_path / "here"))
        monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
        assert entries.cache_folder() == tmp_path / "here"
        monkeypatch.setenv("AESG_CACHE", "~/here")
        assert entries.cache_folder() == Path("/home/somebody/here")
        monkeypatch.setenv("AESG_CACHE", "")
        assert entries.cache_folder() == Path("/shared/aesg")
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert entries.cache_folder() == Path("/home/somebody/.cache/aesg")

    @pytest.fixture
    def _group_may_write(self) -> Iterator[None]:
        before = os.umask(0o002)
        yield
        os.umask(before)

    @pytest.mark.usefixtures("_group_may_write")
    def test_it_is_the_users_own_whatever_the_umask(self, path: Path) -> None:
        assert is_mapped(cache.load(path))
        assert entry().stat().st_mode & 0o777 == 0o700
        assert is_mapped(cache.load(path))

    def test_what_nobody_has_used_for_a_month_goes_when_another_is_made(
        self, path: Path, tmp_path: Path
    ) -> None:
        old = [write_tiny(tmp_path / str(seed), seed=seed, concepts=20) for seed in range(3)]
        digests = [cache.load(each).digest for each in old]
        month = time.time() - entries.UNUSED_SECONDS - 60
        for each in (folder() / "packs").iterdir():
            for file in (*each.iterdir(), each):
                os.utime(file, (month, month))
        cache.load(old[1])  # used again
        lock = WriterLock.acquire(folder() / "packs" / f"{digests[2]}-v1" / "LOCK")
        new = cache.load(path).digest  # the third is being made by somebody
        lock.release()
        left = {each.name for each in (folder() / "packs").iterdir()}
        assert left == {f"{digest}-v1" for digest in (digests[1], digests[2], new)}

    def test_what_is_not_its_own_stays_however_old_it_is(self, path: Path, tmp_path: Path) -> None:
        packs, digest = folder() / "packs", "ab" * 32
        # A name that is none; a file that no entry holds; a folder in one; a link; and a real one.
        foreign = [
            f"{name}/COLUMNS" for name in ("medical", digest, f"{digest}-v", f"{digest}-v1~")
        ]
        foreign += [f"{digest}-v1/COLUMNS", f"{digest}-v1/key.pem"]
        foreign += [f"{digest}-v2/columns-000001.aesg/more", f"{digest}-v4/columns-000001.aesg~"]
        for name in foreign:
            (packs / name).parent.mkdir(parents=True, exist_ok=True)
            (packs / name).write_text("mine")
        (tmp_path / "elsewhere").mkdir()
        (packs / f"{digest}-v3").symlink_to(tmp_path / "elsewhere")
        (packs / f"{digest}-v5").mkdir()
        for name in ("LOCK", "COLUMNS", "columns-000001.aesg", "index-000002.faiss.new"):
            (packs / f"{digest}-v5" / name).write_bytes(b"")
        packs.chmod(0o700)
        for each in [*packs.rglob("*"), tmp_path / "elsewhere"]:
            os.utime(each, (0, 0))
        before = set(packs.rglob("*"))
        assert is_mapped(cache.load(path))
        gone = before - set(packs.rglob("*"))
        assert {each.relative_to(packs).parts[0] for each in gone} == {f"{digest}-v5"}

    def test_a_file_that_is_foreign_to_it_disturbs_nothing(self, path: Path) -> None:
        packs = folder() / "packs"
        packs.mkdir(parents=True, mode=0o700)
        stray = packs / "notes.txt"
        stray.write_text("mine")
        os.utime(stray, (0, 0))
        assert is_mapped(cache.load(path))
        assert stray.read_text() == "mine"


class TestManyAtOnce:
    def test_processes_that_come_at_the_same_time_share_one(self, path: Path) -> None:
        (results,) = run_child(cache_children.prepare_at_once, str(path), 3)
        assert sorted(built for built, _, _ in results) == [0, 0, 1]
        assert all(mapped for _, mapped, _ in results)
        assert all(found == list(range(COUNT)) for _, _, found in results)

    def test_threads_that_come_at_the_same_time_share_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = Mock(wraps=built)
        monkeypatch.setattr(cache, "built", build)
        packs: list[Pack] = []
        threads = [
            threading.Thread(target=lambda: packs.append(cache.indexed(cache.load(path))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert build.call_count == 1
        assert [found_in(pack) for pack in packs] == [list(range(COUNT))] * 4

    def test_who_waits_is_told(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(entries, "_WAIT_SECONDS", 0.02)
        lock = WriterLock.acquire(entries.Entry.of(read_pack(path).digest).folder / "LOCK")

        def released(step: str, done: int, total: int) -> None:
            if "waiting for another process" in step:
                lock.release()

        assert is_mapped(cache.load(path, progress=released))

    def test_a_fork_goes_on_with_a_mapped_pack(self, path: Path) -> None:
        ((found, code),) = run_child(cache_children.search_after_fork, str(path))
        assert found == list(range(COUNT))
        assert code == 0


def test_memories_attach_one_mapped_pack_and_leave_it_as_it_was(path: Path, tmp_path: Path) -> None:
    before: dict[str, bytes] = {}
    for number in range(2):
        with opened(tmp_path / f"memory{number}") as memory:
            memory.attach_pack(memory.load_pack(path))
            assert is_mapped(memory.get_attached_packs()["large"].pack)
            memory.retrieve(torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)))
            memory.detach_pack("large")
        files = {each.name: each.read_bytes() for each in entry().iterdir() if each.name != "LOCK"}
        before = before or files
        assert files == before


def test_a_reading_process_may_prepare_a_pack(path: Path, tmp_path: Path) -> None:
    opened(tmp_path / "memory").close()
    with AESGMemory.open(tmp_path / "memory") as memory:
        memory.attach_pack(memory.load_pack(path))
        pack = memory.get_attached_packs()["large"].pack
        view = kept_view(pack)
        assert is_mapped(pack) and view is not None and view.base is not None
