"""Tasks of the Transformers: program text read once, and words whose tags are told once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.demo.train import loader
from aesg.models import AESGDecoderLM, AESGTransformer
from aesg.models.base import AESGModel
from aesg.trainer import AESGTrainer
from benchmarks._models import ModelRun
from benchmarks._models_recurrent import compared
from benchmarks._program_text import STREAMS, text

LEARNING_RATE = 3e-3
_TRAIN_STEPS, _HELDOUT_STEPS = 240, 40
_READING = "program text of other packages, read once"

#: Takes the size of the vocabulary, the memory's folder and options of the model.
Make: TypeAlias = Callable[..., AESGModel]

_text = partial(text, _TRAIN_STEPS, _HELDOUT_STEPS)


def trained(make: Make, seed: int, folder: Path, ablated: bool, **options: Any) -> AESGModel:
    """Return a model that was trained end to end for one epoch, in an order of the seed's."""
    vocab_size, train, _ = _text()
    order = np.random.default_rng(seed).permutation(STREAMS)
    torch.manual_seed(seed)
    model = make(vocab_size, folder, **options)
    rows = [(inputs[order], targets[order]) for inputs, targets in train]
    with model.without_memory() if ablated else nullcontext():
        trainer = AESGTrainer(model, learning_rate=LEARNING_RATE, progress=False)
        trainer.fit(loader(rows), epochs=1)
        model.memory.save()
    return model


def perplexity(model: AESGModel, ablated: bool) -> float:
    """Return that of held-out text, which the memory takes in while it is read."""
    with model.without_memory() if ablated else nullcontext():
        evaluated = AESGTrainer(model, progress=False).evaluate(loader(_text()[2]), mode="ONLINE")
    return math.exp(evaluated["loss"])


def _reading(make: Make) -> ModelRun:
    def run(seed: int, scratch: Path) -> tuple[float, float, AESGModel]:
        twin = trained(make, seed, scratch / "ablated", True)
        with twin.memory:
            ablated = perplexity(twin, True)
        model = trained(make, seed, scratch / "memory", False)
        return perplexity(model, False), ablated, model

    return ModelRun(_READING, "perplexity", "lower", run)


# Tags: each word has one, and nothing but a sentence with its tags tells it

_TAGS = 8
_WORDS, _SENTENCE, _SENTENCES = 4_000, 14, 1_600
_FLAT = 400  # of Zipf's law, at its head: a third of the text is words read five times at most
_TOLD, _TOLD_PER_SENTENCE = 400, 4
_BATCH = 8

#: Sentences ``(N, 14)`` of words, each a number from 0 on.
Sentences: TypeAlias = NDArray[np.int64]


class Tagged:
    """Sentences of words that follow Zipf's law, and of further words that are told once.

    Parameters
    ----------
    seed : int

    Attributes
    ----------
    tags : (W,) int64
        Of every word; the further words are the last `_TOLD`.
    train : (N, 14) int64
        Sentences without further words.
    told, asked : (N, 14) int64
        Sentences with four of them in each, every one of them once, at random places.
    """

    def __init__(self, seed: int) -> None:
        self._dice = np.random.default_rng(seed)
        self.tags = self._dice.integers(0, _TAGS, _WORDS + _TOLD)
        self.train = self._sentences(_SENTENCES)
        self.told, self.asked = self._with_further_words(), self._with_further_words()

    def pairs(self, sentences: Sentences) -> list[tuple[Tensor, Tensor]]:
        """Return tokens and targets of each sentence; the first tokens stand for the tags."""
        rows = zip(sentences + _TAGS, self.tags[sentences], strict=True)
        return [(torch.from_numpy(words), torch.from_numpy(its)) for words, its in rows]

    def _sentences(self, count: int) -> Sentences:
        share = 1 / (np.arange(_WORDS) + _FLAT)
        return self._dice.choice(_WORDS, (count, _SENTENCE), p=share / share.sum())

    def _with_further_words(self) -> Sentences:
        further = _WORDS + self._dice.permutation(_TOLD).reshape(-1, _TOLD_PER_SENTENCE)
        sentences = self._sentences(len(further))
        places = self._dice.permuted(np.tile(np.arange(_SENTENCE), (len(further), 1)), axis=1)
        np.put_along_axis(sentences, places[:, :_TOLD_PER_SENTENCE], further, axis=1)
        return sentences


def tagging(seed: int, scratch: Path) -> tuple[float, float, AESGModel]:
    """Return the share of right tags, of words that no training sentence holds.

    Each of them is read once with its tag, while weights are frozen.
    """
    data = Tagged(seed)

    def trained(ablated: bool) -> tuple[float, AESGModel]:
        torch.manual_seed(seed)
        model = AESGTransformer.small(_TAGS + len(data.tags), scratch / f"ablated-{ablated}")
        trainer = AESGTrainer(model, batch_size=_BATCH, progress=False)
        with model.without_memory() if ablated else nullcontext():
            trainer.fit(data.pairs(data.train))
            trainer.evaluate(data.pairs(data.told), mode="ONLINE")
            given = trainer.predict(torch.from_numpy(data.asked + _TAGS)).argmax(-1).numpy()
        right = given == data.tags[data.asked]
        return float(right[data.asked >= _WORDS].mean()), model

    return compared(trained)


RUNS = {
    "AESGDecoderLM": _reading(AESGDecoderLM.small),
    "AESGTransformer": ModelRun(
        "tags of words told once, asked in another sentence", "accuracy", "higher", tagging
    ),
    "AESGTransformer, causal": _reading(partial(AESGTransformer.small, causal=True)),
}
