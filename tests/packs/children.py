"""Programs that the tests of packs run in processes of their own, see `tests.memory_processes`."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from torch import Tensor

from aesg import AESGMemory
from tests.failing_calls import at_call, die
from tests.memory_build import opened


def attach_and_recall(say: Connection, directory: str, path: str, queries: Tensor) -> None:
    """Attach a pack to a memory that another process writes; say what is found, and where."""
    with AESGMemory.open(directory) as memory:
        memory.attach_pack(memory.load_pack(path))
        say.send(memory.sources(memory.recall(queries).concept_ids.ravel()))


def recall_in_workers(say: Connection, memory: AESGMemory, queries: Tensor, start: str) -> None:
    """Say what a handle finds here, and what it finds in a process that is started from here."""
    say.send(memory.recall(queries).concept_ids.tolist())
    context = multiprocessing.get_context(start)
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=_recall, args=(say, memory, queries)
    )
    process.start()
    process.join()


def _recall(say: Connection, memory: AESGMemory, queries: Tensor) -> None:
    say.send(memory.recall(queries).concept_ids.tolist())


def open_and_recall(say: Connection, directory: str, queries: Tensor) -> None:
    """Say what a reader finds with what the memory keeps."""
    with AESGMemory.open(directory) as memory:
        say.send(memory.sources(memory.recall(queries).concept_ids.ravel()))


def open_often(say: Connection, directory: str) -> None:
    """Open a memory many times; say with how many packs."""
    say.send("begin")
    found = set()
    for _ in range(200):
        with AESGMemory.open(directory) as memory:
            found.add(len(memory.get_attached_packs()))
    say.send(found)


def keep_at(say: Connection, directory: str, path: str, number: int | None) -> None:
    """Keep a pack and forget it again, in a new memory, and die in one of the calls for it."""
    with opened(directory) as memory:
        pack = memory.load_pack(path)
        say.send("begin")
        with at_call(number, die) as calls:
            memory.attach_pack(pack, keep=True)
            memory.detach_pack("medical")
            memory.detach_pack("medical", forget=True)
        say.send(len(calls.names))
