"""The keys nearest to queries where both are many and no index knows the keys yet."""

from __future__ import annotations

import numpy as np

from storage_backends.columns import Slots
from storage_backends.faiss_index import EXACT_BELOW, merge_by_cosine, nearest, padded
from storage_backends.types import Floats

#: Keys that lie nearest to one of them and make a group.
_GROUP = 1_000
#: Groups that a query is compared with: about as many keys as are compared without groups.
_GROUPS = EXACT_BELOW // _GROUP
#: Keys of a group that are compared, the last ones: where all keys are one, so is their group.
_MOST_OF_GROUP = 4 * _GROUP


def nearest_among(queries: Floats, keys: Floats, k: int) -> tuple[Slots, Floats]:
    """Find the keys most similar to each query.

    Among up to `EXACT_BELOW` keys the search is exact. Among more, a query is compared with the
    keys of the groups nearest to it (an inverted file: Sivic and Zisserman, 2003, "Video Google"),
    so that the time grows hardly faster than the number of queries.

    Parameters
    ----------
    queries : (N, D) float32
        Unit vectors.
    keys : (M, D) float32
        Unit vectors.
    k : int
        At least 1.

    Returns
    -------
    rows : (N, k) int64
        Rows of ``keys``, descending by cosine; -1 pads.
    cosines : (N, k) float32
        0 where padded.
    """
    if len(keys) <= EXACT_BELOW or not len(queries):
        return padded(*nearest(queries, keys, k), k)
    rows, cosines = padded(*nearest(queries, keys[:0], k), k)
    centres = keys[::_GROUP]
    groups = _by_group(nearest(keys, centres, 1)[0], len(centres))
    asking = _by_group(nearest(queries, centres, _GROUPS)[0], len(centres))
    for group, asked in zip(groups, asking, strict=True):
        members = group[-_MOST_OF_GROUP:]
        found, similar = nearest(queries[asked], keys[members], k)
        held = rows[asked], cosines[asked]
        rows[asked], cosines[asked] = merge_by_cosine(held, (members[found], similar), k)
    return rows, cosines


def _by_group(groups: Slots, count: int) -> list[Slots]:
    """Return for each group the rows, ascending, that name it: ``groups`` is (N, G)."""
    order = np.argsort(groups, axis=None, kind="stable")
    ends = np.searchsorted(groups.ravel()[order], np.arange(1, count))
    return np.split(order // groups.shape[1], ends)
