"""What text costs a model, with packs attached and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from aesg import AESGDecoderLM
from aesg.demo.train import Batches
from examples.packs.network import perplexity


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Parameters
    ----------
    title : str
        What was attached.
    perplexities : tuple of float
        Of the held-out text of each topic.
    """

    title: str
    perplexities: tuple[float, ...]


def measure(
    model: AESGDecoderLM, title: str, heldout: Mapping[str, Batches], packs: Mapping[Path, int]
) -> Row:
    """Attach packs, read all that was held out, and detach them again.

    Parameters
    ----------
    model : AESGDecoderLM
    title : str
    heldout : mapping of str to list of batches
        By topic.
    packs : mapping of Path to int
        Priorities by the files of the packs.
    """
    memory = model.memory
    memory.set_mode("INFERENCE")
    for path, priority in packs.items():
        memory.attach_pack(memory.load_pack(path), priority)
    row = Row(title, tuple(perplexity(model, batches) for batches in heldout.values()))
    for name in memory.get_attached_packs():
        memory.detach_pack(name)
    return row


def table_of(rows: Sequence[Row], topics: Sequence[str]) -> Table:
    """Return perplexities, and how they differ from those of the first row."""
    table = Table("attached (priority)", *topics, title="Perplexity of held-out text")
    for row in rows:
        changes = [
            now / then - 1 for now, then in zip(row.perplexities, rows[0].perplexities, strict=True)
        ]
        cells = [
            f"{now:.2f}" + (f" {change:+.1%}" if change else "")
            for now, change in zip(row.perplexities, changes, strict=True)
        ]
        table.add_row(row.title, *cells)
    return table
