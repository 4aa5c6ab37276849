"""What the harness runs in processes that may die: scripted writers, and the judge.

As a command it runs one program, or serves requests: then it has all modules loaded and forks for
each request, which takes a hundredth of the time that a new interpreter takes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from storage_backends import codec, compaction, environment, folders, layout
from storage_backends.engine import Engine
from storage_backends.errors import StoreError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.lmdb_write import write_number
from storage_backends.opening import MAP_SIZE, OpenMode, Tables, Transaction
from storage_backends.replacement import restore
from tests.storage.history import batch_of
from tests.torture.judge import LARGE, judge
from tests.torture.truth import Truth

#: Shared with the forks, so that a generation is worked out once.
_truth = Truth()

_PATIENCE = 60  # seconds after which a program that hangs is ended by a signal


def say(text: object) -> None:
    """Print a line with one system call: it arrives whole or not at all."""
    os.write(1, f"{text}\n".encode())


def commit(directory: str, durability: str, count: str) -> None:
    """Commit ``count`` generations of the history, and say each one that is durable."""
    with LMDBStore.open(directory, durability=durability) as store:
        say(f"open {store.uuid}")
        for _ in range(int(count)):
            say(f"commit {store.commit(batch_of(store.generation() + 1))}")


def keep_house(directory: str, durability: str, count: str) -> None:
    """Write ``count`` times: some commits, a graph and a snapshot, a compact memory.

    Says each generation that is durable, and what it begins.
    """
    _compact_as_if_large()
    for _ in range(int(count)):
        store = LMDBStore.open(directory, durability=durability)
        with contextlib.closing(_engine_on(store)) as engine:
            _commit_through(engine, 3)
            say("rebuild")
            engine.rebuild()
            _commit_through(engine, 2)
            say("close")
        say("compact")
        compaction.compact(directory, verify=True)


def begin_commit(directory: str) -> None:
    """Commit three generations to an open memory."""
    with LMDBStore.open(directory) as store:
        say("begin")
        for _ in range(3):
            say(f"commit {store.commit(batch_of(store.generation() + 1))}")


def begin_snapshot(directory: str) -> None:
    """Build a graph, write a snapshot, commit one more generation, and write it again."""
    store = LMDBStore.open(directory)
    with contextlib.closing(_engine_on(store)) as engine:
        say("begin")
        engine.rebuild()
        _commit_through(engine, 1)
        engine.rebuild()


def begin_compact(directory: str) -> None:
    """Compact a memory."""
    _compact_as_if_large()
    say("begin")
    compaction.compact(directory, verify=True)


def begin_restore(directory: str) -> None:
    """Restore a memory from what `make_source` made beside it."""
    say("begin")
    restore(Path(directory).with_name("source"), directory)


def make_source(directory: str) -> None:
    """Make a memory that is two generations ahead of another, and has that one's number.

    For the number that it gets where it is restored is greater by two.
    """
    source = Path(directory).with_name("source")
    with LMDBStore.open(directory, read_only=True) as store:
        generation = store.generation()
    with LMDBStore.open(source) as store:
        for number in range(1, generation + 3):
            store.commit(batch_of(number))

    def number_back(transaction: Transaction, tables: Tables) -> None:
        write_number(transaction, tables, codec.GENERATION, generation)
        for number in (1, 2):
            transaction.delete(codec.encode_number(generation + number), db=tables.log)

    (layout.require_memory(source) / layout.STAMP).unlink()
    with folders.environment_of(layout.require_memory(source), writable=True) as env:
        env.write(number_back)


def limited(resource_name: str, amount: str, program: str, directory: str) -> None:
    """Run a program under a limit of the operating system."""
    number = getattr(resource, resource_name)
    resource.setrlimit(number, (int(amount), resource.getrlimit(number)[1]))
    run(program, [directory])


def read_on(directory: str) -> None:
    """Begin to read a memory, say so, and never end."""
    folder = layout.require_memory(Path(directory))
    reader = environment.acquire(folder, OpenMode(False, True, MAP_SIZE))

    def job(transaction: Transaction, tables: Tables) -> None:
        assert transaction.get(codec.UUID, db=tables.sys)
        say("reading")
        signal.pause()

    reader.read(job)


def stay(directory: str) -> None:
    """Open a memory for reading, say so, and do nothing more."""
    with LMDBStore.open(directory, read_only=True):
        say("reading")
        signal.pause()


def _compact_as_if_large() -> None:
    setattr(compaction, "Engine", _engine_on)  # noqa: B010 - for a type checker it is no attribute


def _engine_on(store: LMDBStore) -> Engine:
    return Engine(store, exact_below=LARGE)


def _commit_through(engine: Engine, count: int) -> None:
    for _ in range(count):
        generation = engine.store.generation()
        say(f"commit {engine.commit(batch_of(generation + 1)).generation}")


def commit_carelessly(directory: str, durability: str, count: str) -> None:
    """Do what `commit` does without a single sync, as no release of the store would."""
    lmdb.open = functools.partial(lmdb.open, sync=False)  # type: ignore[assignment]
    commit(directory, durability, count)


def run(name: str, arguments: list[str]) -> None:
    """Run a program; say so where it ends with an error of the store."""
    try:
        PROGRAMS[name](*arguments)
    except StoreError as error:
        say(f"refused {type(error).__name__} {error}")


def identify(directory: str) -> None:
    """Say the identity and the generation of a memory."""
    with LMDBStore.open(directory, read_only=True) as store:
        say(f"{store.uuid} {store.generation()}")


def examine(directory: str, uuid: str, read_only: str) -> None:
    """Say what `judge` says of a memory."""
    say(judge(Path(directory), uuid, _truth, read_only=bool(read_only)).encode())


PROGRAMS: dict[str, Callable[..., None]] = {
    "begin_commit": begin_commit,
    "begin_compact": begin_compact,
    "begin_restore": begin_restore,
    "begin_snapshot": begin_snapshot,
    "commit": commit,
    "commit_carelessly": commit_carelessly,
    "examine": examine,
    "identify": identify,
    "keep_house": keep_house,
    "limited": limited,
    "make_source": make_source,
    "read_on": read_on,
    "stay": stay,
}


def serve() -> None:
    """Run a program in a fork for each line of input, and say how it ended."""
    logging.disable(logging.CRITICAL)  # what is expected here would fill the screen
    for line in sys.stdin:
        request = json.loads(line)
        _truth.at(request["ahead"])
        pid = os.fork()
        if not pid:
            _run_forked(request)
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _run_forked(request: dict[str, Any]) -> None:
    status = 1
    try:
        signal.alarm(_PATIENCE)
        say(f"pid {os.getpid()}")
        run(request["program"], request["arguments"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        run(sys.argv[1], sys.argv[2:])
