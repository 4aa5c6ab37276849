"""Programs that tests run in processes of their own, see `processes`."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import lmdb

from storage_backends import layout, opening
from storage_backends.errors import StoreClosedError, StoreError, StoreLockedError
from storage_backends.lazy import lazy
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage.build import concepts
from tests.storage.contract_handles import CALLS
from tests.storage.history import Oracle, batch_of
from tests.storage.picture import picture


def _say(text: object) -> None:
    print(text, flush=True)


def hold(directory: str) -> None:
    """Open a writer, say so, and wait for the end of input."""
    with LMDBStore.open(directory):
        _say(os.getpid())
        sys.stdin.read()


def read(directory: str) -> None:
    """Say the generation that a reader sees."""
    with LMDBStore.open(directory, read_only=True) as store:
        assert not store.verify()
        _say(store.generation())


def follow(directory: str) -> None:
    """Say what a reader sees, once for each line of input."""
    with LMDBStore.open(directory, read_only=True, map_size=1 << 20) as store:
        _say(store.generation())
        for _ in sys.stdin:
            _say(f"{store.generation()} {len(store.load().concepts)} {len(store.verify())}")


def try_to_open(directory: str, read_only: str) -> None:
    """Say why a writer, or a reader, cannot be opened."""
    try:
        with LMDBStore.open(directory, read_only=bool(read_only)):
            _say("opened")
    except StoreError as error:
        _say(f"{type(error).__name__} {error}")


def try_to_read_with_few_slots(directory: str) -> None:
    """Say why a reader cannot be opened, without making room for more of them."""
    opening._LOCK_SIZE = 1
    try_to_open(directory, "read-only")


def hold_slot(directory: str) -> None:
    """Begin to read with LMDB alone, say so, and wait for the end of input."""
    folder = str(Path(directory, "gen-000001"))
    with lmdb.open(folder, readonly=True, lib_version=0) as env, env.begin():
        _say(os.getpid())
        sys.stdin.read()


def commit_forever(directory: str, durability: str) -> None:
    """Write the history from where it stands, saying each generation that is durable."""
    with LMDBStore.open(directory, durability=durability) as store:
        generation = store.generation()
        while True:
            generation = store.commit(batch_of(generation + 1))
            _say(generation)


def replace_forever(directory: str) -> None:
    """Put one copy after another in the place of the folder in use, saying each."""
    memory = Path(directory)
    for number in itertools.count(2):
        successor = memory / f"gen-{number:06}"
        successor.mkdir()
        with LMDBStore.open(memory) as store:
            store.copy_to(successor, compact=False)
            layout.publish(successor)
        shutil.rmtree(memory / f"gen-{number - 1:06}", ignore_errors=True)
        _say(number)


def commit_much(directory: str) -> None:
    """Make the data file some megabytes long with one commit."""
    with LMDBStore.open(directory) as store:
        store.commit(WriteBatch(concepts=concepts(range(1001, 11001))))


def open_with_little_room(directory: str, read_only: str) -> None:
    """Open a memory on a nearly full disk, with more and more room; say what comes of it each time.

    The memory is made anew for each writer; a reader finds one whose ``lock.mdb`` is missing.
    """
    filler = Path(directory).with_name("filler")
    for room in range(0, 200, 4):
        shutil.rmtree(directory, ignore_errors=True)
        if read_only:
            LMDBStore.open(directory).close()
            os.unlink(Path(directory, "gen-000001", "lock.mdb"))
        _leave_room(filler, room * 1024)
        pid = os.fork()
        if not pid:
            try_to_open(directory, read_only)
            os._exit(0)
        _say(f"{room} KiB: exit status {os.waitpid(pid, 0)[1]}")
        filler.unlink()


def _leave_room(filler: Path, room: int) -> None:
    with open(filler, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(file.tell() - room, 0))


def die_making(directory: str, step: str) -> None:
    """Make a memory, and die before the given one of the steps that touch files; or say so."""
    steps = itertools.count(1)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        concerns = any(directory in str(argument) for argument in arguments)
        if event in ("open", "os.mkdir", "os.rename") and concerns and next(steps) == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    LMDBStore.open(directory).close()
    _say("made")


def fill(directory: str, room: str) -> None:
    """Write the history until a write fails; say where it ended and what came of it.

    ``room`` is how large a file may become, 0 for no limit.
    """
    if int(room):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))
    store = LMDBStore.open(directory)
    beside = LMDBStore.open(directory, read_only=True)
    generation = store.generation()
    try:
        while generation < 1000:
            generation = store.commit(batch_of(generation + 1))
    except StoreError as error:
        _say(generation)
        _say(f"{type(error).__name__} {error}")
    for handle in (store, beside):
        for name, call in CALLS.items():
            try:
                call(handle)
                raise AssertionError(f"{name}: expected a refusal after a failed write")
            except StoreClosedError as error:
                _say(error)
    with LMDBStore.open(directory) as again:
        assert again.generation() == generation
        assert not again.verify()


def fork_while_busy(directory: str) -> None:
    """Fork again and again while threads read and commit; check parent and children."""
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just this
    writer = LMDBStore.open(directory)
    reader = LMDBStore.open(directory, read_only=True)
    start = writer.generation()
    done = threading.Event()

    def work(call: Callable[[], object]) -> None:
        while not done.wait(0.001):
            call()

    calls = [reader.load, reader.verify, lambda: writer.commit(WriteBatch())]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    statuses = [_fork(directory, [writer, reader], number) for number in range(20)]
    done.set()
    for thread in threads:
        thread.join()
    assert statuses == [0] * len(statuses), statuses
    assert writer.generation() == reader.generation() > start
    assert not reader.verify()
    _say("fine")


def _fork(directory: str, inherited: list[LMDBStore], number: int) -> int:
    """Return the exit status of a child that uses what it inherited."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        for store in inherited:
            _check_inherited(store)
        own = LMDBStore.open(directory, read_only=True)
        assert own.generation() >= 1
        assert not own.verify()
        _check_locked(directory)  # nor did the children before this one drop the lock
        if number % 2:
            own.close()
        status = 0
    finally:
        os._exit(status)


