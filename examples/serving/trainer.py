"""The trainer: publishes an edition every few milliseconds and learns in between, until stopped.

It prints each edition with the moment at which it was acknowledged, which is when `remember`
returned: from then on every reader must show it.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click
import torch

from aesg import AESGConfig, AESGMemory
from examples.serving.editions import (
    FRESH_FACTS,
    ROOM,
    ROWS,
    SAME,
    WIDTH,
    facts,
    keys_of,
    payload_of,
)

_PAUSE_SECONDS = 0.05
#: Patterns that the trainer meets again and again, so many at a time.
_PATTERNS, _WALK = 64, 8


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--facts", "count", default=30_000, help="Concepts to start with.", show_default=True)
@click.option("--after", default=0, help="The last edition that was acknowledged.")
def main(directory: Path, count: int, after: int) -> None:
    """Write the memory in DIRECTORY until SIGTERM comes."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, _leave)
    config = AESGConfig(
        vector_dim=WIDTH,
        max_concepts=count + ROOM,
        survival_threshold_relevance=0.0,  # prune for room alone
    )
    with AESGMemory(directory, config) as memory:
        if not memory.storage.node_count:
            memory.remember(facts(0, count), payloads=[f"fact {i}" for i in range(count)])
        train(memory, after)


def train(memory: AESGMemory, edition: int) -> None:
    """Publish and learn for ever, from the edition on that the memory does not hold."""
    if edition and not holds(memory, edition):
        raise click.ClickException(f"edition {edition} was acknowledged and is not in the memory")
    while holds(memory, edition + 1):  # committed, and not acknowledged any more
        edition += 1
    patterns = torch.from_numpy(facts(0, _PATTERNS))
    while True:
        edition += 1
        payloads = [payload_of(edition, row) for row in range(ROWS)]
        memory.remember(keys_of(edition), [edition] * ROWS, payloads)
        print(edition, time.monotonic(), flush=True)
        memory.remember(facts(edition, FRESH_FACTS))
        walk = torch.arange(edition, edition + _WALK + 1) % _PATTERNS
        context = memory.recall(patterns[walk[:-1]].unsqueeze(0))  # (1, T, D)
        memory.defer(context, walk[1:])  # each pattern leads to the next
        memory.update_topology()
        time.sleep(_PAUSE_SECONDS)


def holds(memory: AESGMemory, edition: int) -> bool:
    """Return whether a memory holds an edition."""
    found = memory.recall(torch.from_numpy(keys_of(edition)), top_k=1)
    same = (found.value_ids[:, 0] == edition) & (found.best_cosine >= SAME)  # (ROWS,)
    return bool(same.any())


def _leave(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(0)  # through the `with` block, which saves


if __name__ == "__main__":
    main()
