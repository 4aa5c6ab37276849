"""Small worlds of a graph, guests and a short-term window, and reading them in plain loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby

import numpy as np

from aesg.graph.scope import PACK_ID, Guest, Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.types import EDGE, EdgeKind, Floats, Ids, Records, ValueKind, WriteBatch
from storage_backends.view import View
from tests.graph.build import DIM, concepts, engine, entries, unit

FAINT = np.float32(1e-3)
#: Ids from here on are provisional, and from there on those of guests: a hundred for each.
FIRST_PROVISIONAL = 50
FIRST_OF_GUESTS = 100

#: Bits of an id that count the concepts of one guest.
_PLACES = 40

Seeds = list[tuple[int, np.float32]]


@dataclass
class World:
    """Concepts whose value is the last digit of their id, in base 3.

    Ids below `FIRST_PROVISIONAL` are in the graph, and from `FIRST_OF_GUESTS` on in the guest of
    their hundred. Edges stay in a part.
    """

    ids: list[int]
    edges: dict[int, list[tuple[int, float, int]]] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)  # concepts without an integer value
    regions: dict[int, int] = field(default_factory=dict)
    weights: dict[int, float] = field(default_factory=dict)  # of guests, by hundred

    def __post_init__(self) -> None:
        self.ids = sorted(self.ids, key=lambda each: (_part(each), each))  # as slots are

    def origin(self, concept_id: int) -> int:
        return self.origins.get(concept_id, 0)

    def weight(self, concept_id: int) -> np.float32:
        return np.float32(self.weights.get(concept_id // 100, 1))

    def scope(self) -> Scope:
        """Return the world as graph, guests and window."""
        guests = {hundred: list(held) for hundred, held in groupby(self.ids, lambda i: i // 100)}
        return Scope(
            self._view([each for each in self.ids if each < FIRST_PROVISIONAL]),
            self._window(),
            tuple(
                Guest(self._view(held), self.weights.get(hundred, 1.0), first_id(hundred))
                for hundred, held in guests.items()
                if hundred
            ),
        )

    def named(self, ids: Ids) -> list[int]:
        """Return the concepts of this world that the ids in a scope stand for; 0 for none."""
        return [self._named(each) for each in ids.ravel().tolist()]

    def _named(self, concept_id: int) -> int:
        if concept_id < PACK_ID:
            return concept_id
        hundred, place = divmod(concept_id - PACK_ID, 1 << _PLACES)
        return [each for each in self.ids if each // 100 == hundred][place]

    def _view(self, ids: list[int]) -> View:
        made = engine([])
        if ids:
            put = concepts(ids)
            put.value_ids[:] = np.array(ids) % 3
            put.value_kinds[:] = [self._kind(each) for each in ids]
            put.stats["origin"] = [self.origin(each) for each in ids]
            put.stats["region"] = [self.regions.get(each, 0) for each in ids]
            rows = {
                source: edge_records(row) for source, row in self.edges.items() if source in ids
            }
            made.commit(WriteBatch(concepts=put, edges=rows))
        return made.view()

    def _window(self) -> ShortTermMemory:
        provisional = [each for each in self.ids if FIRST_PROVISIONAL <= each < FIRST_OF_GUESTS]
        window = ShortTermMemory(DIM, 64)
        new = entries(provisional)
        new["value_id"] = np.array(provisional, np.int64) % 3
        new["value_kind"] = [self._kind(each) for each in provisional]
        new["origin"] = [self.origin(each) for each in provisional]
        new["next"] = [self.next.get(each, 0) for each in provisional]
        window.append(new, unit(provisional), None)
        return window

    def _kind(self, concept_id: int) -> ValueKind:
        return ValueKind.KEY if concept_id in self.plain else ValueKind.INTEGER

    def right(self, concept_id: int, outcome: int) -> bool:
        return concept_id not in self.plain and concept_id % 3 == outcome

    def successors(self, concept_id: int) -> Iterator[tuple[int, float]]:
        """Yield the successors of a concept with the share of activation that they get."""
        if FIRST_PROVISIONAL <= concept_id < FIRST_OF_GUESTS:
            yield self.next.get(concept_id, 0), 1.0
            return
        row = [edge for edge in self.edges.get(concept_id, []) if edge[2] & EdgeKind.SUCCESSOR]
        fan = max(sum(strength for _, strength, _ in row), 1.0)
        for target, strength, _ in row:
            yield target, strength / fan

    def followed(self, seeds: Seeds, outcome: int, k: int, origin: int) -> Seeds:
        """Return what the seeds that were right lead to."""
        heard: dict[int, np.float32] = {}
        for concept_id, activation in seeds:
            if self.right(concept_id, outcome) and activation > 0:
                for target, share in self.successors(concept_id):
                    if target in self.ids and not self.hidden(target, origin):
                        sent = np.float32(float(activation) * share)
                        heard[target] = max(heard.get(target, sent), sent)
        return sorted(heard.items(), key=lambda each: (-each[1], self.ids.index(each[0])))[:k]

    def searched(self, query: Floats, k: int, origin: int) -> Seeds:
        """Return the seeds of a query: each begins with its cosine, times what its part weighs."""
        open_to = [each for each in self.ids if not self.hidden(each, origin)]
        cosines = {each: np.float32(unit([each])[0] @ query) for each in open_to}
        begun = {each: max(cosines[each], FAINT) * self.weight(each) for each in open_to}
        nearest = sorted(open_to, key=lambda each: -cosines[each])[:k]
        nearest.sort(key=lambda each: -begun[each])
        return [(each, begun[each]) for each in nearest]

    def hidden(self, concept_id: int, origin: int) -> bool:
        return origin != 0 and self.origin(concept_id) == origin

    def read(
        self, queries: Floats, outcomes: Sequence[int | None], k: int, origin: int
    ) -> list[tuple[Seeds, bool]]:
        """Return the seeds of each position of one sequence, and whether they were followed."""
        rows: list[tuple[Seeds, bool]] = []
        for t, query in enumerate(queries):
            came = outcomes[t - 1] if t else None
            led = [] if came is None else self.followed(rows[-1][0], came, k, origin)
            rows.append((led or self.searched(query, k, origin), bool(led)))
        return rows


def first_id(hundred: int) -> int:
    """Return the id in a scope of the first concept of a guest."""
    return PACK_ID + (hundred << _PLACES)


def edge_records(row: list[tuple[int, float, int]]) -> Records:
    """Return edges of some targets, strengths and kinds."""
    made = np.zeros(len(row), EDGE)
    for record, (target, strength, kind) in zip(made, row, strict=True):
        record["target"], record["weight"], record["confidence"] = target, strength, 1.0
        record["kind"] = kind
    return made


def random_world(dice: np.random.Generator) -> World:
    """Return a world of a few concepts; half of all worlds have guests."""
    window = _some(dice, range(FIRST_PROVISIONAL, 80))
    parts = [_some(dice, range(1, 40))]
    weights = {}
    for hundred in range(1, 1 + int(dice.choice([0, 0, 0, 1, 2, 3]))):
        parts.append(_some(dice, range(100 * hundred, 100 * hundred + 40)))
        weights[hundred] = float(dice.choice([1.0, 0.5, 0.3]))
    held = [*chain(*parts), *window]
    return World(
        ids=held,
        edges={each: _random_row(dice, each, part) for part in parts for each in part},
        # Some have no successor (0), some one that is gone (99), some one that has been born.
        next={each: int(dice.choice([*parts[0], *window, 0, 99])) for each in window},
        origins={each: int(dice.integers(0, 3)) for each in held},
        plain={each for each in held if dice.random() < 0.1},
        regions={each: int(dice.integers(0, 3)) for each in chain(*parts)},
        weights=weights,
    )


def _some(dice: np.random.Generator, ids: range) -> list[int]:
    chosen: list[int] = dice.choice(np.array(ids), dice.integers(0, 12), False).tolist()
    return sorted(chosen)


def _random_row(
    dice: np.random.Generator, source: int, part: list[int]
) -> list[tuple[int, float, int]]:
    kinds = [EdgeKind.SUCCESSOR, EdgeKind.COACTIVATION, EdgeKind.SUCCESSOR | EdgeKind.VALUE]
    targets = dice.choice(part, min(len(part), int(dice.integers(0, 5))), False).tolist()
    return [
        (target, float(dice.choice([1.0, 0.5, 0.25])), int(dice.choice(kinds)))
        for target in targets
        if target != source
    ]


def _part(concept_id: int) -> int:
    """Return where a concept stands: the graph, then guests, then the window."""
    return 1 << 32 if FIRST_PROVISIONAL <= concept_id < FIRST_OF_GUESTS else concept_id // 100
