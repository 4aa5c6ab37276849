"""Virtual environments for what others offer, beside this one."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_INSTALL_SECONDS = 600


class NoPeerError(Exception):
    """A peer cannot be installed or does not run here."""


@dataclass(frozen=True)
class Recipe:
    """What is installed for a peer.

    Parameters
    ----------
    pins : tuple of str
        Packages with their versions.
    borrows : bool
        Whether the libraries of this environment are behind them: of torch, faiss and numpy no
        second copy is installed, and none of another version is compared.
    """

    pins: tuple[str, ...]
    borrows: bool = False


NUMPY, PYARROW = f"numpy=={version('numpy')}", "pyarrow==24.0.0"
RECIPES = {
    "aesg-3.0.0": Recipe(("aesg==3.0.0",), borrows=True),
    "chromadb": Recipe(("chromadb==1.5.9",)),
    "duckdb": Recipe(
        (
            "duckdb==1.5.5",
            "duckdb-extension-vss==1.5.5",
            "duckdb-extensions==1.5.5",
            NUMPY,
            PYARROW,
        )
    ),
    "hnswlib": Recipe(("hnswlib==0.8.0", NUMPY)),
    "kuzu": Recipe(("kuzu==0.11.3", NUMPY, PYARROW)),
    "ladybug": Recipe(("ladybug==0.22.0", NUMPY, PYARROW)),
    "lancedb": Recipe(("lancedb==0.40.0",)),
    "memorizing-transformers": Recipe(
        ("memorizing-transformers-pytorch==0.4.1", "einops==0.8.2", "einops-exts==0.0.4"),
        borrows=True,
    ),
    "sqlite-vec": Recipe(("sqlite-vec==0.1.9", "apsw==3.54.1.0", NUMPY)),
    "usearch": Recipe(("usearch==2.26.6",)),
    "zvec": Recipe(("zvec==0.8.0",)),
}


def installed(recipe: Recipe, folder: Path) -> Path:
    """Install what a recipe names, unless it is, and return the environment's interpreter.

    Raises
    ------
    NoPeerError
        If that fails: what pip said last.
    """
    made = folder / "made.json"
    wanted = json.dumps([recipe.pins, recipe.borrows, sys.version, sys.prefix])
    with _alone(folder):
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, symlinks=True)
            _pip(recipe, folder)
            if recipe.borrows:
                _borrow(folder)
            made.write_text(wanted)
    return folder / "bin" / "python"


def _pip(recipe: Recipe, folder: Path) -> None:
    """Install the packages, without what they depend on if that is borrowed."""
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    options += ["--no-deps"] if recipe.borrows else []
    try:
        done = subprocess.run(
            [*command, *options, *recipe.pins],
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise NoPeerError(
            f"{recipe.pins[0]} is not installed after {error.timeout:.0f} s"
        ) from error
    if done.returncode:
        last = ["pip said nothing", *done.stderr.strip().splitlines()][-1]
        raise NoPeerError(f"{recipe.pins[0]} cannot be installed: {last[-300:]}")


def _borrow(folder: Path) -> None:
    library = Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(folder)}))
    ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (library / "borrowed.pth").write_text("".join(f"{path}\n" for path in ours))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same environment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
