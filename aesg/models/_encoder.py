"""The convolutional halves that all image models share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.errors import AESGTrainingError
from aesg.models.base import check_positive

_KERNEL = 3


class Encoder(nn.Module):
    """Blocks of convolution, batch normalisation, max-pooling and ReLU; each halves the image.

    Block ``i`` has ``base_filters * 2**i`` filters.

    Parameters
    ----------
    channels : int
        Channels ``C`` of the images.
    base_filters : int
        Filters of the first block.
    blocks : int

    Raises
    ------
    AESGConfigError
        If one of them is not at least 1.
    """

    def __init__(self, channels: int, base_filters: int, blocks: int) -> None:
        check_positive(channels=channels, base_filters=base_filters, blocks=blocks)
        super().__init__()
        widths = widths_of(base_filters, blocks)
        self.channels = channels
        self.stride = 2**blocks
        self.width = widths[-1]
        steps = pairwise((channels, *widths))
        self.blocks = nn.Sequential(*(_down(before, after) for before, after in steps))

    def forward(self, images: Tensor) -> Tensor:
        """Return the bottleneck features of images.

        Parameters
        ----------
        images : (B, C, height, width) float tensor
            Padded with copies of the last row and column to multiples of the stride.

        Returns
        -------
        (B, F, h, w) tensor
            ``F = base_filters * 2**(blocks - 1)``; ``h`` and ``w`` are height and width over the
            stride, rounded up.

        Raises
        ------
        AESGTrainingError
            If type, shape or channels are others, or a side is shorter than the stride; or a pixel
            is NaN or infinite, which a compiled program does not look for.
        """
        whole = padded(self.checked(images), self.stride)
        # not `contiguous`: an image of one channel is that in both orders, and stays as it is
        features: Tensor = self.blocks(whole.clone(memory_format=torch.channels_last))
        return features

    def checked(self, images: Tensor) -> Tensor:
        """Return the images as they are, if they can be encoded.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        fitting = (
            images.is_floating_point()
            and images.ndim == 4
            and images.shape[0] > 0
            and images.shape[1] == self.channels
            and min(images.shape[2:]) >= self.stride
        )
        if not fitting:
            raise AESGTrainingError(
                f"Images: expected floats of shape (batch, {self.channels}, height, width), at "
                f"least one image and no side below {self.stride}, got {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )
        # before the running statistics of batch normalisation take such a pixel in for good
        if not torch.compiler.is_compiling() and not bool(images.isfinite().all()):
            raise AESGTrainingError("Images: expected finite numbers, got NaN or infinity")
        return images


class Decoder(nn.Module):
    """The mirror of an `Encoder`: transposed convolution, batch normalisation, ReLU; a last layer.

    Parameters
    ----------
    channels : int
        Channels of what is returned.
    base_filters, blocks : int
        Those of the encoder.
    """

    def __init__(self, channels: int, base_filters: int, blocks: int) -> None:
        super().__init__()
        widths = widths_of(base_filters, blocks)
        steps = pairwise((*reversed(widths), base_filters))
        self.blocks = nn.Sequential(*(_up(before, after) for before, after in steps))
        self.last = nn.Conv2d(base_filters, channels, _KERNEL, padding="same")

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, C, h * stride, w * stride)`` for features ``(B, F, h, w)``."""
        images: Tensor = self.last(self.blocks(features))
        return images.contiguous()  # what leaves a model can be viewed in any shape


def widths_of(base_filters: int, blocks: int) -> tuple[int, ...]:
    """Return the filters of each block, each twice those of the block before."""
    return tuple(base_filters * 2**block for block in range(blocks))


def padded(images: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column of ``(B, C, height, width)`` up to multiples of a stride."""
    height, width = images.shape[2:]
    below, right = -height % stride, -width % stride
    if not below and not right:
        return images
    return F.pad(images, (0, right, 0, below), mode="replicate")


def _down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, _KERNEL, padding="same", bias=False),
        nn.BatchNorm2d(after),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),  # to the same end as before the pooling, for a quarter of the work
    )


def _up(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(before, after, 2, stride=2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
