"""Ladybug, whose vector index is a download: it compares all vectors, exactly."""

from __future__ import annotations

import importlib
from typing import Any

ladybug: Any = importlib.import_module("ladybug")
memory: Any = importlib.import_module("_cypher").Cypher(ladybug)

begin, insert, finish, fill = memory.begin, memory.insert, memory.finish, memory.fill
nearest, best = memory.nearest, memory.best


def version() -> str:
    """Return what runs here."""
    return str(ladybug.__version__)
