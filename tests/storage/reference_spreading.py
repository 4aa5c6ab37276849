"""Spreading activation as it is defined, over dictionaries, one query at a time.

Nothing of this is shared with the product: concepts are (part, concept id), so that Python's own
order of tuples is the order of ties.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from storage_backends.spreading import Spread

_ONE = 2**32

Name = tuple[int, int]  # part, concept id


@dataclass
class Edge:
    target: int
    strength: float
    kind: int


@dataclass
class Concept:
    edges: list[Edge] = field(default_factory=list)
    region: int = 0
    epoch: int = 0


@dataclass
class World:
    """The concepts of each part, and the weight of each part."""

    parts: Sequence[Mapping[int, Concept]]
    weights: Sequence[float]

    def __getitem__(self, name: Name) -> Concept:
        return self.parts[name[0]][name[1]]


@dataclass
class Found:
    name: Name
    activation: np.float32
    path: list[Name]


def spread(world: World, seeds: list[tuple[Name, float]], how: Spread, top: int) -> list[Found]:
    """Return the most active concepts of one query."""
    total: dict[Name, int] = defaultdict(int)
    for name, activation in seeds:
        total[name] += math.floor(activation * world.weights[name[0]] * _ONE)
    parents: dict[Name, Name | None] = dict.fromkeys(total)
    favoured = [_dominant(world, total, part) for part in range(len(world.parts))]
    arrived = dict(total)
    for _ in range(how.hops):
        heard = _heard(world, _frontier(arrived, how.frontier), favoured, how)
        arrived = {name: sum(said.values()) for name, said in heard.items()}
        for name, said in heard.items():
            total[name] += arrived[name]
            parents.setdefault(name, min(said, key=lambda source: (-said[source], source)))
    best = sorted(total, key=lambda name: (-total[name], name))[:top]
    return [Found(name, np.float32(total[name] / _ONE), _path(parents, name)) for name in best]


def _frontier(arrived: dict[Name, int], most: int) -> dict[Name, int]:
    loudest = sorted(arrived, key=lambda name: (-arrived[name], name))
    return {name: arrived[name] for name in loudest[: most or None]}


def _heard(
    world: World, arrived: dict[Name, int], favoured: list[int], how: Spread
) -> dict[Name, dict[Name, int]]:
    """Return for each concept what it hears, by source."""
    heard: dict[Name, dict[Name, int]] = defaultdict(dict)
    for source, units in arrived.items():
        part, concept = source[0], world[source]
        shares = _shares(world, part, concept, favoured[part], how)
        faded = _power(how.weakening, max(how.epoch - concept.epoch, 0))
        fan = max(_fan(concept, shares, favoured[part], how) * faded, 1.0)
        passed = units * (how.decay * faded / fan)
        for target, share in shares.items():
            said = math.floor(passed * share)
            if said >= how.floor * _ONE:
                heard[part, target][source] = said
    return heard


def _shares(
    world: World, part: int, concept: Concept, favoured: int, how: Spread
) -> dict[int, float]:
    shares = {}
    for edge in sorted(concept.edges, key=lambda edge: (-edge.strength, edge.target)):
        if edge.kind & how.kinds:
            inside = favoured and world[part, edge.target].region == favoured
            shares[edge.target] = edge.strength * (how.region_multiplier if inside else 1.0)
    return shares


def _fan(concept: Concept, shares: dict[int, float], favoured: int, how: Spread) -> float:
    """Return the sum of a row: of all its edges, as the row states it, or of those followed."""
    every = all(not edge.kind & ~how.kinds for edge in concept.edges)
    if every and (not favoured or how.region_multiplier == 1.0):
        return _rounded_up(math.fsum(edge.strength for edge in concept.edges))
    total = 0.0
    for share in shares.values():
        total += share
    return total


def _rounded_up(value: float) -> float:
    """Return the least float32 that is no less."""
    single = np.float32(value)
    return float(single if float(single) >= value else np.nextafter(single, np.float32(np.inf)))


def _power(factor: float, times: int) -> float:
    product = 1.0
    for _ in range(times):
        product *= factor
    return product


def _dominant(world: World, total: dict[Name, int], part: int) -> int:
    held: dict[int, int] = defaultdict(int)
    for name, units in total.items():
        if name[0] == part and world[name].region:
            held[world[name].region] += units
    return min(held, key=lambda region: (-held[region], region), default=0)


def _path(parents: dict[Name, Name | None], name: Name) -> list[Name]:
    path, parent = [], parents[name]
    while parent is not None:
        path.append(parent)
        parent = parents[parent]
    return path
