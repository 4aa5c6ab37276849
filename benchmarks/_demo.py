"""What the benchmarks that start from a finished demo share."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from rich.console import Console
from torch import Tensor

from aesg.demo.plan import Workspace
from aesg.models import AESGDecoderLM

console = Console()

folder_option = click.option(
    "--folder", default="aesg_demo", show_default=True, type=click.Path(path_type=Path)
)


def finished_demo(folder: Path) -> Workspace | None:
    """Return the workspace of a finished demo; say so and return None where there is none."""
    workspace = Workspace(folder.absolute())
    if workspace.checkpoint.exists():
        return workspace
    console.print(f"SKIPPED: no finished demo in {folder}; run `python -m aesg.demo` first")
    return None


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
