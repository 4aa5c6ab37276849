"""Facts told once after training, asked later in another process and in other words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from aesg.config import AESGConfig
from aesg.memory import AESGMemory
from aesg.models.base import AESGModel
from aesg.nn import MemoryMixture, MemoryQuery
from aesg.nn.mixture import log_probabilities
from aesg.nn.origins import origins_of
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values
from benchmarks.usefulness.process import elsewhere

_HIDDEN, _WIDTH, _TOP_K = 192, 192, 32
#: Rows of the embedding that runs of characters are hashed into, and their lengths.
_BUCKETS, _LENGTHS = 1 << 13, (2, 3, 4)
#: Runs of characters of one name, and spellings of one place, that are used.
_MOST_RUNS, _MOST_SPELLINGS = 48, 4
#: Latin scripts end here: other scripts would give the country away.
_LATIN_END = 0x250
_LEAST_LETTERS = 4
_TWIN = "ablated"
#: Questions that are compared with all names at a time.
_PART = 256


@dataclass(frozen=True)
class Sizes:
    """How many places are for what; the rest is trained on."""

    told: int = 1500
    distractors: int = 6000
    most_trained: int = 20_000
    batch: int = 128
    learning_rate: float = 3e-3


_QUICK = Sizes(most_trained=6000)


@dataclass(frozen=True)
class Place:
    """A place in a country, and how it is spelled.

    Parameters
    ----------
    name : str
    others : tuple of str
        Spellings that differ from the name in more than case and accents; one at least.
    country : int
    """

    name: str
    others: tuple[str, ...]
    country: int


#: Places that are told, and the countries that are claimed; None claims those that they lie in.
Facts: TypeAlias = Sequence[tuple[Sequence[Place], Sequence[int] | None]]


class PlaceNames(AESGModel):
    """Tells the country of a place from the runs of characters in its name.

    The query is the sum of what the runs are embedded as, so that spellings of one place ask
    alike; the countries of the concepts found are mixed into the answer.

    Parameters
    ----------
    memory : AESGMemory
    countries : int
    """

    def __init__(self, memory: AESGMemory, countries: int) -> None:
        super().__init__(memory)
        self.runs = nn.EmbeddingBag(_BUCKETS, _HIDDEN, mode="sum", padding_idx=0)
        self.query = MemoryQuery(_HIDDEN, memory)
        self.body = nn.Sequential(
            nn.LayerNorm(_HIDDEN), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(_HIDDEN, countries)
        self.mixture = MemoryMixture(_HIDDEN)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return query and gate."""
        return (self.query, self.mixture)

    def forward(self, names: Tensor) -> Tensor:
        """Return the log-probability of each country, ``(B, G)`` hashed runs to ``(B, V)``."""
        embedded: Tensor = self.runs(names)
        hidden: Tensor = self.body(embedded)
        query = self.query(embedded.unsqueeze(1)).squeeze(1)
        if not self.uses_memory():
            return log_probabilities(self.head(hidden))
        context = self.memory.recall(query, top_k=_TOP_K, origins=origins_of(names), vectors=False)
        log_probs: Tensor = self.mixture(self.head(hidden), hidden, context)
        self.memory.defer(context, log_probs=log_probs)
        return log_probs

    @torch.no_grad()
    def queries(self, names: Tensor) -> Tensor:
        """Return what each name asks, ``(B, D)``."""
        return self.query.project(self.runs(names))


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train model and twin, tell facts, and ask in processes of their own."""
    sizes = _QUICK if quick else Sizes()
    places, countries = read_places(data)
    dice = np.random.default_rng(seed)
    places = [places[at] for at in dice.permutation(len(places))]
    told, rest = places[: sizes.told], places[sizes.told :]
    others, train = rest[: sizes.distractors], rest[sizes.distractors :][: sizes.most_trained]
    for alone in (True, False):
        weights = trained(train, countries, scratch / f"trained-{alone}", sizes, seed, alone=alone)
        torch.save(weights, weights_file(scratch, alone=alone))
    questions = encode([place.others[dice.integers(len(place.others))] for place in told])
    answers = torch.tensor([place.country for place in told])
    shuffled = [place.country for place in told]
    dice.shuffle(shuffled)
    memories: dict[str, Facts] = {
        MEMORY: [(told, None)],
        "memory, distractors": [(told, None), (others, None)],
        "irrelevant": [(others, None)],
        "shuffled": [(told, shuffled)],
        "emptied": [],
    }
    for arm, facts in memories.items():
        tell(scratch, arm, countries, facts)
    values: Values = elsewhere(ask, scratch, list(memories), countries, questions, answers)
    return {**values, **_baselines(told, others, questions, answers)}


def read_places(data: Data) -> tuple[list[Place], int]:
    """Return places that have another spelling in Latin letters, and the number of countries."""
    cities = data.cities()
    codes = sorted({city["countrycode"] for city in cities})
    number = {code: place for place, code in enumerate(codes)}
    places = []
    for city in cities:
        others = [other for other in city["alternatenames"] if _differs(other, city["name"])]
        if others and _is_latin(city["name"]):
            places.append(Place(city["name"], tuple(others), number[city["countrycode"]]))
    return places, len(codes)


def _differs(spelling: str, name: str) -> bool:
    return (
        len(spelling) >= _LEAST_LETTERS and _is_latin(spelling) and _plain(spelling) != _plain(name)
    )


def _is_latin(text: str) -> bool:
    return all(ord(letter) < _LATIN_END for letter in text)


def _plain(text: str) -> str:
    """Return a text in lower case without accents."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).lower()


