"""What edges recall that lies nowhere near the question.

Two tasks, each asked of one memory in two ways: with spreading activation as configured by default,
and with a decay of 0, which leaves the nearest neighbours. Vectors are random, of width 64: what
belongs together lies no nearer than what does not.

Joint: concepts were retrieved together, two by two, by queries that lay between them. Asked for
one, its partner is to be among ten. Pairs that never met are the control.
Two hops: a memory is told, fact by fact, which country a city is in and which currency a country
has. Asked for the country of a city, the fact about the currency is to be among sixteen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aesg import AESGConfig, AESGMemory
from benchmarks.suite import Result, Settings, TableOf, benchmark

_DIM = 64
_CONFIG = AESGConfig(vector_dim=_DIM, log_level="WARNING")
_FLAT, _SPREADING = "nearest neighbours", "spreading"
#: Length of the noise on a query, and of a relation on the key of a fact; entities have length 1.
_NOISE, _RELATION = 0.1, 0.5

Vectors = NDArray[np.float32]
Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything."""

    concepts: int = 10_000
    pairs: int = 500
    meetings: Sequence[int] = (50, 100, 200, 400)
    cities: int = 4_000
    countries: int = 250
    asked: int = 500


_SEEDS, _SEEDS_QUICK = 3, 1
_QUICK = Sizes(2_000, 100, (50, 200), 800, 50, 100)


def unit(vectors: NDArray[np.floating]) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def noisy(rng: np.random.Generator, vectors: Vectors) -> Vectors:
    return unit(unit(vectors) + _NOISE * unit(rng.normal(size=vectors.shape)))


def found(directory: Path, queries: Vectors, wanted: Ids, top_k: int) -> dict[str, float]:
    """Return the share of queries that found the concept wanted, for both ways of asking."""
    shares = {}
    for name, decay in ((_FLAT, 0.0), (_SPREADING, _CONFIG.spreading_activation_decay)):
        config = replace(_CONFIG, spreading_activation_decay=decay, memory_mode="INFERENCE")
        with AESGMemory(directory, config) as memory:
            context = memory.retrieve(torch.from_numpy(queries), top_k=top_k)
            shares[name] = float((context.concept_ids == wanted[:, None]).any(axis=1).mean())
    return shares


def met_together(
    directory: Path, seed: int, sizes: Sizes
) -> Iterator[tuple[str, dict[str, float]]]:
    """Let pairs of concepts meet; yield after so many meetings how many partners are found."""
    rng = np.random.default_rng(seed)
    keys = unit(rng.normal(size=(sizes.concepts, _DIM)))
    one, other, third = np.arange(3 * sizes.pairs).reshape(3, -1)
    with AESGMemory(directory, _CONFIG) as memory:
        ids = memory.remember(keys, np.arange(sizes.concepts))
        for meeting in range(1, max(sizes.meetings) + 1):
            memory.retrieve(torch.from_numpy(noisy(rng, keys[one] + keys[other])))
            memory.reset_state()  # what comes next has nothing to do with it
            memory.update_topology()
            if meeting in sizes.meetings:
                memory.save()
                asked = noisy(rng, keys[one])
                yield f"joint, {meeting} meetings", found(directory, asked, ids[other], 10)
        yield "joint, never met", found(directory, noisy(rng, keys[one]), ids[third], 10)


def two_hops(directory: Path, seed: int, sizes: Sizes) -> Iterator[tuple[str, dict[str, float]]]:
    """Tell facts once; yield how many answers of two steps are found."""
    rng = np.random.default_rng(seed)
    countries = unit(rng.normal(size=(sizes.countries, _DIM)))
    cities = unit(rng.normal(size=(sizes.cities, _DIM)))
    currencies = unit(rng.normal(size=(sizes.countries, _DIM)))
    country_of, currency_of = _RELATION * unit(rng.normal(size=(2, _DIM)))
    home = rng.integers(sizes.countries, size=sizes.cities)
    with AESGMemory(directory, _CONFIG) as memory:
        memory.remember(unit(cities + country_of), countries[home])
        facts = memory.remember(unit(countries + currency_of), currencies)
    asked = rng.choice(sizes.cities, sizes.asked, replace=False)
    queries = noisy(rng, cities[asked] + country_of)
    yield "two hops", found(directory, queries, facts[home[asked]], 16)


def summary(shares: Sequence[float]) -> str:
    mean = f"{np.mean(shares):.3f}"
    return mean if len(shares) == 1 else f"{mean} ({min(shares):.3f} to {max(shares):.3f})"


def table_of(figures: Mapping[str, Sequence[Mapping[str, float]]], seeds: int) -> TableOf:
    rows = [
        (task, *(summary([run[way] for run in runs]) for way in (_FLAT, _SPREADING)))
        for task, runs in figures.items()
    ]
    title = f"share of answers found, {seeds} seeds"
    return TableOf(title, ("task", _FLAT, _SPREADING), rows)


@benchmark("association", "what edges find that lies nowhere near", minutes=9, group="more")
def run(settings: Settings) -> Result:
    sizes, seeds = (_QUICK, _SEEDS_QUICK) if settings.quick else (Sizes(), _SEEDS)
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        settings.say(f"seed {seed}")
        for task in (met_together, two_hops):
            scratch = settings.scratch / f"{task.__name__}-{seed}"
            for name, shares in task(scratch, seed, sizes):
                figures.setdefault(name, []).append(shares)
    return Result("association", "What edges find", tables=(table_of(figures, seeds),))
