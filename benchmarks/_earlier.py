"""Release 3.0.0 in an environment of its own, beside this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RELEASE = "3.0.0"
_SIDE = Path(__file__).with_name("_earlier_side.py")


class NoReleaseError(Exception):
    """That release cannot be installed here."""


class Earlier:
    """A process in which release 3.0.0 does what it is told.

    Parameters
    ----------
    process : Popen
        Of ``_earlier_side.py``.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Let it do one thing and return what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"release {RELEASE}: expected an answer to {name}, it ended")
        return json.loads(line)


def install(folder: Path) -> Path:
    """Install the release, with the libraries of this environment, and return its interpreter.

    Parameters
    ----------
    folder : Path
        Where its environment is, or is to be.

    Raises
    ------
    NoReleaseError
        If no package index has it.
    """
    python = folder / "bin" / "python"
    library = Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(folder)}))
    if not (library / f"aesg-{RELEASE}.dist-info").exists():
        venv.create(folder, symlinks=True)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
        done = subprocess.run(
            [*command, "--quiet", f"aesg=={RELEASE}"], capture_output=True, text=True
        )
        if done.returncode:
            raise NoReleaseError(
                f"aesg=={RELEASE} cannot be installed: {done.stderr.strip()[-300:]}"
            )
        ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        (library / "borrowed.pth").write_text("".join(f"{path}\n" for path in ours))
    return python


@contextmanager
def earlier(folder: Path) -> Iterator[Earlier]:
    """Run a process with the release, installed in a folder, as long as the block runs.

    Raises
    ------
    NoReleaseError
        If it cannot be installed, or another one is imported in its place.
    """
    python = install(folder)
    # Isolated, so that no PYTHONPATH leads to this release.
    with subprocess.Popen(
        [python, "-I", "-W", "ignore", _SIDE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        side = Earlier(process)
        version, where = side("version")
        if version != RELEASE or not Path(where).is_relative_to(folder.resolve()):
            raise NoReleaseError(f"expected aesg {RELEASE} in {folder}, got {version} in {where}")
        yield side  # it ends where its standard input does
