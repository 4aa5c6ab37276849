"""Small tasks of the models that return images: scenes that come again elsewhere, cut differently.

A scene is a random smooth texture. The training scenes have several pictures each, so that the
memory is of use; those of the test are met once, ONLINE, before they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from aesg.models import AESGCNNAutoencoder, AESGColorizationNet
from aesg.models.base import AESGModel
from aesg.modes import MemoryMode
from aesg.trainer import AESGTrainer
from benchmarks._models import ModelRun

_TRAINED, _TESTED = 40, 20
#: Pictures of each training scene, and of each test scene at each of its two meetings.
_PICTURES, _MET = 6, 4
_SCENE, _COARSE, _SIDE = 64, 16, 32
_EPOCHS = 15
_HOLE = 16
_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

Painter = type[AESGColorizationNet] | type[AESGCNNAutoencoder]


def _run(
    kind: Painter, given: Callable[[Tensor], Tensor], seed: int, folder: Path
) -> tuple[float, float, AESGModel]:
    torch.manual_seed(seed)
    known, scenes = _scenes(_TRAINED), _scenes(_TESTED)
    train, met, asked = (
        TensorDataset(given(pictures), pictures)
        for pictures in (_cut(known, _PICTURES), _cut(scenes, _MET), _cut(scenes, _MET))
    )
    twin = _new(kind, folder / "twin", seed)
    with twin.without_memory():
        _trainer(twin).fit(train, _EPOCHS)
        alone = _psnr(twin, asked)
    twin.memory.close()
    model = _new(kind, folder / "model", seed)
    _trainer(model).fit(train, _EPOCHS)
    _trainer(model).evaluate(met, mode=MemoryMode.ONLINE)
    return _psnr(model, asked), alone, model


def _scenes(count: int) -> Tensor:
    """Return smooth coloured textures, ``(N, 3, 64, 64)``."""
    colours = torch.rand(count, 3, 4, 4)
    shades = torch.rand(count, 1, _COARSE, _COARSE)
    wide = F.interpolate(colours, (_SCENE, _SCENE), mode="bilinear")
    return wide * F.interpolate(shades, (_SCENE, _SCENE), mode="bilinear")


def _cut(scenes: Tensor, each: int) -> Tensor:
    """Return pictures of random places, ``(N * each, 3, 32, 32)``."""
    places = torch.randint(_SCENE - _SIDE + 1, (each, len(scenes), 2)).tolist()
    cuts = [
        scene[:, top : top + _SIDE, left : left + _SIDE]
        for chosen in places
        for scene, (top, left) in zip(scenes, chosen, strict=True)
    ]
    return torch.stack(cuts)


def _gray(pictures: Tensor) -> Tensor:
    return (pictures * _LUMA).sum(1, keepdim=True)


def _pierced(pictures: Tensor) -> Tensor:
    """Return pictures with a gray square at a random place in each."""
    pierced = pictures.clone()
    places = torch.randint(_SIDE - _HOLE + 1, (len(pictures), 2)).tolist()
    for picture, (top, left) in zip(pierced, places, strict=True):
        picture[:, top : top + _HOLE, left : left + _HOLE] = picture.mean()
    return pierced


def _new(kind: Painter, folder: Path, seed: int) -> AESGColorizationNet | AESGCNNAutoencoder:
    torch.manual_seed(seed)
    return kind.sized(
        folder,
        base_filters=8,
        blocks=2,
        vector_dim=64,
        query_every=2,
        novelty_explanation_threshold=0.95,
    )


def _trainer(model: AESGModel) -> AESGTrainer:
    torch.manual_seed(0)  # the same order for both
    return AESGTrainer(
        model, criterion=nn.MSELoss(), batch_size=16, learning_rate=2e-3, progress=False
    )


def _psnr(model: AESGModel, data: TensorDataset) -> float:
    """Return the peak signal-to-noise ratio of all pixels, in dB."""
    inputs, targets = data.tensors
    painted = _trainer(model).predict(inputs)
    return float(-10 * F.mse_loss(painted, targets).log10())


def _colorization(seed: int, folder: Path) -> tuple[float, float, AESGModel]:
    return _run(AESGColorizationNet, _gray, seed, folder)


def _restoration(seed: int, folder: Path) -> tuple[float, float, AESGModel]:
    return _run(AESGCNNAutoencoder, _pierced, seed, folder)


RUNS = {
    "AESGCNNAutoencoder": ModelRun(
        "holes filled in scenes that were met once", "PSNR dB", "higher", _restoration
    ),
    "AESGColorizationNet": ModelRun(
        "colours of scenes that were met once", "PSNR dB", "higher", _colorization
    ),
}
