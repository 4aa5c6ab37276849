"""Runs the commands of `tools` for their tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


def command(
    tool: str, *arguments: object, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a command as a module, to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"tools.{tool}", *map(str, arguments)],
        cwd=_ROOT,
        env=os.environ | {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def let_others_in(path: Path) -> None:
    """Open the directories that pytest made for its own user, down to a path, to everybody."""
    above = [path, *path.parents]
    names = [parent.name.startswith("pytest-of-") for parent in above]
    if os.getuid() or not any(names):
        pytest.skip("NOT TESTED: needs root, to become somebody else, and pytest's own directory")
    for parent in above[: names.index(True) + 1]:
        parent.chmod(0o755)
