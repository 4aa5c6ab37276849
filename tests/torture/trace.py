"""Records the system calls by which a program changes files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.torture.workers import COMMAND, ROOT, environment

#: All calls that change a file or a folder, make a change durable, or say where the next one goes.
CALLS = (
    "open,openat,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,"
    "truncate,ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,rename,"
    "renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded, or failed.

    Parameters
    ----------
    thread : int
        Who made it.
    name : str
    arguments : str
        As strace prints them, every text in hexadecimal digits.
    result : int
        -1 where it failed.
    """

    thread: int
    name: str
    arguments: str
    result: int

    @property
    def texts(self) -> list[bytes]:
        """The texts among the arguments: paths, or what is written."""
        return [_bytes(text) for text in re.findall(r'"([^"]*)"', self.arguments)]

    @property
    def numbers(self) -> list[int]:
        """The plain numbers among the arguments, in order."""
        bare = re.sub(r'"[^"]*"|<[^>]*>|\{[^}]*\}', "", self.arguments)
        return [int(text) for text in re.findall(r"(?<![\w|])-?\d+\b", bare)]

    @property
    def paths(self) -> list[Path]:
        """The path arguments, each joined to the folder that it is relative to."""
        pairs = re.findall(r'(?:[\w]+<([^>]*)>, )?"([^"]*)"', self.arguments)
        return [Path(_bytes(folder).decode(), _bytes(name).decode()) for folder, name in pairs]

    def said(self) -> str | None:
        """Return what the call prints on standard output, None if it is another."""
        if self.name != "write" or not self.arguments.startswith("1<") or self.result < 0:
            return None
        return self.texts[0].decode()


def strace() -> str:
    """Return the path of strace; skip the test where there is none, or it may not trace."""
    found = shutil.which("strace")
    if found is None or not _may_trace(found):
        pytest.skip("NOT TESTED: needs strace, and the right to trace a process")
    return found


@cache
def _may_trace(path: str) -> bool:
    command = [path, "-f", "-o", os.devnull, "true"]
    return not subprocess.run(command, capture_output=True, timeout=60).returncode


def record(folder: Path, program: str, *arguments: object) -> list[Call]:
    """Run a program of `programs` to its end and return its calls in order.

    Parameters
    ----------
    folder : Path
        Where to keep the record.
    program : str
    arguments : object
    """
    output = folder / "trace"
    options = ["-f", "--seccomp-bpf", "-y", "-qq", "-xx", "-s", "100000000"]
    under = [strace(), *options, "-o", str(output), "-e", f"trace={CALLS}"]
    run(under, program, *arguments)
    with output.open() as lines:
        return list(parse(lines))


def run(under: Sequence[str], program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of `programs` under another one; its end is the caller's to judge."""
    return subprocess.run(
        [*under, *COMMAND, program, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def parse(lines: Iterator[str] | Sequence[str]) -> Iterator[Call]:
    """Yield the calls of a record in the order in which they returned."""
    begun: dict[str, str] = {}
    for line in lines:
        text = line.rstrip("\n")
        if unfinished := _UNFINISHED.match(text):
            begun[unfinished[1]] = unfinished[2]
            continue
        if resumed := _RESUMED.match(text):
            text = f"{resumed[1]} {begun.pop(resumed[1])}{resumed[2]}"
        if found := _LINE.match(text):
            yield Call(int(found[1]), found[2], found[3], int(found[4]))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removesuffix("(deleted)").replace("\\x", ""))
