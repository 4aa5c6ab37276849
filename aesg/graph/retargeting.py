"""Edges of concepts that are joined or divided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aesg.graph.arrays import renamed
from aesg.graph.out_edges import OutEdges
from storage_backends.types import Ids, Records


def retargeted(edges: Records, gone: Ids, stands: Ids) -> Records:
    """Return edges, ``(M,)`` EDGE, that lead to what stands for their targets; see `renamed`."""
    after = edges.copy()
    after["target"] = renamed(edges["target"], gone, stands)
    return after


def united(rows: OutEdges, sources: Ids, most: int) -> OutEdges:
    """Return out-edges with each target once and the source itself left out.

    Of edges to one target, uses are summed and reasons gathered; the weight is the greatest, and
    the confidence that of independent evidence (noisy or). So no edge is weaker than before.

    Parameters
    ----------
    rows : OutEdges
    sources : (M,) uint64
        The concepts that they start from.
    most : int
        Edges that a concept may have; the weakest yield.
    """
    rows = rows.where(rows.edges["target"] != sources[rows.owner])
    order = np.lexsort((rows.edges["target"], rows.owner))
    owner, targets = rows.owner[order], rows.edges["target"][order]
    again = (owner[1:] == owner[:-1]) & (targets[1:] == targets[:-1])
    if again.any():
        repeats = np.isin(np.arange(rows.concepts), owner[1:][again])
        mixed = order[repeats[owner]]
        joined = _joined(replace(rows, owner=rows.owner[mixed], edges=rows.edges[mixed]))
        rows = rows.where(~repeats[rows.owner]).with_behind(joined.owner, joined.edges)
    return rows.strongest(most)


def _joined(rows: OutEdges) -> OutEdges:
    """Return edges, those of each concept ordered by target, with each target once."""
    owner, edges = rows.owner, rows.edges
    fresh = np.ones(len(edges), np.bool_)
    fresh[1:] = (owner[1:] != owner[:-1]) | (edges["target"][1:] != edges["target"][:-1])
    place, after = np.cumsum(fresh) - 1, edges[fresh]
    doubt = np.ones(len(after))
    np.multiply.at(doubt, place, 1 - edges["confidence"].astype(np.float64))
    after["confidence"] = 1 - doubt
    np.maximum.at(after["confidence"], place, edges["confidence"])  # whatever rounding says
    use = np.zeros(len(after), np.uint64)
    np.add.at(use, place, edges["use"].astype(np.uint64))
    after["use"] = np.minimum(use, np.uint64(2**32 - 1))
    np.maximum.at(after["weight"], place, edges["weight"])
    np.bitwise_or.at(after["kind"], place, edges["kind"])
    return OutEdges(rows.concepts, owner[fresh], after)
