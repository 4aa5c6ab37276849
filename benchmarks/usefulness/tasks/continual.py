"""Classes in sequence: two at a time, and then a question about all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

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
    vote,
)
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values

_AT_ONCE = 2
_EPOCHS, _EPOCHS_QUICK = 4, 3
_TWIN, _ALONE, _REPLAY = "ablated", "memory alone", "replay, same bytes"
_FINAL, _FORGOTTEN = "final accuracy", "forgetting"
#: Bytes of a concept beside its key: value, statistics; and of an image with its label.
_BESIDE_KEY, _IMAGE = 8 + 64, 28 * 28 + 1


@dataclass
class Course:
    """What is asked after each lesson: how much of every lesson so far is known.

    Parameters
    ----------
    digits : Digits
    lessons : list of list of int
        The classes of each lesson, in order.
    """

    digits: Digits
    lessons: list[list[int]]
    _known: list[list[float]] = field(default_factory=list)

    def ask(self, predict: Predict) -> None:
        """Ask for the classes of all lessons so far, among all classes."""
        done = self.lessons[: len(self._known) + 1]
        self._known.append([_asked(self.digits, predict, lesson) for lesson in done])

    def values(self) -> dict[str, float]:
        """Return the mean accuracy in the end, and how much was once known and is lost."""
        last = self._known[-1]
        lost = [
            max(row[lesson] for row in self._known[lesson:]) - last[lesson]
            for lesson in range(len(last) - 1)
        ]
        return {_FINAL: sum(last) / len(last), _FORGOTTEN: sum(lost) / len(lost)}


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train on the classes in sequence and ask for all of them."""
    digits = read_digits(data, seed, quick=quick)
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))
    lessons = order.view(-1, _AT_ONCE).tolist()
    epochs = _EPOCHS_QUICK if quick else _EPOCHS
    model, courses = new_model(scratch / MEMORY, seed), {}
    for arm in (MEMORY, _ALONE):
        courses[arm] = Course(digits, lessons)
    for lesson in lessons:
        fit(model, *digits.training(*lesson), epochs)
        courses[MEMORY].ask(partial(predicted, model))
        courses[_ALONE].ask(partial(remembered, model))
    held = model.memory.storage.node_count + model.memory.provisional_count
    room = held * (4 * model.memory.vector_dim + _BESIDE_KEY) // _IMAGE
    twin = new_model(scratch / _TWIN, seed)
    courses[_TWIN] = Course(digits, lessons)
    for lesson in lessons:
        fit(twin, *digits.training(*lesson), epochs, alone=True)
        courses[_TWIN].ask(partial(predicted, twin))
    courses[_REPLAY] = _replayed(digits, lessons, scratch, seed, epochs, room)
    values = {arm: course.values() for arm, course in courses.items()}
    every = list(range(CLASSES))
    for arm, other in others(model, digits, scratch).items():
        values[arm] = {_FINAL: _asked(digits, partial(predicted, other), every)}
    images, labels = digits.at(_kept(digits, every, room))
    stored = partial(vote, examples=images, labels=labels)
    values["baseline: pixel kNN, same bytes"] = {_FINAL: _asked(digits, stored, every)}
    return values


def _replayed(
    digits: Digits, lessons: list[list[int]], scratch: Path, seed: int, epochs: int, room: int
) -> Course:
    """Train a twin that keeps some images of earlier lessons and sees as many of them as new."""
    course, model = Course(digits, lessons), new_model(scratch / _REPLAY, seed)
    seen: list[int] = []
    for lesson in lessons:
        images, labels = digits.training(*lesson)
        if seen:
            kept = _kept(digits, seen, room)
            again, classes = digits.at(kept[torch.randint(len(kept), (len(images),))])
            images, labels = torch.cat([images, again]), torch.cat([labels, classes])
        fit(model, images, labels, epochs, alone=True)
        course.ask(partial(predicted, model))
        seen += lesson
    return course


def _kept(digits: Digits, classes: list[int], room: int) -> Tensor:
    """Return rows of training images, as many of each class, that fit in the room of ``room``."""
    return torch.cat([digits.train[each][: max(room // len(classes), 1)] for each in classes])


def _asked(digits: Digits, predict: Predict, classes: list[int]) -> float:
    images, labels = digits.testing(*classes)
    return share_right(predict(images), labels)


TASK = Task(
    name="continual",
    title="Ten classes in five lessons of two, then a question about all",
    measures=(Measure(_FINAL), Measure(_FORGOTTEN, better="lower")),
    goals=(Goal(MEMORY, _FINAL, at_least=0.65), Goal(_TWIN, _FINAL, at_most=0.25)),
    needs=("mnist",),
    run=run,
    notes=(
        "MNIST, 400 images of a class, their order and pairs differ by seed; which lesson a "
        "question is about is not said. 'Replay' is the twin trained on as many stored images "
        "as new ones in each lesson, with twice the steps; it stores what fits in the bytes of the "
        "memory's keys, values and statistics. Pixels of digits suit nearest neighbours: 'memory "
        "alone', which no network helps, is the fair rival."
    ),
)
