"""From a retrieval to its explanation, with the score that learning uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aesg.config import AESGConfig
from aesg.context import Found
from aesg.explanation import Activated, Explanation, Judgement, QueryExplanation, Seed
from aesg.graph import consolidation
from aesg.graph.clock import Clock
from aesg.graph.novelty import Digest, Experience, digest
from aesg.graph.scope import PACK_ID, Scope
from aesg.learning import Deferred, check, experience_of, known
from aesg.reading import Reading
from storage_backends.types import Floats, Ids, Records, ValueKind

#: Says of concepts which pack they are of, None for none that is attached, and their id in there.
Sources = Callable[[Ids], Sequence[tuple[str | None, int]]]


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
        Which of the retrieved are in the graph or in a pack.
    stats : (N, K) STATS
        Statistics of those.
    ages : (N, K) uint64
        Consolidations since they were last of use; in a pack, as of its export.
    relevances : (N, K) float32
        Likewise.
    next_id : int
        First concept id that was free at that time.
    tick : int
        Topology update at that time.
    """

    seeds: Ids
    cosines: Floats
    born: NDArray[np.bool_]
    stats: Records
    ages: Ids
    relevances: Floats
    next_id: int
    tick: int


def follows(query: Tensor, outcomes: Tensor | None) -> bool:
    """Tell whether outcomes say what came at each position of ``(B, T, D)`` queries."""
    if not isinstance(outcomes, Tensor) or outcomes.is_floating_point():
        return False
    return query.ndim == 3 and outcomes.shape == query.shape[:-1]


def details_of(scope: Scope, reading: Reading, clock: Clock) -> Details:
    """Gather what an explanation shows, as long as the scope of the reading stays as it is."""
    slots = reading.slots
    born = (slots >= 0) & ~scope.is_provisional(slots)
    stats, guest = scope.stats(slots), scope.is_guest(slots)
    present = np.where(guest, stats["relevance"], consolidation.relevances(stats, clock.epoch))
    keys, queries = scope.keys(reading.seeds), reading.queries.unit
    return Details(
        seeds=scope.ids(reading.seeds),
        cosines=np.matmul(keys, queries[:, :, None])[..., 0],
        born=born,
        stats=stats,
        ages=np.where(guest, stats["epoch"], consolidation.ages(stats, clock.epoch)),
        relevances=present,
        next_id=clock.next_id,
        tick=clock.tick,
    )


def explanation_of(
    deferred: Deferred,
    details: Details,
    payloads: Sequence[Any],
    config: AESGConfig,
    sources: Sources,
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
    sources : callable
        Of the handle that asks.

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
        details.next_id,
        details.tick,
    )
    context = deferred.context
    count, width = context.found.ids.shape
    virtual = context.abstract_weight.reshape(-1).tolist()
    taken = context.weights.reshape(count, width).sum(1).tolist()
    names = _names(context.found, details.seeds, sources)
    judgements = _judgements(deferred, experience, news, threshold, names)
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
        names,
    )


def _names(found: Found, seeds: Ids, sources: Sources) -> dict[int, str]:
    """Return what those concepts are called that are of packs: the pack, and their id there."""
    ids = np.unique(np.concatenate([each.ravel() for each in (found.ids, found.paths, seeds)]))
    ids = ids[ids >= np.uint64(PACK_ID)]
    return {
        concept_id: f"{pack}#{there}"
        for concept_id, (pack, there) in zip(ids.tolist(), sources(ids), strict=True)
        if pack is not None  # detached meanwhile
    }


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
        np.where(details.born[here], details.ages[here], 0),
        details.relevances[here],
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
    deferred: Deferred,
    experience: Experience,
    news: Digest,
    threshold: float,
    names: Mapping[int, str],
) -> list[Judgement | None]:
    """Return what learning makes of each query; None where it is not known what came."""
    made: list[Judgement | None] = [None] * len(deferred.context.found.ids)
    new = np.isin(news.standing, news.entries["id"])
    for row, query in enumerate(np.flatnonzero(known(deferred)).tolist()):
        score, standing = float(experience.explained[row]), int(news.standing[row])
        standing = 0 if new[row] else standing
        made[query] = Judgement(
            score=score,
            basis=_basis(deferred, experience, row, names),
            novel=score < threshold,
            standing=standing,
            verdict=_verdict(experience, row, score < threshold, standing, names),
        )
    return made


def _basis(deferred: Deferred, experience: Experience, row: int, names: Mapping[int, str]) -> str:
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
    found, cosine = int(experience.found[row, place]), experience.cosines[row, place]
    nearest = names.get(found, found)
    if experience.explained[row] > max(cosine, 0):
        return f"cosine with the mix of what was retrieved ({nearest}, the nearest: {cosine:.3f})"
    return f"cosine with {nearest}, the nearest concept"


def _verdict(
    experience: Experience, row: int, novel: bool, standing: int, names: Mapping[int, str]
) -> str:
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
    right = experience.found[row][experience.right[row]]
    if len(right):
        concept_id = int(right[0])
        return f"explained by {names.get(concept_id, concept_id)} of a pack, which stays as it is"
    return "explained, though no single concept was right"
