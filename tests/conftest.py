"""What every test starts from: a directory of its own, one thread, no clock."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch or faiss is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from importlib.util import find_spec

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from aesg import AESGMemory, RetrievedContext

# A deadline measures the machine, and is missed at random on a busy one.
settings.register_profile("aesg", deadline=None)
settings.load_profile("aesg")


#: Of the operators that torchvision looks for when it is imported. Without them, as beside a torch
#: that was built for another machine, neither it nor torchmetrics nor Lightning can be imported.
_OPERATORS = ("nms", "qnms")

#: The definitions last as long as this.
_torchvision: object = None


def _let_torchvision_be_imported() -> None:
    global _torchvision
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import torch

        _torchvision = library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")


def pytest_configure() -> None:
    # A shell ignores Ctrl-C for what it starts in the background, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if find_spec("torchvision") is not None:
        _let_torchvision_be_imported()


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``./aesg_memory``, the default directory of a memory, out of the repository.

    And what processes share of packs out of the home folder.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AESG_CACHE", str(tmp_path / "cache_of_packs"))


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[RetrievedContext]:
    """Collect what every forward pass, and every step of one, retrieves."""
    from aesg import AESGMemory  # here, as tests of the storage do without torch

    seen: list[RetrievedContext] = []
    recall = AESGMemory.recall

    def watched(self: AESGMemory, *arguments: Any, **options: Any) -> RetrievedContext:
        seen.append(recall(self, *arguments, **options))
        return seen[-1]

    monkeypatch.setattr(AESGMemory, "recall", watched)
    return seen
