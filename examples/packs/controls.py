"""Where a pack should not help, and where it should still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from aesg import AESGDecoderLM, AESGTrainer
from aesg.demo.plan import Plan
from aesg.packs import read_pack, write_pack
from examples.packs.measuring import Row, measure
from examples.packs.network import Network, Tokens, training_pairs
from examples.packs.reading import Encoded, make_pack


def control_rows(network: Network, encoded: Encoded, pack: Path, folder: Path) -> Iterator[Row]:
    """Measure the pack of the first topic otherwise than it was meant, and what it is up against.

    Parameters
    ----------
    network : Network
        That made the pack.
    encoded : Encoded
    pack : Path
    folder : Path
        For what is made on the way.

    Yields
    ------
    Row
    """
    topic = pack.stem
    own = network.copy(network.memory, memory_mode="INFERENCE")
    with own.memory:
        yield measure(own, "none; the network's own memory", encoded.heldout, {})
        yield measure(own, f"{topic}; the network's own memory", encoded.heldout, {pack: 50})

    model = network.copy(folder / "memory_of_controls")
    with model.memory:
        shuffled = _with_shuffled_values(pack, folder / "shuffled.aesgpack")
        yield measure(model, f"{topic}, values shuffled", encoded.heldout, {shuffled: 50})
        other = Network(folder / "other", replace(network.plan, seed=network.plan.seed + 1))
        other.train(encoded.base)
        strange = make_pack(other, encoded.read[topic], other.folder, topic).path
        yield measure(model, f"{topic}, by another network", encoded.heldout, {strange: 50})
        _train_on(model, encoded.base, network.plan)
        yield measure(model, "none; trained as long again", encoded.heldout, {})
        yield measure(model, f"{topic}; trained as long again", encoded.heldout, {pack: 50})


def _train_on(model: AESGDecoderLM, tokens: Tokens, plan: Plan) -> None:
    """Train the network of a copy, all but the way in which it asks, for as many steps again."""
    pairs = training_pairs(tokens, plan)[::-1]
    with model.without_memory():
        AESGTrainer(model, batch_size=plan.batch, learning_rate=plan.learning_rate).fit(pairs)


def _with_shuffled_values(pack: Path, path: Path) -> Path:
    """Write a pack with the same keys and edges, and each other's values."""
    held = read_pack(pack)
    values = np.random.default_rng(0).permutation(held.columns["value_ids"])
    columns = {**held.columns, "value_ids": values}
    write_pack(path, columns, vector_dim=held.vector_dim, provenance=held.provenance)
    return path
