"""Why a query retrieved what it did, and what the memory makes of it: for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from reprlib import Repr
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from aesg._tables import as_text

#: Characters of a payload, and seeds, that are shown of a query.
_PAYLOAD = 20
_SEEDS = 8

#: Shows the beginning of a payload, which may be long and deep, with escapes for what a terminal
#: would obey.
_bounded = Repr()
_bounded.maxstring = _bounded.maxother = 8 * _PAYLOAD

#: Queries that are shown.
_QUERIES = 20


@dataclass(frozen=True)
class Seed:
    """A concept where activation began: found by the search, or a followed successor.

    Parameters
    ----------
    concept_id : int
    cosine : float
        Similarity of its key to the query.
    """

    concept_id: int
    cosine: float


@dataclass(frozen=True)
class Activated:
    """A concept that a query retrieved.

    Parameters
    ----------
    concept_id : int
    path : list of int
        Ids from a seed to the concept; each step is an edge.
    cosine : float
        Similarity of its key to the query.
    activation : float
        What spreading activation brought.
    weight : float
        Its share of the attention.
    value : int or None
        Its integer value; None where it has none.
    value_kind : {"KEY", "INTEGER", "VECTOR"}
        What it holds besides its key.
    right : bool
        Whether its value is what came. Where nothing is said of what came: whether it is the
        nearest concept, and near enough to explain the query. False where that is not known.
    payload : object
        None where there is none.
    provisional : bool
        Whether it is in short-term memory, where it has neither region nor age nor relevance.
    region : int or None
        None where it is in none.
    age : int
        Consolidations since it was last of use; of a concept of a pack, as of its export.
    relevance : float
        At present, in [0, 1]; of a concept of a pack, as of its export.
    """

    concept_id: int
    path: list[int]
    cosine: float
    activation: float
    weight: float
    value: int | None
    value_kind: str
    right: bool
    payload: Any
    provisional: bool
    region: int | None
    age: int
    relevance: float

    @property
    def hops(self) -> int:
        """How many edges activation travelled; 0 for a seed."""
        return len(self.path) - 1


@dataclass(frozen=True)
class Judgement:
    """What learning makes of a query, where the mode allows.

    Parameters
    ----------
    score : float
        Explanation score, in [0, 1].
    basis : str
        What the score is, in words.
    novel : bool
        Whether the score lies below the threshold.
    standing : int
        The concept that stands for the query already; 0 where none does.
    verdict : str
        What follows, in words.
    """

    score: float
    basis: str
    novel: bool
    standing: int
    verdict: str


@dataclass(frozen=True)
class QueryExplanation:
    """What one query did.

    Parameters
    ----------
    seeds : list of Seed
        Where activation began.
    followed : bool
        Whether the seeds are successors of what was right before, and nothing was searched.
    concepts : list of Activated
        The most active first.
    abstract_weight, null_weight : float
        Shares of the attention that the virtual concept and the null slot have.
    judgement : Judgement or None
        None where an outcome is asked for and not known.
    """

    seeds: list[Seed]
    followed: bool
    concepts: list[Activated]
    abstract_weight: float
    null_weight: float
    judgement: Judgement | None


@dataclass(frozen=True, repr=False)
class Explanation:
    """What queries did; ``print`` shows a table for each of the first twenty.

    Parameters
    ----------
    queries : list of QueryExplanation
        In the order in which they were asked.
    threshold : float
        Explanation score below which a query is novel.
    names : dict of int to str
        How concepts of attached packs are shown: by the name of the pack and the id that they have
        in it.
    """

    queries: list[QueryExplanation]
    threshold: float
    names: dict[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Explanation(queries={len(self.queries)}, threshold={self.threshold})"

    def __str__(self) -> str:
        """Return a table and some lines for each query, and how many are not shown."""
        parts: list[Table | str] = []
        for number, query in enumerate(self.queries[:_QUERIES]):
            table = _table(query, f"query {number}", self.names)
            parts += [table, *_lines(query, self.threshold, self.names)]
        more = len(self.queries) - _QUERIES
        if more > 0:
            parts.append(f"\n... {more:,} more, all of them in `queries`")
        return as_text(*parts) if parts else "no queries"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, numbers and text, payloads as they are."""
        bare = replace(self, queries=[_without_payloads(query) for query in self.queries])
        described = asdict(bare)  # which would copy a payload, however deep it is
        for query, told in zip(self.queries, described["queries"], strict=True):
            for concept, fields in zip(query.concepts, told["concepts"], strict=True):
                fields["payload"] = concept.payload
        return described


def _without_payloads(query: QueryExplanation) -> QueryExplanation:
    return replace(query, concepts=[replace(each, payload=None) for each in query.concepts])


def _table(query: QueryExplanation, title: str, names: Mapping[int, str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("path")
    for name in ("cosine", "active", "weight", "value"):
        table.add_column(name, justify="right")
    table.add_column("right")
    table.add_column("payload", no_wrap=True)
    for name in ("region", "age", "relevance"):
        table.add_column(name, justify="right")
    for each in query.concepts:
        table.add_row(
            " > ".join(_named(each.path, names)) + " (provisional)" * each.provisional,
            f"{each.cosine:.3f}",
            f"{each.activation:.3f}",
            f"{each.weight:.3f}",
            each.value_kind.lower() if each.value is None else str(each.value),
            "yes" if each.right else "",
            "" if each.payload is None else _short(_bounded.repr(each.payload)),
            *([""] * 3 if each.provisional else _standing(each)),
        )
    return table


def _standing(concept: Activated) -> list[str]:
    region = "none" if concept.region is None else str(concept.region)
    return [region, str(concept.age), f"{concept.relevance:.3f}"]


def _named(concept_ids: Iterable[int], names: Mapping[int, str]) -> Iterator[str]:
    for concept_id in concept_ids:
        yield names.get(concept_id, str(concept_id))


def _lines(query: QueryExplanation, threshold: float, names: Mapping[int, str]) -> Iterator[str]:
    seeds = _named((each.concept_id for each in query.seeds), names)
    pairs = zip(seeds, query.seeds, strict=True)
    named = [f"{name} ({each.cosine:.3f})" for name, each in pairs]
    more = len(named) - _SEEDS
    shown = ", ".join(named[:_SEEDS]) + (f" and {more} more" if more > 0 else "")
    how = "followed from what was right before" if query.followed else "found by the search"
    yield f"seeds, {how}: {shown}" if named else "seeds: none"
    given = 1 - query.abstract_weight - query.null_weight
    yield (
        f"attention: {given:.3f} to concepts, {query.abstract_weight:.3f} to the virtual concept, "
        f"{query.null_weight:.3f} to the null slot"
    )
    judged = query.judgement
    if judged is None:
        yield "score: none, since it is not known what came"
        return
    relation = "<" if judged.novel else ">="
    yield f"score: {judged.score:.3f} {relation} {threshold:.3f}, the {judged.basis}"
    yield judged.verdict


def _short(text: str) -> str:
    return text if len(text) <= _PAYLOAD else text[: _PAYLOAD - 3] + "..."