def _check_inherited(store: LMDBStore) -> None:
    for name, call in CALLS.items():
        try:
            call(store)
            raise AssertionError(f"{name}: expected an inherited handle to refuse")
        except StoreClosedError as error:
            assert "fork" in str(error), error
    store.close()


def _check_locked(directory: str) -> None:
    try:
        LMDBStore.open(directory)
        raise AssertionError("expected the parent to be the only writer")
    except StoreLockedError as error:
        assert str(os.getppid()) in str(error), error


def fork_while_computing() -> None:
    """Fork while another thread computes a property; let the child compute another object's."""
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just this
    begun, done = threading.Event(), threading.Event()

    class Waiting:
        def __init__(self, waits: bool) -> None:
            self.waits = waits

        @lazy
        def answer(self) -> int:
            if self.waits:
                begun.set()
                done.wait()
            return 42

    thread = threading.Thread(target=lambda: Waiting(True).answer)
    thread.start()
    begun.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        os._exit(int(Waiting(False).answer != 42))
    status = os.waitpid(pid, 0)[1]
    done.set()
    thread.join()
    assert status == 0, status
    _say("fine")


def fork_and_write(directory: str) -> None:
    """Hand a memory over to a forked child, which writes it after the parent closed it."""
    store = LMDBStore.open(directory)
    generation = store.commit(WriteBatch())
    end, begin = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(begin)
        os.read(end, 1)  # returns when the parent closes its end
        with LMDBStore.open(directory) as own:
            own.commit(WriteBatch())
        os._exit(0)
    os.close(end)
    store.close()
    os.close(begin)
    assert os.waitpid(pid, 0)[1] == 0
    with LMDBStore.open(directory, read_only=True) as after:
        assert after.generation() == generation + 1
    _say("fine")


def read_as_stranger(directory: str) -> None:
    """Say what a process without permission to write gets, reading and writing."""
    os.setgid(65534)
    os.setuid(65534)
    for read_only in (True, False):
        try:
            with LMDBStore.open(directory, read_only=read_only) as store:
                _say(f"opened {store.generation()}")
        except StoreError as error:
            _say(f"{type(error).__name__} {error}")


def open_damaged_copies(directory: str, first: str, count: str) -> None:
    """Damage copies of a memory in numbered ways; say what comes of opening and using each.

    Each is opened by a forked child, because damage may end in a signal.
    """
    whole = Path(directory, "gen-000001", "data.mdb").read_bytes()
    with LMDBStore.open(directory, read_only=True) as store:
        identity, generation = store.uuid, store.generation()
    for number in range(int(first), int(first) + int(count)):
        copy = Path(f"{directory}-{number}")
        shutil.copytree(directory, copy)
        (copy / "gen-000001" / "data.mdb").write_bytes(damaged(whole, number))
        pid = os.fork()
        if not pid:
            _say(f"{number} {_outcome(copy, Oracle(identity), generation, number % 2 == 0)}")
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status:
            _say(f"{number} ended with status {status}")
        shutil.rmtree(copy)


def damaged(content: bytes, number: int) -> bytes:
    """Return a data file with the damage of that number, of one kind after the other."""
    chance, page = random.Random(number), 4096
    start = page * chance.randrange(len(content) // page)
    changed = bytearray(content)
    match number % 6:
        case 0:
            return content[: chance.randrange(len(content))]
        case 1:
            changed[start : start + page] = bytes(page)
        case 2:
            other = page * chance.randrange(len(content) // page)
            changed[start : start + page] = content[other : other + page]
        case 3:
            changed[start + chance.randrange(200)] ^= 1 << chance.randrange(8)
        case 4:
            changed[page * chance.randrange(2) + chance.randrange(152)] ^= 1 << chance.randrange(8)
        case _:
            for _ in range(chance.choice([1, 1, 8])):
                changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _outcome(directory: Path, oracle: Oracle, generation: int, read_only: bool) -> str:
    try:
        with LMDBStore.open(directory, read_only=read_only) as store:
            if picture(store) != oracle.at(generation):
                return "wrong answer"
            if not read_only:
                store.commit(batch_of(generation + 1))
                if store.verify() or picture(store) != oracle.at(generation + 1):
                    return "wrong answer after a commit"
            return "unharmed"
    except StoreError as error:
        return f"{type(error).__name__}"


def open_in_little_space(directory: str) -> None:
    """Open a memory with less address space than the usual map."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    with LMDBStore.open(directory) as store:
        store.commit(batch_of(store.generation() + 1))
        assert not store.verify()
        _say(len(picture(store)["concepts"]))


def open_damaged(directory: str) -> None:
    """Say what opening a damaged memory gives."""
    for read_only in (True, False):
        try:
            with LMDBStore.open(directory, read_only=read_only) as store:
                _say(f"opened {len(store.verify())}")
        except StoreError as error:
            _say(f"{type(error).__name__} {error}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