def encode(names: Sequence[str]) -> Tensor:
    """Return the hashed runs of characters in each name, ``(N, G)`` int64; 0 pads."""
    table = torch.zeros(len(names), _MOST_RUNS, dtype=torch.long)
    for row, name in zip(table, names, strict=True):
        hashes = [1 + crc32(each.encode()) % (_BUCKETS - 1) for each in _runs(name)]
        hashes = hashes[:_MOST_RUNS]
        row[: len(hashes)] = torch.tensor(hashes)
    return table


def _runs(name: str, lengths: Sequence[int] = _LENGTHS) -> list[str]:
    marked = f"^{_plain(name)}$"
    found = [
        marked[at : at + length] for length in lengths for at in range(len(marked) - length + 1)
    ]
    return list(dict.fromkeys(found))


def trained(
    places: Sequence[Place], countries: int, folder: Path, sizes: Sizes, seed: int, *, alone: bool
) -> dict[str, Tensor]:
    """Return the weights after training on all spellings of some places.

    Parameters
    ----------
    places : sequence of Place
    countries : int
    folder : Path
        For the memory of the training.
    sizes : Sizes
    seed : int
    alone : bool
        Whether the network never has its memory.
    """
    torch.manual_seed(seed)
    spelled = [
        (name, place.country)
        for place in places
        for name in (place.name, *place.others[:_MOST_SPELLINGS])
    ]
    names, found = zip(*spelled, strict=True)
    model = _model(folder, countries)
    with model.memory, model.without_memory() if alone else nullcontext():
        trainer = AESGTrainer(
            model, batch_size=sizes.batch, learning_rate=sizes.learning_rate, progress=False
        )
        trainer.fit(TensorDataset(encode(names), torch.tensor(found)))
    return model.state_dict()


def _model(folder: Path, countries: int, **config: Any) -> PlaceNames:
    config = {"vector_dim": _WIDTH, "max_concepts": 100_000, **config}
    return PlaceNames(AESGMemory(folder, AESGConfig(**config)), countries)


