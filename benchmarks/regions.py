"""Seconds that regions take to detect: the first time, and again after few concepts moved.

Concepts lie in planted communities of a hundred, with ten out-edges each, of which three in ten
lead anywhere. Agreement is the normalised mutual information with the planted communities; those
that modularity cannot tell apart in a graph of such a size are found as one.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from aesg.graph import regions
from aesg.graph.regions import Found
from benchmarks.suite import Result, Settings, TableOf, benchmark
from storage_backends.columns import Slots
from storage_backends.types import EDGE, STATS, Concepts, Contents
from storage_backends.view import View

_SIZES = (10_000, 100_000, 1_000_000)
_QUICK = _SIZES[:1]
_COMMUNITY = 100
_DEGREE = 10
_MIXING = 0.3
_CHANGES = 100


def agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """Return the normalised mutual information of two partitions."""
    both = one.astype(np.int64) * (int(other.max()) + 1) + other
    joint, single = _entropy(both), (_entropy(one), _entropy(other))
    return 2 * (sum(single) - joint) / sum(single)


def _entropy(labels: NDArray[np.integer]) -> float:
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def drawn(community: Slots, sources: Slots, homes: Slots, seed: int) -> tuple[Slots, Slots]:
    """Return edges of concepts at home in communities: sources, ascending, and targets."""
    rng = np.random.default_rng(seed)
    order = np.argsort(community, kind="stable")
    source, home = np.repeat(sources, _DEGREE), np.repeat(homes, _DEGREE)
    near = order[home * _COMMUNITY + rng.integers(0, _COMMUNITY, len(source))]
    far = rng.integers(0, len(community), len(source))
    target = np.where(rng.random(len(source)) < _MIXING, far, near)
    both = np.unique(source * len(community) + target)
    source, target = np.divmod(both, len(community))
    return source[source != target], target[source != target]


def contents(concepts: Concepts, source: Slots, target: Slots) -> Contents:
    """Return concepts with edges, slots for ids less one, as a store hands them over."""
    edges = np.zeros(len(source), EDGE)
    edges["target"], edges["weight"], edges["confidence"], edges["kind"] = target + 1, 1, 0.5, 1
    sources, counts = np.unique(source, return_counts=True)
    none = np.empty(0, np.uint64), np.empty(0, STATS)
    ids = sources.astype(np.uint64) + np.uint64(1)
    return Contents(1, concepts, *none, ids, counts.astype(np.int64), edges, none[0], {})


def concepts(count: int) -> Concepts:
    ids = np.arange(1, count + 1, dtype=np.uint64)
    nothing = np.zeros(count, np.int64)
    keys, kinds = np.ones((count, 2), np.float32), nothing.astype(np.uint8)
    return Concepts(ids, keys, kinds, nothing, None, np.zeros(count, STATS))


def timed(view: View, before: NDArray[np.uint32], changed: Slots | None) -> tuple[Found, float]:
    """Return what is found, and the CPU seconds that it took."""
    begin = time.process_time()
    found = regions.detect(view, before, changed)
    return found, time.process_time() - begin


def measure(count: int) -> list[str]:
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    community = rng.permutation(count) // _COMMUNITY
    view = View.of(contents(concepts(count), *drawn(community, np.arange(count), community, 1)))
    first, full = timed(view, np.zeros(count, np.uint32), None)
    changed = np.sort(rng.choice(count, _CHANGES, replace=False))
    homes = rng.integers(0, count // _COMMUNITY, _CHANGES)
    view = view.advanced(contents(concepts(0), *drawn(community, changed, homes, 2)))
    again, warm = timed(view, first.regions, changed)
    return [
        f"{count:,}",
        f"{view.edge_count:,}",
        f"{full:.2f}",
        f"{warm:.3f}",
        f"{full / warm:.0f}",
        f"{first.count:,} of {count // _COMMUNITY:,}",
        f"{agreement(community, first.regions):.3f}",
        f"{first.modularity:.3f}",
        f"{np.count_nonzero(first.regions != again.regions):,}",
    ]


_HEADER = (
    "concepts",
    "edges",
    "first, CPU s",
    f"after {_CHANGES} changes, CPU s",
    "ratio",
    "regions",
    "agreement",
    "modularity",
    "moved",
)


@benchmark("regions", "detecting regions", minutes=3, group="more")
def run(settings: Settings) -> Result:
    rows = [measure(count) for count in (_QUICK if settings.quick else _SIZES)]
    title = f"planted communities of {_COMMUNITY}, mixing {_MIXING}"
    return Result("regions", "Regions", tables=(TableOf(title, _HEADER, rows),))
