"""Packs: portable subgraphs, as files and in memory."""

from aesg.packs import pickling as _pickling  # noqa: F401 - lets packs go to other processes
from aesg.packs.pack import Columns, Nodes, Pack, PackEdges, Provenance
from aesg.packs.reading import read_head, read_pack
from aesg.packs.validation import validate
from aesg.packs.writing import write_pack

__all__ = [
    "Columns",
    "Nodes",
    "Pack",
    "PackEdges",
    "Provenance",
    "read_head",
    "read_pack",
    "validate",
    "write_pack",
]
