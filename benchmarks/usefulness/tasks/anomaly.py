"""Digits unlike those seen before, told by how little the memory explains of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from aesg.memory import AESGMemory
from aesg.models import AESGCNNAutoencoder
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values

_TWIN = "ablated"
_CLASSES, _NORMAL = 10, 5
_TRAINED, _TRAINED_QUICK = 1200, 400
_TESTED = 400
_EPOCHS, _EPOCHS_QUICK = 4, 2
_FILTERS, _BLOCKS, _DIM = 16, 3, 64
_NEAREST = 5
_AUROC = "AUROC"


@dataclass(frozen=True)
class Digits:
    """Images of digits, ``(N, 1, 28, 28)`` each.

    Parameters
    ----------
    train : tensor
        Normal ones.
    test : tensor
        Others, normal ones and those of digits that were never seen.
    anomalous : (N,) bool tensor
        Which of ``test`` are of the second kind.
    """

    train: Tensor
    test: Tensor
    anomalous: Tensor

    def auroc(self, strangeness: Tensor) -> dict[str, float]:
        """Return how often an anomalous digit is found stranger than a normal one."""
        strange = strangeness[self.anomalous].unsqueeze(1)
        usual = strangeness[~self.anomalous]
        won = (strange > usual).double() + 0.5 * (strange == usual).double()
        return {_AUROC: float(won.mean())}


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train an autoencoder on five digits and let it tell the other five from them."""
    digits = _digits(data, seed, _TRAINED_QUICK if quick else _TRAINED)
    epochs = _EPOCHS_QUICK if quick else _EPOCHS
    twin = _model(scratch / _TWIN, seed)
    with twin.without_memory():
        _trainer(twin).fit(TensorDataset(digits.train, digits.train), epochs)
    model = _model(scratch / MEMORY, seed)
    _trainer(model).fit(TensorDataset(digits.train, digits.train), epochs)
    keys, values = _contents(model.memory)
    found = {
        MEMORY: digits.auroc(-_explained(model, digits.test)),
        _TWIN: digits.auroc(_error(twin, digits.test)),
        "model's error": digits.auroc(_error(model, digits.test)),
    }
    strange = _scrambled(digits.train[: max(len(keys) // 16, 1)])
    with torch.no_grad():
        other = model.queries(strange).flatten(0, -2), model.outcomes(strange).flatten(0, -2)
    controls = {
        "emptied": (keys[:0], values[:0]),
        "shuffled": (keys, values[torch.randperm(len(values))]),
        "irrelevant": other,
    }
    for arm, held in controls.items():
        control = _model(scratch / arm, seed)
        control.load_state_dict(model.state_dict())
        control.memory.remember(*held)
        found[arm] = digits.auroc(-_explained(control, digits.test))
    nearest = torch.cdist(digits.test.flatten(1), digits.train.flatten(1))
    near = nearest.topk(_NEAREST, largest=False).values.mean(1)
    found["baseline: nearest images"] = digits.auroc(near)
    return found


def _digits(data: Data, seed: int, trained: int) -> Digits:
    pixels, labels = data.mnist()
    images = torch.from_numpy(pixels).unsqueeze(1).float() / 255
    dice = torch.Generator().manual_seed(seed)
    normal = torch.randperm(_CLASSES, generator=dice)[:_NORMAL]
    order = torch.randperm(len(images), generator=dice)
    usual = torch.isin(torch.from_numpy(labels)[order], normal)
    known, unknown = order[usual], order[~usual]
    test = torch.cat([known[trained : trained + _TESTED], unknown[:_TESTED]])
    anomalous = torch.arange(len(test)) >= len(test) - _TESTED
    return Digits(images[known[:trained]], images[test], anomalous)


def _model(folder: Path, seed: int) -> AESGCNNAutoencoder:
    torch.manual_seed(seed)
    return AESGCNNAutoencoder.sized(
        folder, channels=1, base_filters=_FILTERS, blocks=_BLOCKS, vector_dim=_DIM
    )


def _trainer(model: AESGCNNAutoencoder) -> AESGTrainer:
    torch.manual_seed(0)  # the same order for every arm
    return AESGTrainer(model, criterion=nn.MSELoss(), progress=False)


def _explained(model: AESGCNNAutoencoder, images: Tensor) -> Tensor:
    return model.eval().explanation_scores(images)


def _error(model: AESGCNNAutoencoder, images: Tensor) -> Tensor:
    """Return the mean squared error of each reconstruction."""
    with model.without_memory():
        painted = _trainer(model).predict(images)
    return F.mse_loss(painted, images, reduction="none").mean((1, 2, 3))


@torch.no_grad()
def _contents(memory: AESGMemory) -> tuple[Tensor, Tensor]:
    """Return keys and values, ``(N, D)`` each, of all that a memory holds."""
    held = memory.storage.node_count + memory.provisional_count
    found = memory.recall(torch.ones(memory.vector_dim), top_k=max(held, 1))
    return found.keys, found.vectors


def _scrambled(images: Tensor) -> Tensor:
    """Return images with their pixels in another order, the same for all."""
    order = torch.randperm(images[0].numel())
    return images.flatten(1)[:, order].view_as(images)


TASK = Task(
    name="anomaly",
    title="Digits unlike those seen before",
    measures=(Measure(_AUROC),),
    goals=(Goal(MEMORY, _AUROC, at_least=0.0, against=_TWIN),),
    needs=("mnist",),
    run=run,
    notes=(
        "An autoencoder and its memory see five digits; the test holds new images of them and of "
        "the other five. With the memory, strange is what its explanation scores are low for; "
        "ablated: what the twin reconstructs badly. Model's error: the reconstruction error of the "
        "model itself, without its memory. Nearest images: mean distance of the pixels to the five "
        "nearest training images."
    ),
)
