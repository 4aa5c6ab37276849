"""What is done to the out-edges of many concepts, done plainly to one row after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aesg.graph.edges import Use
from storage_backends.types import EDGE, Records


def strengthened(row: Records, uses: Sequence[Use], most: int) -> Records:
    """Return an out-row after some of its edges were used, one use after another."""
    edges = {edge[0]: list(edge) for edge in row.tolist()}
    for use in uses:
        if use.target in edges:
            edge, times = edges[use.target], use.times
        elif use.kind:
            edge, times = [use.target, use.weight, use.first, 0, 0], use.times - 1
            edges[use.target] = edge
        else:
            continue
        edge[2] = 1 - (1 - edge[2]) * (1 - 0.1) ** times
        edge[3] = min(edge[3] + use.times, 2**32 - 1)
        edge[4] |= int(use.kind)
    return strongest(np.array([tuple(edge) for edge in edges.values()], EDGE), most)


def strongest(row: Records, most: int) -> Records:
    """Return the strongest edges of a row, in their order; of equals the highest targets."""
    weakest_first = np.lexsort((row["target"], row["weight"] * row["confidence"]))
    return np.delete(row, weakest_first[: max(len(row) - most, 0)])


def retargeted(row: Records, stand_ins: Mapping[int, int]) -> Records:
    """Return edges that lead to what stands for their targets."""
    after = row.copy()
    after["target"] = [stand_ins.get(each, each) for each in row["target"].tolist()]
    return after


def united(row: Records, source: int, most: int) -> Records:
    """Return edges as one out-row: each target once, the source itself left out."""
    row = row[row["target"] != source]
    targets = sorted(set(row["target"].tolist()))
    if len(targets) == len(row):
        return strongest(row, most)
    joined = []
    for target in targets:
        same, doubt = row[row["target"] == target], 1.0
        for confidence in same["confidence"].tolist():
            doubt *= 1 - confidence
        sure = max(np.float32(1 - doubt), same["confidence"].max())
        use = min(int(same["use"].sum(dtype=np.uint64)), 2**32 - 1)
        kind = np.bitwise_or.reduce(same["kind"])
        joined.append((target, same["weight"].max(), sure, use, kind))
    return strongest(np.array(joined, EDGE), most)
