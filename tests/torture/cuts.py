"""Cuts the power of a file system while a writer is at work on it.

The file system is an ext4 in a file. Its shutdown request stops all writing at once and throws
away what the kernel still held in memory; mounting it again is the boot after the cut.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.torture.figures import Tally
from tests.torture.kills import acknowledged_in
from tests.torture.workers import Workers

_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_LOG_FLUSH = struct.pack("I", 2)
_IMAGE_BYTES = 64 << 20
_ENDLESS = 10**9
_CUTS_FOR_EACH = 40
_MOST_LINES, _MOST_SECONDS = 20, 0.01


class Ext4:
    """A file system of its own, mounted; made by `mounted_ext4`.

    Parameters
    ----------
    image : Path
        The file that holds it.
    point : Path
        Where it is mounted.
    """

    def __init__(self, image: Path, point: Path) -> None:
        self._image = image
        self.point = point

    def mount(self) -> None:
        """Mount it, which repairs it from its journal."""
        _run("mount", "-o", "loop", str(self._image), str(self.point))

    def unmount(self) -> None:
        """Unmount it, which forgets all that the kernel holds of it."""
        _run("umount", str(self.point))

    def cut_power(self) -> None:
        """Stop all writing, with nothing more reaching the image."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUT_DOWN, _WITHOUT_LOG_FLUSH)
        finally:
            os.close(descriptor)


@contextmanager
def mounted_ext4(folder: Path) -> Iterator[Ext4]:
    """Make a file system and mount it; skip the test where that is not allowed."""
    image, point = folder / "image", folder / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    disk = Ext4(image, point)
    try:
        _run("mkfs.ext4", "-q", str(image))
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED: needs root, mkfs.ext4 and loop devices ({error})")
    try:
        yield disk
    finally:
        disk.unmount()


def cut_often(
    forks: Workers, disk: Ext4, program: str, durability: str, cuts: int, seed: int = 0
) -> Tally:
    """Cut the power under a writer again and again, and examine what is left.

    The parameters are those of `kills.kill_often`.
    """
    chance, tally = random.Random(seed), Tally()
    for number in range(cuts):
        memory = disk.point / f"{program}-{durability}-{number // _CUTS_FOR_EACH}"
        writer = forks.begin(program, memory, durability, _ENDLESS)
        lines = [writer.line() for _ in range(chance.randint(1, _MOST_LINES))]
        time.sleep(chance.random() * _MOST_SECONDS)
        disk.cut_power()
        writer.kill()
        said = [line for line in [*lines, *writer.rest()] if line is not None]
        disk.unmount()
        disk.mount()
        acknowledged = acknowledged_in(said)
        tally.acknowledged += sum(line.startswith("commit ") for line in said)
        verdict = forks.judge(memory, ahead=acknowledged + 2)
        tally.add(verdict, f"cut {number} after {said[-1:]}", acknowledged)
    return tally


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