def tell(scratch: Path, arm: str, countries: int, facts: Facts) -> None:
    """Write facts into a new memory, with the trained weights, and close it.

    Parameters
    ----------
    scratch : Path
        Holds the weights; the memory goes into its folder named ``arm``.
    arm : str
    countries : int
    facts : Facts
    """
    model = _loaded(scratch, arm, countries)
    with model.eval().memory as memory:
        for places, claimed in facts:
            values = claimed or [place.country for place in places]
            memory.remember(model.queries(encode([place.name for place in places])), values)


def ask(
    scratch: Path, arms: Sequence[str], countries: int, questions: Tensor, answers: Tensor
) -> Values:
    """Return the share of right answers of each arm and of the twin that never had a memory.

    For a fresh process, which knows what is on disk and no more.

    Parameters
    ----------
    scratch : Path
        Holds the weights, and a memory for each arm.
    arms : sequence of str
    countries : int
    questions : (N, G) int64 tensor
    answers : (N,) int64 tensor
    """
    found = {}
    for arm in (*arms, _TWIN):
        model = _loaded(scratch, arm, countries)
        with model.memory, model.without_memory() if arm == _TWIN else nullcontext():
            said = AESGTrainer(model, progress=False).predict(questions)
        found[arm] = {"accuracy": float((said.argmax(-1) == answers).double().mean())}
    return found


def _loaded(scratch: Path, arm: str, countries: int) -> PlaceNames:
    """Return the model of an arm with its trained weights and its memory."""
    model = _model(scratch / arm, countries)
    model.load_state_dict(torch.load(weights_file(scratch, alone=arm == _TWIN)))
    return model


def weights_file(scratch: Path, *, alone: bool) -> Path:
    """Return where the weights are of the twin, or of the model that had a memory."""
    return scratch / f"weights-{'alone' if alone else 'together'}.pt"


def _baselines(
    told: Sequence[Place], others: Sequence[Place], questions: Tensor, answers: Tensor
) -> Values:
    """Return what the nearest name by shared runs of characters says, without a network."""
    found = {}
    for arm, places in (("", told), (", distractors", [*told, *others])):
        names, countries = encode([place.name for place in places]), [p.country for p in places]
        nearest = _nearest(_bags(questions), _bags(names))
        right = (torch.tensor(countries)[nearest] == answers).double().mean()
        found[f"baseline: nearest name{arm}"] = {"accuracy": float(right)}
    return found


def _bags(names: Tensor) -> Tensor:
    """Return how often each row of the embedding is meant, of length one, ``(N, _BUCKETS)``."""
    ones = (names != 0).float()
    bags = torch.zeros(len(names), _BUCKETS).scatter_add_(1, names, ones)
    return nn.functional.normalize(bags, dim=-1)


def _nearest(questions: Tensor, names: Tensor) -> Tensor:
    """Return the place of the most similar name for each question, ``(N,)``."""
    parts = (questions[at : at + _PART] for at in range(0, len(questions), _PART))
    return torch.cat([(part @ names.T).argmax(-1) for part in parts])


TASK = Task(
    name="facts",
    title="Facts told once, asked later",
    measures=(Measure("accuracy"),),
    goals=(
        Goal(MEMORY, "accuracy", at_least=0.55),
        Goal("memory, distractors", "accuracy", at_least=0.0, against="ablated"),
    ),
    needs=("geonames",),
    run=run,
    notes=(
        "A fact is that a place lies in a country: told once, by `remember`, with the name of the "
        "place, and asked with another spelling, so that a table of names would not do. 1,500 "
        "places are told, none of which was trained on; the weights are frozen, and a process of "
        "its own asks what is on disk. The model is a small one on `aesg.nn`, an embedding of runs "
        "of two to four characters, trained for one pass over the spellings of other places; a "
        "memory that is read one query a name needs no sequence model. *Distractors*: 6,000 other "
        "places told beside. *Irrelevant*: these alone. *Nearest name* compares shared runs of "
        "characters, without a network. Every seed tells other places."
    ),
)
