"""The demo's second process: opens the memory read-only and retrieves.

``python -m aesg.demo.read FOLDER``
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
from rich.table import Table

from aesg.context import RetrievedContext
from aesg.demo.plan import Workspace
from aesg.demo.terminal import console, spoken_errors
from aesg.demo.tokenizer import Tokenizer
from aesg.demo.train import load_model

_PROMPT = "import os\nimport sys\n\n\nclass"
_SHOWN = 5


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Ask the memory in FOLDER what followed text like a prompt, and print the answer.

    Exits with 1 if nothing was found.
    """
    workspace = Workspace(folder)
    with spoken_errors():
        tokenizer = workspace.tokenizer
        model = load_model(workspace, memory_mode="INFERENCE").eval()
        tokens = torch.from_numpy(tokenizer.encode(_PROMPT)).unsqueeze(0)
        with model.memory, torch.no_grad():
            context = model.memory.recall(model.queries(tokens)[0, -1])
            count = model.memory.storage.node_count
    console.print(_table(context, tokenizer, f"Retrieved for {_PROMPT!r} from {count} concepts"))
    sys.exit(0 if len(context.concept_ids) else 1)


def _table(context: RetrievedContext, tokenizer: Tokenizer, title: str) -> Table:
    """Return the most active concepts of one query."""
    table = Table("concept", "similarity", "attention", "what came next", title=title)
    for place, concept_id in enumerate(context.concept_ids[:_SHOWN]):
        table.add_row(
            str(concept_id),
            f"{context.found.cosines[0, place]:.2f}",
            f"{context.weights[place]:.2f}",
            repr(tokenizer.decode([int(context.value_ids[place])])),
        )
    return table


if __name__ == "__main__":
    main()
