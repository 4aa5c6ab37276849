"""Training steps of the model that colours images, with a memory of 100,000 and without.

The pictures are cut out of one photograph, at several scales and in exchanged colours. The memory
holds the cells of other cuts, with their colours; every way of asking meets the same memory.
Steps are those of `training_text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aesg import AESGConfig, AESGMemory
from aesg.demo.train import Batches, loader
from aesg.models import AESGColorizationNet
from aesg.models.image import LUMA
from aesg.nn.query import QueryPolicy
from benchmarks._steps import HEADER, TURN, WARM_UP, Steps, filled, paired_steps, trainer
from benchmarks.suite import Result, Settings, TableOf, benchmark

NAME = "training-images"
BATCH, BATCH_QUICK = 8, 1
SIDE, DIM = 128, 64
CELLS = (SIDE // 8) ** 2  # of a picture
#: Scales at which the photograph is cut.
_SCALES = (1.0, 0.7, 0.5)
_ORDERS = tuple(permutations(range(3)))
_TRAINED = 5
_CONCEPTS, _CONCEPTS_QUICK = 100_000, 1_000
_TURNS, _TURNS_QUICK = 3, 1
#: Where a model asks.
_WAYS: dict[str, QueryPolicy] = {
    "every cell, the default": 1,
    "2 x 2 cells": 2,
    "sample": "sample",
}


def photographs() -> list[Tensor]:
    """Return a photograph that comes with matplotlib, at each scale, ``(3, H, W)`` in [0, 1]."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    return [
        F.interpolate(pixels, scale_factor=scale, mode="area")[0] if scale < 1 else pixels[0]
        for scale in _SCALES
    ]


class Cuts:
    """Pictures cut out at random.

    Parameters
    ----------
    seed : int
    batch : int
        Pictures of a batch.
    """

    def __init__(self, seed: int, batch: int) -> None:
        self._batch = batch
        self._dice = torch.Generator().manual_seed(seed)
        self._photographs = photographs()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return gray pictures ``(B, 1, 128, 128)`` and the same in colours."""
        coloured = torch.stack([self._cut() for _ in range(self._batch)])
        gray = (coloured * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return gray.clamp(0, 1), coloured

    def _cut(self) -> Tensor:
        photograph = self._photographs[self._draw(len(_SCALES))]
        _, height, width = photograph.shape
        top, left = self._draw(height - SIDE + 1), self._draw(width - SIDE + 1)
        colours = list(_ORDERS[self._draw(len(_ORDERS))])
        return photograph[colours, top : top + SIDE, left : left + SIDE]

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._dice))


@torch.no_grad()
def memory_of(model: AESGColorizationNet, directory: Path, concepts: int) -> AESGMemory:
    """Return a memory of the cells of pictures that are not trained on."""
    cuts, keys, values = Cuts(1, BATCH), [], []
    for _ in range(-(-concepts // (BATCH * CELLS))):
        gray, coloured = cuts.batch()
        keys.append(model.queries(gray).flatten(0, -2))
        values.append(model.outcomes(coloured).flatten(0, -2))
    return filled(directory, torch.cat(keys)[:concepts], torch.cat(values)[:concepts])


def measured(
    settings: Settings, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Steps]]:
    """Yield the ways of asking that are wanted, and what steps cost."""
    concepts = _CONCEPTS_QUICK if settings.quick else _CONCEPTS
    count = WARM_UP + TURN * (_TURNS_QUICK if settings.quick else _TURNS)
    torch.manual_seed(0)
    cuts = Cuts(0, BATCH_QUICK if settings.quick else BATCH)
    with AESGMemory(settings.scratch / "empty", AESGConfig(vector_dim=DIM)) as empty:
        twin = AESGColorizationNet(empty)
        batches: Batches = [cuts.batch() for _ in range(count)]
        with twin.without_memory():
            trainer(twin).fit(loader(batches[:_TRAINED]))
        weights = {name: each.clone() for name, each in twin.state_dict().items()}
        with memory_of(twin, settings.scratch / "cells", concepts) as memory:
            for name, every in _WAYS.items():
                if not wanted(name):
                    continue
                settings.say(f"AESGColorizationNet.small: {name}")
                model = AESGColorizationNet(memory, query_every=every)
                model.load_state_dict(weights)
                yield name, paired_steps(model, twin, batches)


@benchmark(NAME, "training steps of the model that colours images", minutes=2)
def run(settings: Settings) -> Result:
    torch.set_num_threads(1)
    ratios, rows = [], []
    for way, steps in measured(settings):
        what = f"AESGColorizationNet.small, {way}"
        ratios.append(steps.as_ratio(6, what, 1.03))
        rows.append(steps.as_row(what))
    table = TableOf("a training step, 8 pictures of 128 x 128", HEADER, tuple(rows))
    return Result(NAME, "A step of an image model", ratios=tuple(ratios), tables=(table,))
