"""One query to a graph with vectors: its nearest neighbours, two hops on, the ten best by score.

All hold the same concepts and edges, and the definition is the same for all: `World.best`. What a
language cannot say is done in Python. Each runs alone in its process on one thread; queries come
one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from aesg import AESGMemory
from benchmarks._memories import finder, viewed
from benchmarks._world import DECAY, TOP, Answers, World, each, fill, of_each, shared, world
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Peers,
    Ratio,
    Result,
    Settings,
    Spent,
    TableOf,
    Timings,
    benchmark,
    turns,
)
from benchmarks.suite.result import Cell
from storage_backends.faiss_index import one_thread
from storage_backends.spreading import Spread
from storage_backends.types import Floats
from storage_backends.view import View

ROW = 3
#: Least ratio of each peer to ours.
GOALS = {"sqlite-vec": 100, "duckdb": 100, "ladybug": 100, "kuzu": 400}
OURS, STORE, STATED = "AESGMemory.retrieve", "seed search and spreading", "kuzu, one statement"
_ASKED, _ASKED_US = 10, 200  # queries of a turn
_PROBES = 100  # queries whose answers are compared with what is right


@dataclass(frozen=True)
class Candidate:
    """Somebody who answers.

    Parameters
    ----------
    asked : int
        Queries of a turn.
    best : callable
        Answers queries with the ten best; what one of them cost.
    nearest : callable
        Answers queries with the ten nearest.
    version : str
    """

    asked: int
    best: Callable[[Floats], Spent]
    nearest: Callable[[Floats], Answers]
    version: str = ""


def of_memory(memory: AESGMemory) -> Candidate:
    """Return the call that a user makes; what it brings besides the ten is part of the cost."""

    def asked(queries: Floats) -> Spent:
        rows = torch.from_numpy(queries)
        spent = each(len(rows), lambda: [memory.retrieve(row, top_k=TOP) for row in rows])
        return replace(spent, answer=[row.concept_ids.ravel().tolist() for row in spent.answer])

    return Candidate(_ASKED_US, asked, lambda queries: [])


def of_store(view: View) -> Candidate:
    """Return the search and the spreading of that call alone."""
    find = finder(view, Spread(hops=2, decay=DECAY), TOP)

    def best(queries: Floats) -> list[list[int]]:
        return [find(query[None]).tolist() for query in queries]

    def nearest(queries: Floats) -> Answers:
        found = [view.index.search(query[None], TOP)[0][0] for query in queries]
        return [view.ids[slots].tolist() for slots in found]

    return Candidate(_ASKED_US, lambda queries: each(len(queries), lambda: best(queries)), nearest)


def of_peer(peer: Peer, version: str, what: str, asked: int) -> Candidate:
    """Return a peer that has been filled."""
    return Candidate(
        asked,
        lambda queries: of_each(len(queries), peer.timed(what, queries)),
        lambda queries: peer("nearest", queries, TOP),
        version,
    )


def others(
    peers: Peers, settings: Settings, made: World, skipped: list[str]
) -> dict[str, Candidate]:
    """Return the peers that could be filled, and note why others could not."""
    found = {}
    for name in GOALS:
        settings.say(f"filling {name} with {len(made.keys):,} concepts")
        folder = settings.scratch / f"graph-{name}"
        folder.mkdir()
        try:
            peer = peers.get(name)
            peer("fill", made.keys, made.links, folder)
            version = f"{name} {peer('version')}"
        except NoPeerError as error:
            skipped.append(str(error))
            continue
        found[name] = of_peer(peer, version, "best", _ASKED)
        if name == "kuzu":
            found[STATED] = of_peer(peer, f"{version}, one statement", "stated", 1)
    return found


def against(timings: Timings, name: str, ours: str, goal: float | None, note: str) -> Ratio:
    """Return how much longer a peer takes than we do."""
    value, low, high = timings.ratio(name, ours)
    return Ratio(
        ROW if goal else None,
        f"two hops from the nearest, ten best, one query: {name} against {ours}",
        value, low, high, goal, at_most=False, note=note,
        ours=timings.median(ours) * 1e6, theirs=timings.median(name) * 1e6, unit="us of CPU",
    )  # fmt: skip


def measured(
    candidates: dict[str, Candidate], made: World, settings: Settings
) -> tuple[list[Ratio], TableOf]:
    """Ask everybody the same queries, in turns, and compare their answers with what is right."""

    def asked(candidate: Candidate) -> Callable[[int], Spent]:
        return lambda turn: candidate.best(made.queries(candidate.asked, seed=turn))

    timings = turns({name: asked(each_) for name, each_ in candidates.items()}, settings.turns)
    probes = made.queries(_PROBES, seed=10**6)
    best, nearest = made.best(probes), made.nearest(probes)
    ratios: list[Ratio] = []
    rows: list[list[Cell]] = []
    for name, candidate in candidates.items():
        recall = share = "-"
        if name != STATED:
            share = f"{shared(candidate.best(probes).answer, best):.3f}"
        if name not in (OURS, STATED):
            recall = f"{shared(candidate.nearest(probes), nearest):.3f}"
        low, high = timings.quartiles(name)
        rows.append(
            [
                candidate.version or name,
                timings.median(name) * 1e6, low * 1e6, high * 1e6,
                timings.ratio(name, OURS)[0], recall, share,
            ]
        )  # fmt: skip
        if name not in (OURS, STORE):
            note = f"recall@{TOP} of the search {recall}, of the ten best {share}"
            goal = GOALS.get(name)
            ratios += [against(timings, name, ours, goal, note) for ours in (STORE, OURS)]
    header = ("", "us of CPU", "quartile", "quartile", "times ours", "recall@10", "of the ten best")
    title = f"one query, two hops: {len(made.keys):,} concepts, {len(made.links):,} edges"
    return ratios, TableOf(title, header, rows)


@benchmark(
    "peers-graph", "one query, two hops, beside graphs and databases", minutes=4, peers=tuple(GOALS)
)
def run(settings: Settings) -> Result:
    """Measure one query to each, and what it finds."""
    torch.set_num_threads(1)
    made = world(5_000 if settings.quick else 100_000)
    settings.say("making the memory")
    directory = settings.scratch / "graph"
    fill(directory, made)
    skipped: list[str] = []
    with ExitStack() as held, one_thread():
        memory = held.enter_context(AESGMemory.open(directory))
        view = held.enter_context(viewed(directory))
        candidates = {OURS: of_memory(memory), STORE: of_store(view)}
        if settings.peers is not None:
            candidates |= others(settings.peers, settings, made, skipped)
        ratios, table = measured(candidates, made, settings)
    return Result(
        "peers-graph",
        "One query, two hops, beside graphs and databases",
        ratios,
        [table],
        skipped=skipped,
        notes=_NOTES,
    )


_NOTES = (
    "Seed search and spreading give what the others give: the ten best, by their ids. "
    "AESGMemory.retrieve also returns keys, values, ages, cosines, paths and the weights of the "
    "attention, as tensors.",
    "sqlite-vec and ladybug compare all vectors: the one has no index, the index of the other is "
    "an extension that its package does not hold. Their searches are exact.",
    "kuzu: one Cypher statement for search and both hops goes through all edges. So the row takes "
    "the quickest way that was found: the search, then a statement for each hop that names its "
    "concepts, and sums in Python.",
)
