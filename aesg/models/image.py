"""Models that return images: colorization and reconstruction."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.errors import AESGConfigError, AESGTrainingError
from aesg.memory import AESGMemory
from aesg.models._encoder import Decoder, Encoder, padded
from aesg.models._image_model import ImageModel
from aesg.models._patches import PatchCodes, window_keys
from aesg.models.base import check_positive
from aesg.nn.blend import MemoryBlend, recalled_vectors
from aesg.nn.conv import DEFAULT_TOP_K, MemoryInjection2d, query_cells, recall_cells
from aesg.nn.origins import origins_of
from aesg.nn.query import MemoryQuery, QueryPolicy

#: What the memory is asked by: the gray window around a cell as it is, which never goes stale, or
#: what the encoder makes of it.
Keys: TypeAlias = Literal["pixels", "features"]

#: Initial scale of cosines in the attention where keys are pixels: they resemble one another more
#: than what an encoder has learned to tell apart.
_PIXEL_SCALE = 25.0

#: By how much pixels may leave [0, 1]: resampling overshoots.
_OVERSHOOT = 0.05
#: Distance from black and from white that the logit of a pixel keeps.
_EDGE = 0.02
#: Weights of red, green and blue in the gray of an image (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class _PaintingModel(ImageModel):
    """An encoder and a decoder, with a memory between them and beside them.

    What the memory holds about each cell of the bottleneck is added to the features there. Its
    vector values are small images of what was there; painted by themselves, they are blended with
    the image of the decoder.

    Parameters
    ----------
    memory : AESGMemory
    channels_in, channels_out : int
        Channels of the images given and returned.
    base_filters, blocks, top_k, query_every, keys, memory_dropout
        As for `AESGColorizationNet`.
    """

    asks_first: bool = True

    def __init__(
        self,
        memory: AESGMemory,
        channels_in: int,
        channels_out: int,
        *,
        base_filters: int,
        blocks: int,
        top_k: int,
        query_every: QueryPolicy,
        keys: Keys,
        memory_dropout: float,
    ) -> None:
        check_positive(top_k=top_k)
        check_keys(keys)
        super().__init__(memory, memory_dropout=memory_dropout)
        self.top_k = top_k
        self.keys_drift = keys == "features"
        self.encoder = Encoder(channels_in, base_filters, blocks)
        self.codes = PatchCodes(channels_out, memory.vector_dim)
        width = self.encoder.width
        self.ask = MemoryQuery(width, memory) if keys == "features" else None
        self.injection = MemoryInjection2d(width, memory.vector_dim, every=query_every)
        self.decoder = Decoder(channels_out, base_filters, blocks)
        self.blend = MemoryBlend(width)
        if keys == "pixels":
            with torch.no_grad():
                memory.log_scale.fill_(math.log(_PIXEL_SCALE))

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return query, where it is learned, injection and gate."""
        parts = (self.injection, self.blend)
        return parts if self.ask is None else (self.ask, *parts)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images that the model makes of others.

        Parameters
        ----------
        images : (B, C_in, H, W) float tensor
            In [0, 1]; any size from the encoder's stride on.

        Returns
        -------
        (B, C_out, H, W) tensor
            In [0, 1].

        Raises
        ------
        AESGTrainingError
            If type, shape or channels are others, a side is too short or, unless compiled, a pixel
            is out of range.
        """
        features = self.encoder(self._checked(images))
        if not self.uses_memory():
            return self._own(features, images)
        cells = self.injection.cells(features)
        query = self._windows(images) if self.ask is None else query_cells(self.ask, cells)
        context = recall_cells(self.memory, query, top_k=self.top_k, origins=origins_of(images))
        own = self._own(self.injection(features, context), images)
        self._keep_own(lambda: own)
        expected = self._coded(own.detach())
        recalled, share = self.blend(cells, expected, context)
        self.memory.defer(context, expected=expected + share * (recalled - expected))
        return own + self._spread(share, own) * (self._painted(recalled, images) - own)

    def queries(self, images: Tensor) -> Tensor:
        """Return the queries that images put to the memory.

        Parameters
        ----------
        images : (B, C_in, H, W) float tensor

        Returns
        -------
        (B, h, w, D) tensor
            One for each cell.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        images = self._checked(images)
        if self.ask is None:
            return self._windows(images)
        return query_cells(self.ask, self.injection.cells(self.encoder(images)))

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return the codes of what was to be painted in each cell.

        Parameters
        ----------
        targets : (B, C_out, H, W) float tensor
            In [0, 1].

        Returns
        -------
        (B, h, w, D) tensor

        Raises
        ------
        AESGTrainingError
            If they are no such images.
        """
        channels = self.codes.channels
        if not targets.is_floating_point() or targets.ndim != 4 or targets.shape[1] != channels:
            raise AESGTrainingError(
                f"Targets: expected floats of shape (batch, {channels}, height, width), got "
                f"{targets.dtype} of shape {tuple(targets.shape)}"
            )
        check_range("Targets", targets)
        return self._coded(targets)

    def _checked(self, images: Tensor) -> Tensor:
        """Return the images as they are, if they can be encoded and lie in [0, 1]."""
        check_range("Images", self.encoder.checked(images))
        return images

    def _windows(self, images: Tensor) -> Tensor:
        """Return the gray windows around the cells of images as queries, ``(B, h, w, D)``."""
        grid = self._padded(images)
        return window_keys(grid, self.encoder.stride, self._cell(grid), self.memory.vector_dim)

    def _coded(self, images: Tensor) -> Tensor:
        """Return the codes of full images ``(B, C_out, H, W)``, ``(B, h, w, D)``."""
        grid = self._padded(self._relative(images))
        height, width = self._cell(grid)
        return self.codes.encode(grid, grid.shape[2] // height, grid.shape[3] // width)

    def _painted(self, codes: Tensor, images: Tensor) -> Tensor:
        """Return the image that codes stand for, of the height and width of the input."""
        height, width = images.shape[2:]
        tall, wide = self._padded(images).shape[2:]
        patches = self.codes.decode(codes, tall, wide)[:, :, :height, :width]
        return self._absolute(patches, images).clamp(0, 1)

    def _spread(self, share: Tensor, images: Tensor) -> Tensor:
        """Return a share for each pixel, ``(B, h, w, 1)`` to ``(B, 1, H, W)``."""
        height, width = images.shape[2:]
        size = self._padded(images).shape[2:]
        pixels = F.interpolate(share.permute(0, 3, 1, 2), size, mode="bilinear")
        return pixels[:, :, :height, :width]

    def _padded(self, images: Tensor) -> Tensor:
        """Return images of whole cells."""
        every = self.injection.every
        return padded(images, self.encoder.stride * (every if isinstance(every, int) else 1))

    def _cell(self, grid: Tensor) -> tuple[int, int]:
        """Return height and width, in pixels, of what one query is about in a padded image."""
        every = self.injection.every
        if not isinstance(every, int):
            return grid.shape[2], grid.shape[3]
        return self.encoder.stride * every, self.encoder.stride * every

    @abstractmethod
    def _own(self, features: Tensor, images: Tensor) -> Tensor:
        """Return what the network alone makes of the features, in [0, 1]."""

    @abstractmethod
    def _relative(self, images: Tensor) -> Tensor:
        """Return what the memory is to hold of full images."""

    @abstractmethod
    def _absolute(self, patches: Tensor, images: Tensor) -> Tensor:
        """Return full images, given what the memory holds and the input."""


class AESGColorizationNet(_PaintingModel):
    """Colours gray images, and remembers which colours it saw where.

    Parameters
    ----------
    memory : AESGMemory
    base_filters : int
        Filters of the first block; each block has twice as many as the one before it.
    blocks : int
        Blocks, each of which halves the image.
    top_k : int
        Concepts retrieved for each query.
    query_every : int or "sample"
        ``n`` asks once for each ``n`` x ``n`` cells of the bottleneck, "sample" once for an image.
    memory_dropout : float
        Share of training batches that run without the memory, in [0, 1).

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    luma: Tensor

    def __init__(
        self,
        memory: AESGMemory,
        *,
        base_filters: int = 32,
        blocks: int = 3,
        top_k: int = DEFAULT_TOP_K,
        query_every: QueryPolicy = 1,
        keys: Keys = "pixels",
        memory_dropout: float = 0.3,
    ) -> None:
        super().__init__(
            memory,
            1,
            3,
            base_filters=base_filters,
            blocks=blocks,
            top_k=top_k,
            query_every=query_every,
            keys=keys,
            memory_dropout=memory_dropout,
        )
        for parameter in self.decoder.last.parameters():
            nn.init.zeros_(parameter)  # starts as the gray image
        self.register_buffer("luma", torch.tensor(LUMA).view(3, 1, 1), persistent=False)

    def _own(self, features: Tensor, images: Tensor) -> Tensor:
        return tinted(images, self.decoder(features))

    def _relative(self, images: Tensor) -> Tensor:
        return images - (images * self.luma).sum(1, keepdim=True)

    def _absolute(self, patches: Tensor, images: Tensor) -> Tensor:
        return images + patches


