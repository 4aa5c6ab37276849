"""What the tasks about handwritten digits share: the data, the model, and its other memories."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from aesg.memory import AESGMemory
from aesg.models import AESGCNNClassifier
from aesg.nn.classes import heard_of
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.data import Data

#: From images to what is given for each class.
Predict: TypeAlias = Callable[[Tensor], Tensor]

CLASSES = 10
#: Images of each class that are trained on or told; the other hundred are for the test.
TRAINED, TRAINED_QUICK = 400, 150
_TESTED = 100
#: The last epoch of every training is for the weights to settle.
_LEARNING_RATE, _SETTLING_RATE = 1e-3, 2e-4


@dataclass(frozen=True)
class Digits:
    """Images of digits, split by class.

    Parameters
    ----------
    images : (N, 1, 28, 28) float32 tensor
        In [0, 1].
    labels : (N,) int64 tensor
    train, test : tuple of (M,) int64 tensor
        Rows of each class; none is in both.
    """

    images: Tensor
    labels: Tensor
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]

    def training(self, *classes: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of some classes to train on."""
        return self.at(torch.cat([self.train[each] for each in classes]))

    def testing(self, *classes: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of some classes to test on."""
        return self.at(torch.cat([self.test[each] for each in classes]))

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of some rows."""
        return self.images[rows], self.labels[rows]


def read_digits(data: Data, seed: int, *, quick: bool) -> Digits:
    """Return the digits, split at random by the seed."""
    pixels, classes = data.mnist()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(classes)
    train, test = [], []
    for each in range(CLASSES):
        rows = (labels == each).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        test.append(rows[:_TESTED])
        train.append(rows[_TESTED:][: TRAINED_QUICK if quick else TRAINED])
    images = torch.from_numpy(pixels).unsqueeze(1).float() / 255
    return Digits(images, labels, tuple(train), tuple(test))


def new_model(folder: Path, seed: int, **options: Any) -> AESGCNNClassifier:
    """Return a small classifier with the initial weights of a seed and an empty memory."""
    torch.manual_seed(seed)
    sizes = {"channels": 1, "base_filters": 16, "blocks": 3, "vector_dim": 64}
    return AESGCNNClassifier.sized(folder, num_classes=CLASSES, **{**sizes, **options})


def fit(
    model: AESGCNNClassifier, images: Tensor, labels: Tensor, epochs: int, *, alone: bool = False
) -> None:
    """Train a model, with its memory or as the network alone.

    Parameters
    ----------
    model : AESGCNNClassifier
    images : (N, 1, 28, 28) tensor
    labels : (N,) tensor
    epochs : int
        The last of them at a fifth of the learning rate.
    alone : bool
    """
    data = TensorDataset(images, labels)
    with model.without_memory() if alone else nullcontext():
        for rate, count in ((_LEARNING_RATE, epochs - 1), (_SETTLING_RATE, 1)):
            AESGTrainer(model, learning_rate=rate, progress=False).fit(data, epochs=count)


def predicted(model: AESGCNNClassifier, images: Tensor) -> Tensor:
    """Return what a model gives for each class, ``(N, V)``; nothing is learned."""
    said: Tensor = AESGTrainer(model, progress=False).predict(images)
    return said


@torch.no_grad()
def remembered(model: AESGCNNClassifier, images: Tensor) -> Tensor:
    """Return what the memory alone gives for each class, ``(N, V)``."""
    queries = model.eval().queries(images).unsqueeze(1)
    context = model.memory.recall(queries, top_k=model.top_k, vectors=False, balanced=True)
    return heard_of(context, CLASSES)


def share_right(scores: Tensor, labels: Tensor) -> float:
    """Return how often the class of the highest score ``(N, V)`` is the right one."""
    return float((scores.argmax(-1) == labels).double().mean())


@torch.no_grad()
def tell(model: AESGCNNClassifier, images: Tensor, labels: Tensor) -> None:
    """Write images into the memory as examples of their classes; weights stay as they are."""
    model.eval().memory.remember(model.queries(images), labels)


@torch.no_grad()
def contents(memory: AESGMemory) -> tuple[Tensor, Tensor]:
    """Return keys ``(N, D)`` and classes ``(N,)`` of all that a memory holds."""
    held = memory.storage.node_count + memory.provisional_count
    query = torch.ones(memory.vector_dim)
    found = memory.recall(query, top_k=max(held, 1), vectors=False)
    return found.keys, found.value_ids


def beside(
    model: AESGCNNClassifier, folder: Path, keys: Tensor, labels: Tensor
) -> AESGCNNClassifier:
    """Return a model of the same weights with another memory."""
    other = new_model(folder, 0)
    other.load_state_dict(model.state_dict())
    other.memory.remember(keys, labels)
    return other.eval()


def others(model: AESGCNNClassifier, digits: Digits, scratch: Path) -> dict[str, AESGCNNClassifier]:
    """Return the controls: the same weights with a memory that is no use.

    Parameters
    ----------
    model : AESGCNNClassifier
    digits : Digits
    scratch : Path

    Returns
    -------
    dict
        "emptied": with nothing in it. "shuffled": with its values in random order. "irrelevant":
        with as many images whose pixels stand in another order, the same for all.
    """
    keys, labels = contents(model.memory)
    images = digits.images.flatten(1)[:, torch.randperm(digits.images[0].numel())]
    rows = torch.randperm(len(images))[: len(keys)]
    scrambled = images[rows].view(-1, *digits.images.shape[1:])
    with torch.no_grad():
        strange = model.eval().queries(scrambled)
    return {
        "emptied": beside(model, scratch / "emptied", keys[:0], labels[:0]),
        "shuffled": beside(model, scratch / "shuffled", keys, labels[torch.randperm(len(labels))]),
        "irrelevant": beside(model, scratch / "irrelevant", strange, digits.labels[rows]),
    }


def vote(
    queries: Tensor, examples: Tensor, labels: Tensor, *, scale: float = 20.0, nearest: int = 32
) -> Tensor:
    """Return how the nearest examples vote, ``(N, V)``; each class weighs the same in all.

    The baseline without a network: softmax of ``scale * cosine`` over the ``nearest`` examples,
    less the logarithm of the number of examples of the class.

    Parameters
    ----------
    queries : (N, ...) tensor
    examples : (M, ...) tensor
    labels : (M,) int64 tensor
    scale : float
    nearest : int
    """
    cosines = _centred(queries) @ _centred(examples).T
    top = cosines.topk(min(nearest, len(examples)), -1)
    classes = labels[top.indices]
    crowds = torch.bincount(labels, minlength=CLASSES)[classes]
    weights = (scale * top.values - crowds.log()).softmax(-1)
    return torch.zeros(len(queries), CLASSES).scatter_add(1, classes, weights)


def _centred(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=-1)
