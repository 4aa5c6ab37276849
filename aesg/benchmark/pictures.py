"""The pictures of a run: where they come from, and how they are divided."""

from __future__ import annotations

import hashlib
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from aesg.benchmark.photos import read_folder, squared
from aesg.benchmark.scenes import generated_scene
from aesg.benchmark.settings import (
    CIFAR,
    CROP,
    EVAL_SHARE,
    FOLDER,
    GENERATED,
    LEAST_IMAGES,
    Settings,
)
from aesg.errors import AESGTrainingError
from aesg.models.image import LUMA

Pixels = NDArray[np.uint8]

_BYTE = 255
#: Seconds for an answer of the server that CIFAR-10 comes from.
_PATIENCE = 20.0
#: The light of a picture that is shown again.
_DIMMEST, _BRIGHTEST = 0.8, 1.2


@dataclass(frozen=True)
class Pictures:
    """Coloured pictures of one size.

    Parameters
    ----------
    pixels : (N, 3, S, S) uint8 tensor
    dataset : {"cifar10", "generated", "folder"}
        What they are, which may be other than what was asked for.
    source : str
        Where they come from, in words.
    notes : tuple of str
        What there is to say about them.
    """

    pixels: Tensor
    dataset: str
    source: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all pixels."""
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def divided(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the pictures to train on and those to judge, by chance; no picture is in both.

        Parameters
        ----------
        seed : int

        Returns
        -------
        train : (0.8 N, 3, S, S) uint8 tensor
        judged : (0.2 N, 3, S, S) uint8 tensor
        """
        dice = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.pixels), generator=dice)
        judged = max(1, round(EVAL_SHARE * len(order)))
        return self.pixels[order[judged:]], self.pixels[order[:judged]]


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a gray picture ``(1, H, W)`` and the coloured one ``(3, H, W)``, in [0, 1].

    Parameters
    ----------
    pixels : (N, 3, H, W) uint8 tensor
    """

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        colour = self._pixels[index].float() / _BYTE
        return gray(colour), colour

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in their order, ``size`` at a time."""
        for start in range(0, len(self), size):
            colours = self._pixels[start : start + size].float() / _BYTE
            yield gray(colours), colours


def gray(colours: Tensor) -> Tensor:
    """Return the luma of coloured pictures, ``(..., 3, H, W)`` to ``(..., 1, H, W)``."""
    return (colours * torch.tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)


def seen_again(pixels: Tensor, seed: int) -> Tensor:
    """Return other views of pictures: each cut at a random place, in another light.

    Parameters
    ----------
    pixels : (N, 3, S, S) uint8 tensor
    seed : int

    Returns
    -------
    (N, 3, 7/8 S, 7/8 S) uint8 tensor
    """
    dice = torch.Generator().manual_seed(seed)
    side = pixels.shape[-1]
    kept = round(CROP * side)
    places = torch.randint(side - kept + 1, (len(pixels), 2), generator=dice).tolist()
    light = _DIMMEST + (_BRIGHTEST - _DIMMEST) * torch.rand(len(pixels), generator=dice)
    views = [
        (picture[:, top : top + kept, left : left + kept] * factor).clamp(0, _BYTE).round().byte()
        for picture, (top, left), factor in zip(pixels, places, light, strict=True)
    ]
    return torch.stack(views)


def load_pictures(settings: Settings, left_out: Callable[[Path], bool]) -> Pictures:
    """Return the pictures that the settings ask for; generated ones where CIFAR-10 cannot be had.

    Parameters
    ----------
    settings : Settings
    left_out : callable
        Tells which files of a folder are to be passed over.

    Raises
    ------
    AESGTrainingError
        If a folder has fewer than five different coloured images that can be read.
    """
    if settings.dataset == FOLDER and settings.image_dir is not None:
        found = read_folder(settings.image_dir, settings.max_images, settings.image_size, left_out)
        if len(found.pixels) < LEAST_IMAGES:
            raise AESGTrainingError(
                f"image_dir: expected at least {LEAST_IMAGES} different coloured images in "
                f"'{settings.image_dir}', got {len(found.pixels)}{found.told}"
            )
        return _pictures(FOLDER, found.pixels, f"images of '{settings.image_dir}'", found.notes)
    if settings.dataset == CIFAR:
        try:
            return _pictures(CIFAR, _cifar(settings), "CIFAR-10, training images")
        except (ImportError, RuntimeError, OSError) as error:
            reason = f"CIFAR-10 cannot be had ({type(error).__name__}: {error})"
            warnings.warn(f"{reason}: generated scenes are used instead", stacklevel=4)
            return _generated(settings, (f"{reason}.",))
    return _generated(settings)


def _generated(settings: Settings, notes: tuple[str, ...] = ()) -> Pictures:
    scenes = [generated_scene(index, settings.image_size) for index in range(settings.max_images)]
    return _pictures(GENERATED, scenes, "generated scenes", notes)


def _cifar(settings: Settings) -> list[Pixels]:
    """Return images of CIFAR-10; torchvision fetches what is not there.

    Raises
    ------
    ImportError, RuntimeError, OSError
        If torchvision is missing or broken, or the archive cannot be fetched or is damaged.
    """
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

    with _impatient():
        data = CIFAR10(settings.data_dir, train=True, download=True)
    most = min(settings.max_images, len(data))
    return [squared(data[place][0], settings.image_size) for place in range(most)]


@contextmanager
def _impatient() -> Iterator[None]:
    """Let no connection be waited for long: torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _pictures(
    dataset: str, pixels: Sequence[Pixels], source: str, notes: Sequence[str] = ()
) -> Pictures:
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Pictures(stacked, dataset, source, tuple(notes))
