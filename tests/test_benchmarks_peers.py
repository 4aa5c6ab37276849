"""Environments of peers, and the processes in them; nothing is fetched."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.suite import NoPeerError, Peer, Peers, environments, peers
from benchmarks.suite.environments import RECIPES, Recipe, installed

PROGRAM = """
import time
import numpy as np

kept = []

def keep(value):
    kept.append(value)
    return len(kept)

def doubled(array, by=2):
    print("a library says something")
    return array * by

def slow():
    time.sleep(0.05)
    return np.float32(0.5)

def fail():
    raise ValueError("no such thing")

def die():
    import os, sys
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(3)
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    program = tmp_path / "numpy.py"  # of the name of a library that it uses
    program.write_text(PROGRAM)
    with Peer("numpy", Path(sys.executable), tmp_path, program) as process:
        yield process


def wheel(folder: Path, name: str, version: str) -> str:
    """Write a package of one line and return its file."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return str(path)


def said(python: Path, code: str) -> str:
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class TestPeer:
    def test_it_keeps_what_it_was_told(self, peer: Peer) -> None:
        assert [peer("keep", [1, "a", None]), peer("keep", {"b": 2.5})] == [1, 2]

    def test_arrays_go_there_and_come_back(self, peer: Peer) -> None:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        found = peer("doubled", array, 3)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array * 3)

    def test_what_it_spent_is_told_apart_from_what_it_waited(self, peer: Peer) -> None:
        spent = peer.timed("slow")
        assert spent.answer == 0.5
        assert spent.cpu < 0.04 <= spent.wall

    def test_an_error_is_told_and_it_goes_on(self, peer: Peer) -> None:
        with pytest.raises(NoPeerError, match="numpy: fail failed: ValueError: no such thing"):
            peer("fail")
        assert peer("keep", 1) == 1

    def test_its_end_is_told_with_what_it_said_last(self, peer: Peer) -> None:
        with pytest.raises(NoPeerError, match="expected an answer to die, it ended: out of luck"):
            peer("die")
        with pytest.raises(NoPeerError, match="it ended"):
            peer("keep", 1)

    def test_one_that_never_answers_is_ended(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(peers, "_ANSWER_SECONDS", 0.01)
        with pytest.raises(NoPeerError, match="it ended"):
            peer("slow")


class TestEnvironments:
    def test_one_has_what_its_recipe_names_and_nothing_of_ours_and_is_made_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = Recipe((wheel(tmp_path, "other", "1.5"),))
        python = installed(recipe, tmp_path / "made")
        assert said(python, "import other; print(other.version)") == "1.5"
        assert (
            said(python, "from importlib.util import find_spec as f; print(f('numpy'))") == "None"
        )
        monkeypatch.setattr(environments, "_pip", lambda *_: pytest.fail("it was there"))
        assert installed(recipe, tmp_path / "made") == python

    def test_one_that_borrows_has_our_libraries_behind_its_own(self, tmp_path: Path) -> None:
        recipe = Recipe((wheel(tmp_path, "numpy", "0.1"),), borrows=True)
        python = installed(recipe, tmp_path / "made")
        assert said(python, "import numpy; print(numpy.version)") == "0.1"
        assert said(python, "import click; print(click.__name__)") == "click"

    @pytest.mark.parametrize("spoiled", ["another recipe", "half made"])
    def test_it_is_made_again_where_it_is_not_what_is_wanted(
        self, tmp_path: Path, spoiled: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, folder = list[Recipe](), tmp_path / "made"
        monkeypatch.setattr(environments, "_pip", lambda recipe, _: made.append(recipe))
        recipe = Recipe(("other==1.5",))
        installed(recipe if spoiled == "half made" else Recipe(("other==1.4",)), folder)
        (folder / "left").touch()
        if spoiled == "half made":
            (folder / "made.json").unlink()
        assert installed(recipe, folder).exists()
        assert len(made) == 2 and made[1] == recipe
        assert not (folder / "left").exists()

    def test_what_cannot_be_installed_is_told_as_pip_said_it(self, tmp_path: Path) -> None:
        with pytest.raises(
            NoPeerError, match=r"missing.whl cannot be installed: ERROR: .*missing.whl"
        ):
            installed(Recipe((str(tmp_path / "missing.whl"),)), tmp_path / "made")
        assert not (tmp_path / "made" / "made.json").exists()

    def test_an_installation_that_takes_too_long_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "_INSTALL_SECONDS", 0.01)
        with pytest.raises(NoPeerError, match="is not installed after 0 s"):
            installed(Recipe((wheel(tmp_path, "other", "1.5"),)), tmp_path / "made")

    def test_every_package_has_its_version(self) -> None:
        pins = [pin for recipe in RECIPES.values() for pin in recipe.pins]
        assert pins
        assert [pin for pin in pins if "==" not in pin] == []


def test_a_peer_is_one_process_until_all_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "installed", lambda *_: Path(sys.executable))
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    (tmp_path / "sqlite_vec.py").write_text(PROGRAM)
    all_peers = Peers(tmp_path / "scratch")
    first = all_peers.get("sqlite-vec")
    assert first("keep", 1) == 1
    assert all_peers.get("sqlite-vec") is first
    all_peers.close()
    again = all_peers.get("sqlite-vec")
    assert again("keep", 1) == 1
    all_peers.close()


def test_every_peer_has_a_program() -> None:
    names = {name.replace("-", "_").replace(".", "_") for name in RECIPES}
    assert names <= {path.stem for path in peers.PROGRAMS.glob("*.py")}
