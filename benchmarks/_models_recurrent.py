"""Tasks of the recurrent models: program text read once, and facts told once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from aesg.demo.train import loader
from aesg.models import AESGGRUText, AESGLSTMText, AESGSeq2Seq
from aesg.models._text_model import TextModel
from aesg.models.base import AESGModel
from aesg.trainer import AESGTrainer
from benchmarks._models import ModelRun
from benchmarks._program_text import text

_LEARNING_RATE = 3e-3

# Program text: the standard library's source, by whole packages

_TRAIN_STEPS, _HELDOUT_STEPS = 80, 20


def language_model(
    kind: type[TextModel],
) -> Callable[[int, Path], tuple[float, float, AESGModel]]:
    def run(seed: int, scratch: Path) -> tuple[float, float, AESGModel]:
        """Return the perplexity of held-out text that the memory takes in while it is read."""
        vocab_size, train, heldout = text(_TRAIN_STEPS, _HELDOUT_STEPS)

        def trained(ablated: bool) -> tuple[float, AESGModel]:
            torch.manual_seed(seed)
            model = kind.small(vocab_size, scratch / f"ablated-{ablated}")
            trainer = AESGTrainer(model, learning_rate=_LEARNING_RATE, progress=False)
            with model.without_memory() if ablated else nullcontext():
                trainer.fit(loader(train), epochs=1)
                model.memory.save()
                loss = trainer.evaluate(loader(heldout), mode="ONLINE")["loss"]
            return math.exp(loss), model

        return compared(trained)

    return run


# Facts: names, each with a code of its own that nothing but the fact tells

_LETTERS = 26
_NAME, _CODE = 8, 3
_TRAIN_NAMES, _TOLD_NAMES, _EPOCHS = 1_200, 300, 4


def _misspelt(names: Tensor, dice: torch.Generator) -> Tensor:
    """Return names with one letter in each replaced."""
    place = torch.randint(0, _NAME, (len(names), 1), generator=dice)
    letter = torch.randint(0, _LETTERS, (len(names), 1), generator=dice)
    return names.scatter(1, place, letter)


def _facts(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return names ``(N, 8)``, the same in another spelling, and their codes ``(N, 3)``."""
    dice = torch.Generator().manual_seed(seed)
    names = torch.randint(0, _LETTERS, (count, _NAME), generator=dice)
    codes = torch.randint(0, _LETTERS, (count, _CODE), generator=dice)
    return names, _misspelt(names, dice), codes


def _seq2seq(seed: int, scratch: Path) -> tuple[float, float, AESGModel]:
    """Return the share of codes that are right, of facts told once after training."""
    names, others, codes = _facts(2 * seed, _TRAIN_NAMES)
    train = [*zip(names, codes, strict=True), *zip(others, codes, strict=True)]
    names, others, codes = _facts(2 * seed + 1, _TOLD_NAMES)

    def trained(ablated: bool) -> tuple[float, AESGModel]:
        torch.manual_seed(seed)
        model = AESGSeq2Seq.small(_LETTERS, scratch / f"ablated-{ablated}")
        trainer = AESGTrainer(model, learning_rate=_LEARNING_RATE, progress=False)
        with model.without_memory() if ablated else nullcontext():
            trainer.fit(train, epochs=_EPOCHS)
            trainer.evaluate(list(zip(names, codes, strict=True)), mode="ONLINE")
            model.eval()
            model.memory.set_mode("INFERENCE")
            given = model.generate(others, _CODE, beams=2).tokens
        return float((given == codes).all(1).float().mean()), model

    return compared(trained)


def compared(
    trained: Callable[[bool], tuple[float, AESGModel]],
) -> tuple[float, float, AESGModel]:
    ablated, twin = trained(True)
    twin.memory.close()
    measured, model = trained(False)
    return measured, ablated, model


_READING = ("program text of other packages, read once", "perplexity", "lower")

RUNS = {
    "AESGGRUText": ModelRun(*_READING, language_model(AESGGRUText)),
    "AESGLSTMText": ModelRun(*_READING, language_model(AESGLSTMText)),
    "AESGSeq2Seq": ModelRun(
        "codes of names told once, asked in another spelling", "accuracy", "higher", _seq2seq
    ),
}
