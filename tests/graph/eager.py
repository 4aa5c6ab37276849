"""The eager definition of ageing: every pass visits every concept and every edge.

Shares nothing with the product but the words. Numbers are kept in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Concept:
    """One concept and its out-edges, ``{target: [weight, confidence]}``."""

    relevance: float
    frequency: int
    age: int = 0
    edges: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class EagerGraph:
    """A graph in which everything grows older at each consolidation.

    Parameters
    ----------
    relevance, frequency, confidence
        What a concept or an edge needs to live on.
    most : int
        Out-edges that a concept may have.
    """

    relevance: float
    frequency: int
    confidence: float
    most: int
    concepts: dict[int, Concept] = field(default_factory=dict)

    def touch(self, concept_id: int, uses: int) -> None:
        """Let a concept prove useful."""
        concept = self.concepts[concept_id]
        for _ in range(uses):
            concept.relevance += 0.1 * (1 - concept.relevance)
        concept.frequency += uses
        concept.age = 0

    def use_edge(self, source: int, target: int, weight: float, uses: int) -> None:
        """Use an edge, which is made where there is none."""
        held = self.concepts[source].edges
        for _ in range(uses):
            if target not in held:
                held[target] = [weight, 0.3]
            else:
                held[target][1] += 0.1 * (1 - held[target][1])
        if len(held) > self.most:
            del held[min(held, key=lambda each: (held[each][0] * held[each][1], each))]

    def remove(self, concept_id: int) -> None:
        """Remove a concept and the edges to it."""
        del self.concepts[concept_id]
        for concept in self.concepts.values():
            concept.edges.pop(concept_id, None)

    def age(self) -> None:
        """Let everything grow older by one epoch."""
        for concept in self.concepts.values():
            concept.age += 1
            concept.relevance *= 0.95
            for edge in concept.edges.values():
                edge[1] *= 0.99

    def prune(self) -> tuple[set[int], set[tuple[int, int]]]:
        """Remove what has faded, and return the concepts and the edges that went."""
        gone = {
            concept_id
            for concept_id, concept in self.concepts.items()
            if concept.relevance < self.relevance
            and concept.frequency < self.frequency
            and concept.age >= 10
        }
        for concept_id in gone:
            self.remove(concept_id)
        weak = {
            (source, target)
            for source, concept in self.concepts.items()
            for target, (_, confidence) in concept.edges.items()
            if confidence < self.confidence
        }
        for source, target in weak:
            del self.concepts[source].edges[target]
        return gone, weak
