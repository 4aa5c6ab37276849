"""Edges of concepts that are joined or divided."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aesg.graph.arrays import ids_of
from aesg.graph.edges import strongest
from storage_backends.types import Records


def retargeted(row: Records, stand_ins: Mapping[int, int]) -> Records:
    """Return edges that lead to what stands for their targets.

    Parameters
    ----------
    row : (M,) EDGE
        Copied.
    stand_ins : mapping of id to id
        A target that is no key of it stays. A value is no key.
    """
    gone = np.sort(ids_of(stand_ins))
    stands = np.array([stand_ins[each] for each in gone.tolist()], np.uint64)
    after = row.copy()
    if len(gone):
        place = np.minimum(np.searchsorted(gone, row["target"]), len(gone) - 1)
        after["target"] = np.where(gone[place] == row["target"], stands[place], row["target"])
    return after


def united(edges: Records, source: int, most: int) -> Records:
    """Return edges as one out-row: each target once, the source itself left out.

    Of edges to one target, uses are summed and reasons gathered; the weight is the greatest, and
    the confidence that of independent evidence (noisy or). So no edge is weaker than before.

    Parameters
    ----------
    edges : (M,) EDGE
    source : int
        Concept id that they start from.
    most : int
        Edges that a concept may have; the weakest yield.
    """
    edges = edges[edges["target"] != source]
    targets, first, place = np.unique(edges["target"], return_index=True, return_inverse=True)
    if len(targets) == len(edges):
        return strongest(edges, most)
    row = edges[first]
    doubt = np.ones(len(row))
    np.multiply.at(doubt, place, 1 - edges["confidence"].astype(np.float64))
    row["confidence"] = 1 - doubt
    np.maximum.at(row["confidence"], place, edges["confidence"])  # whatever rounding says
    use = np.zeros(len(row), np.uint64)
    np.add.at(use, place, edges["use"].astype(np.uint64))
    row["use"] = np.minimum(use, np.uint64(2**32 - 1))
    weight, kind = np.zeros(len(row), np.float32), np.zeros(len(row), np.uint32)
    np.maximum.at(weight, place, edges["weight"])
    np.bitwise_or.at(kind, place, edges["kind"])
    row["weight"], row["kind"] = weight, kind
    return strongest(row, most)
