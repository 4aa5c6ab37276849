"""Sample pictures side by side, each with its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aesg.benchmark.judging import Painter, ratios
from aesg.benchmark.output import MARK
from aesg.benchmark.pictures import Pairs

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

#: How many pictures are shown: the first ones, which chance has chosen.
SAMPLES = 8
#: The order of a strip, with the names above it.
_TITLES = {"aesg": "AESG", "baseline": "baseline", "ablated": "AESG, no memory"}

_BYTE = 255
#: Least side of a picture in a strip, height of the names, and the room between pictures.
_SIDE, _HEADER, _GAP = 128, 30, 4


def write_strips(folder: Path, painters: Mapping[str, Painter], pairs: Pairs) -> list[Path]:
    """Write original, gray and coloured pictures as ``sample_000.png``, ``sample_001.png``, ...

    Parameters
    ----------
    folder : Path
        Made if it is not there; strips of an earlier run are replaced.
    painters : mapping
        What colours gray pictures, by the names of `trial.ARMS`.
    pairs : Pairs
        The first 8 are shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gray, colours = next(pairs.batches(SAMPLES))
    painted = {name: painters[name](gray).detach().float().cpu() for name in _TITLES}
    files = [folder / f"sample_{number:03d}.png" for number in range(len(gray))]
    for number, file in enumerate(files):
        original = colours[number]
        columns = [("original", original), ("gray", gray[number].expand(3, -1, -1))]
        columns += [(_TITLES[name], made[number]) for name, made in painted.items()]
        _strip(list(_captioned(columns, original))).save(file, pnginfo=_signature())
    return files


def _signature() -> PngInfo:
    """Return what says that a picture is the benchmark's own."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", MARK)
    return info


def _captioned(columns: list[tuple[str, Tensor]], original: Tensor) -> Iterator[tuple[str, Image]]:
    """Yield pictures with their names and how near they come to the original."""
    import PIL.Image

    for name, picture in columns:
        near = float(ratios(picture[None], original[None]))
        caption = name if picture is original else f"{name}\n{near:.1f} dB"
        pixels = (picture.clamp(0, 1) * _BYTE).round().to(torch.uint8).permute(1, 2, 0)
        image = PIL.Image.fromarray(pixels.contiguous().numpy())
        times = -(-_SIDE // image.width)  # small ones are enlarged, so that they can be seen
        yield (
            caption,
            image.resize((times * image.width, times * image.height), PIL.Image.Resampling.NEAREST),
        )


def _strip(columns: list[tuple[str, Image]]) -> Image:
    import PIL.Image
    import PIL.ImageDraw

    side = columns[0][1].width
    width = len(columns) * (side + _GAP) - _GAP
    strip = PIL.Image.new("RGB", (width, side + _HEADER), "white")
    draw = PIL.ImageDraw.Draw(strip)
    for place, (caption, image) in enumerate(columns):
        left = place * (side + _GAP)
        draw.multiline_text((left + 2, 2), caption, fill="black", spacing=2)
        strip.paste(image, (left, _HEADER))
    return strip
