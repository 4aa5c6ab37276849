"""Damages files as broken disks, careless copying and strangers do."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

_PAGE = 4096


def flip_a_bit(content: bytearray, chance: random.Random) -> None:
    """Change one bit of a byte that is not zero, as most of what is in use is not."""
    used = [place for place, byte in enumerate(content) if byte]
    content[chance.choice(used or range(len(content)))] ^= 1 << chance.randrange(8)


def flip_a_bit_of_a_header(content: bytearray, chance: random.Random) -> None:
    """Change one bit in the first bytes of a page."""
    start = chance.randrange(0, len(content), _PAGE)
    content[min(start + chance.randrange(64), len(content) - 1)] ^= 1 << chance.randrange(8)


def zero_a_page(content: bytearray, chance: random.Random) -> None:
    """Lose a page."""
    start = chance.randrange(0, len(content), _PAGE)
    end = min(start + _PAGE, len(content))
    content[start:end] = bytes(end - start)


def copy_a_page(content: bytearray, chance: random.Random) -> None:
    """Write a page to the place of another one."""
    page = content[(start := chance.randrange(0, len(content), _PAGE)) : start + _PAGE]
    where = chance.randrange(0, len(content), _PAGE)
    content[where : where + len(page)] = page


def fill_a_stretch(content: bytearray, chance: random.Random) -> None:
    """Overwrite some bytes with noise, beginning with one that is not zero."""
    used = [place for place, byte in enumerate(content) if byte]
    start = chance.choice(used or range(len(content)))
    end = min(start + chance.randint(1, 64), len(content))
    content[start:end] = chance.randbytes(end - start)


def cut_off(content: bytearray, chance: random.Random) -> None:
    """Lose the end."""
    del content[chance.randrange(len(content)) :]


def cut_off_at_a_page(content: bytearray, chance: random.Random) -> None:
    """Lose the last pages."""
    del content[chance.randrange(0, len(content), _PAGE) :]


def lengthen(content: bytearray, chance: random.Random) -> None:
    """Add noise at the end."""
    content.extend(chance.randbytes(chance.randint(1, 2 * _PAGE)))


KINDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_a_bit,
    flip_a_bit_of_a_header,
    zero_a_page,
    copy_a_page,
    fill_a_stretch,
    cut_off,
    cut_off_at_a_page,
    lengthen,
)


def damaged_copy(memory: Path, copy: Path, pattern: str, seed: int) -> str:
    """Copy a memory and damage one of its files; return what was done.

    Parameters
    ----------
    memory : Path
        The memory; nobody has it open.
    copy : Path
        Where to put the copy; what is there is removed.
    pattern : str
        Of the names of the files, of which one is chosen.
    seed : int
        Decides the rest.
    """
    chance = random.Random(seed)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(memory, copy)
    path = chance.choice(sorted(copy.rglob(pattern)))
    kind = KINDS[seed % len(KINDS)]
    content = bytearray(path.read_bytes())
    before = bytes(content)
    kind(content, chance)
    if content == before:  # as a page of zeros after it was zeroed
        kind = flip_a_bit
        kind(content, chance)
    path.write_bytes(content)
    return f"{kind.__name__} of {path.relative_to(copy)}, seed {seed}"
