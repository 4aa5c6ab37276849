"""What the trainer publishes, and what a reader must see of it: an edition whole, or not at all.

An edition is a few concepts, all written by one commit, with the number of the edition as their
values. Their keys follow from the number: whoever knows it can ask for them. They lie among
thousands of facts, in the same clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 64
#: Concepts of an edition.
ROWS = 8
#: New facts that come with each edition, so that the seed index ages as well.
FRESH_FACTS = 120
#: Concepts beyond the first facts before the oldest are pruned.
ROOM = 2_000

_CENTRES = np.random.default_rng(0).standard_normal((300, WIDTH))
#: Within a cluster cosines are about 0.8.
_SPREAD = 0.5
#: Cosine from which on two keys are the same, but for rounding.
SAME = 0.999


def keys_of(edition: int) -> NDArray[np.float32]:
    """Return the keys of an edition, ``(ROWS, WIDTH)``."""
    return _clustered((1, edition), ROWS)


def facts(batch: int, count: int) -> NDArray[np.float32]:
    """Return the keys ``(count, WIDTH)`` of a batch of facts."""
    return _clustered((2, batch), count)


def still_held(count: int) -> int:
    """Return how many editions are never pruned, the newest, beside so many first facts.

    The memory holds ``count + ROOM`` concepts, and the last to be pruned are the newest.
    """
    return (count + ROOM) // (2 * (ROWS + FRESH_FACTS))


def payload_of(edition: int, row: int) -> dict[str, int]:
    """Return the payload of a concept of an edition."""
    return {"edition": edition, "row": row}


def rows_shown(edition: int, found: Sequence[Sequence[Mapping[str, Any]]]) -> frozenset[int]:
    """Return which concepts of an edition were found by their own keys.

    Parameters
    ----------
    edition : int
    found : sequence of sequences of mappings
        What ``POST /retrieve`` returned for each of `keys_of`.

    Raises
    ------
    ValueError
        If a concept has a key of the edition and not its value or payload.
    """
    rows = set()
    for row, concepts in enumerate(found):
        if not concepts or concepts[0]["similarity"] < SAME:
            continue
        best, payload = concepts[0], payload_of(edition, row)
        if best["value"] != edition or best["payload"] not in (payload, None):  # null: pruned since
            raise ValueError(
                f"expected value {edition} and payload {payload}, "
                f"got {best['value']} and {best['payload']}"
            )
        rows.add(row)
    return frozenset(rows)


def _clustered(seed: tuple[int, int], count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = _CENTRES[rng.integers(len(_CENTRES), size=count)]
    return (centres + _SPREAD * rng.standard_normal((count, WIDTH))).astype(np.float32)
