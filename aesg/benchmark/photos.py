"""Images of one's own, of any size and kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

#: A picture whose channels nowhere differ by more bytes than this has no colour to learn.
_COLOURLESS = 4
#: Least side of an image as its file has it; a smaller one would be a blur.
_LEAST = 16
_UNREADABLE = "they cannot be read"
_SMALL = f"they have a side of less than {_LEAST} pixels"
_GRAY = "they have no colour"
_REPEATED = "they show the same as another"


@dataclass(frozen=True)
class Found:
    """What a folder had.

    Parameters
    ----------
    pixels : list of (S, S, 3) uint8 arrays
    notes : list of str
        What was left out, and why, in sentences.
    """

    pixels: list[NDArray[np.uint8]]
    notes: list[str]

    @property
    def told(self) -> str:
        """What was left out, to stand behind a number."""
        return f"; {' '.join(self.notes)}" if self.notes else ""


def read_folder(folder: Path, most: int, side: int, passed_over: Callable[[Path], bool]) -> Found:
    """Read the images of a folder and of those in it, in a fixed order, as squares.

    Left out are images that cannot be read, are smaller than 16 pixels, have no colour, or show
    the same as another. Where there are more than asked for, chance decides which, the same at
    every call.

    Parameters
    ----------
    folder : Path
    most : int
        Images to return at the most.
    side : int
        Pixels along a side of what is returned.
    passed_over : callable
        Tells which files are not looked at.

    Returns
    -------
    Found
    """
    files = [file for file in _files(folder) if not passed_over(file)]
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    found: dict[str, NDArray[np.uint8]] = {}
    left_out: dict[str, list[str]] = {}
    for file in (files[place] for place in order):
        pixels = _read(file, side)
        if isinstance(pixels, str):
            left_out.setdefault(pixels, []).append(file.name)
            continue
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        if digest in found:
            left_out.setdefault(_REPEATED, []).append(file.name)
        found.setdefault(digest, pixels)
        if len(found) == most:
            break
    return Found(list(found.values()), [_told(*each) for each in sorted(left_out.items())])


def squared(image: Image, side: int) -> NDArray[np.uint8]:
    """Return the middle of an image, as large as fits, reduced or enlarged to ``(side, side, 3)``.

    Turned as its EXIF data say; what is transparent becomes white.
    """
    import PIL.Image
    import PIL.ImageOps

    image.draft("RGB", (2 * side, 2 * side))
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # of more than eight bits, and always gray
        upright = upright.convert("L")
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", over.size, "white"), over)
    fitted = PIL.ImageOps.fit(upright.convert("RGB"), (side, side), PIL.Image.Resampling.LANCZOS)
    return np.asarray(fitted)


def _files(folder: Path) -> list[Path]:
    """Return the files whose names are those of images, sorted; hidden ones are passed over."""
    import PIL.Image

    known = PIL.Image.registered_extensions()
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in known
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _read(file: Path, side: int) -> NDArray[np.uint8] | str:
    """Return the pixels of a file, or why it is left out."""
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            if min(image.size) < _LEAST:
                return _SMALL
            pixels = squared(image, side)
    # what Pillow's decoders say of damaged files, which is not documented; libavif's RuntimeError
    except (
        EOFError,
        OSError,
        RuntimeError,
        SyntaxError,
        ValueError,
        PIL.Image.DecompressionBombError,
    ):
        return _UNREADABLE
    return _GRAY if int(np.ptp(pixels, axis=-1).max()) <= _COLOURLESS else pixels


def _told(reason: str, names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    more = ", ..." if len(names) > 3 else ""
    return f"Left out because {reason}: {len(names)} ({shown}{more})."
