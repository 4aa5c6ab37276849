"""Trains both models, tells them the classes of new things once, and asks by another view.

Which class a thing has cannot be guessed from its looks; it can be remembered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from aesg import AESGConfig, AESGMemory, AESGTrainer
from examples.foreign.encoder import MemoryEncoder
from examples.foreign.resnet import MemoryResNet

_CLASSES = 5
_TRAIN_THINGS, _VIEWS, _TOLD_THINGS = 200, 4, 60
_SIDE, _NOISE = 8, 0.3
_WORDS, _LENGTH = 40, 6

Views = Callable[[int, torch.Generator], list[Tensor]]
Make = Callable[[AESGMemory], nn.Module]


def images(things: int, dice: torch.Generator) -> list[Tensor]:
    """Return views of random images: each time with other noise, ``(things, 3, 8, 8)``."""
    plain = torch.randn(things, 3, _SIDE, _SIDE, generator=dice)
    return [plain + _NOISE * torch.randn(plain.shape, generator=dice) for _ in range(_VIEWS)]


def sequences(things: int, dice: torch.Generator) -> list[Tensor]:
    """Return views of random sequences: each time another token is wrong, ``(things, 6)``."""
    plain = torch.randint(0, _WORDS, (things, _LENGTH), generator=dice)
    views = []
    for _ in range(_VIEWS):
        place = torch.randint(0, _LENGTH, (things, 1), generator=dice)
        views.append(plain.scatter(1, place, torch.randint(0, _WORDS, place.shape, generator=dice)))
    return views


MODELS: dict[str, tuple[Views, Make]] = {
    "residual network": (images, lambda memory: MemoryResNet(memory, _CLASSES)),
    "nn.TransformerEncoder": (
        sequences,
        lambda memory: MemoryEncoder(memory, _WORDS, _CLASSES, _LENGTH),
    ),
}


def told(
    name: str, folder: Path, *, wrong: bool = False, seed: int = 0, epochs: int = 4
) -> tuple[float, float]:
    """Train a model with its memory, and tell it new things once: its weights stay as they are.

    Parameters
    ----------
    name : str
        Of `MODELS`.
    folder : path
        Directory of the memory.
    wrong : bool
        Whether to tell classes of other things, as a control.
    seed, epochs : int

    Returns
    -------
    float, float
        The share of new things whose class it gives, shown by another view, before it was told and
        after. 0.2 is chance.
    """
    views, make = MODELS[name]
    dice = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, _CLASSES, (_TRAIN_THINGS,), generator=dice)
    data = [pair for view in views(_TRAIN_THINGS, dice) for pair in zip(view, classes, strict=True)]
    new = torch.randint(0, _CLASSES, (_TOLD_THINGS,), generator=dice)
    said = new[torch.randperm(len(new), generator=dice)] if wrong else new
    first, *_, last = views(_TOLD_THINGS, dice)
    torch.manual_seed(seed)
    with AESGMemory(folder, AESGConfig(vector_dim=32)) as memory:
        trainer = AESGTrainer(make(memory), learning_rate=3e-3, batch_size=16, progress=False)
        trainer.fit(data, epochs=epochs)

        def right() -> float:
            return float((trainer.predict(last).argmax(-1) == new).float().mean())

        before = right()
        trainer.evaluate(list(zip(first, said, strict=True)), mode="ONLINE")
        return before, right()


def main() -> None:
    """Print what each model knows of new things."""
    for name in MODELS:
        for wrong in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                before, after = told(name, Path(folder), wrong=wrong)
            what = "wrong classes" if wrong else "classes"
            print(f"{name}, told {what}: {before:.2f} right before, {after:.2f} after")


if __name__ == "__main__":
    main()
