"""New classes from a few examples each, without a gradient step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from aesg.models import AESGCNNClassifier
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.digits import (
    CLASSES,
    Digits,
    Predict,
    fit,
    new_model,
    others,
    predicted,
    read_digits,
    remembered,
    share_right,
    tell,
    vote,
)
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values

_NEW = 4
_SHOTS = (1, 5, 20)
_EPOCHS, _EPOCHS_QUICK = 6, 4
_TWIN, _LEARNED, _ALONE = "ablated", "keys from features", "memory alone"
#: Of the rival whose head is trained on the examples.
_STEPS, _RATE = 100, 1e-2


@dataclass(frozen=True)
class Question:
    """Which classes are old, and trained on, and which are new.

    Parameters
    ----------
    digits : Digits
    old, new : list of int
    """

    digits: Digits
    old: list[int]
    new: list[int]

    def examples(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of some examples of each new class."""
        return self.digits.at(torch.cat([self.digits.train[each][start:stop] for each in self.new]))

    def judged(self, predict: Predict, shots: int) -> dict[str, float]:
        """Return the accuracy on test images of the new and of the old classes."""
        found = {}
        for name, classes in (("new", self.new), ("old", self.old)):
            images, labels = self.digits.testing(*classes)
            found[_measure(name, shots)] = share_right(predict(images), labels)
        return found


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train on six classes, tell four more by 1, 5 and 20 examples each, and ask for all ten."""
    digits = read_digits(data, seed, quick=quick)
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed)).tolist()
    question = Question(digits, order[_NEW:], order[:_NEW])
    epochs = _EPOCHS_QUICK if quick else _EPOCHS
    models = {}
    for arm in (MEMORY, _TWIN) if quick else (MEMORY, _TWIN, _LEARNED):
        keys = "features" if arm == _LEARNED else "pixels"
        models[arm] = new_model(scratch / arm, seed, keys=keys)
        fit(models[arm], *digits.training(*question.old), epochs, alone=arm == _TWIN)
    twin = models.pop(_TWIN)
    controls = [(_TWIN, twin)]
    values: Values = {}
    for arm, model in models.items():
        values[arm], alone = _told(model, question)
        if arm == MEMORY:
            values[_ALONE] = alone
            controls += others(model, digits, scratch).items()
    for arm, model in controls:
        values[arm] = question.judged(partial(predicted, model), _SHOTS[-1])
    for arm, rival in _RIVALS.items():
        values[arm] = {}
        for shots in _SHOTS:
            values[arm] |= question.judged(rival(twin, question, shots), shots)
    return values


def _told(
    model: AESGCNNClassifier, question: Question
) -> tuple[dict[str, float], dict[str, float]]:
    """Tell a model the examples; return what it makes of them, and what its memory alone does."""
    whole: dict[str, float] = {}
    alone: dict[str, float] = {}
    for start, stop in pairwise((0, *_SHOTS)):
        tell(model, *question.examples(start, stop))
        whole |= question.judged(partial(predicted, model), stop)
        alone |= question.judged(partial(remembered, model), stop)
    return whole, alone


def _pixels(twin: AESGCNNClassifier, question: Question, shots: int) -> Predict:
    """Let the nearest of all training images and examples vote, by their pixels."""
    images, labels = _known(question, shots)
    return lambda asked: vote(asked, images, labels)


def _means(twin: AESGCNNClassifier, question: Question, shots: int) -> Predict:
    """Choose the class whose mean is nearest among the network's features."""
    images, labels = _known(question, shots)
    features = F.normalize(_features(twin, images), dim=-1)
    means = torch.stack([_mean(features, labels == each) for each in range(CLASSES)])
    return lambda asked: F.normalize(_features(twin, asked), dim=-1) @ means.T


def _tuned(twin: AESGCNNClassifier, question: Question, shots: int, *, old: bool) -> Predict:
    """Train the network's last layer on the examples, beside as many of the old classes or not."""
    images, labels = _known(question, shots, shots if old else 0)
    head = deepcopy(twin.head)
    features = _features(twin, images)
    optimizer = torch.optim.Adam(head.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return lambda asked: head(_features(twin, asked)).detach()


_RIVALS: dict[str, Callable[[AESGCNNClassifier, Question, int], Predict]] = {
    "head trained on the examples": partial(_tuned, old=False),
    "head trained on examples of all classes": partial(_tuned, old=True),
    "nearest mean of the twin's features": _means,
    "baseline: pixel kNN": _pixels,
}


def _known(question: Question, shots: int, old: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the examples beside ``old`` training images of each old class, by default all."""
    train = question.digits.train
    images, labels = question.digits.at(torch.cat([train[each][:old] for each in question.old]))
    examples, classes = question.examples(0, shots)
    return torch.cat([images, examples]), torch.cat([labels, classes])


def _mean(features: Tensor, chosen: Tensor) -> Tensor:
    return F.normalize(features[chosen].mean(0), dim=-1)


@torch.no_grad()
def _features(model: AESGCNNClassifier, images: Tensor) -> Tensor:
    """Return the mean features ``(N, F)`` at the bottleneck."""
    found: Tensor = model.eval().encoder(images)
    return found.mean((2, 3))


def _measure(kind: str, shots: int) -> str:
    return f"{kind}, {shots} shot{'s' if shots > 1 else ''}"


_NEW_20, _OLD_20 = _measure("new", 20), _measure("old", 20)

TASK = Task(
    name="few_shot",
    title="New classes from 1, 5 and 20 examples, without a gradient step",
    measures=tuple(
        Measure(_measure(kind, shots)) for shots in _SHOTS[::-1] for kind in ("new", "old")
    ),
    goals=(
        Goal(MEMORY, _NEW_20, at_least=0.70),
        Goal(MEMORY, _OLD_20, at_least=-0.05, against=_TWIN),
        Goal("emptied", _OLD_20, at_least=-0.01, against=_TWIN),
    ),
    needs=("mnist",),
    run=run,
    notes=(
        "Six digits of MNIST are trained on, 400 images each; four more are told by `remember`, "
        "weights frozen; accuracy over ten classes on 100 other images of each. Which digits are "
        "new differs by seed. Pixels of digits suit nearest neighbours: 'memory alone' and 'pixel "
        "kNN' (which has all training images) are the rivals to look at."
    ),
)
