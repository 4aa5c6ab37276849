"""The task of the classifier: classes of which most have few examples."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from aesg.models import AESGCNNClassifier
from aesg.models.base import AESGModel
from aesg.trainer import AESGTrainer
from benchmarks._models import ModelRun

_CLASSES, _COMMON = 12, 4
_OF_COMMON, _OF_RARE, _TESTED = 60, 6, 20
_SIDE, _CELLS = 24, 4
_SHIFT, _NOISE = 2, 0.25
_EPOCHS, _BATCH = 20, 16


def run(seed: int, scratch: Path) -> tuple[float, float, AESGModel]:
    """Train with four common and eight rare classes; return the accuracy on all alike."""
    dice = torch.Generator().manual_seed(seed)
    shapes = torch.randn(_CLASSES, 1, _CELLS, _CELLS, generator=dice)
    counts = [_OF_COMMON] * _COMMON + [_OF_RARE] * (_CLASSES - _COMMON)
    train = _drawn(shapes, counts, dice)
    images, labels = _drawn(shapes, [_TESTED] * _CLASSES, dice)

    def trained(alone: bool) -> tuple[float, AESGModel]:
        torch.manual_seed(seed)
        model = AESGCNNClassifier.sized(
            scratch / f"alone-{alone}",
            num_classes=_CLASSES,
            channels=1,
            base_filters=8,
            blocks=3,
            vector_dim=64,
        )
        trainer = AESGTrainer(model, batch_size=_BATCH, progress=False)
        with model.without_memory() if alone else nullcontext():
            trainer.fit(TensorDataset(*train), epochs=_EPOCHS)
            said = trainer.predict(images).argmax(-1)
        return float((said == labels).double().mean()), model

    alone, twin = trained(True)
    twin.memory.close()
    together, model = trained(False)
    return together, alone, model


def _drawn(shapes: Tensor, counts: list[int], dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images of smooth random shapes, moved and under noise, and their classes."""
    labels = torch.repeat_interleave(torch.arange(_CLASSES), torch.tensor(counts))
    large = F.interpolate(shapes, size=_SIDE, mode="bicubic")[labels]
    moves = torch.randint(-_SHIFT, _SHIFT + 1, (len(labels), 2), generator=dice).tolist()
    moved = torch.stack(
        [image.roll(move, (1, 2)) for image, move in zip(large, moves, strict=True)]
    )
    noise = torch.randn(moved.shape, generator=dice)
    return (0.5 + 0.2 * moved + _NOISE * noise).clamp(0, 1), labels


RUNS = {
    "AESGCNNClassifier": ModelRun(
        task="12 classes of shapes, 8 of them rare", measure="accuracy", better="higher", run=run
    )
}
