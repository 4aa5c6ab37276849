"""A pack file appears whole or not at all, and takes the place of nothing but a pack."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aesg.errors import AESGStorageError
from aesg.packs import read_pack, write_pack
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted
from tests.pack_build import PROVENANCE, pack_columns, write_tiny

COLUMNS = pack_columns(20)


def write(path: str | os.PathLike[str], seed: int = 0, **options: Any) -> None:
    columns = pack_columns(20, seed=seed)
    write_pack(path, columns, vector_dim=4, provenance=PROVENANCE, **options)


def not_written(path: str | os.PathLike[str], what: str) -> None:
    with pytest.raises(AESGStorageError, match=r"Failed to write pack file '.*': ") as caught:
        write(path)
    assert what in caught.value.message


@pytest.mark.parametrize("fails", [disk_full, disk_broken, interrupted])
@pytest.mark.parametrize("held", [True, False])
def test_whatever_fails_the_old_file_stays_or_the_new_one_is_whole(
    tmp_path: Path, fails: Callable[[], None], held: bool
) -> None:
    path, new = tmp_path / "some.aesgpack", tmp_path / "new"
    write(new, seed=1)
    after = new.read_bytes()
    new.unlink()
    if held:
        write(path)
    before = path.read_bytes() if held else None
    with at_call(None) as calls:
        write(tmp_path / "counted")
    (tmp_path / "counted").unlink()

    for number, name in enumerate(calls.names):
        if name == "mkdir":
            continue  # the folder is there
        with (
            at_call(number, fails),
            pytest.raises(KeyboardInterrupt if fails is interrupted else AESGStorageError),
        ):
            write(path, seed=1)
        found = path.read_bytes() if path.exists() else None
        assert found in (before, after)
        assert set(os.listdir(tmp_path)) <= {"some.aesgpack"}
        if found == after and found != before:
            assert name == "fsync"  # of the folder, when all is done
            path.unlink()
            if held:
                write(path)
    assert len(calls.names) > 25


@pytest.mark.parametrize("step", range(0, 21, 5))
def test_an_interrupt_between_two_blocks_leaves_nothing(tmp_path: Path, step: int) -> None:
    left = step

    def interrupt(what: str, done: int, total: int) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "some.aesgpack", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_column_that_fails_to_be_gathered_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        dtype, shape = np.dtype("f4"), (20, 4)

        def part(self, begin: int, end: int) -> Any:
            raise ValueError("the memory is closed")

    with pytest.raises(ValueError, match="closed"):
        write_pack(
            tmp_path / "some.aesgpack",
            COLUMNS | {"keys": Broken()},
            vector_dim=4,
            provenance=PROVENANCE,
        )
    assert not list(tmp_path.iterdir())


def test_a_pack_has_its_name_when_it_is_on_the_disk_and_then_the_name_is(tmp_path: Path) -> None:
    with at_call(None) as calls:
        write(tmp_path / "some.aesgpack")
    assert calls.names[-4:] == ["write", "fsync", "replace", "fsync"]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "whole")
    take = os.write
    monkeypatch.setattr(os, "write", lambda file, piece: take(file, piece[:7]))
    write(tmp_path / "piecemeal")
    assert (tmp_path / "piecemeal").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_pack_takes_the_place_of_a_pack_with_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "some.aesgpack"
    write(path)
    path.chmod(0o640)
    held = read_pack(path)

    write(path, seed=1)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert read_pack(path).digest != held.digest


def test_a_new_pack_has_the_permissions_that_new_files_have(tmp_path: Path) -> None:
    write(tmp_path / "some.aesgpack")
    (tmp_path / "other").touch()

    assert (tmp_path / "some.aesgpack").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "some.aesgpack"
    path.touch()
    write(path)
    assert read_pack(path).node_count == 20


def test_a_file_that_is_no_pack_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("a long day's work")
    not_written(path, "expected no file or a pack to replace, got b'a long d'")
    assert path.read_text() == "a long day's work"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        not_written(path, "expected the path of a file")
    not_written("with\0zero", "expected the path of a file")
    not_written("", "expected the path of a file")


def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *arguments: Any) -> int:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "open", refuse)
    not_written(tmp_path / "some.aesgpack", f"Permission denied: '{tmp_path}/some.aesgpack'")


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    write(tmp_path / "real.aesgpack")
    (tmp_path / "link").symlink_to("real.aesgpack")

    write(tmp_path / "link", seed=1)

    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(
        read_pack(tmp_path / "real.aesgpack").columns["ids"], pack_columns(20, seed=1)["ids"]
    )


def test_folders_that_are_missing_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("./packs/new/some.aesgpack")
    assert read_pack("packs/new/some.aesgpack").name == "some"


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    not_written(tmp_path / "file" / "some.aesgpack", "file")


def test_a_pack_that_is_read_may_be_replaced_from_itself(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "some.aesgpack")
    before = path.read_bytes()
    pack = read_pack(path)

    write_pack(path, pack.columns, vector_dim=4, provenance=pack.provenance)

    assert path.read_bytes() == before
