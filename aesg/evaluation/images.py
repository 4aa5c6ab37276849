"""How near images come to others: PSNR, SSIM, mean squared and mean absolute error."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aesg.errors import AESGTrainingError
from aesg.evaluation._library import library
from aesg.evaluation.inputs import as_tensor

NAMES = ("psnr", "ssim", "mse", "mae")

#: PSNR of equal images, in dB. It is infinite, which cannot be averaged or written as JSON.
MOST_PSNR = 100.0

#: Standard deviation in pixels, and half the width, of the window of SSIM.
_SIGMA = 1.5
_RADIUS = 5

#: Values of images that are compared at once: SSIM takes some eighty times their memory.
_AT_ONCE = 2**18

#: Gray, in colour, and in colour with transparency.
_CHANNELS = (1, 3, 4)

#: How far rounding may bring a value out of its range, as a part of that.
_ROUNDING = 1e-4


class ImageSums:
    """Metrics of images, over batches of any size.

    Parameters
    ----------
    data_range : float or (float, float)
        The range of floating values: from 0 to a number above it, or from one number to another.
        That of uint8 is always 0 to 255. Results are those of images brought to [0, 1].

    Raises
    ------
    AESGTrainingError
        If it is no range.
    """

    def __init__(self, data_range: float | tuple[float, float] = 1.0) -> None:
        self._low, self._high = _range(data_range)
        self._squared = 0.0
        self._absolute = 0.0
        self._values = 0
        self._similarity = 0.0
        self._images = 0

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch.

        Parameters
        ----------
        predictions, targets : (B, C, H, W) or (C, H, W) or (H, W), floating or uint8
            What a model made, and what it should have made.

        Raises
        ------
        AESGTrainingError
            If shapes differ, or a value is not finite or, of the targets, outside the range.
        """
        made = self._images_of("predictions", predictions)
        wanted = self._images_of("targets", targets).to(made.device)
        if made.shape != wanted.shape:
            raise AESGTrainingError(
                f"predictions: expected images of the targets' shape {tuple(wanted.shape)}, got "
                f"{tuple(made.shape)}"
            )
        self._check_range(wanted)
        if as_tensor("targets", targets).dtype is torch.uint8:
            self._check_scale(made)
        count = max(1, _AT_ONCE // made[0].numel())
        for some, of in zip(torch.split(made, count), torch.split(wanted, count), strict=True):
            self._add(some, of)

    def compute(self) -> dict[str, float]:
        """Return ``"psnr"`` in dB, ``"ssim"``, ``"mse"`` and ``"mae"``.

        PSNR, at most 100, is that of the mean squared error of all. NaN before the first batch.
        """
        if not self._images:
            return dict.fromkeys(NAMES, math.nan)
        squared = self._squared / self._values
        return {
            "psnr": min(-10 * math.log10(squared), MOST_PSNR) if squared else MOST_PSNR,
            "ssim": self._similarity / self._images,
            "mse": squared,
            "mae": self._absolute / self._values,
        }

    def _images_of(self, name: str, value: Any) -> Tensor:
        """Return images (B, C, H, W) of the range [0, 1]."""
        images = as_tensor(name, value)
        if not 2 <= images.ndim <= 4 or _channels_last(images):
            raise AESGTrainingError(
                f"{name}: expected images (B, C, H, W), channels before height and width, got "
                f"shape {tuple(images.shape)}; images (..., H, W, C) become so by movedim(-1, -3)"
            )
        if images.dtype is torch.uint8:
            images = images.float() / 255
        elif images.is_floating_point():
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            if (self._low, self._high) != (0, 1):
                images = (images - self._low) / (self._high - self._low)
        else:
            raise AESGTrainingError(
                f"{name}: expected floating or uint8 images, got {images.dtype}"
            )
        if not bool(images.isfinite().all()):
            raise AESGTrainingError(f"{name}: expected finite values, got NaN or infinity")
        return images.reshape(-1, *([1] * (3 - images.ndim)), *images.shape[-3:])

    def _check_range(self, wanted: Tensor) -> None:
        low, high = (float(each) for each in wanted.aminmax())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise AESGTrainingError(
                f"targets: expected values in {self._given(0, 1)}, got {self._given(low, high)}; "
                "bring images to [0, 1], or give compute_image_metrics their data_range"
            )

    def _check_scale(self, made: Tensor) -> None:
        """Refuse floating predictions that seem to be of 0 to 255 as their targets are."""
        low, high = (float(each) for each in made.aminmax())
        if low < -1 or high > 2:  # what a model makes leaves the range a little
            raise AESGTrainingError(
                f"predictions: expected values near {self._given(0, 1)}, got "
                f"{self._given(low, high)}: only uint8 images are always in [0, 255]; give "
                "compute_image_metrics the data_range of floating ones"
            )

    def _given(self, low: float, high: float) -> str:
        """Return a range of [0, 1] as it was before images were brought there."""
        width = self._high - self._low
        return f"[{self._low + low * width:g}, {self._low + high * width:g}]"

    def _add(self, made: Tensor, wanted: Tensor) -> None:
        regression = library("torchmetrics.functional.regression")
        flat = made.flatten(), wanted.flatten()
        squared = float(regression.mean_squared_error(*flat))
        similar = float(similarity(made, wanted).sum())
        if not (math.isfinite(squared) and math.isfinite(similar)):
            low, high = (float(each) for each in made.aminmax())
            raise AESGTrainingError(
                f"predictions: expected values near {self._given(0, 1)}, got "
                f"{self._given(low, high)}, whose squares are not finite"
            )
        self._squared += squared * made.numel()
        self._absolute += float(regression.mean_absolute_error(*flat)) * made.numel()
        self._values += made.numel()
        self._similarity += similar
        self._images += len(made)


def similarity(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the structural similarity (SSIM) of each image with another.

    That of Wang et al., "Image quality assessment: from error visibility to structural similarity"
    (2004), III.C: a Gaussian window of 11 by 11 pixels, over the pixels around which all of it lies
    within the image. Where a side is shorter, the window has the greatest odd width that fits.

    Parameters
    ----------
    made, wanted : (B, C, H, W) floating
        In [0, 1].

    Returns
    -------
    (B,) floating
        In [-1, 1]. In float32, that of images that are bright and nearly flat is up to 5e-4 off, as
        variances are differences of squares; float64 takes 28 times as long on a CPU.
    """
    radius = min(_RADIUS, (min(made.shape[-2:]) - 1) // 2)
    measured = library("torchmetrics.functional.image").structural_similarity_index_measure
    with torch.autocast(made.device.type, enabled=False):
        _, full = measured(
            made,
            wanted,
            # Torchmetrics takes the width from sigma: int(3.5 * sigma + 0.5) pixels on either side.
            sigma=_SIGMA if radius == _RADIUS else max(radius / 3.5, 0.1),
            data_range=1.0,
            reduction=None,
            return_full_image=True,
        )
    height, width = full.shape[-2:]
    whole: Tensor = full[..., radius : height - radius, radius : width - radius]
    return whole.flatten(1).mean(1)


def _range(data_range: float | tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = data_range if isinstance(data_range, tuple) else (0.0, data_range)
        if -math.inf < low < high < math.inf:
            return float(low), float(high)
    except (TypeError, ValueError):
        pass
    raise AESGTrainingError(
        f"data_range: expected a finite number > 0, or (low, high), got {data_range!r}"
    )


def _channels_last(images: Tensor) -> bool:
    """Tell whether images seem to be (..., H, W, C).

    Their last dimension is as long as images have channels, and that of channels is not. Squares,
    such as (64, 4, 4), are maps of features.
    """
    if images.ndim < 3:
        return False
    channels, height, width = images.shape[-3:]
    return width in _CHANNELS and channels not in _CHANNELS and height != width
