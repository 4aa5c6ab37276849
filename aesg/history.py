"""The evolution log as users read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage_backends.types import EventType, Records


class EvolutionLog:
    """Reads the events that a memory wrote in the same transactions as its changes.

    Parameters
    ----------
    read : callable
        Returns all committed events, oldest first.
    """

    def __init__(self, read: Callable[[], Records]) -> None:
        self._read = read

    def get_history(self) -> list[dict[str, Any]]:
        """Return every committed event, oldest first.

        Returns
        -------
        list of dict
            ``timestamp`` (Unix seconds), ``type`` (CREATE, MERGE, SPLIT, PRUNE, CONSOLIDATE or
            RESTRUCTURE), ``id1``, ``id2`` (concept ids, or a count) and ``val``.
        """
        return [
            {
                "timestamp": timestamp,
                "type": EventType(kind).name,
                "id1": id1,
                "id2": id2,
                "val": value,
            }
            for timestamp, kind, id1, id2, value in self._read().tolist()
        ]
