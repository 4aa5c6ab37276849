"""The network that the packs are for: trained once, used in as many copies as you like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg import AESGDecoderLM, AESGTrainer
from aesg.demo.corpus import segments
from aesg.demo.plan import Plan
from aesg.demo.train import Batches, loader, memory_batches

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """The weights of a language model on disk.

    Parameters
    ----------
    folder : Path
        Holds the weights, and the memory that they were trained with.
    plan : Plan
    """

    folder: Path
    plan: Plan

    @property
    def memory(self) -> Path:
        """Directory of the memory of the training."""
        return self.folder / "memory"

    def train(self, tokens: Tokens) -> None:
        """Train the network alone, and then the way in which it uses a memory."""
        plan = self.plan
        model = self._untrained(self.memory)
        with model.memory:
            with model.without_memory():
                trainer = AESGTrainer(
                    model, batch_size=plan.batch, learning_rate=plan.learning_rate
                )
                trainer.fit(training_pairs(tokens, plan))
            model.freeze_trunk()
            optimizer = torch.optim.Adam(model.memory_parameters(), lr=plan.learning_rate)
            AESGTrainer(model, optimizer=optimizer).fit(loader(memory_batches(tokens, plan)))
            torch.save(model.state_dict(), self._weights)

    def copy(self, memory: Path, **config: Any) -> AESGDecoderLM:
        """Return a copy: the weights of the network, and a memory of its own.

        Parameters
        ----------
        memory : Path
            Directory of the copy's memory, made where there is none.
        **config
            Of that memory.
        """
        model = self._untrained(memory, **config)
        model.load_state_dict(torch.load(self._weights, weights_only=True))
        return model

    @property
    def _weights(self) -> Path:
        return self.folder / "weights.pt"

    def _untrained(self, memory: Path, **config: Any) -> AESGDecoderLM:
        torch.manual_seed(self.plan.seed)
        return AESGDecoderLM.small(self.plan.vocab_size, str(memory), **config)


def training_pairs(tokens: Tokens, plan: Plan) -> list[tuple[Tensor, Tensor]]:
    """Return the samples of all steps of the network alone, each pass in another order.

    Parameters
    ----------
    tokens : (N,) int64
    plan : Plan

    Returns
    -------
    list of ((T,), (T,)) int64 tensors
        Inputs and the targets one token later.
    """
    pairs = list(zip(*map(torch.from_numpy, segments(tokens, plan.segment)), strict=True))
    dice = np.random.default_rng(plan.seed)
    wanted = plan.trunk_steps * plan.batch
    passes = math.ceil(wanted / len(pairs))
    order = np.concatenate([dice.permutation(len(pairs)) for _ in range(passes)])
    return [pairs[place] for place in order[:wanted]]


def perplexity(model: AESGDecoderLM, batches: Batches, mode: str = "INFERENCE") -> float:
    """Return the perplexity of text; in ONLINE mode the memory learns it once it is judged."""
    trainer = AESGTrainer(model, progress=False)
    return math.exp(trainer.evaluate(loader(batches), mode=mode)["loss"])
