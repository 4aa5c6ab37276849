"""A pack that serves networks with other weights: keys are fixed projections of pixels.

Classifiers of the digits 0 to 5, each with a seed of its own, attach one pack in which the digits 6
to 9 are told by twenty examples each. No weight changes. ``python -m examples.packs.digits`` needs
scikit-learn, for its digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from aesg import AESGCNNClassifier, AESGConfig, AESGMemory, AESGTrainer
from aesg.demo.terminal import console, spoken_errors

_FIRST_NEW = 6
_EXAMPLES = 20
_TRAIN = 1200
_BORDER = 4
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 16, 16)`` of 0 to 1, and what they are, ``(N,)``."""

    images: Tensor
    labels: Tensor

    @classmethod
    def load(cls) -> Digits:
        """Return the digits of scikit-learn, in one order for all seeds."""
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        held = load_digits()
        order = np.random.default_rng(0).permutation(len(held.target))
        images = torch.from_numpy(held.images[order] / 16).float().unsqueeze(1)
        return cls(F.pad(images, [_BORDER] * 4), torch.from_numpy(held.target[order]))

    def part(self, *, new: bool, held_out: bool) -> Digits:
        """Return the new digits or the old ones, to learn from or held out."""
        late = torch.arange(len(self.labels)) >= _TRAIN
        chosen = ((self.labels >= _FIRST_NEW) == new) & (late == held_out)
        return Digits(self.images[chosen], self.labels[chosen])

    def few(self, count: int) -> Digits:
        """Return the first ``count`` of each class."""
        places = [
            torch.nonzero(self.labels == each)[:count, 0]
            for each in sorted(set(self.labels.tolist()))
        ]
        chosen = torch.cat(places)
        return Digits(self.images[chosen], self.labels[chosen])


def trained(seed: int, digits: Digits, memory: Path) -> AESGCNNClassifier:
    """Return a classifier that has seen the old digits."""
    torch.manual_seed(seed)
    sizes = {"num_classes": 10, "channels": 1, "base_filters": 8, "blocks": 2}
    model = AESGCNNClassifier.small(storage_dir=str(memory), **sizes)
    old = digits.part(new=False, held_out=False)
    trainer = AESGTrainer(model, learning_rate=3e-3, progress=False)
    trainer.fit(list(zip(old.images, old.labels, strict=True)), epochs=4)
    return model


def make_pack(model: AESGCNNClassifier, digits: Digits, folder: Path) -> Path:
    """Tell a memory of its own the new digits, as the model asks for them, and export it."""
    told = digits.part(new=True, held_out=False).few(_EXAMPLES)
    with torch.no_grad():
        keys = model.eval().queries(told.images)
    with AESGMemory(folder / "told", AESGConfig(vector_dim=model.memory.vector_dim)) as memory:
        memory.remember(keys, told.labels)
        return memory.export_pack(folder / "new_digits.aesgpack").path


def accuracies(model: AESGCNNClassifier, digits: Digits) -> tuple[float, float]:
    """Return the shares of old and of new digits that are told right, of those held out."""
    trainer = AESGTrainer(model, progress=False)
    parts = [digits.part(new=new, held_out=True) for new in (False, True)]
    right = [trainer.predict(part.images).argmax(-1) == part.labels for part in parts]
    old, new = (float(each.float().mean()) for each in right)
    return old, new


def results(
    folder: Path, seeds: Sequence[int] = _SEEDS
) -> Iterator[tuple[int, list[tuple[float, float]]]]:
    """Yield the accuracies of each seed without the pack, with it, and without it again."""
    digits = Digits.load()
    pack: Path | None = None
    for seed in seeds:
        model = trained(seed, digits, folder / str(seed))
        with model.memory as memory:
            pack = pack or make_pack(model, digits, folder)
            measured = [accuracies(model, digits)]
            memory.attach_pack(memory.load_pack(pack))
            measured.append(accuracies(model, digits))
            memory.detach_pack(pack.stem)
            measured.append(accuracies(model, digits))
        yield seed, measured


@click.command()
def main() -> None:
    """Print what one pack is worth to networks with other weights."""
    table = Table("seed", "without", "with the pack", "detached", title="Right of old / new digits")
    with TemporaryDirectory(prefix="aesg-packs-") as folder, spoken_errors():
        for seed, measured in results(Path(folder)):
            table.add_row(str(seed), *(f"{old:.3f} / {new:.3f}" for old, new in measured))
    console.print(table)


if __name__ == "__main__":
    main()
