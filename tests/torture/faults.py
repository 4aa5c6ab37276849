"""Lets one system call of a program fail, or die in it, and then the next, through all of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, zip_longest
from pathlib import Path

from tests.torture.figures import Tally
from tests.torture.judge import Verdict
from tests.torture.kills import acknowledged_in
from tests.torture.trace import Call, parse, run, strace
from tests.torture.workers import Workers

#: Calls that a full or broken disk, or a lack of memory, may end with an error.
CALLS = (
    "openat,lseek,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync,rename,"
    "link,unlink,unlinkat,mkdir,rmdir,mmap,mremap,msync"
)

#: What happens to the call, as strace names it.
FAULTS = {"SIGKILL": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}


#: Exit status of strace where the program was killed: it then kills itself.
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class Position:
    """One call of a program: the ``number``-th of its name that one of its threads makes."""

    name: str
    number: int


class Sweep:
    """Runs one program on copies of one memory, with a fault at each of its calls.

    Parameters
    ----------
    forks : Workers
    folder : Path
        Where to put the copies.
    memory : Path
        The memory to begin with.
    program : str
        What to run on it, of `programs.PROGRAMS`.
    """

    def __init__(self, forks: Workers, folder: Path, memory: Path, program: str) -> None:
        self._forks = forks
        self._memory = memory
        self._program = program
        self._copy = folder / "copy"
        self._trace = folder / "trace"
        self._before = forks.judge(memory, read_only=True, ahead=100).generation

    def positions(self) -> list[Position]:
        """Return the calls that concern the memory, from when the program begins its work."""
        done = self._run("-e", f"trace={CALLS}")
        assert done.returncode == 0, done.stderr
        with self._trace.open() as lines:
            return list(dict.fromkeys(_positions(list(parse(lines)), self._copy)))

    def run(self, positions: Sequence[Position], faults: Sequence[str]) -> Tally:
        """Return what came of a fault at each of some positions, the faults taken by turns."""
        tally = Tally()
        for position, fault in zip(positions, cycle(faults), strict=False):
            where = f"inject={position.name}:{fault}:when={position.number}"
            done = self._run("-e", f"trace={position.name}", "-e", where)
            if not (done.returncode in _KILLED or self._was_injected()):
                continue  # a thread made other calls this time
            acknowledged = max(acknowledged_in(done.stdout.splitlines()), self._before)
            tally.acknowledged += acknowledged - self._before
            verdict = self._forks.judge(self._copy, ahead=acknowledged + 3)
            if done.returncode not in (0, *_KILLED):
                detail = f"the program ended with {done.returncode}: {done.stderr[-500:]}"
                verdict = Verdict("died", detail=detail)
            tally.add(verdict, where, acknowledged)
        return tally

    def _was_injected(self) -> bool:
        """Return whether a call that concerns the memory was made to fail."""
        hit = [line for line in self._trace.read_text().splitlines() if "(INJECTED)" in line]
        return any(_hexadecimal(self._copy) in line for line in hit)

    def _run(self, *options: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._memory, self._copy)
        # Not with --seccomp-bpf, which swallows the signal.
        under = [strace(), "-f", "-y", "-qq", "-xx", "-o", str(self._trace)]
        return run([*under, *options], self._program, self._copy)


def _positions(calls: Sequence[Call], memory: Path) -> Iterator[Position]:
    """Count the calls of each thread; yield those on a memory after the program's first word."""
    counts: dict[tuple[int, str], int] = {}
    begun = False
    for call in calls:
        key = call.thread, call.name
        counts[key] = counts.get(key, 0) + 1
        begun = begun or call.said() == "begin\n"
        if begun and _hexadecimal(memory) in call.arguments:
            yield Position(call.name, counts[key])


def _hexadecimal(path: Path) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(path))


def spread_out(positions: Sequence[Position], count: int) -> list[Position]:
    """Return at most ``count`` of the positions: of each call some, evenly spread."""
    names = sorted({position.name for position in positions})
    queues = [_halving([each for each in positions if each.name == name]) for name in names]
    turns = zip_longest(*queues)
    return [position for turn in turns for position in turn if position is not None][:count]


def _halving(positions: Sequence[Position]) -> list[Position]:
    """Return the positions from the coarsest spread to the finest."""
    order = [positions[len(positions) // 2]]
    step = len(positions)
    while len(order) < len(positions):
        step = max(step // 2, 1)
        order += [each for each in positions[::step] if each not in order]
    return order
