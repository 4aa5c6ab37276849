"""A lock that many threads share to read, and that one holds alone to write."""

from __future__ import annotations

import threading
from types import TracebackType


class ReadersWriterLock:
    """A lock for much reading and little writing.

    Threads are let in by order of arrival, readers that follow one another together, so that
    neither readers nor writers wait for ever. A thread that has the lock gets it again at once,
    but for one that shares it and wants it alone: two such would wait for each other.

    A forked child that may find the lock held by a thread it does not have must make its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._waiting: dict[_Hold, None] = {}  # by order of arrival
        self._held: set[_Hold] = set()  # all shared, or all of one thread

    def shared(self) -> _Hold:
        """Return a context in which this thread reads, and none writes."""
        return _Hold(self, alone=False)

    def alone(self) -> _Hold:
        """Return a context in which no other thread reads or writes.

        Raises
        ------
        RuntimeError
            On entry, if the thread shares the lock.
        """
        return _Hold(self, alone=True)

    def acquire(self, hold: _Hold) -> None:
        """Wait until a hold may begin."""
        with self._changed:
            mine = [each for each in self._held if each.thread == hold.thread]
            if hold.alone and mine and not any(each.alone for each in mine):
                raise RuntimeError(
                    "expected a thread that does not share the lock, to have it alone"
                )
            if not mine and (self._waiting or self._excluded(hold)):
                self._wait(hold)
            self._held.add(hold)

    def release(self, hold: _Hold) -> None:
        """End a hold, if it began."""
        with self._changed:
            self._held.discard(hold)
            if self._waiting:
                self._changed.notify_all()

    def _wait(self, hold: _Hold) -> None:
        self._waiting[hold] = None
        try:
            while self._excluded(hold) or self._is_behind(hold):
                self._changed.wait()
        finally:  # those behind it may be next
            del self._waiting[hold]
            self._changed.notify_all()

    def _excluded(self, hold: _Hold) -> bool:
        """Tell whether a hold of another thread is in the way."""
        return bool(self._held) and (hold.alone or any(each.alone for each in self._held))

    def _is_behind(self, hold: _Hold) -> bool:
        """Tell whether a hold has to wait for one that came earlier."""
        for earlier in self._waiting:
            if earlier is hold:
                return False
            if hold.alone or earlier.alone:
                return True
        return False


class _Hold:
    """One use of a lock, from entry to exit.

    Parameters
    ----------
    lock : ReadersWriterLock
    alone : bool
    """

    __slots__ = ("_lock", "alone", "thread")

    def __init__(self, lock: ReadersWriterLock, *, alone: bool) -> None:
        self._lock = lock
        self.alone = alone
        self.thread = threading.get_ident()

    def __enter__(self) -> None:
        try:
            self._lock.acquire(self)
        except BaseException:
            self._lock.release(self)  # an interrupt may have come when it was held already
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._lock.release(self)
        except BaseException:
            self._lock.release(self)  # an interrupt came before it was let go
            raise
