"""The lock that readers share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from aesg.memory_lock import ReadersWriterLock

SECONDS = 30


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread is about to do."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Threads:
    """Threads that take a lock, note their names in turn, and let go when told."""

    def __init__(self, lock: ReadersWriterLock) -> None:
        self.lock = lock
        self.entered: list[str] = []
        self._leave: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, *, alone: bool) -> None:
        """Start a thread, and return when it has the lock or waits for it."""
        ahead = len(self.entered) + len(self.lock._waiting)
        self._leave[name] = threading.Event()
        self._threads[name] = threading.Thread(target=self._run, args=(name, alone))
        self._threads[name].start()
        until(lambda: len(self.entered) + len(self.lock._waiting) > ahead)

    def end(self, name: str) -> None:
        """Let a thread let go, and return when it has."""
        self._leave[name].set()
        self._threads[name].join(SECONDS)
        assert not self._threads[name].is_alive()

    def expect(self, *names: str) -> None:
        """Wait until exactly these have had the lock."""
        until(lambda: len(self.entered) >= len(names))
        assert sorted(self.entered) == sorted(names)

    def close(self) -> None:
        for name, thread in self._threads.items():
            self._leave[name].set()
            thread.join(SECONDS)

    def _run(self, name: str, alone: bool) -> None:
        with self.lock.alone() if alone else self.lock.shared():
            self.entered.append(name)
            assert self._leave[name].wait(SECONDS)


@pytest.fixture
def lock() -> ReadersWriterLock:
    return ReadersWriterLock()


@pytest.fixture
def threads(lock: ReadersWriterLock) -> Iterator[Threads]:
    threads = Threads(lock)
    yield threads
    threads.close()


def is_free(lock: ReadersWriterLock, seconds: float = SECONDS) -> bool:
    """Tell whether another thread gets the lock alone in time."""
    got = threading.Event()

    def take() -> None:
        with lock.alone():
            got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return got.wait(seconds)


def test_readers_have_it_together(threads: Threads) -> None:
    threads.start("a", alone=False)
    threads.start("b", alone=False)
    threads.expect("a", "b")


def test_a_writer_waits_for_all_readers(threads: Threads) -> None:
    threads.start("a", alone=False)
    threads.start("b", alone=False)
    threads.start("writer", alone=True)
    threads.expect("a", "b")
    threads.end("a")
    threads.expect("a", "b")
    threads.end("b")
    threads.expect("a", "b", "writer")


@pytest.mark.parametrize("alone", [True, False])
def test_all_wait_for_a_writer(threads: Threads, alone: bool) -> None:
    threads.start("writer", alone=True)
    threads.start("next", alone=alone)
    threads.expect("writer")
    threads.end("writer")
    threads.expect("writer", "next")


def test_readers_that_keep_coming_do_not_keep_a_writer_out(threads: Threads) -> None:
    threads.start("first", alone=False)
    threads.start("writer", alone=True)
    threads.start("late", alone=False)
    threads.expect("first")
    threads.end("first")
    threads.expect("first", "writer")
    threads.end("writer")
    threads.expect("first", "writer", "late")


def test_writers_that_keep_coming_do_not_keep_readers_out(threads: Threads) -> None:
    threads.start("first", alone=True)
    threads.start("a", alone=False)
    threads.start("b", alone=False)
    threads.start("second", alone=True)
    threads.end("first")
    threads.expect("first", "a", "b")
    threads.end("a")
    threads.end("b")
    threads.expect("first", "a", "b", "second")


@pytest.mark.parametrize("alone", [True, False])
def test_a_thread_that_has_it_gets_it_again_though_others_wait(
    lock: ReadersWriterLock, threads: Threads, alone: bool
) -> None:
    with ExitStack() as outer:
        outer.enter_context(lock.alone() if alone else lock.shared())
        threads.start("writer", alone=True)
        with lock.shared():
            if alone:
                with lock.alone():
                    pass
        threads.expect()  # the inner ones did not let go of the outer
    threads.expect("writer")


def test_a_reader_that_would_write_is_told(lock: ReadersWriterLock) -> None:
    with lock.shared():
        with pytest.raises(RuntimeError, match="does not share the lock"), lock.alone():
            pass
        assert not is_free(lock, 0.1)
    assert is_free(lock)


def test_an_error_inside_lets_go(lock: ReadersWriterLock) -> None:
    for take in (lock.shared, lock.alone):
        with pytest.raises(ZeroDivisionError), take():
            raise ZeroDivisionError
    assert is_free(lock)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("when", ["entry", "exit"])
def test_an_interrupt_at_the_border_lets_go(
    lock: ReadersWriterLock, monkeypatch: pytest.MonkeyPatch, alone: bool, when: str
) -> None:
    acquire, release, due = lock.acquire, lock.release, [when]

    def interrupted_acquire(hold: Any) -> None:
        acquire(hold)
        if due == ["entry"]:
            due.clear()
            raise KeyboardInterrupt

    def interrupted_release(hold: Any) -> None:
        if due == ["exit"]:
            due.clear()
            raise KeyboardInterrupt
        release(hold)

    monkeypatch.setattr(lock, "acquire", interrupted_acquire)
    monkeypatch.setattr(lock, "release", interrupted_release)
    with pytest.raises(KeyboardInterrupt), lock.alone() if alone else lock.shared():
        pass
    assert is_free(lock)


def test_an_interrupt_while_waiting_lets_those_behind_go_on(
    lock: ReadersWriterLock, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.start("reader", alone=False)
    wait = lock._changed.wait

    entered = threading.Event()

    def read() -> None:
        with lock.shared():
            entered.set()

    behind = threading.Thread(target=read)

    def interrupted() -> None:
        monkeypatch.setattr(lock._changed, "wait", wait)
        behind.start()
        while len(lock._waiting) < 2:
            wait(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(lock._changed, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), lock.alone():
        pass
    assert entered.wait(SECONDS)
    behind.join(SECONDS)


def test_many_threads_never_meet_a_writer(lock: ReadersWriterLock) -> None:
    reading: set[int] = set()
    writing: set[int] = set()
    met: list[str] = []

    def work(number: int) -> None:
        for turn in range(60):
            if (turn + number) % 4:
                with lock.shared():
                    reading.add(number)
                    met.extend("reader and writer" for _ in writing)
                    time.sleep(0)
                    reading.discard(number)
            else:
                with lock.alone():
                    met.extend("writer and other" for _ in reading | writing)
                    writing.add(number)
                    time.sleep(0)
                    writing.discard(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(SECONDS)
    assert not any(worker.is_alive() for worker in workers)
    assert met == []
    assert is_free(lock)
