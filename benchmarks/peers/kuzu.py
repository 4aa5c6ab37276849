"""Kuzu, whose vector index is built in."""

from __future__ import annotations

import importlib
from typing import Any

kuzu: Any = importlib.import_module("kuzu")
memory: Any = importlib.import_module("_cypher").Cypher(kuzu)

begin, insert, finish, fill = memory.begin, memory.insert, memory.finish, memory.fill
nearest, best, stated = memory.nearest, memory.best, memory.stated


def version() -> str:
    """Return what runs here."""
    return str(kuzu.__version__)
