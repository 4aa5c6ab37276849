"""Trains a network, makes packs of two topics, and measures what a fresh copy gains by them.

Exit status: 0 if a pack lowers the perplexity of its topic, all is as before when it is detached,
and the perplexity falls less where the other pack has the higher priority; 1 otherwise.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from aesg.demo.plan import Plan
from aesg.demo.terminal import console, spoken_errors
from examples.packs.controls import control_rows
from examples.packs.measuring import Row, measure, table_of
from examples.packs.network import Network
from examples.packs.reading import Encoded, encode, make_pack
from examples.packs.topics import find_folder, read_texts

#: Two minutes on one core.
PLAN = Plan(vocab_size=2048, trunk_steps=250, memory_steps=60, heldout_tokens=20_000)
#: Most that is read of a topic.
TOPIC_TOKENS = 60_000

_HIGH, _LOW = 90, 10
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--texts", type=_FOLDER, help="A folder of texts as `fortune` reads them.")
@click.option(
    "--topics",
    nargs=2,
    default=("definitions", "computers"),
    help="Two files of it; the network is trained on all others.",
)
@click.option("--quick", is_flag=True, help="The short form: a small network, briefly trained.")
@click.option("--controls", is_flag=True, help="More rows: what should help, and what should not.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of weights and order.")
@click.option("--folder", type=_FOLDER, help="New; all is kept there. Default: nowhere.")
def main(
    texts: Path | None,
    topics: tuple[str, str],
    quick: bool,
    controls: bool,
    seed: int,
    folder: Path | None,
) -> None:
    """Make packs of two topics, and measure what each is worth to a copy of the network."""
    started = time.monotonic()
    plan = replace(PLAN, trunk_steps=100, memory_steps=40, vocab_size=1024) if quick else PLAN
    plan = replace(plan, seed=seed)
    with ExitStack() as until_done, spoken_errors():
        place = folder or Path(until_done.enter_context(TemporaryDirectory(prefix="aesg-packs-")))
        if place.exists() and any(place.iterdir()):
            raise click.UsageError(f"{place}: expected a new or an empty folder")
        os.environ.setdefault("AESG_CACHE", str(place / "cache"))  # not into the user's own
        encoded = encode(read_texts(texts or find_folder(), topics), plan, TOPIC_TOKENS)
        network = _trained(Network(place, plan), encoded)
        packs = [_packed(network, encoded, name, place) for name in topics]
        rows = _shown(fresh_rows(network, encoded, packs, place))
        problems = problems_of(rows)
        if controls:
            rows += _shown(control_rows(network, encoded, packs[0], place))
    console.print(table_of(rows, topics))
    for problem in problems:
        console.print(f"PROBLEM: {problem}")
    console.print(f"{time.monotonic() - started:.0f} seconds")
    sys.exit(1 if problems else 0)


def _trained(network: Network, encoded: Encoded) -> Network:
    console.print(f"training a network on {len(encoded.base):,} tokens of other topics")
    network.train(encoded.base)
    return network


def _packed(network: Network, encoded: Encoded, name: str, folder: Path) -> Path:
    report = make_pack(network, encoded.read[name], folder, name)
    console.print(
        f"a copy has read {name}: {report.concepts:,} concepts, {report.edges:,} edges, "
        f"{report.bytes / 1e6:.1f} MB"
    )
    return report.path


def _shown(rows: Iterator[Row]) -> list[Row]:
    """Return rows, each of which is printed when it is there: they take a while."""
    measured = []
    for row in rows:
        measured.append(row)
        console.print(f"{row.title}: " + ", ".join(f"{each:.2f}" for each in row.perplexities))
    return measured


def fresh_rows(
    network: Network, encoded: Encoded, packs: Sequence[Path], folder: Path
) -> Iterator[Row]:
    """Measure a fresh copy without a pack, with each of two, with both, and without again.

    Parameters
    ----------
    network : Network
    encoded : Encoded
    packs : sequence of Path
        Of the two topics, in their order.
    folder : Path
        Where the memory of the copy is made, which stays empty.

    Yields
    ------
    Row
    """
    first, second = packs
    model = network.copy(folder / "memory_of_fresh_copy")
    with model.memory:
        for title, attached in (
            ("none", {}),
            (first.stem, {first: _HIGH}),
            (second.stem, {second: _HIGH}),
            (f"{first.stem} ({_HIGH}), {second.stem} ({_LOW})", {first: _HIGH, second: _LOW}),
            (f"{first.stem} ({_LOW}), {second.stem} ({_HIGH})", {first: _LOW, second: _HIGH}),
            ("none, all detached", {}),
        ):
            yield measure(model, title, encoded.heldout, attached)


def problems_of(rows: Sequence[Row]) -> list[str]:
    """Return which of the claims the rows of a fresh copy do not bear out."""
    none, *alone, first_high, second_high, detached = rows
    problems = []
    for topic, pack in enumerate(alone):
        if pack.perplexities[topic] >= none.perplexities[topic]:
            problems.append(f"{pack.title}: the pack does not help on its own topic")
    for topic, (high, low) in enumerate(((first_high, second_high), (second_high, first_high))):
        if high.perplexities[topic] >= low.perplexities[topic]:
            problems.append(f"{alone[topic].title}: the higher priority does not help more")
    if detached.perplexities != none.perplexities:
        problems.append("what was detached has left traces")
    return problems


if __name__ == "__main__":
    main()
