"""Ctrl-C while an environment is closed or opened does not make its directory unusable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest

from storage_backends import environment
from storage_backends.lmdb_store import LMDBStore


class _Interrupted:
    """What LMDB has open, where Ctrl-C comes when it is closed for the first time."""

    def __init__(self, env: Any, moment: str) -> None:
        self._env, self._moment = env, moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def close(self) -> None:
        moment, self._moment = self._moment, ""
        if moment != "before":
            self._env.close()
        if moment:
            raise KeyboardInterrupt


def opened(directory: Path, *, read_only: bool) -> LMDBStore:
    return LMDBStore.open(directory, read_only=read_only, create=not read_only)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    opened(tmp_path / "memory", read_only=False).close()
    return tmp_path / "memory"


def interrupt_closing(directory: Path, moment: str) -> None:
    every = environment._shared.values()
    [shared] = [each for each in every if each.data_file.is_relative_to(directory)]
    shared._env = cast(Any, _Interrupted(shared._env, moment))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_closing(directory: Path, moment: str) -> None:
    store = opened(directory, read_only=True)
    interrupt_closing(directory, moment)
    with pytest.raises(KeyboardInterrupt):
        store.close()
    for read_only in (True, False):
        opened(directory, read_only=read_only).close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_opening_for_writing_what_is_open_for_reading(directory: Path, moment: str) -> None:
    with opened(directory, read_only=True):
        interrupt_closing(directory, moment)
        with pytest.raises(KeyboardInterrupt):
            opened(directory, read_only=False)
        for read_only in (True, False):
            opened(directory, read_only=read_only).close()


def test_examining(directory: Path) -> None:
    interrupted = patch.object(environment, "require_sound_records", side_effect=KeyboardInterrupt)
    (directory / "gen-000001" / "STAMP").unlink()
    with interrupted as examine:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                opened(directory, read_only=True)
        assert examine.call_count == 2
    opened(directory, read_only=True).close()
