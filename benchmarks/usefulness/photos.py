"""Photographs, cut into small pictures: what the tasks about images are made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.usefulness.data import Data

#: Pixels along a side of a picture, and along the shorter side of a photo that it is cut from.
SIDE = 64
_SHORT = 128
#: Weights of red, green and blue in gray (ITU-R BT.601).
_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
_ORDERS = tuple(permutations(range(3)))
#: Rotations and mirrorings of a picture.
TURNS = 8


def read_photos(data: Data) -> list[Tensor]:
    """Return the photographs, reduced, ``(3, H, W)`` float32 in [0, 1] each."""
    found = []
    for file in data.photos():
        with Image.open(file) as image:
            image.draft("RGB", (2 * _SHORT, 2 * _SHORT))
            width, height = image.size
            scale = _SHORT / min(width, height)
            size = round(width * scale), round(height * scale)
            pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        found.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    return found


def gray(pictures: Tensor) -> Tensor:
    """Return the gray of coloured pictures, ``(..., 3, H, W)`` to ``(..., 1, H, W)``."""
    return (pictures * _LUMA).sum(-3, keepdim=True)


@dataclass(frozen=True)
class Cutter:
    """Cuts pictures out of photos, at random.

    Parameters
    ----------
    dice : torch.Generator
    """

    dice: torch.Generator

    def cut(self, photo: Tensor, dimmest: float = 0.7, brightest: float = 1.3) -> Tensor:
        """Return a picture ``(3, 64, 64)`` of some place, darker or brighter."""
        _, height, width = photo.shape
        top, left = self.draw(height - SIDE + 1), self.draw(width - SIDE + 1)
        factor = dimmest + (brightest - dimmest) * self.share()
        return (photo[:, top : top + SIDE, left : left + SIDE] * factor).clamp(0, 1)

    def cuts(self, photos: list[Tensor], each: int, *brightness: float) -> Tensor:
        """Return pictures of every photo, ``(N, 3, 64, 64)``, photo by photo."""
        return torch.stack([self.cut(photo, *brightness) for photo in photos for _ in range(each)])

    def recoloured(self, photo: Tensor, turn: int) -> Tensor:
        """Return a photo, turned or mirrored, with its colours exchanged at random."""
        turned = torch.rot90(photo[list(_ORDERS[self.draw(len(_ORDERS))])], turn % 4, (1, 2))
        return turned.flip(2) if turn >= TURNS // 2 else turned

    def stranger(self, photo: Tensor) -> Tensor:
        """Return a recoloured photo of another size, turned or mirrored at random."""
        turned = self.recoloured(photo, self.draw(TURNS))
        least = (SIDE + 1) / min(photo.shape[1:])
        scale = max(0.55 + 0.4 * self.share(), least)
        return F.interpolate(turned[None], scale_factor=scale, mode="area")[0]

    def draw(self, below: int) -> int:
        """Return an integer from 0 on."""
        return int(torch.randint(below, (), generator=self.dice))

    def share(self) -> float:
        """Return a number in [0, 1)."""
        return float(torch.rand((), generator=self.dice))
