"""Small images as keys and as values: raw pixels, which never go stale."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aesg.errors import AESGConfigError

#: The last component of every code, in units of the root mean square of a patch. With it, a patch
#: of zeros has a direction too, and the cosine of two codes tells weak patches from strong ones.
_CONSTANT = 0.02

#: What a key sees of an image beyond its own cell, on each side, in cells of the bottleneck.
_SURROUNDINGS = 2

#: Pixels that a cell of the bottleneck is reduced to, along each side, before windows are cut out.
_GRAIN = 4


class PatchCodes:
    """Codes of the cells of an image: each its pixels, scaled down, and one constant.

    Parameters
    ----------
    channels : int
        Channels ``C`` of the images.
    vector_dim : int
        Width ``D`` of a code. It holds ``side`` x ``side`` pixels, as many as fit.

    Raises
    ------
    AESGConfigError
        If not one pixel fits.
    """

    def __init__(self, channels: int, vector_dim: int) -> None:
        if vector_dim <= channels:
            raise AESGConfigError(
                f"vector_dim: expected at least {channels + 1} for a pixel of {channels} channels "
                f"and a constant, got {vector_dim}"
            )
        self.channels = channels
        self.vector_dim = vector_dim
        self.side = math.isqrt((vector_dim - 1) // channels)
        self._scale = (self.side**2 * channels) ** -0.5

    def encode(self, images: Tensor, rows: int, columns: int) -> Tensor:
        """Return the code of each cell of images ``(B, C, H, W)``, ``(B, rows, columns, D)``.

        Parameters
        ----------
        images : (B, C, H, W) tensor
            Around zero, where zero says least.
        rows, columns : int
            Into how many cells of equal size an image is divided.
        """
        side, channels = self.side, self.channels
        small = F.adaptive_avg_pool2d(images.float(), (rows * side, columns * side))
        cells = small.view(-1, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        codes = F.pad(cells.flatten(3) * self._scale, (0, 1), value=_CONSTANT)
        return F.pad(codes, (0, self.vector_dim - codes.shape[-1]))

    def decode(self, codes: Tensor, height: int, width: int) -> Tensor:
        """Return the images that codes stand for, ``(B, rows, columns, D)`` to ``(B, C, H, W)``.

        Linear in the codes; between the pixels that a code holds, interpolated.
        """
        side, channels = self.side, self.channels
        batch, rows, columns, _ = codes.shape
        pixels = codes[..., : channels * side * side] / self._scale
        cells = pixels.view(batch, rows, columns, channels, side, side).permute(0, 3, 1, 4, 2, 5)
        small = cells.reshape(batch, channels, rows * side, columns * side)
        return F.interpolate(small, (height, width), mode="bilinear")


def window_keys(images: Tensor, stride: int, cell: tuple[int, int], vector_dim: int) -> Tensor:
    """Return a key for each cell: the shape of the gray window around it, whatever its brightness.

    A window without contrast has a direction too, that of a last, constant component.

    Parameters
    ----------
    images : (B, C, H, W) tensor
        Height and width are multiples of those of ``cell``.
    stride : int
        Pixels along a side of a cell of the bottleneck.
    cell : (int, int)
        Height and width, in pixels, of what one query is about.
    vector_dim : int
        Width ``D`` of the keys, at least 2.

    Returns
    -------
    (B, h, w, D) tensor
        Without gradient.
    """
    side = math.isqrt(vector_dim - 1)
    with torch.no_grad():
        gray = images.float().mean(1, keepdim=True)
        grain = max(stride // _GRAIN, 1)
        around = _SURROUNDINGS * stride // grain
        small = F.pad(F.avg_pool2d(gray, grain), (around,) * 4, mode="replicate")
        steps = (cell[0] // grain, cell[1] // grain)
        size = (steps[0] + 2 * around, steps[1] + 2 * around)
        windows = F.unfold(small, size, stride=steps).transpose(1, 2).reshape(-1, 1, *size)
        pixels = F.adaptive_avg_pool2d(windows, side).flatten(1)
        keys = F.pad((pixels - pixels.mean(1, keepdim=True)) / side, (0, 1), value=_CONSTANT)
        keys = F.pad(keys, (0, vector_dim - keys.shape[1]))
        rows, columns = images.shape[2] // cell[0], images.shape[3] // cell[1]
        return keys.view(images.shape[0], rows, columns, vector_dim)
