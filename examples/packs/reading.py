"""Text becomes tokens; a copy of the network reads them, and its memory becomes a pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aesg.demo.corpus import Document, encode_documents
from aesg.demo.plan import Plan
from aesg.demo.tokenizer import Tokenizer
from aesg.demo.train import Batches, side_by_side
from aesg.packs.exporting import ExportReport
from examples.packs.network import Network, Tokens, perplexity
from examples.packs.topics import Texts


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens of pieces that were learned from the base text alone.

    Parameters
    ----------
    base : (N,) int64
        What the network is trained on.
    read, heldout : dict of str to list of batches
        By topic: what a copy reads, and what is measured.
    """

    base: Tokens
    read: dict[str, Batches]
    heldout: dict[str, Batches]


def encode(texts: Texts, plan: Plan, topic_tokens: int) -> Encoded:
    """Turn texts into tokens, at most as many as the plan asks for.

    Parameters
    ----------
    texts : Texts
    plan : Plan
    topic_tokens : int
        Most tokens to read of a topic.

    Returns
    -------
    Encoded
    """
    pieces = Tokenizer.train([piece.text for piece in texts.base], plan.vocab_size)

    def batches(documents: tuple[Document, ...], limit: int) -> Batches:
        tokens = encode_documents(pieces, documents, limit)
        return side_by_side(tokens, plan.streams, plan.segment)

    return Encoded(
        encode_documents(pieces, texts.base, plan.train_tokens),
        {each.name: batches(each.train, topic_tokens) for each in texts.topics},
        {each.name: batches(each.heldout, plan.heldout_tokens) for each in texts.topics},
    )


def make_pack(network: Network, batches: Batches, folder: Path, name: str) -> ExportReport:
    """Let a copy of a network read text once, and export all that its memory then holds.

    The weights stay as they are. What is read once is to be kept, so that a concept is born when it
    is met first.

    Parameters
    ----------
    network : Network
    batches : list of batches
        Text to read.
    folder : Path
        Where the copy's memory and the pack are made.
    name : str

    Returns
    -------
    ExportReport
        Where the pack is, and how much is in it.
    """
    model = network.copy(folder / f"memory_of_{name}", novelty_birth_threshold=1)
    with model.memory:
        perplexity(model, batches, mode="ONLINE")
        return model.memory.export_pack(folder / f"{name}.aesgpack", notes=f"Text: {name}")
