"""What the demo does, and the folder in which its processes meet."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aesg.demo.corpus import Corpus, encode_documents
from aesg.demo.tokenizer import Tokenizer
from aesg.errors import AESGStorageError

#: Training steps between two checkpoints.
STEPS_PER_PART = 20

#: First written, first looked for: a folder without it is not the demo's to empty.
_PLAN = "plan.json"
_FILES = frozenset(
    [_PLAN, "tokenizer.model", "train.npy", "heldout.npy", "checkpoint.pt", "checkpoint.new"]
)
_MEMORY = "memory"


@dataclass(frozen=True)
class Plan:
    """Sizes of one run.

    Parameters
    ----------
    seed : int
        Of weights, dropout and order.
    vocab_size : int
        Word pieces.
    segment : int
        Tokens that the model sees at once.
    batch : int
        Segments of a training step.
    trunk_steps : int
        Steps in which the network learns alone.
    memory_steps : int
        Steps in which it learns to use its memory, in parts; one of them is cut short.
    streams : int
        Held-out documents read side by side.
    heldout_tokens : int
        Tokens read at the end, at most.
    learning_rate : float
    """

    seed: int = 0
    vocab_size: int = 4096
    segment: int = 64
    batch: int = 32
    trunk_steps: int = 700
    memory_steps: int = 120
    streams: int = 8
    heldout_tokens: int = 40_000
    learning_rate: float = 3e-3

    @classmethod
    def quick(cls, seed: int) -> Plan:
        """Return the short form: enough to see the effect, not to be proud of the network."""
        return cls(
            seed=seed, trunk_steps=100, memory_steps=40, heldout_tokens=12_000, vocab_size=2048
        )

    @property
    def train_tokens(self) -> int:
        """Tokens of one pass over the training text."""
        return self.trunk_steps * self.batch * self.segment + 1

    @property
    def parts(self) -> int:
        """Parts of the training with memory, each with a checkpoint at its end."""
        return math.ceil(self.memory_steps / STEPS_PER_PART)


@dataclass(frozen=True)
class Workspace:
    """The folder of one demo run.

    Parameters
    ----------
    folder : Path
        Holds the plan, the tokenizer, the encoded text, the checkpoint and the memory.
    """

    folder: Path

    @property
    def memory(self) -> Path:
        """Directory of the memory."""
        return self.folder / _MEMORY

    @property
    def checkpoint(self) -> Path:
        """Weights and progress of the training."""
        return self.folder / "checkpoint.pt"

    @property
    def plan(self) -> Plan:
        """The plan that the run was prepared with."""
        return Plan(**json.loads((self.folder / _PLAN).read_text()))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the run was prepared with."""
        return Tokenizer.load(self.folder / "tokenizer.model")

    def tokens(self, part: str) -> NDArray[np.int64]:
        """Return the encoded text of ``"train"`` or ``"heldout"``."""
        tokens: NDArray[np.int64] = np.load(self.folder / f"{part}.npy")
        return tokens

    def clear(self) -> None:
        """Remove what an earlier demo wrote, if there was one.

        Raises
        ------
        AESGStorageError
            If the folder holds anything else; nothing is removed.
        """
        held = {each.name for each in self.folder.iterdir()} if self.folder.exists() else set()
        foreign = sorted(held - _FILES - {_MEMORY}) or sorted(held if _PLAN not in held else ())
        if foreign:
            raise AESGStorageError(
                f"{self.folder}: expected an earlier demo or an empty folder, got {foreign[0]!r}"
            )
        if _MEMORY in held:
            shutil.rmtree(self.memory)
        for name in sorted(held & _FILES, key=_PLAN.__eq__):  # the plan last
            (self.folder / name).unlink()

    def prepare(self, plan: Plan, corpus: Corpus) -> None:
        """Train the tokenizer, encode the text and write both beside the plan.

        Parameters
        ----------
        plan : Plan
        corpus : Corpus
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _PLAN).write_text(json.dumps(asdict(plan), indent=2))
        tokenizer = Tokenizer.train([each.text for each in corpus.train], plan.vocab_size)
        tokenizer.save(self.folder / "tokenizer.model")
        train = encode_documents(tokenizer, corpus.train, plan.train_tokens)
        longest = plan.heldout_tokens // plan.streams
        heldout = encode_documents(tokenizer, corpus.heldout, plan.heldout_tokens, longest)
        np.save(self.folder / "train.npy", train)
        np.save(self.folder / "heldout.npy", heldout)
