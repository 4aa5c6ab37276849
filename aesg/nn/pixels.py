"""Queries made of an image itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Rows and columns that an image is reduced to.
_SIDE = 14


class PixelQuery(nn.Module):
    """A fixed random projection of the reduced image, or of its cells, without their mean.

    Nothing in it is trained, so that a key never goes stale: what a network learned of one task
    can be asked for after it has learned another, and by another network. Random projections
    keep angles (Johnson and Lindenstrauss, 1984; for continual learning RanPAC, McDonnell et al.,
    2023).

    Parameters
    ----------
    channels : int
        Channels ``C`` of the images.
    vector_dim : int
        Width ``D`` of the memory.
    """

    projection: Tensor

    def __init__(self, channels: int, vector_dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # the same for every model of these sizes
        drawn = torch.randn(vector_dim, channels * _SIDE**2, generator=generator)
        self.register_buffer("projection", nn.init.orthogonal_(drawn, generator=generator))

    def forward(self, images: Tensor, rows: int = 1, columns: int = 1) -> Tensor:
        """Return the queries of the cells of images, row after row.

        Parameters
        ----------
        images : (B, C, height, width) tensor
        rows, columns : int
            Cells that an image is cut into.

        Returns
        -------
        (B, rows * columns, D) tensor
        """
        reduced = F.adaptive_avg_pool2d(images, (rows * _SIDE, columns * _SIDE))
        cells = reduced.unfold(2, _SIDE, _SIDE).unfold(3, _SIDE, _SIDE)
        cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, P, C * side * side)
        cells = cells.to(self.projection.dtype)
        return F.linear(cells - cells.mean(-1, keepdim=True), self.projection)
