"""A folder that is replaced is the old one or the new one, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aesg.checkpoint.folders import replaced, standing, sweep
from storage_backends.errors import StoreError, StoreFullError, StoreReadOnlyError
from tests import checkpoint_children as children
from tests.checkpoint_children import accept, fill
from tests.failing_calls import at_call, disk_broken, disk_full
from tests.memory_processes import child, run_child


def make(place: Path, content: str) -> None:
    with replaced(place, accept) as folder:
        fill(folder, content)


def content_of(place: Path) -> str:
    """Return what both files say."""
    first, second = ((place / name).read_text() for name in ("a", "b"))
    assert first == second
    return first


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "first" / "place", "new")
    assert content_of(tmp_path / "runs" / "first" / "place") == "new"
    assert os.listdir(tmp_path / "runs" / "first") == ["place"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path / "place", "old")
    (tmp_path / "place" / "more").touch()
    make(tmp_path / "place", "new")
    assert sorted(os.listdir(tmp_path / "place")) == ["a", "b"]
    assert content_of(tmp_path / "place") == "new"
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_folder(
    tmp_path: Path, error: type[BaseException]
) -> None:
    make(tmp_path / "place", "old")
    with pytest.raises(error), replaced(tmp_path / "place", accept) as folder:
        (folder / "a").touch()
        raise error
    assert content_of(tmp_path / "place") == "old"
    assert os.listdir(tmp_path) == ["place"]


def test_what_is_not_accepted_stays_and_nothing_is_made(tmp_path: Path) -> None:
    def refuse(place: Path) -> None:
        raise StoreError(f"{place}: precious")

    make(tmp_path / "place", "old")
    with pytest.raises(StoreError, match="precious"), replaced(tmp_path / "place", refuse):
        pytest.fail("nothing is to be made")
    assert content_of(tmp_path / "place") == "old"
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("fails", [disk_full, disk_broken])
def test_a_disk_that_fails_at_any_call_leaves_a_whole_folder_and_nothing_else(
    tmp_path: Path, fails: Callable[[], None]
) -> None:
    with at_call(None) as calls:
        make(tmp_path / "place", "old 0")
        make(tmp_path / "place", "old 1")
    make(tmp_path / "place", "old")
    failed = 0
    for number in range(len(calls.names) // 2):
        with at_call(number, fails):
            try:
                make(tmp_path / "place", f"new {number}")
            except (OSError, StoreError):
                failed += 1
        assert content_of(standing(tmp_path / "place")) in ("old", f"new {number}")
        make(tmp_path / "place", "old")
        assert os.listdir(tmp_path) == ["place"]
    assert failed > 5


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with at_call(0, disk_full), pytest.raises(StoreFullError):
        make(tmp_path / "place", "new")


def test_a_process_that_dies_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    make(place, "old")
    [count] = run_child(children.replace, str(place), "old")
    found = set()
    for number in range(count):
        with child(children.replace, str(place), "new", number) as dying:
            assert dying.said() == []
        gap = not place.exists()
        content = content_of(standing(place))
        assert content == "new" if gap else content in ("old", "new")
        found.add((gap, content))
        make(place, "old")
        assert os.listdir(tmp_path) == ["place"]
    assert found == {(False, "old"), (True, "new"), (False, "new")}


def test_a_process_that_dies_before_the_first_folder_is_whole_leaves_none(tmp_path: Path) -> None:
    with child(children.replace, str(tmp_path / "place"), "new", 4) as dying:
        assert dying.said() == []
    assert not standing(tmp_path / "place").exists()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_dead_process_left_of_another_folder_is_put_right_too(tmp_path: Path) -> None:
    hidden = tmp_path / ".other.saving-0a1b2c3d"
    fill(_made(hidden / "new"), "new")
    fill(_made(hidden / "old"), "old")
    make(tmp_path / "place", "mine")
    assert content_of(tmp_path / "other") == "new"
    assert sorted(os.listdir(tmp_path)) == ["other", "place"]


@pytest.mark.parametrize("name", [".notes.saving-draft", ".notes.saving-0a1b2c3d"])
def test_a_hidden_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    fill(_made(tmp_path / name / "thesis"), "precious")
    make(tmp_path / "place", "new")
    assert content_of(tmp_path / name / "thesis") == "precious"


def test_a_folder_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    fill(_made(tmp_path / ".place.saving-0a1b2c3d" / "old"), "old")
    assert not standing(tmp_path / "place").exists()
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_making_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "place", "old")
    with child(children.hold, str(tmp_path / "place")) as other:
        hidden = other.next()
        make(tmp_path / "place", "mine")
        assert sorted(os.listdir(tmp_path)) == sorted([hidden, "place"])
        assert content_of(tmp_path / "place") == "mine"
        other.tell("go on")
        assert other.said() == ["done"]
    assert content_of(tmp_path / "place") == "held"
    assert os.listdir(tmp_path) == ["place"]


def test_two_processes_may_replace_one_folder(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    with (
        child(children.take_turns, place, "x", 20) as one,
        child(children.take_turns, place, "y", 20) as two,
    ):
        assert one.said() == ["done"]
        assert two.said() == ["done"]
    assert content_of(tmp_path / "place") in ("x19", "y19")
    assert os.listdir(tmp_path) == ["place"]


def test_a_cut_off_exchange_on_a_disk_that_may_not_be_written_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / ".place.saving-0a1b2c3d"
    fill(_made(hidden / "new"), "new")
    fill(_made(hidden / "old"), "old")

    def read_only(*arguments: object) -> None:
        raise StoreReadOnlyError("a disk for reading only")

    monkeypatch.setattr("storage_backends.locks.WriterLock.acquire", read_only)
    assert standing(tmp_path / "place") == hidden / "new"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
