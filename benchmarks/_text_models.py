"""Text models that have trained for a while, with a memory of 100,000 concepts.

A network trains for a few dozen steps by itself; its queries on other text, with what came, are
the memory; then it trains to use it. The text is the standard library's source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory
from aesg.demo.train import Batches, loader, side_by_side
from aesg.models import AESGGRUText, AESGTransformer
from aesg.trainer import AESGTrainer
from benchmarks._program_text import word_pieces
from benchmarks._steps import asked, filled, trainer
from benchmarks.suite import Settings

DIM = 64
CONCEPTS, CONCEPTS_QUICK = 100_000, 2_000
_SHAPE_QUICK = (4, 16)
#: Steps that the network trains by itself, and in which it comes to use its memory.
_TRAINED, _TRAINED_QUICK = 30, 4
_TAUGHT, _TAUGHT_QUICK = 20, 4
_TEACHING_RATE = 1e-2
_ALL = 10**7  # more tokens than there are

Model = AESGTransformer | AESGGRUText
#: Makes a model of a vocabulary, with a memory, that asks at every so many positions.
Make = Callable[[int, AESGMemory, int], Model]


@dataclass(frozen=True)
class Task:
    """A model and its text.

    Parameters
    ----------
    row : int
        Of the table of goals.
    name : str
    make : callable
    pieces : int
        The vocabulary.
    shape : (int, int)
        Sequences and positions of a batch.
    every, known, chunked : float
        Goals: steps on new text that ask at every position, the same on text that the memory
        holds, where there is a goal, and one query for eight positions.
    """

    row: int
    name: str
    make: Make
    pieces: int
    shape: tuple[int, int]
    every: float
    known: float | None
    chunked: float


TRANSFORMER = Task(
    row=5,
    name="AESGTransformer.small",
    make=lambda vocabulary, memory, every: AESGTransformer(
        vocabulary, memory, causal=True, query_every=every
    ),
    pieces=10_000,
    shape=(32, 64),
    every=1.30,
    known=None,
    chunked=1.05,
)
GRU = Task(
    row=6,
    name="AESGGRUText.small",
    make=lambda vocabulary, memory, every: AESGGRUText(vocabulary, memory, query_every=every),
    pieces=5_000,
    shape=(32, 32),
    every=1.9,
    known=1.35,
    chunked=1.35,
)


@dataclass(frozen=True)
class Trained:
    """A network that has trained by itself, and a memory of what it asks.

    Parameters
    ----------
    task : Task
    twin : AESGTransformer or AESGGRUText
        The network, with an empty memory.
    memory : AESGMemory
    weights : dict
        Of the network, and of how it uses its memory.
    new, known : list of (inputs, targets)
        Text that is not in the memory, and text that is, cut into other sequences.
    """

    task: Task
    twin: Model
    memory: AESGMemory
    weights: dict[str, Tensor]
    new: Batches
    known: Batches

    def model(self, every: int = 1) -> Model:
        """Return a model that goes on from there, asking at every so many positions."""
        model = self.task.make(self.task.pieces, self.memory, every)
        model.load_state_dict(self.weights)
        return model


@contextmanager
def trained(task: Task, settings: Settings, least: int) -> Iterator[Trained]:
    """Train a network, fill a memory with what it asks, and train the use of it.

    Parameters
    ----------
    least : int
        Batches of known text.
    """
    quick = settings.quick
    concepts = CONCEPTS_QUICK if quick else CONCEPTS
    steps, taught = (_TRAINED_QUICK, _TAUGHT_QUICK) if quick else (_TRAINED, _TAUGHT)
    task = replace(task, shape=_SHAPE_QUICK) if quick else task
    rows, length = task.shape
    text = word_pieces(task.pieces, _ALL)
    told = max(-(-concepts // (rows * length)), least + taught + 1)
    begin = told * rows * length
    first = side_by_side(text[: begin + 1], rows, length)
    new = side_by_side(text[begin:], rows, length)
    known = side_by_side(text[length // 2 : begin], rows, length)
    torch.manual_seed(0)
    with AESGMemory(settings.scratch / "empty", AESGConfig(vector_dim=DIM)) as empty:
        twin = task.make(task.pieces, empty, 1)
        with twin.without_memory():
            trainer(twin).fit(loader(new[:steps]))
        keys = asked(twin.eval().queries, [inputs for inputs, _ in first])
        keys = keys.view(told, rows, length, DIM)
        values = torch.stack([targets for _, targets in first])
        in_order = [each.transpose(0, 1).flatten(0, 2)[-concepts:] for each in (keys, values)]
        with filled(settings.scratch / "memory", *in_order) as memory:
            weights = _taught(task, twin, memory, known[:taught])
            yield Trained(task, twin, memory, weights, new[steps:], known[taught:])


def _taught(task: Task, twin: Model, memory: AESGMemory, batches: Batches) -> dict[str, Tensor]:
    """Return the weights of a network that has come to use a memory, itself unchanged."""
    model = task.make(task.pieces, memory, 1)
    model.load_state_dict(twin.state_dict())
    model.freeze_trunk()
    optimizer = torch.optim.Adam(model.memory_parameters(), lr=_TEACHING_RATE)
    AESGTrainer(model, optimizer=optimizer, refresh_keys=False, progress=False).fit(loader(batches))
    return {name: each.clone() for name, each in model.state_dict().items()}