class AESGCNNAutoencoder(_PaintingModel):
    """Reconstructs images, and remembers what it saw.

    Parameters
    ----------
    memory : AESGMemory
    channels : int
        Channels of the images.
    base_filters, blocks, top_k, query_every, keys, memory_dropout
        As for `AESGColorizationNet`.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    def __init__(
        self,
        memory: AESGMemory,
        *,
        channels: int = 3,
        base_filters: int = 32,
        blocks: int = 3,
        top_k: int = DEFAULT_TOP_K,
        query_every: QueryPolicy = 1,
        keys: Keys = "pixels",
        memory_dropout: float = 0.3,
    ) -> None:
        super().__init__(
            memory,
            channels,
            channels,
            base_filters=base_filters,
            blocks=blocks,
            top_k=top_k,
            query_every=query_every,
            keys=keys,
            memory_dropout=memory_dropout,
        )

    @torch.no_grad()
    def explanation_scores(self, images: Tensor) -> Tensor:
        """Tell how well the memory explains images; what is unlike anything before scores low.

        Each cell is compared with what the memory expects there, given the window around it. Reads
        only, whatever the mode.

        Parameters
        ----------
        images : (B, C, H, W) float tensor
            In [0, 1].

        Returns
        -------
        (B,) tensor
            Mean cosine of expected and actual codes, in [0, 1]; 0 where the memory holds nothing.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        context = recall_cells(self.memory, self.queries(images), top_k=self.top_k, origins=None)
        cosines = F.cosine_similarity(recalled_vectors(context), self.outcomes(images), dim=-1)
        return cosines.clamp(0, 1).flatten(1).mean(1)

    def _own(self, features: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        own: Tensor = self.decoder(features)[:, :, :height, :width].sigmoid()
        return own

    def _relative(self, images: Tensor) -> Tensor:
        return images - 0.5

    def _absolute(self, patches: Tensor, images: Tensor) -> Tensor:
        return patches + 0.5


def tinted(images: Tensor, change: Tensor) -> Tensor:
    """Return gray images ``(B, 1, H, W)`` with colours, given a change of the pixels' logits.

    Parameters
    ----------
    images : (B, 1, H, W) tensor
    change : (B, 3, H', W') tensor
        At least as high and as wide as the images; the rest is cut off.
    """
    height, width = images.shape[2:]
    return (images.logit(_EDGE) + change[:, :, :height, :width]).sigmoid()


def check_range(name: str, images: Tensor) -> None:
    """Raise `AESGTrainingError` where a pixel, unless it is NaN, lies outside [0, 1].

    Not while compiling: a branch on what images hold cannot be traced.
    """
    if torch.compiler.is_compiling() or not images.numel():
        return
    least, most = (float(bound) for bound in images.detach().aminmax())
    if least < -_OVERSHOOT or most > 1 + _OVERSHOOT:
        raise AESGTrainingError(
            f"{name}: expected pixels in [0, 1], got {least:.4g} to {most:.4g}: scale them (divide "
            f"bytes by 255; undo a normalisation)"
        )


def check_keys(keys: Any) -> None:
    """Raise `AESGConfigError` unless keys are of a kind that a model offers."""
    if keys not in get_args(Keys):
        raise AESGConfigError(f"keys: expected one of {get_args(Keys)}, got {keys!r}")
