"""The folder that a benchmark writes to: what is its own there, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aesg._files import write_whole
from aesg.errors import AESGConfigError, AESGStorageError
from storage_backends.errors import StoreError, StoreLockedError
from storage_backends.locks import WriterLock, writer_of

#: What the benchmark's own files say of who wrote them.
MARK = "aesg.benchmark"
#: The first line of a report.
HEADING = "# Colorization with and without memory"

_RUNS, _SETTINGS, _LOCK, _SAMPLES = "runs", "settings.json", "LOCK", "samples"
_REPORT, _RESULTS, _PLOTS = "benchmark_report.md", "results.json", "plots.png"
_STRIP, _SEED, _EARLIER = (
    re.compile(pattern) for pattern in (r"sample_\d{3}\.png", r"seed_\d+", r"runs\.\d+")
)


class Output:
    """The folder of a benchmark.

    Parameters
    ----------
    folder : str or path

    Raises
    ------
    AESGConfigError
        If it is no path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise AESGConfigError(f"output_dir: expected the path of a folder, got {folder!r}")
        self.folder = Path(folder)
        self.plots = self.folder / _PLOTS
        self._runs = self.folder / _RUNS
        self._samples = self.folder / _SAMPLES

    def seed(self, seed: int) -> Path:
        """Return the folder of a seed."""
        return self._runs / f"seed_{seed}"

    def holds(self, file: Path) -> bool:
        """Tell whether a file lies where the benchmark writes."""
        path, root = file.resolve(), self.folder.resolve()
        if not path.is_relative_to(root) or path == root:
            return False
        first = path.relative_to(root).parts[0]
        return first in (_RUNS, _SAMPLES, _PLOTS) or bool(_EARLIER.fullmatch(first))

    def check(self) -> None:
        """Look for files that somebody else has put where the benchmark writes.

        Raises
        ------
        AESGStorageError
            If there are any, which are left as they are, or the path is not that of a folder.
        """
        for folder in (self.folder, self._runs, self._samples):
            if folder.exists() and not folder.is_dir():
                raise AESGStorageError(
                    f"output_dir: expected '{folder}' to be a folder, got a file"
                )
        tests = {_REPORT: _is_report, _RESULTS: _is_record, _PLOTS: is_picture}
        own = {self.folder / name: test for name, test in tests.items()}
        own |= dict.fromkeys(self._strips(), is_picture)
        for file, is_own in own.items():
            if os.path.lexists(file) and not is_own(file):
                raise AESGStorageError(
                    f"output_dir: expected a folder without '{file.name}' of something else, got "
                    f"'{file}'. Move it, or choose another output_dir"
                )
        self._check_runs()

    def _check_runs(self) -> None:
        settings = self._runs / _SETTINGS
        if settings.exists():
            fitting = _is_record(settings)
        else:
            fitting = not self._runs.exists() or all(
                each.name == _LOCK for each in self._runs.iterdir()
            )
        if not fitting:
            raise AESGStorageError(
                f"output_dir: expected '{self._runs}' to be new or of an earlier benchmark, got a "
                f"folder that is not empty and has no '{_SETTINGS}' of a benchmark"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the folder to this benchmark for a block.

        Raises
        ------
        AESGStorageError
            If another benchmark is at work there, or the folder cannot be made or locked.
        """
        self._runs.mkdir(parents=True, exist_ok=True)
        file = self._runs / _LOCK
        try:
            lock = WriterLock.acquire(file)
        except StoreLockedError as error:
            raise AESGStorageError(
                f"output_dir: expected '{self._runs}' to be free, got a folder in which another "
                f"benchmark is at work, that of {writer_of(file)}. Let it end, or choose another "
                "output_dir"
            ) from error
        except StoreError as error:
            raise AESGStorageError(f"Failed to lock '{self._runs}': {error}") from error
        try:
            self.check()  # again, now that nobody else changes it
            yield
        finally:
            lock.release()

    def prepare(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Let the folder hold only what belongs to these settings and pictures.

        What is of others, or not to be gone on with, moves to ``runs.1``, ``runs.2``, ...

        Parameters
        ----------
        identity : mapping
            What a run that goes on has to share with the one that was stopped.
        resume : bool
        """
        same = json.dumps({"written_by": MARK, **identity}, indent=2).encode()
        file = self._runs / _SETTINGS
        if file.exists() and not (resume and file.read_bytes() == same):
            moved = self._set_aside()
            if resume:
                warnings.warn(
                    f"'{self._runs}' is of other settings or pictures: the benchmark starts anew. "
                    f"What was there is in '{moved}'",
                    stacklevel=4,
                )
        write_whole(file, same, "write the settings of a benchmark")

    def _set_aside(self) -> Path:
        """Move the benchmark that is there, with its report, to a folder of its own."""
        number = 1
        while os.path.lexists(aside := self.folder / f"{_RUNS}.{number}"):
            number += 1
        (aside / _SAMPLES).mkdir(parents=True)
        for file in self._strips():
            file.rename(aside / _SAMPLES / file.name)
        seeds = [each for each in self._runs.iterdir() if _SEED.fullmatch(each.name)]
        files = [self.folder / name for name in (_REPORT, _RESULTS, _PLOTS)]
        # the settings last: a call that is stopped before them finds the rest to be of others too
        for each in (*files, *seeds, self._runs / _SETTINGS):
            if each.exists():
                each.rename(aside / each.name)
        return aside

    def write_samples(self, strips: Sequence[Path]) -> list[str]:
        """Put strips, and no others, beside the report; return their names as it may give them."""
        self._samples.mkdir(exist_ok=True)
        for old in self._strips():
            old.unlink()
        for strip in strips:
            write_whole(self._samples / strip.name, strip.read_bytes(), "write a sample")
        return [f"{_SAMPLES}/{strip.name}" for strip in strips]

    def remove_report(self) -> None:
        """Remove report and plots: what is written next may be of other seeds."""
        for name in (_REPORT, _PLOTS):
            (self.folder / name).unlink(missing_ok=True)

    def write_report(self, record: Mapping[str, Any], report: str) -> None:
        """Write what was found, as JSON and in words."""
        text = json.dumps({"written_by": MARK, **record}, indent=2, allow_nan=False)
        write_whole(self.folder / _RESULTS, text.encode(), "write the results")
        write_whole(self.folder / _REPORT, report.encode(), "write the report")

    def _strips(self) -> list[Path]:
        return strips_in(self._samples)


def strips_in(folder: Path) -> list[Path]:
    """Return the strips of a folder in their order; none where there is no folder."""
    return sorted(each for each in folder.glob("sample_*.png") if _STRIP.fullmatch(each.name))


def is_picture(file: Path) -> bool:
    """Tell whether a file is a picture that the benchmark drew."""
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            return image.info.get("Software") == MARK
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return False


def _is_record(file: Path) -> bool:
    """Tell whether a file is JSON that the benchmark wrote."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("written_by") == MARK


def _is_report(file: Path) -> bool:
    """Tell whether a file is a report of the benchmark."""
    wanted = HEADING.encode()
    try:
        with file.open("rb") as opened:
            return opened.read(len(wanted)) == wanted
    except OSError:
        return False
