"""From a retrieval to its explanation, with the score that learning uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aesg.config import AESGConfig
from aesg.explanation import Activated, Explanation, Judgement, QueryExplanation, Seed
from aesg.graph import consolidation
from aesg.graph.clock import Clock
from aesg.graph.novelty import Digest, Experience, digest
from aesg.graph.scope import Scope
from aesg.learning import Deferred, check, experience_of, known
from aesg.reading import Reading
from storage_backends.types import STATS, Floats, Ids, Records, ValueKind


@dataclass(frozen=True)
class Details:
    """What a retrieval leaves out and an explanation shows.

    Parameters
    ----------
    seeds : (N, S) uint64
        Where activation began; 0 pads.
    cosines : (N, S) float32
        Similarity of their keys to the query.
    born : (N, K) bool
        Which of the retrieved are in the graph.
    stats : (N, K) STATS
        Statistics of those.
    clock : Clock
        Counters at that time.
    """

    seeds: Ids
    cosines: Floats
    born: NDArray[np.bool_]
    stats: Records
    clock: Clock


def follows(query: Tensor, outcomes: Tensor | None) -> bool:
    """Tell whether outcomes say what came at each position of ``(B, T, D)`` queries."""
    if not isinstance(outcomes, Tensor) or outcomes.is_floating_point():
        return False
    return query.ndim == 3 and outcomes.shape == query.shape[:-1]


def details_of(scope: Scope, reading: Reading, clock: Clock) -> Details:
    """Gather what an explanation shows, as long as the scope of the reading stays as it is."""
    born = (reading.slots >= 0) & ~scope.is_provisional(reading.slots)
    stats = np.zeros(born.shape, STATS)
    if born.any():
        stats[born] = scope.view.stats[reading.slots[born]]
    keys, queries = scope.keys(reading.seeds), reading.queries.unit
    return Details(
        seeds=scope.ids(reading.seeds),
        cosines=np.matmul(keys, queries[:, :, None])[..., 0],
        born=born,
        stats=stats,
        clock=replace(clock),
    )


def explanation_of(
    deferred: Deferred, details: Details, payloads: Sequence[Any], config: AESGConfig
) -> Explanation:
    """Put together what is known about some queries.

    Parameters
    ----------
    deferred : Deferred
        The retrieval, and what is said of what came.
    details : Details
    payloads : sequence
        One for each concept that was retrieved, query after query.
    config : AESGConfig

    Raises
    ------
    AESGMemoryError
        If what is said of them does not fit the queries, an outcome is out of range, or
        log-probabilities are none.
    """
    check(deferred)
    threshold = config.novelty_explanation_threshold
    experience = experience_of(deferred, threshold)
    news = digest(
        experience,
        threshold,
        config.merge_similarity_threshold,
        details.clock.next_id,
        details.clock.tick,
    )
    context = deferred.context
    count, width = context.found.ids.shape
    virtual = context.abstract_weight.reshape(-1).tolist()
    taken = context.weights.reshape(count, width).sum(1).tolist()
    judgements = _judgements(deferred, experience, news, threshold)
    right = np.zeros((count, width), np.bool_)
    right[known(deferred)] = experience.right
    concepts = _concepts(deferred, details, right, payloads)
    return Explanation(
        [
            QueryExplanation(
                seeds=_seeds(details, query),
                followed=bool(context.found.followed[query]),
                concepts=[
                    next(concepts) for _ in range(np.count_nonzero(context.found.ids[query]))
                ],
                abstract_weight=virtual[query],
                null_weight=max(1 - virtual[query] - taken[query], 0.0),
                judgement=judgements[query],
            )
            for query in range(count)
        ],
        threshold,
    )


def _seeds(details: Details, query: int) -> list[Seed]:
    pairs = zip(details.seeds[query].tolist(), details.cosines[query].tolist(), strict=True)
    return [Seed(concept_id, cosine) for concept_id, cosine in pairs if concept_id]


def _concepts(
    deferred: Deferred, details: Details, right: NDArray[np.bool_], payloads: Sequence[Any]
) -> Iterator[Activated]:
    """Yield what was retrieved, query after query."""
    context = deferred.context
    found = context.found
    here = found.ids != 0
    shape = found.ids.shape
    stats, kinds = details.stats[here], found.value_kinds[here]
    columns = (
        found.ids[here],
        found.cosines[here],
        context.activations.reshape(shape).cpu().numpy()[here],
        context.weights.reshape(shape).cpu().numpy()[here],
        found.value_ids[here],
        right[here],
        ~details.born[here],
        stats["region"],
        np.where(details.born[here], consolidation.ages(stats, details.clock.epoch), 0),
        consolidation.relevances(stats, details.clock.epoch),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for row, kind, path, payload in zip(rows, kinds, context.paths, payloads, strict=True):
        concept_id, cosine, activation, weight, value, was_right, provisional, *judged = row
        yield Activated(
            concept_id=concept_id,
            path=path,
            cosine=cosine,
            activation=activation,
            weight=weight,
            value=value if kind == ValueKind.INTEGER else None,
            value_kind=ValueKind(kind).name,
            right=was_right,
            payload=payload,
            provisional=provisional,
            region=judged[0] or None,  # stored as 0
            age=judged[1],
            relevance=judged[2],
        )


def _judgements(
    deferred: Deferred, experience: Experience, news: Digest, threshold: float
) -> list[Judgement | None]:
    """Return what learning makes of each query; None where it is not known what came."""
    made: list[Judgement | None] = [None] * len(deferred.context.found.ids)
    new = np.isin(news.standing, news.entries["id"])
    for row, query in enumerate(np.flatnonzero(known(deferred)).tolist()):
        score, standing = float(experience.explained[row]), int(news.standing[row])
        made[query] = Judgement(
            score=score,
            basis=_basis(deferred, experience, row),
            novel=score < threshold,
            standing=0 if new[row] else standing,
            verdict=_verdict(experience, row, score < threshold, 0 if new[row] else standing),
        )
    return made


def _basis(deferred: Deferred, experience: Experience, row: int) -> str:
    came = experience.value_ids[row]
    if not experience.norms[row]:
        return "score of a query without direction"
    if experience.value_kind is ValueKind.VECTOR:
        return "cosine of what came with the mix of what was retrieved"
    if experience.value_kind is ValueKind.INTEGER:
        if deferred.log_probs is not None:
            return f"probability given to {came}"
        count = experience.right[row].sum()
        if not count:
            return f"attention on concepts of value {came}: none of them was retrieved"
        return f"attention on concepts of value {came}: {count} of those retrieved"
    here = experience.found[row] != 0
    if not here.any():
        return "score where nothing is retrieved"
    place = np.where(here, experience.cosines[row], -np.inf).argmax()
    nearest, cosine = experience.found[row, place], experience.cosines[row, place]
    if experience.explained[row] > max(cosine, 0):
        return f"cosine with the mix of what was retrieved ({nearest}, the nearest: {cosine:.3f})"
    return f"cosine with {nearest}, the nearest concept"


def _verdict(experience: Experience, row: int, novel: bool, standing: int) -> str:
    if not experience.norms[row]:
        return "nothing is learned from it"
    if novel and standing:
        return (
            f"novel, but no concept is made of it: concept {standing} was right, and its key is "
            "nearly the same"
        )
    if novel:
        return "novel: a provisional concept is made of it"
    if standing:
        return f"explained: concept {standing} is confirmed"
    return "explained, though no single concept was right"
