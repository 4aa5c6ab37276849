"""Runs one benchmark in this process.

    python -m benchmarks.suite.one NAME SCRATCH [--quick] [--no-peers]

The result goes to SCRATCH, with all else. `benchmarks.suite.run` starts this, with the threads of
all libraries set.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.suite.peers import Peers
from benchmarks.suite.registry import Settings, all_benchmarks

RESULT = "result.json"
TURNS, TURNS_QUICK = 7, 2


@click.command()
@click.argument("name")
@click.argument("scratch", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True)
@click.option("--peers/--no-peers", "with_peers", default=True)
def main(name: str, scratch: Path, quick: bool, with_peers: bool) -> None:
    """Run a benchmark and write down what it came to."""
    import torch

    torch.set_num_threads(1)
    known, _ = all_benchmarks()
    peers = Peers(scratch) if with_peers else None
    turns = TURNS_QUICK if quick else TURNS
    settings = Settings(quick, turns, scratch, peers, lambda text: click.echo(f"  {text}"))
    try:
        result = known[name].run(settings)
    finally:
        if peers is not None:
            peers.close()
    (scratch / RESULT).write_text(json.dumps(result.as_json()))


if __name__ == "__main__":
    main()
