"""Tells which part of a program spends its CPU time, by sampling it."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType

_INTERVAL = 0.001
#: What belongs to no part.
REST = "the rest"


@dataclass
class Sampler:
    """Counts the CPU seconds of the main thread's parts.

    A part is a set of functions. The time between two samples belongs to the innermost one that has
    a part; what it calls elsewhere, as in numpy or torch, is its own time.

    Parameters
    ----------
    parts : dict of str to str or None
        Name of a part by what the path of a file, ``:`` and the name of a function contain; the
        first that fits. None where the time belongs to who calls.
    within : str, optional
        Name of a function: only what runs below it counts.
    """

    parts: Mapping[str, str | None]
    within: str | None = None
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _last: float = 0.0
    _known: dict[CodeType, str | None] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample the block."""
        before = signal.signal(signal.SIGPROF, self._take)
        signal.siginterrupt(signal.SIGPROF, False)
        self._last = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _take(self, _: int, frame: FrameType | None) -> None:
        now = time.process_time()
        passed, self._last = now - self._last, now
        found, inside = None, self.within is None
        while frame is not None and not (found and inside):
            found = found or self._part_of(frame.f_code)
            inside = inside or frame.f_code.co_name == self.within
            frame = frame.f_back
        if inside:
            self.seconds[found or REST] += passed

    def _part_of(self, code: CodeType) -> str | None:
        if code not in self._known:
            name = f"{code.co_filename}:{code.co_name}"
            self._known[code] = next(
                (self.parts[each] for each in self.parts if each in name), None
            )
        return self._known[code]
