"""Chains of aliases: ids of merged concepts, each with the id that stands for it."""

from __future__ import annotations

import numpy as np

from storage_backends.types import Ids


def ends_of(ids: Ids, targets: Ids) -> Ids:
    """Return where the chain of each alias ends.

    Parameters
    ----------
    ids : (N,) uint64
        Ids that have an alias, ascending.
    targets : (N,) uint64
        What each leads to, which may be one of ``ids`` itself.

    Returns
    -------
    (N,) uint64
        The first id of each chain that has no alias; 0 where the chain is a circle.
    """
    goes_on = np.isin(targets, ids)
    last = np.where(goes_on, np.searchsorted(ids, targets), np.arange(len(ids)))
    # Each round doubles the steps taken; a chain has no more of them than there are aliases.
    for _ in range(len(ids).bit_length()):
        last = last[last]
    return np.where(goes_on[last], np.uint64(0), targets[last])
