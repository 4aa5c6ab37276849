"""What a consolidation changes in the graph, and the little it has to remember for that.

Each step is a pure function from the present view to a `WriteBatch`, applied in one transaction
with its events. A step looks at what changed since it last did, so that its cost follows the
changes and not the size of the memory.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from aesg.config import AESGConfig
from aesg.graph import abstraction, consolidation, merging, regions, splitting
from aesg.graph.arrays import ids_of, live
from aesg.graph.clock import Clock
from aesg.graph.fading import Fading, Thresholds
from aesg.graph.turns import Changed, Tour
from aesg.modes import Permissions
from storage_backends.columns import Slots
from storage_backends.types import Floats, Ids, WriteBatch
from storage_backends.view import View

#: Concepts of which one consolidation seeks duplicates, and around which one detection of regions
#: seeks tight groups; the others wait for the next.
_MOST_COMPARED = 1_024
_MOST_GROUPED = 4_096

#: Further concepts that a consolidation looks at for duplicates and many edges, and a detection of
#: regions for tight groups, until each has had its turn: for what other thresholds make due, and
#: what was not told of.
_ROUND = 64
_ROUND_OF_GROUPS = 256

#: Sets of thresholds, of handles on one memory, that are kept apart.
_MOST_FADINGS = 4

#: Share of the concepts above which it is not remembered which of them changed since regions were
#: detected: a detection then starts from nothing.
_MOST_CHANGED = 0.25

#: Queues of concepts by the column that they are stored in.
_QUEUES = {"put": "_put", "linked": "_linked", "ungrouped": "_ungrouped"}

#: Whether regions were detected, too much changed since, and either tour has begun; where each
#: tour is and ends; the thresholds of the first.
_STATE = struct.Struct("<4?4Qdq")

_log = logging.getLogger("aesg.memory")

#: Returns the weight of the learned projection, ``(D, D)`` float32.
Projection = Callable[[], Floats]


class Graph(Protocol):
    """What evolves."""

    clock: Clock

    @property
    def view(self) -> View:
        """The graph as last committed."""
        ...

    def apply(self, batch: WriteBatch | None) -> None:
        """Write a change of the present view, durably; None changes nothing."""
        ...

    def stored_payloads(self, ids: Ids) -> Sequence[bytes | None]:
        """Return the payload of each concept; None where there is none."""
        ...


class Evolution:
    """Applies the steps of a consolidation, and knows what changed since the last ones.

    It is told of changes through `committed`, and goes on from what `dump` returned. A process
    that begins looks at the whole graph once, at its first consolidation, for what fades; so it
    does where an interrupt kept it from being told. Where something may have been missed, its first
    detection of regions goes on from those there are and looks at the rows that were rewritten
    since the last one was due. For duplicates, for too many edges and for tight groups it looks at
    what it was told of, and at a few others, once round the graph.
    """

    def __init__(self) -> None:
        self._generation = 0  # the last one that it knows
        self._fadings: dict[Thresholds, Fading] = {}  # the one used last is the last
        self._tour: Tour | None = None
        self._toured_for: tuple[float, int] | None = None  # the thresholds of the tour
        self._tour_of_groups: Tour | None = None
        self._put = Changed()  # born or moved, and not compared since
        self._linked = Changed()  # given edges that were not counted since
        self._ungrouped = Changed()  # either, since groups were sought around them
        self._regrouping: set[int] | None = set()  # changed since the detection; None: too many
        self._regrouped = False  # whether it was told of all that changed since a detection

    def dump(self) -> dict[str, bytes]:
        """Return what waits to be looked at, as columns of the short-term table."""
        tours = (self._tour or Tour(0, 0), self._tour_of_groups or Tour(0, 0))
        columns = {name: getattr(self, place).ids for name, place in _QUEUES.items()}
        columns["regrouping"] = np.sort(ids_of(self._regrouping or ()))
        state = _STATE.pack(
            self._regrouped,
            self._regrouping is None,
            self._tour is not None,
            self._tour_of_groups is not None,
            *(number for tour in tours for number in (tour.reached, tour.end)),
            *(self._toured_for or (0.0, 0)),
        )
        dumped = {name: ids.tobytes() for name, ids in columns.items() if len(ids)}
        return {**dumped, "evolution": state}

    def load(self, columns: Mapping[str, bytes], view: View, *, is_all: bool) -> None:
        """Take in what `dump` returned; a table that cannot be one is ignored, with a warning.

        Parameters
        ----------
        columns : mapping of name to bytes
        view : View
            The present one.
        is_all : bool
            Whether nothing was committed since.
        """
        stored = {name: columns.get(name, b"") for name in (*_QUEUES, "regrouping")}
        state = columns.get("evolution", b"")
        if not state:
            return
        if len(state) != _STATE.size or any(len(ids) % 8 for ids in stored.values()):
            _log.warning("what a consolidation was to look at is ignored: expected whole records")
            return
        waiting = {name: np.frombuffer(ids, np.uint64).tolist() for name, ids in stored.items()}
        for name, place in _QUEUES.items():
            setattr(self, place, Changed(waiting[name]))
        regrouped, many, toured, grouped, *numbers = _STATE.unpack(state)
        self._regrouping = None if many else set(waiting["regrouping"])
        if is_all:
            self._regrouped, self._generation = regrouped, view.generation
            self._tour = Tour(*numbers[:2]) if toured else None
            self._tour_of_groups = Tour(*numbers[2:4]) if grouped else None
            self._toured_for = (numbers[4], numbers[5]) if toured else None

    def committed(self, before: View, view: View, batch: WriteBatch) -> None:
        """Be told of a batch and of the views before and after it."""
        self._require_known(before)
        put = [] if batch.concepts is None else batch.concepts.ids.tolist()
        self._put.add(put)
        self._linked.add(batch.edges)
        self._ungrouped.add(dict.fromkeys([*put, *batch.edges]))
        if self._regrouping is not None:
            self._regrouping.update(put, batch.edges, _neighbours(before, batch.deleted))
            if len(self._regrouping) > _MOST_CHANGED * view.node_count:
                self._regrouping = None
        for fading in self._fadings.values():
            fading.settled(view, batch)
        self._generation = view.generation

    def passed_over(self, before: View, view: View) -> None:
        """Be told of a batch that leaves nothing to look at."""
        self._require_known(before)
        self._generation = view.generation

    def consolidate(
        self, graph: Graph, config: AESGConfig, allowed: Permissions, projection: Projection
    ) -> None:
        """Apply what is due at a consolidation epoch and allowed.

        Parameters
        ----------
        graph : Graph
            With nothing left to commit.
        config : AESGConfig
        allowed : Permissions
            Under evolutionary pressure concepts and edges go that have faded; reorganization is
            to merge and split concepts, to detect regions and to form abstract concepts.
        projection : callable
            Asked where abstract concepts are formed.
        """
        self._require_known(graph.view)
        if allowed.evolutionary_pressure:
            self._fade(graph, config)
        if allowed.reorganization:
            self._reorganize(graph, config, projection)

    def _require_known(self, view: View) -> None:
        """Be as at the beginning of a process where another view was the last one told of."""
        if view.generation != self._generation:
            self._fadings, self._regrouped = {}, False
            self._generation = view.generation

    def _fade(self, graph: Graph, config: AESGConfig) -> None:
        """Remove concepts and edges that have faded."""
        relevance = config.survival_threshold_relevance
        frequency = config.survival_threshold_frequency
        confidence = config.prune_confidence_threshold
        thresholds = relevance, frequency, confidence
        view, clock = graph.view, graph.clock
        fading = self._fadings.pop(thresholds, None)  # an interrupt may leave it without its hints
        if fading is None:
            fading = Fading(view, thresholds)
        concepts, rows = fading.due(view, clock)
        self._fadings[thresholds] = fading
        if len(self._fadings) > _MOST_FADINGS:
            del self._fadings[next(iter(self._fadings))]
        sources = view.ids[rows]
        graph.apply(consolidation.prune(view, concepts, clock, relevance, frequency))
        view = graph.view
        graph.apply(consolidation.drop_edges(view, live(view, sources), clock, confidence))

    def _reorganize(self, graph: Graph, config: AESGConfig, projection: Projection) -> None:
        view = graph.view
        thresholds = config.merge_similarity_threshold, _density(config)
        if self._tour is None or self._toured_for != thresholds:
            self._tour, self._toured_for = Tour.of(view), thresholds
        others = view.ids[self._tour.stage(view, _ROUND)]
        with self._put.taken(_MOST_COMPARED) as ids:
            self._merge(graph, config, np.append(ids, others))
        with self._linked.taken() as ids:
            self._split(graph, config, np.append(ids, others))
        if graph.clock.epoch % config.region_detection_interval:
            return
        self._regroup(graph, config.region_detection_interval)
        if config.abstraction_enabled:
            view = graph.view
            self._tour_of_groups = self._tour_of_groups or Tour.of(view)
            others = view.ids[self._tour_of_groups.stage(view, _ROUND_OF_GROUPS)]
            with self._ungrouped.taken(_MOST_GROUPED) as ids:
                self._abstract(graph, config, np.append(ids, others), projection)

    def _merge(self, graph: Graph, config: AESGConfig, ids: Ids) -> None:
        """Merge some concepts with others that say the same."""
        view = graph.view
        similarity = config.merge_similarity_threshold
        pairs = merging.duplicates(view, live(view, ids), similarity)
        if len(pairs):
            payloads = _payloads(graph, np.append(pairs.left, pairs.right))
            most, density = config.max_edges_per_node, config.split_density_threshold
            graph.apply(merging.merge(view, pairs, payloads, graph.clock, most, density))

    def _split(self, graph: Graph, config: AESGConfig, ids: Ids) -> None:
        """Split those of some concepts that have many edges to two neighbourhoods."""
        view = graph.view
        density, similarity = _density(config), config.merge_similarity_threshold
        dense = splitting.dense(view, live(view, ids), density)
        if len(dense):
            payloads = _payloads(graph, dense)
            graph.apply(splitting.split(view, dense, payloads, graph.clock, density, similarity))

    def _regroup(self, graph: Graph, interval: int) -> None:
        """Detect regions anew, where the graph changed."""
        if self._regrouped and self._regrouping is not None and not self._regrouping:
            return
        view, changed = graph.view, None
        if self._regrouping is not None:
            changed = live(view, ids_of(self._regrouping))
            if not self._regrouped:
                since = graph.clock.epoch - interval
                changed = np.union1d(changed, _rewritten(view, since))
        found = regions.detect(view, view.regions.whole(), changed)
        graph.apply(regions.regroup(view, found))
        self._regrouping, self._regrouped = set(), True

    def _abstract(self, graph: Graph, config: AESGConfig, ids: Ids, projection: Projection) -> None:
        """Form abstract concepts over the tight groups that some concepts are in."""
        view = graph.view
        groups = abstraction.groups(view, live(view, ids), _density(config))
        if groups:
            most = config.max_edges_per_node
            graph.apply(abstraction.abstract(view, groups, projection(), graph.clock, most))


def _density(config: AESGConfig) -> int:
    """Return the out-edges beyond which a concept is split; a full row has more in any case."""
    return min(config.split_density_threshold, config.max_edges_per_node - 1)


def _rewritten(view: View, epoch: int) -> Slots:
    """Return the live slots whose out-edges were rewritten in an epoch or later."""
    rewritten = view.stats.field("edge_epoch").whole() >= max(epoch, 0)
    return np.flatnonzero(rewritten & view.alive.whole())


def _neighbours(view: View, ids: Ids) -> list[int]:
    """Return the concepts that have an edge from or to some others."""
    slots = live(view, ids)
    targets = view.adjacency.expand(slots)[1]["target"]
    found: list[int] = view.ids[np.append(targets, view.adjacency.sources_of(slots))].tolist()
    return found


def _payloads(graph: Graph, slots: Slots) -> Mapping[int, bytes | None]:
    ids = graph.view.ids[np.unique(slots)]
    return dict(zip(ids.tolist(), graph.stored_payloads(ids), strict=True))
