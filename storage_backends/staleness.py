"""When a view has moved so far from its graph or its snapshot that they are made anew."""

from __future__ import annotations

from storage_backends.recovery import Shown
from storage_backends.view import View

#: Share of the slots that may be dead, or outside the graph, or new since the last snapshot.
STALE = 0.25
#: The same at close, when there is time to spare the next open the replay.
STALE_AT_CLOSE = 0.05
#: Generations that an open is to replay at most.
MOST_REPLAYED = 2_048
#: A snapshot is worth its files above so many concepts, or above this many times as many edges.
EDGES_FOR_ONE = 10


def is_worth_writing(shown: Shown, exact_below: int) -> bool:
    """Return whether an open is to map a snapshot: there is one, or there is much to read."""
    view = shown.view
    many = view.node_count > exact_below or view.edge_count > exact_below * EDGES_FOR_ONE
    return many or shown.footing is not None


def is_wasteful(shown: Shown, exact_below: int) -> bool:
    """Return whether a view is to be freed of tombstones at once, which copies all of it.

    Where that is much, it is left to a rebuild in the background.
    """
    view = shown.view
    if not view.dead or is_worth_writing(shown, exact_below):
        return False
    return view.size <= exact_below or view.dead > STALE * view.size


def needs_rebuild(shown: Shown, exact_below: int) -> bool:
    """Return whether a view is to be made anew, with another graph if it is large."""
    view = shown.view
    most = STALE * view.size
    if view.size <= exact_below:
        return view.dead > most and is_worth_writing(shown, exact_below)
    return view.dead > most or view.uncovered > most


def needs_snapshot(shown: Shown, exact_below: int, share: float) -> bool:
    """Return whether a snapshot is to be written of what differs from the last one.

    Parameters
    ----------
    shown : Shown
    exact_below : int
        Number of concepts up to which there is no graph.
    share : float
        Share of the slots that may differ, in [0, 1].
    """
    if not is_worth_writing(shown, exact_below):
        return False
    return shown.view.outside > share * shown.view.size or _replayed(shown) > MOST_REPLAYED


def _replayed(shown: Shown) -> int:
    """Return how many generations an open would replay."""
    since = shown.footing.manifest.generation if shown.footing is not None else 0
    return shown.view.generation - since


def died_since(view: View, dead: int, share: float) -> bool:
    """Return whether more than a share of the graph has died since ``dead`` slots were."""
    return view.base is not None and view.dead - dead > share * view.base.size
