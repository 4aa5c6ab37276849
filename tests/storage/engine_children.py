"""Programs that kill an engine at its worst moments, run in processes of their own."""

from __future__ import annotations

import itertools
import os
import signal
import sys

from storage_backends import staleness
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, ids
from tests.storage.engines import LARGE, large_batch, settled
from tests.storage.shown import shown

_STEPS = ("open", "os.rename", "os.remove", "os.truncate")


def die_at_each_step(directory: str) -> None:
    """Write snapshots until every step of one has been the last; check what is left each time."""
    engine = Engine(LMDBStore.open(directory), LARGE)
    engine.commit(large_batch())
    engine.close()
    for step in itertools.count(1):
        pid = os.fork()
        if not pid:
            _write_and_die(directory, step)
        status = os.waitpid(pid, 0)[1]
        _examine(directory)
        if status == 0:
            print(step - 1)
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, f"step {step}: exit status {status}"


def _write_and_die(directory: str, last: int) -> None:
    """Commit and snapshot in turn, and die before a step that touches a file of the folder."""
    status, steps = 1, itertools.count(1)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        concerns = event in _STEPS and "gen-" in str(arguments[0])
        if concerns and next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        engine = Engine(LMDBStore.open(directory), LARGE)
        sys.addaudithook(watch)
        engine.commit(WriteBatch(concepts=concepts(range(40, 45), seed=last)))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(41), concepts=concepts([46, 47], seed=last)))
        with engine._housekeeper.paused():
            engine._housekeeper.write()
        engine.close()
        status = 0
    finally:
        os._exit(status)


def _examine(directory: str) -> None:
    """Open what a dead process left, and compare it with every record."""
    for read_only in (True, False):
        engine = Engine(LMDBStore.open(directory, read_only=read_only), LARGE)
        assert engine.shown.footing is not None, "the snapshot was lost"
        assert shown(engine.view()) == shown(View.of(engine.store.load()))
        engine._housekeeper.stop()
        assert engine.verify() == []
        folder, footing = engine.store.folder, engine.shown.footing
        engine.store.close()
    assert folder is not None
    assert footing is not None
    left = sorted(name for name in os.listdir(folder) if name.startswith(("columns", "index")))
    named = [file.name for file in footing.manifest.files]
    assert left == sorted(named), f"expected {named}, got {left}"


def die_at_a_random_time(directory: str, seconds: str) -> None:
    """Commit and snapshot until the time is over, telling each durable generation."""
    staleness.MOST_REPLAYED = 0  # a snapshot after every commit
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    engine = Engine(LMDBStore.open(directory), LARGE)
    number = engine.view().generation
    while True:
        number += 1
        engine._housekeeper._rest_until = 0.0
        view = engine.commit(
            WriteBatch(concepts=concepts(range(1 + number % 7, 40 + number % 7), seed=number))
        )
        print(view.generation, flush=True)


def build_and_exit(directory: str) -> None:
    """End the interpreter in the middle of a build."""
    engine = Engine(LMDBStore.open(directory), LARGE)
    engine.commit(WriteBatch(concepts=concepts(range(1, 6000), dim=8)))
    assert engine._housekeeper._thread is not None
    print("building", flush=True)


def follow(directory: str) -> None:
    """Say what a reader shows and maps, once for each line of input."""
    engine = Engine(LMDBStore.open(directory, read_only=True), LARGE)
    for _ in sys.stdin:
        engine.refresh()
        settled(engine)
        engine.refresh()
        footing = engine.shown.footing
        folder, seq = (footing.folder.name, footing.seq) if footing else ("", 0)
        assert shown(engine.view()) == shown(View.of(engine.store.load()))
        print(engine.view().generation, engine.view().outside, folder, seq, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
