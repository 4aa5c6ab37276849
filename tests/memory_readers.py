"""Programs that read a memory in processes of their own, see `memory_processes`."""

from __future__ import annotations

import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

import faiss
import torch

from aesg import AESGMemory, AESGStorageError
from storage_backends.lmdb_store import LMDBStore
from tests.memory_build import opened, pattern

#: Concepts of one commit in `replace_all`, and all that a memory of them can hold.
STAMPED = 8


def replace_all(memory: AESGMemory, value: int) -> None:
    """Put concepts of one value in the place of all others, in one commit."""
    memory.remember(torch.eye(16)[:STAMPED], [value] * STAMPED)


def stamp(memory: AESGMemory) -> int:
    """Return the value that all concepts of a retrieval have that have any."""
    found = memory.recall(torch.ones(16)).value_ids
    values = found[found >= 0].tolist()
    assert len(values) == STAMPED, f"some of a commit: {values}"
    assert set(values) == {values[0]}, f"of more than one commit: {values}"
    return int(values[0])


def watch(say: Connection, directory: str, last: int) -> None:
    """Retrieve until the last commit is there; say how many were seen."""
    with AESGMemory.open(directory) as memory:
        seen = [stamp(memory)]
        say.send("watching")
        while seen[-1] != last:
            value = stamp(memory)
            assert value >= seen[-1]
            if value > seen[-1]:
                seen.append(value)
        say.send(len(seen))


def watch_stamps(say: Connection, directory: str) -> None:
    """Retrieve until told to stop; say each stamp that is another one than the last."""
    with AESGMemory.open(directory) as memory:
        last = None
        while not say.poll():
            value = stamp(memory)
            if value != last:
                say.send(value)
                last = value
        say.recv()


def idle(say: Connection, directory: str) -> None:
    """Hold a memory open, having retrieved from it; say what it holds when asked."""
    with AESGMemory.open(directory) as memory:
        say.send(stamp(memory))
        say.recv()
        say.send(stamp(memory))


def read_for_ever(say: Connection, directory: str) -> None:
    """Hang in the middle of a read transaction."""
    memory = AESGMemory.open(directory)

    def hang(*_: object) -> None:
        say.send(os.getpid())
        say.recv()

    store = memory._state.engine.store
    assert isinstance(store, LMDBStore)
    store._lease.read(hang)


def use_threads() -> None:
    """Use the threads of torch and FAISS, so that a forked child inherits the pool of them."""
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    many = torch.rand(512, 512)
    torch.mm(many, many).exp_()
    faiss.knn(many.numpy(), many.numpy(), 8)
    assert torch.get_num_threads() == 2


def prefork(say: Connection, directory: str, opened_before: bool) -> None:
    """Fork workers, as a server does, that wait for a commit of another process."""
    use_threads()
    memory = AESGMemory.open(directory) if opened_before else None
    if memory is not None:
        say.send(stamp(memory))
    workers = [forked(lambda: serve(memory or AESGMemory.open(directory))) for _ in range(3)]
    say.send("forked")
    say.send([os.waitpid(pid, 0)[1] for pid in workers])
    if memory is not None:
        say.send(stamp(memory))


def serve(memory: AESGMemory) -> None:
    """Retrieve what there was before the fork, and what comes after it."""
    assert stamp(memory) in (0, 1)
    memory.recall(torch.rand(4096, 16))  # enough for several threads, if there were
    deadline = time.monotonic() + 50
    while stamp(memory) != 1:
        assert time.monotonic() < deadline
    assert memory.remember(pattern(9)).tolist() == []
    memory.close()


def forked(job: Callable[[], object]) -> int:
    """Run a job in a forked child that ends with status 0 if it went well; return its id."""
    if pid := os.fork():
        return pid
    try:
        job()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def fork_while_threads_work(say: Connection, directory: str) -> None:
    """Fork again and again while threads of this process retrieve and learn."""
    use_threads()
    memory, stop = opened(directory, max_concepts=STAMPED, durability="normal"), threading.Event()
    replace_all(memory, 0)
    reader = AESGMemory.open(directory)
    statuses = []

    def read() -> None:
        while not stop.is_set():
            stamp(reader)

    def learn() -> None:
        for value in itertools.count(1):
            if stop.is_set():
                break
            replace_all(memory, value)

    threads = [threading.Thread(target=job) for job in (read, read, learn)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        statuses.append(os.waitpid(forked(lambda: (stamp(reader), stamp(memory))), 0)[1])
    stop.set()
    for thread in threads:
        thread.join()
    say.send((statuses, memory.storage.verify()))
    memory.close()


def look_as_nobody(say: Connection, directory: str) -> None:
    """Say what another user finds."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        with AESGMemory.open(directory) as memory:
            say.send(memory.storage.node_count)
    except AESGStorageError as error:
        say.send((error.subsystem, error.message))
