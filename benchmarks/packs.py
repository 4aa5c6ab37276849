"""Packs against those of release 3.0.0, on the same concepts and edges.

That release fills a memory, which comes over by `aesg.migration`. Then both export and load a pack
of all of it, in turns. Packs of 64 MiB and more are kept in the cache, mapped from then on: they
are loaded with an empty cache, and again.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from aesg import AESGMemory
from aesg.migration import migrate
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Ratio,
    Result,
    Settings,
    Timings,
    benchmark,
    turns,
)
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore

NAME, TITLE = "packs", "Packs"
RELEASE = "aesg-3.0.0"
DIM = 64
CONCEPTS, CONCEPTS_QUICK = 100_000, 2_000
EDGES_EACH = 10
#: Of this release's figure to the other's, at most.
GOALS = {"export": 0.6, "import": 0.65, "import again": 0.65}
_SIZE_GOAL = 0.5


def prepare(side: Peer, folder: Path, concepts: int) -> float:
    """Fill a memory of release 3.0.0, bring it over, and return the CPU seconds that this took."""
    old, new, edges = folder / "old", folder / "new", concepts * EDGES_EACH
    side("open_memory", old, DIM, max(concepts, edges // 5))
    side("fill", concepts, edges)
    began = time.process_time()
    migrate(old, new)
    seconds = time.process_time() - began
    with closing(Engine(LMDBStore.open(new))) as engine:
        engine.rebuild()  # so that nothing is built while we measure
    return seconds


def measured(side: Peer, folder: Path, count: int) -> Timings:
    """Let both export and load in turns."""
    old, new = folder / "old.aesgpack", folder / "new.aesgpack"
    with AESGMemory.open(folder / "new") as memory:
        calls = {
            "export": lambda _: memory.export_pack(new),
            f"export, {RELEASE}": lambda _: side.timed("export", old),
            "import": lambda turn: _load(memory, new, folder / f"once-{turn}"),
            f"import, {RELEASE}": lambda _: side.timed("load", old),
            "import again": lambda _: _load(memory, new, folder / "kept"),
            f"import again, {RELEASE}": lambda _: side.timed("load", old),
        }
        return turns(calls, count)


def _load(memory: AESGMemory, pack: Path, cache: Path) -> None:
    os.environ["AESG_CACHE"] = str(cache)
    memory.load_pack(pack)


def ratios(found: Timings, folder: Path) -> list[Ratio]:
    """Return what this release takes, against the other."""
    ours, theirs = ((folder / f"{name}.aesgpack").stat().st_size / 1e6 for name in ("new", "old"))
    size = ours / theirs
    told = [Ratio(None, "size", size, size, size, _SIZE_GOAL, ours=ours, theirs=theirs, unit="MB")]
    for what, goal in GOALS.items():
        pair = (what, f"{what}, {RELEASE}")
        costs = [found.median(each) * 1e3 for each in pair]
        told.append(
            Ratio(None, what, *found.ratio(*pair), goal, ours=costs[0], theirs=costs[1], unit="ms")
        )
    return told


@benchmark(NAME, "packs beside those of release 3.0.0", minutes=2, group="more", peers=(RELEASE,))
def run(settings: Settings) -> Result:
    if settings.peers is None:
        return Result(NAME, TITLE, skipped=(f"{RELEASE}: left out",))
    concepts = CONCEPTS_QUICK if settings.quick else CONCEPTS
    try:
        side = settings.peers.get(RELEASE)
    except NoPeerError as error:
        return Result(NAME, TITLE, skipped=(f"{RELEASE}: {error}",))
    seconds = prepare(side, settings.scratch, concepts)
    found = measured(side, settings.scratch, settings.turns)
    note = (
        f"{concepts:,} concepts, {DIM} wide, {concepts * EDGES_EACH:,} edges; brought over from "
        f"release 3.0.0 in {seconds:.1f} s of CPU time."
    )
    return Result(NAME, TITLE, ratios=ratios(found, settings.scratch), notes=(note,))
