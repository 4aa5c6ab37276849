"""How edges come to be, grow stronger with use and weaker without.

The out-edges of a concept state their confidences as of one consolidation epoch, the
``edge_epoch`` of its statistics. What they are worth now follows when they are read, so that a
consolidation writes nothing for the edges that it only makes weaker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aesg.graph.decay import Epochs, decayed, epochs_until, later
from storage_backends.columns import Slots
from storage_backends.types import EDGE, EdgeKind, Floats, Ids, Records

_log = logging.getLogger("aesg.memory")

#: Confidence that an unused edge keeps per consolidation epoch.
EDGE_DECAY = 0.99

#: Confidence of an edge seen once, and the share of what is missing that each further use adds.
FIRST_CONFIDENCE = 0.3
_GAIN = 0.1

#: Uses that are counted.
_MOST_USES = 2**32 - 1

#: A pair as it is stored.
_PAIR = np.dtype([("low", "<u8"), ("high", "<u8"), ("count", "<u4")])

#: Pairs counted at a time before the least frequent half is forgotten.
_MOST_PAIRS = 65_536


def weakened(row: Records, epochs: int | NDArray[np.integer[Any]]) -> Records:
    """Return edges as they are after more consolidation epochs without use.

    Parameters
    ----------
    row : (M,) EDGE
        Copied.
    epochs : int or (M,) int
        Of all edges or of each; below 0 counts as 0.
    """
    after = row.copy()
    after["confidence"] = decayed(row["confidence"], EDGE_DECAY, np.maximum(epochs, 0))
    return after


def expiry_of(least: Floats, edge_epochs: NDArray[np.integer[Any]], threshold: float) -> Epochs:
    """Return the epoch before which no edge of each row is too weak to live on.

    Parameters
    ----------
    least : (M,) float32
        The least confidence of each row, as stated.
    edge_epochs : (M,) int
        As of when it is stated.
    threshold : float
        Confidence below which an edge is dropped.

    Returns
    -------
    (M,) int64
        `NEVER` where the threshold is 0.
    """
    return later(edge_epochs, epochs_until(least, EDGE_DECAY, threshold))


class Use(NamedTuple):
    """Uses of the edge to one target.

    Parameters
    ----------
    target : int
        Concept id.
    kind : EdgeKind
        Why the edge was used; added to its flags. 0 gives it no reason, and makes no edge.
    times : int
        How often, at least 1.
    weight : float
        Weight of the edge if it is created, in (0, 1].
    first : float
        Confidence that the first use gives it then, in (0, 1].
    """

    target: int
    kind: EdgeKind
    times: int = 1
    weight: float = 1.0
    first: float = FIRST_CONFIDENCE


def strengthened(row: Records, uses: Sequence[Use], most: int) -> Records:
    """Return an out-row after some of its edges were used.

    Edges are created where they are missing. Beyond ``most`` edges the weakest yield, of equals the
    one of the lowest target.

    Parameters
    ----------
    row : (M,) EDGE
        As of the present epoch.
    uses : sequence of Use
        Several may be of one target.
    most : int
        Edges that a concept may have.
    """
    held = _places(row, [use.target for use in uses])
    edges = {edge[0]: edge for edge in row[held].tolist()}
    for use in uses:
        if use.target in edges:
            _, weight, confidence, count, kind = edges[use.target]
            confidence, count = _surer(confidence, use.times), count + use.times
        elif use.kind:
            weight, confidence, count, kind = use.weight, use.first, use.times, 0
            confidence = _surer(confidence, count - 1)
        else:
            continue
        count = min(count, _MOST_USES)
        edges[use.target] = use.target, weight, confidence, count, kind | int(use.kind)
    used = np.array(list(edges.values()), EDGE)
    after = np.concatenate([row, used[len(held) :]])
    after[held] = used[: len(held)]
    return strongest(after, most)


def _places(row: Records, targets: Sequence[int]) -> Slots:
    """Return the places of the edges of a row that lead to some targets."""
    if not len(row):  # of most concepts that are new
        return np.empty(0, np.int64)
    return np.flatnonzero(np.isin(row["target"], np.array(targets, np.uint64)))


def _surer(confidence: float, uses: int) -> float:
    return 1 - (1 - confidence) * (1 - _GAIN) ** uses


def strongest(row: Records, most: int) -> Records:
    """Return the ``most`` strongest edges of a row, in their order; of equals the highest targets.

    Parameters
    ----------
    row : (M,) EDGE
    most : int
    """
    if len(row) <= most:
        return row
    weakest_first = np.lexsort((row["target"], row["weight"] * row["confidence"]))
    return np.delete(row, weakest_first[: len(row) - most])


class Coactivation:
    """Counts how often pairs of concepts were active in the same context.

    The buffer is bounded: when it is full, pairs counted least often are forgotten.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

    def dump(self) -> bytes:
        """Return the pairs and how often each was counted, 20 bytes a pair."""
        pairs = [(low, high, count) for (low, high), count in self._counts.items()]
        return np.array(pairs, _PAIR).tobytes()

    def load(self, stored: bytes) -> None:
        """Count as what `dump` returned did; what cannot be that is ignored, with a warning."""
        if len(stored) % _PAIR.itemsize:
            _log.warning("stored co-activations are ignored: expected whole pairs")
            return
        pairs = np.frombuffer(stored, _PAIR).tolist()
        self._counts = {(low, high): count for low, high, count in pairs}

    def add(self, groups: Ids, threshold: int) -> list[tuple[int, int]]:
        """Count the pairs within each row and return those that have just reached the threshold.

        Parameters
        ----------
        groups : (N, P) uint64
            Concept ids; 0 pads.
        threshold : int
            Count at which a pair is returned and its count starts anew.
        """
        ready = []
        for pair, count in _pair_counts(groups):
            total = self._counts.get(pair, 0) + count
            if total >= threshold:
                ready.append(pair)
                self._counts.pop(pair, None)
            else:
                self._counts[pair] = total
        self._forget()
        return ready

    def _forget(self) -> None:
        if len(self._counts) > _MOST_PAIRS:
            frequent = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
            self._counts = dict(frequent[: _MOST_PAIRS // 2])


def _pair_counts(groups: Ids) -> Iterable[tuple[tuple[int, int], int]]:
    """Yield each pair of different concepts that share a row, lower id first, and how often."""
    width = groups.shape[1]
    pairs = [groups[:, [a, b]] for a in range(width) for b in range(a + 1, width)]
    if not pairs:
        return
    every = np.sort(np.concatenate(pairs), axis=1)
    low, high = every[(every[:, 0] != 0) & (every[:, 0] != every[:, 1])].T
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    fresh = np.ones(len(low), np.bool_)
    fresh[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first = np.flatnonzero(fresh)
    counts = np.diff(first, append=len(low))
    ids = zip(low[first].tolist(), high[first].tolist(), strict=True)
    yield from zip(ids, counts.tolist(), strict=True)
