"""What a memory with the scripted history holds at each generation, in few bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from tests.storage.history import Oracle
from tests.storage.picture import Picture

#: A digest for each part of a picture.
Print = Mapping[str, str]


class Truth:
    """The fingerprints of the scripted history, at any generation and in any order."""

    def __init__(self) -> None:
        self._oracle = Oracle("")
        self._known: list[Print] = []

    def at(self, generation: int) -> Print:
        """Return what `fingerprint` returns of a right memory at a generation."""
        for number in range(len(self._known), generation + 1):
            self._known.append(fingerprint(self._oracle.at(number)))
        return self._known[generation]


def fingerprint(seen: Picture) -> Print:
    """Return a digest of each part of a picture but the identity of the memory."""
    parts = {name: json.dumps(part, default=bytes.hex) for name, part in seen.items()}
    return {
        name: hashlib.sha256(text.encode()).hexdigest()
        for name, text in parts.items()
        if name != "uuid"
    }


def differences(seen: Picture, expected: Print) -> list[str]:
    """Return the names of the parts that are not as expected."""
    found = fingerprint(seen)
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
