"""Against release 3.0.0: spreading over two hops, and learning after a batch.

Both memories hold the same concepts and edges. Spreading begins at the same ten seeds, one query
at a time, so that the search, which was exact there, is no part of it. Edges have the same weights
and confidences; what 3.0.0 does with them is its own definition.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from aesg import AESGConfig, AESGMemory
from benchmarks._memories import part_of, viewed
from benchmarks._world import DECAY, DIM, TOP, World, each, fill, of_each, world
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Ratio,
    Result,
    Settings,
    Spent,
    TableOf,
    benchmark,
    turns,
)
from benchmarks.suite.result import Cell
from storage_backends.faiss_index import one_thread
from storage_backends.spreading import Spread, spread
from storage_backends.types import Floats, Ids
from storage_backends.view import View

PEER = "aesg-3.0.0"
SPREADING, LEARNING = 2, 7
#: Least ratio of spreading, by concepts; and of learning, among the most.
GOALS = {10_000: 100.0, 100_000: 5_000.0}
GOAL_OF_LEARNING = 1_000.0
_HOPS = 2
_ASKED, _ASKED_US = 2, 200  # queries of a turn
_BATCHES = (1, 32, 256)  # queries that are learned from
_BATCH = 32  # the default of a training
_UPDATES = 32  # from one commit to the next

#: Without merging, which 3.0.0 never does by itself; keys of a cluster are close enough for it, and
#: a memory that has lived would have merged them long ago.
_CONFIG = AESGConfig(vector_dim=DIM, merge_similarity_threshold=1.0)

Seeds = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def seeds_of(made: World, count: int, turn: int) -> tuple[Floats, Seeds]:
    """Return queries and the concepts nearest to them."""
    queries = made.queries(count, seed=turn)
    return queries, np.array(made.nearest(queries, TOP))


def spreading(view: View) -> Callable[[Floats, Seeds], Spent]:
    """Return our side: spreading from given seeds, query by query."""
    part, how = part_of(view), Spread(hops=_HOPS, decay=DECAY)

    def one(query: Floats, seeds: Ids) -> object:
        slots = view.slots(seeds)[None]
        heard = np.maximum(view.keys[slots[0]] @ query, 0)[None]
        return view.ids[spread([part], slots, heard, how, TOP).slots[0]]

    def all_(queries: Floats, seeds: Seeds) -> Spent:
        rows = list(zip(queries, seeds.astype(np.uint64), strict=True))
        return each(len(rows), lambda: [one(query, begun) for query, begun in rows])

    return all_


def learning(
    memory: AESGMemory, made: World, batch: int, later: bool, typical: bool, turn: int
) -> Spent:
    """Ask as many batches as go from one commit to the next; return what an update then costs.

    Parameters
    ----------
    later : bool
        Whether the update is what learns from them, as in a training, or `retrieve` did, as there.
    typical : bool
        Whether to return the median of the updates in place of their mean.
    """
    queries = torch.from_numpy(made.queries(_UPDATES * batch, seed=turn + 10**6 * batch))
    spent = []
    with memory.counted_commits():
        for some in queries.view(_UPDATES, batch, DIM):
            if later:
                memory.defer(memory.recall(some))
            else:
                memory.retrieve(some)
            spent.append(each(1, memory.update_topology))
    of = np.median if typical else np.mean
    return Spent(float(of([one.cpu for one in spent])), float(of([one.wall for one in spent])))


def filled(peer: Peer, made: World, folder: Path) -> None:
    """Let the release have the concepts and edges of the world."""
    folder.mkdir()
    peer("open_memory", folder, DIM, max(len(made.keys), len(made.links) // 5 + 1))
    weights, confidences = (made.edges[name].copy() for name in ("weight", "confidence"))
    peer("take", made.keys, made.links, weights, confidences, _HOPS)


def spread_ratio(peer: Peer, made: World, view: View, settings: Settings) -> Ratio:
    """Compare spreading."""
    ours, count = spreading(view), len(made.keys)
    timings = turns(
        {
            "ours": lambda turn: ours(*seeds_of(made, _ASKED_US, turn)),
            PEER: lambda turn: of_each(_ASKED, peer.timed("spread", *seeds_of(made, _ASKED, turn))),
        },
        settings.turns,
    )
    return Ratio(
        SPREADING,
        f"spreading over {_HOPS} hops, {count:,} concepts: 3.0.0 against ours",
        *timings.ratio(PEER, "ours"),
        bound=GOALS.get(count),
        at_most=False,
        ours=timings.median("ours") * 1e6,
        theirs=timings.median(PEER) * 1e6,
        unit="us of CPU a query",
    )


def learning_ratios(
    peer: Peer, made: World, memory: AESGMemory, settings: Settings
) -> Iterator[Ratio]:
    """Compare learning: the row is the same calls on both sides."""
    count = len(made.keys)
    sides: dict[str, Callable[[int], Spent]] = {
        _way(size, later): partial(learning, memory, made, size, later, False)
        for size in _BATCHES
        for later in (False, True)
    }
    sides[_TYPICAL] = partial(learning, memory, made, _BATCH, False, True)
    timings = turns({PEER: lambda turn: peer.timed("update"), **sides}, settings.turns)
    for name in sides:
        row = name in (_way(_BATCH, later=False), _TYPICAL)
        yield Ratio(
            LEARNING if row else None,
            f"update_topology after {name}, {count:,} concepts: 3.0.0 against ours",
            *timings.ratio(PEER, name),
            bound=GOAL_OF_LEARNING if row and count == max(GOALS) else None,
            at_most=False,
            ours=timings.median(name) * 1e3,
            theirs=timings.median(PEER) * 1e3,
            unit="ms of CPU",
        )


def _way(size: int, later: bool) -> str:
    return f"{'recall, then defer,' if later else 'retrieve'} of {size}"


_TYPICAL = f"{_way(_BATCH, later=False)}, the median update"


def compared(made: World, settings: Settings, peer: Peer, learns: bool) -> list[Ratio]:
    """Fill both sides with the world and compare them."""
    count = len(made.keys)
    settings.say(f"filling 3.0.0 and ours with {count:,} concepts")
    directory = settings.scratch / f"release-{count}"
    fill(directory, made)
    theirs = directory.with_name(f"{directory.name}-{PEER}")
    filled(peer, made, theirs)
    with viewed(directory) as view:
        ratios = [spread_ratio(peer, made, view, settings)]
    if learns:
        with AESGMemory(directory, _CONFIG) as memory:
            ratios += learning_ratios(peer, made, memory, settings)
    shutil.rmtree(directory)
    shutil.rmtree(theirs)
    return ratios


@benchmark("peers-release", "release 3.0.0: spreading and learning", minutes=2, peers=(PEER,))
def run(settings: Settings) -> Result:
    """Measure the release and ours, with the same concepts and edges."""
    title = "Beside release 3.0.0: spreading and learning"
    if settings.peers is None:
        return Result("peers-release", title)
    try:
        peer = settings.peers.get(PEER)
    except NoPeerError as error:
        return Result("peers-release", title, skipped=(str(error),))
    ratios = []
    with one_thread():
        torch.set_num_threads(1)
        sizes = (1_000, 2_000) if settings.quick else tuple(GOALS)
        for size in sizes:
            ratios += compared(world(size), settings, peer, learns=size == sizes[-1])
    rows: list[list[Cell]] = [
        [one.what, one.ours or 0.0, one.theirs or 0.0, one.unit, one.value] for one in ratios
    ]
    table = TableOf("release 3.0.0", ("", "ours", "3.0.0", "", "times"), rows)
    return Result("peers-release", title, ratios, [table], notes=_NOTES)


_NOTES = (
    "3.0.0 looks for the target of each edge among all concepts, and its update goes through all "
    "concepts in Python, whatever was asked; of a batch it takes one query.",
    f"Ours is the mean of {_UPDATES} updates, three consolidations and a commit among them. In "
    "3.0.0 it is retrieve that learns, and so it is in the row; a training defers it to the "
    "update, which then costs what the other lines say. The median update is one that neither "
    "consolidates nor commits; 3.0.0 never puts its update on disk.",
)
