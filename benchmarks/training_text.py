"""Training steps of the text models on program text, with a memory of 100,000 and without.

The models are those of `_text_models`. Model and twin train on in turns: on new text, on text that
the memory holds, and on random tokens, where everything is new. A step is what `AESGTrainer.fit`
does for a batch, commits included; of ten steps of the model three run without its memory, as its
`memory_dropout` has it by default. Then the parts of a step, and of a forward pass, are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from aesg.demo.train import Batches
from benchmarks._parts import commits, forward_pass, training_step
from benchmarks._steps import HEADER, TURN, WARM_UP, Steps, paired_steps
from benchmarks._text_models import GRU, TRANSFORMER, Task, Trained, trained
from benchmarks.suite import Result, Settings, TableOf, benchmark

CHUNK = 8
KNOWN = "every position, known text"
_TURNS, _TURNS_QUICK = 3, 1
#: Batches of which the parts are told.
_TOLD, _TOLD_QUICK = 12, 3


def at_random(task: Task, batches: int) -> Batches:
    """Return tokens at random, and others that follow them."""
    dice = torch.Generator().manual_seed(1)
    shape = (batches, 2, *task.shape)
    drawn = torch.randint(task.pieces, shape, generator=dice)
    return [(inputs, targets) for inputs, targets in drawn]


def measured(
    given: Trained, settings: Settings, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, float | None, Steps]]:
    """Yield the ways of asking that are wanted, their goals, and what steps cost."""
    count = steps_of(settings)
    task, new, known = given.task, given.new, given.known
    ways: dict[str, tuple[int, Batches, float | None]] = {
        "every position": (1, new[:count], task.every),
        f"one query for {CHUNK}": (CHUNK, new[count : 2 * count], task.chunked),
        KNOWN: (1, known[:count], task.known),
        "every position, random tokens": (1, at_random(task, count), None),
    }
    if task.known is None:
        del ways[KNOWN]
    for name, (every, batches, goal) in ways.items():
        if wanted(name):
            settings.say(f"{task.name}: {name}")
            yield name, goal, paired_steps(given.model(every), given.twin, batches)


def steps_of(settings: Settings) -> int:
    """Return how many steps are made in each way."""
    return WARM_UP + TURN * (_TURNS_QUICK if settings.quick else _TURNS)


def result(name: str, title: str, task: Task, settings: Settings) -> Result:
    """Return the ratios of a task, a table of its steps, and where their time goes."""
    torch.set_num_threads(1)
    ratios, rows = [], []
    with trained(task, settings, steps_of(settings)) as given:
        for way, goal, steps in measured(given, settings):
            ratios.append(steps.as_ratio(task.row, f"{task.name}, {way}", goal))
            rows.append(steps.as_row(way))
        told = given.new[-(_TOLD_QUICK if settings.quick else _TOLD) :]
        parts = [measure(given, told) for measure in (forward_pass, training_step, commits)]
    sequences, length = task.shape
    what = f"a step of {task.name}, {task.pieces:,} word pieces, {sequences} x {length}"
    return Result(name, title, ratios=ratios, tables=[TableOf(what, HEADER, rows), *parts])


@benchmark("training-transformer", "training steps of the Transformer", minutes=3)
def transformer(settings: Settings) -> Result:
    return result("training-transformer", "A Transformer's step", TRANSFORMER, settings)


@benchmark("training-gru", "training steps of the GRU", minutes=2)
def gru(settings: Settings) -> Result:
    return result("training-gru", "A GRU's step", GRU, settings)
