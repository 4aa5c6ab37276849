"""What the benchmarks that start from a finished demo share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from aesg.demo.plan import Workspace
from aesg.models import AESGDecoderLM
from benchmarks.suite import Result

_FOLDER = Path("aesg_demo")


def finished_demo() -> Workspace | None:
    """Return the workspace of the demo that was run here; None where there is none."""
    workspace = Workspace(_FOLDER.absolute())
    return workspace if workspace.checkpoint.exists() else None


def without_demo(name: str, title: str) -> Result:
    """Return the result of a benchmark that finds no finished demo."""
    return Result(name, title, skipped=("no finished demo: run `make demo` first",))


def trained_weights(workspace: Workspace) -> dict[str, Tensor]:
    """Return the weights that the demo ended with."""
    weights: dict[str, Tensor] = torch.load(workspace.checkpoint, weights_only=True)["model"]
    return weights


def with_weights(
    workspace: Workspace,
    weights: dict[str, Tensor],
    memory: Path,
    kind: type[AESGDecoderLM] = AESGDecoderLM,
) -> AESGDecoderLM:
    """Return a model with trained weights and a memory of its own."""
    model = kind.small(workspace.plan.vocab_size, str(memory))
    model.load_state_dict(weights)
    return model
