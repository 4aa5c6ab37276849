"""How edges come to be and grow stronger."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from storage_backends.types import EDGE, EdgeKind, Ids, Records

#: Confidence of an edge seen once, and the share of what is missing that each further use adds.
_FIRST_CONFIDENCE = 0.3
_GAIN = 0.1

#: Pairs counted at a time before the least frequent half is forgotten.
_MOST_PAIRS = 65_536


def strengthened(row: Records, target: int, kind: EdgeKind, uses: int, most: int) -> Records:
    """Return an out-row after an edge to ``target`` was used.

    The edge is created where it is missing. Beyond ``most`` edges the weakest yield, of equals the
    oldest.

    Parameters
    ----------
    row : (M,) EDGE
    target : int
        Concept id.
    kind : EdgeKind
        Why the edge was used; added to its flags.
    uses : int
        How often, at least 1.
    most : int
        Edges that a concept may have.
    """
    place = np.flatnonzero(row["target"] == target)
    if len(place):
        row = row.copy()
        edge = row[place[0] :][:1]
        edge["confidence"] = 1 - (1 - edge["confidence"]) * (1 - _GAIN) ** uses
        edge["use"] = np.minimum(edge["use"].astype(np.uint64) + np.uint64(uses), 2**32 - 1)
        edge["kind"] |= np.uint32(kind)
    else:
        confidence = 1 - (1 - _FIRST_CONFIDENCE) * (1 - _GAIN) ** (uses - 1)
        new = (target, 1.0, confidence, min(uses, 2**32 - 1), int(kind))
        row = np.append(row, np.array([new], EDGE))
    if len(row) <= most:
        return row
    weakest_first = np.argsort(row["weight"] * row["confidence"], kind="stable")
    return np.delete(row, weakest_first[: len(row) - most])


class Coactivation:
    """Counts how often pairs of concepts were active in the same context.

    The buffer is bounded: when it is full, pairs counted least often are forgotten.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

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
