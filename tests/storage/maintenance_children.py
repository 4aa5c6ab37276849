"""Programs about maintenance that tests run in processes of their own, see `processes`."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from storage_backends import compaction, copying, layout, repair, replacement
from storage_backends.engine import Engine
from storage_backends.errors import NotAStoreError
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EVENT, WriteBatch
from storage_backends.view import View
from tests.storage.engines import LARGE
from tests.storage.picture import picture

#: Calls that change what is on the disk, or make it durable.
STEPS = {
    *("copyfile", "copy", "fsync", "ftruncate", "link", "mkdir", "open", "pwrite", "rename"),
    *("replace", "rmdir", "sync", "unlink", "write", "posix_fallocate", "initialise"),
}


def _say(text: object) -> None:
    print(text, flush=True)


def count_few_as_many() -> None:
    """Let compaction and repair give a small memory a snapshot with a graph."""
    compaction.__dict__["Engine"] = partial(Engine, exact_below=LARGE)
    repair.__dict__["Engine"] = partial(Engine, exact_below=LARGE)


def hold(directory: str) -> None:
    """Open a writer, say so, commit for each line of input, and end with the input."""
    with closing(LMDBStore.open(directory)) as store:
        _say(os.getpid())
        for _ in sys.stdin:
            _say(store.commit(WriteBatch()))


def count_up(directory: str) -> None:
    """Commit on and on, an event and the number of all events each time; say when it has begun."""
    with closing(LMDBStore.open(directory)) as store:
        for number in itertools.count(len(store.events()) + 1):
            batch = WriteBatch(events=np.zeros(1, EVENT), settings={"count": str(number).encode()})
            store.commit(batch)
            if store.generation() == 2:
                _say("begun")


def compact_forever(directory: str) -> None:
    """Compact a memory again and again, saying each folder that comes into use."""
    while True:
        _say(compaction.compact(directory, wait=30).folder)


def watch_two(directory: str, *known: str) -> None:
    """Read on and on until the end of input; say the number of each content that is read.

    What is read must always be one of those that are known, by `content_of`, and whole.
    """
    with closing(Engine(LMDBStore.open(directory, read_only=True), LARGE)) as engine:
        last = -1
        while not select.select([sys.stdin], [], [], 0)[0]:
            engine.refresh()
            number = known.index(content_of(engine.view()))
            if number != last:
                _say(number)
                last = number


def content_of(view: View) -> str:
    """Return the hash of all that a view shows of concepts and edges."""
    content = hashlib.sha256()
    ids = np.sort(view.ids.whole()[view.alive.whole()])
    slots = view.slots(ids)
    content.update(ids.tobytes() + view.keys[slots].tobytes() + view.stats[slots].tobytes())
    for concept_id in ids.tolist():
        content.update(view.edges(concept_id).tobytes())
    return content.hexdigest()


def watch(directory: str) -> None:
    """Read on and on until the end of input; say each folder that is read.

    What is read must never change, and must always be what the records say. The log may be
    damaged: whoever is up to date does not read it.
    """
    with closing(Engine(LMDBStore.open(directory, read_only=True), LARGE)) as engine:
        first, folder = _content(engine), ""
        while not select.select([sys.stdin], [], [], 0)[0]:
            engine.refresh()
            assert _content(engine) == first
            assert {problem.table for problem in engine.store.verify()} <= {"log"}
            if engine.store.folder.name != folder:
                folder = engine.store.folder.name
                _say(folder)


def _content(engine: Engine) -> str:
    view, content = engine.view(), hashlib.sha256()
    ids = engine.store.load().concepts.ids
    slots = view.slots(ids)
    assert (slots >= 0).all()
    content.update(ids.tobytes() + view.keys[slots].tobytes())
    for concept_id in ids.tolist():
        content.update(view.edges(concept_id).tobytes())
    return content.hexdigest()


def die_at_every_step(tool: str, pristine: str, stride: str) -> None:
    """Copy a memory, run a tool on it, die at the n-th step; for n of a stride. Say what is found.

    Said are the folder in use and the names of what else there is.
    """
    count_few_as_many()
    memory = Path(pristine).with_name("memory")
    for step in itertools.count(1, int(stride)):
        shutil.rmtree(memory, ignore_errors=True)
        shutil.copytree(pristine, memory)
        pid = os.fork()
        if not pid:
            _die_at(step)
            _tools(memory)[tool](memory)
            sys.setprofile(None)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        names = [path.name for path in memory.iterdir()]
        if tool == "repair":
            assert not repair.repair(memory).problems
        assert not examine(memory).problems
        with closing(LMDBStore.open(memory)) as store:
            folder = store.folder.name
            _say(f"{folder} {hashlib.sha256(repr(_shown(store)).encode()).hexdigest()} {names}")
        assert not (memory / "next").exists()
        assert [path.name for path in memory.glob("gen-*")] == [folder]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return


def _tools(memory: Path) -> dict[str, Callable[[Path], object]]:
    return {
        "compact": compaction.compact,
        "repair": repair.repair,
        "restore": partial(replacement.restore, memory.with_name("copy")),
    }


def _shown(store: LMDBStore) -> dict[str, Any]:
    parts = picture(store)
    return {name: parts[name] for name in ("uuid", "concepts", "edges", "payloads", "events")}


def die_copying(directory: str) -> None:
    """Copy a memory and die at the n-th step, for every n; what is left opens as nothing."""
    target = Path(directory).with_name("copy")
    for step in itertools.count(1):
        shutil.rmtree(target, ignore_errors=True)
        pid = os.fork()
        if not pid:
            _die_at(step)
            copying.copy(directory, target)
            sys.setprofile(None)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        try:
            with closing(LMDBStore.open(target, read_only=True)) as store:
                assert not store.verify()
                _say(f"complete {store.generation()}")
        except NotAStoreError:
            _say("nothing")
            assert not (target / layout.CURRENT).exists()
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return


def _die_at(step: int) -> None:
    """Kill this process before the given one of the calls that touch files."""
    steps = itertools.count(1)

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and argument.__name__ in STEPS and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)


def as_stranger(tool: str, *arguments: str) -> None:
    """Run a tool as a user who owns nothing here, and say its exit status."""
    main: Callable[[list[str]], int] = importlib.import_module(f"tools.{tool}").main
    os.setgid(65534)
    os.setuid(65534)
    _say(main(list(arguments)))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
