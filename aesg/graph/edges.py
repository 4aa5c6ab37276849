"""How edges come to be, grow stronger with use and weaker without.

The out-edges of a concept state their confidences as of one consolidation epoch, the
``edge_epoch`` of its statistics. What they are worth now follows when they are read, so that a
consolidation writes nothing for the edges that it only makes weaker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aesg.graph.decay import Epochs, decayed, epochs_until, later
from aesg.graph.out_edges import OutEdges
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


class Uses(NamedTuple):
    """Uses of edges of many concepts, as columns; see `Use`.

    Parameters
    ----------
    owner : (U,) int64
        Place of each one's source among the concepts.
    targets : (U,) uint64
    kinds : (U,) uint32
    times : (U,) int64
    weights, firsts : (U,) float64
    """

    owner: Slots
    targets: Ids
    kinds: NDArray[np.uint32]
    times: Slots
    weights: NDArray[np.float64]
    firsts: NDArray[np.float64]

    @classmethod
    def of(cls, owner: Slots, uses: Sequence[Use]) -> Uses:
        """Return uses, each of an edge of the concept that ``owner`` says, as columns."""
        targets, kinds, times, weights, firsts = zip(*uses, strict=True) if uses else ((),) * 5
        return cls(
            owner,
            np.array(targets, np.uint64),
            np.array(kinds, np.uint32),
            np.array(times, np.int64),
            np.array(weights, np.float64),
            np.array(firsts, np.float64),
        )


def strengthened(rows: OutEdges, uses: Uses, most: int) -> OutEdges:
    """Return out-edges after some of them were used, one use after another.

    Edges are created where they are missing. Of a concept with more than ``most`` the weakest
    yield, of equals the one of the lowest target.

    Parameters
    ----------
    rows : OutEdges
        As of the present epoch.
    uses : Uses
        Several may be of one edge.
    most : int
        Edges that a concept may have.
    """
    pair, first = _pairs(uses)
    place = rows.places(uses.owner[first], uses.targets[first])
    held = place >= 0
    used, begun = np.zeros(len(first), EDGE), np.where(held, first, -1)
    used["target"] = uses.targets[first]
    used[held] = rows.edges[place[held]]
    confidence, count = used["confidence"].astype(np.float64), used["use"].astype(np.int64)
    for turn in _turns(pair):
        which, times = pair[turn], uses.times[turn]
        new = (begun[which] < 0) & (uses.kinds[turn] != 0)
        begun[which[new]] = turn[new]
        confidence[which[new]] = uses.firsts[turn[new]]
        used["weight"][which[new]] = uses.weights[turn[new]]
        known = begun[which] >= 0
        turn, which, times, new = turn[known], which[known], times[known], new[known]
        confidence[which] = _surer(confidence[which], times - new)
        count[which] = np.minimum(count[which] + times, _MOST_USES)
        used["kind"][which] |= uses.kinds[turn]
    used["confidence"], used["use"] = confidence, count
    edges = rows.edges.copy()
    edges[place[held]] = used[held]
    created = np.flatnonzero(~held & (begun >= 0))
    created = created[np.argsort(begun[created])]
    owner = uses.owner[first[created]]
    return replace(rows, edges=edges).with_behind(owner, used[created]).strongest(most)


def _pairs(uses: Uses) -> tuple[Slots, Slots]:
    """Return the number of the edge that each use is of, and the first use of each edge."""
    order = np.lexsort((uses.targets, uses.owner))
    owner, targets = uses.owner[order], uses.targets[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (owner[1:] != owner[:-1]) | (targets[1:] != targets[:-1])
    pair = np.empty(len(order), np.int64)
    pair[order] = np.cumsum(fresh) - 1
    return pair, order[fresh]


def _turns(pair: Slots) -> Iterator[Slots]:
    """Yield the uses in an order that keeps those of one edge in theirs, one of each at a time."""
    order = np.argsort(pair, kind="stable")
    ordered = pair[order]
    turn = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    for number in range(int(turn.max(initial=-1)) + 1):
        yield order[turn == number]


def _surer(confidence: NDArray[np.float64], uses: Slots) -> NDArray[np.float64]:
    # Python's power: numpy's may round otherwise where it works on several at once.
    every, place = np.unique(uses, return_inverse=True)
    left = np.array([(1 - _GAIN) ** each for each in every.tolist()])
    surer: NDArray[np.float64] = 1 - (1 - confidence) * left[place]
    return surer


class Coactivation:
    """Counts how often pairs of concepts were active in the same context.

    The buffer is bounded: when it is full, pairs counted least often are forgotten.
    """

    def __init__(self) -> None:
        self._counted: dict[tuple[int, int], int] = {}
        self._stored = b""  # not looked into until counting goes on: who only reads never does

    def dump(self) -> bytes:
        """Return the pairs and how often each was counted, 20 bytes a pair."""
        pairs = [(low, high, count) for (low, high), count in self._counts.items()]
        return np.array(pairs, _PAIR).tobytes()

    def load(self, stored: bytes) -> None:
        """Count as what `dump` returned did; what cannot be that is ignored, with a warning."""
        if len(stored) % _PAIR.itemsize:
            _log.warning("stored co-activations are ignored: expected whole pairs")
            return
        self._counted, self._stored = {}, stored

    @property
    def _counts(self) -> dict[tuple[int, int], int]:
        if self._stored:
            pairs = np.frombuffer(self._stored, _PAIR).tolist()
            self._counted = {(low, high): count for low, high, count in pairs}
            self._stored = b""
        return self._counted

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
            self._counted = dict(frequent[: _MOST_PAIRS // 2])


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
