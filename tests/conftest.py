"""What every test starts from: a directory of its own, one thread, no clock."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before torch or faiss is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A deadline measures the machine, and is missed at random on a busy one.
settings.register_profile("aesg", deadline=None)
settings.load_profile("aesg")


def pytest_configure() -> None:
    # A shell ignores Ctrl-C for what it starts in the background, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``./aesg_memory``, the default directory of a memory, out of the repository."""
    monkeypatch.chdir(tmp_path)
