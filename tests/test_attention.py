"""How concepts share attention, those among them that only edges lead to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesg import AESGConfig, AESGMemory
from aesg.attention import attend
from aesg.context import RetrievedContext

DIM = 64


def weights(
    cosines: list[float],
    activations: list[float],
    roots: list[int],
    reach: float | Tensor,
    prior: Tensor | None = None,
) -> Tensor:
    """Return the attention on concepts of given cosines, with a scale of 10."""
    query = torch.zeros(DIM)
    query[0] = 1
    keys = torch.zeros(len(cosines), DIM)
    keys[:, 0] = torch.tensor(cosines)
    keys[torch.arange(len(cosines)), 1 + torch.arange(len(cosines))] = (1 - keys[:, 0] ** 2).sqrt()
    return attend(
        query,
        keys,
        torch.ones(len(cosines), dtype=torch.bool),
        torch.tensor(activations),
        torch.zeros(len(cosines)),
        torch.tensor(roots),
        prior,
        scale=torch.tensor(10.0),
        recency=torch.tensor(0.5),
        reach=torch.as_tensor(reach),
        null_logit=torch.tensor(0.0),
        projection=torch.zeros(DIM, DIM),
    ).weights


def chain(folder: Path, others: int = 200) -> tuple[AESGMemory, Tensor]:
    """Return a memory of three facts, each of which leads to the next, and their keys."""
    torch.manual_seed(0)
    keys = F.normalize(torch.randn(3, DIM), dim=1)
    memory = AESGMemory(folder, AESGConfig(vector_dim=DIM))
    memory.remember(keys, torch.stack([keys[1], keys[2], keys[2]]))
    memory.remember(torch.randn(others, DIM), torch.arange(others))
    return memory, keys


def weight_of(context: RetrievedContext, concept: int) -> float:
    (place,) = (context.concept_ids == concept).nonzero()[0]
    return float(context.weights[place].detach())


def test_beside_its_seed_a_reached_concept_has_the_share_of_its_activation() -> None:
    seed, reached = weights([0.9, 0.0], [0.9, 0.3], [0, 0], reach=1.0).tolist()
    assert reached / seed == pytest.approx(1 / 3, rel=1e-4)


def test_without_reach_every_concept_is_weighed_by_its_own_similarity() -> None:
    found = weights([0.9, 0.1], [1.0, 1.0], [0, 0], reach=0.0)
    assert float(found[1] / found[0]) == pytest.approx(torch.tensor(-8.0).exp().item(), rel=1e-4)


def test_a_reached_concept_more_similar_than_its_seed_keeps_its_own_similarity() -> None:
    args = ([0.5, 0.8], [1.0, 1.0], [0, 0])
    torch.testing.assert_close(weights(*args, reach=1.0), weights(*args, reach=0.0))


def test_concepts_reached_from_a_better_seed_come_before_those_of_a_worse_one() -> None:
    found = weights([0.9, 0.4, 0.0, 0.0], [0.9, 0.4, 0.3, 0.3], [0, 1, 0, 1], reach=0.9)
    assert found[2] > 50 * found[3]


def test_how_far_attention_reaches_is_learned() -> None:
    reach = torch.tensor(0.5, requires_grad=True)
    weights([0.9, 0.0], [0.9, 0.5], [0, 0], reach)[1].backward()  # type: ignore[no-untyped-call]
    assert reach.grad is not None
    assert reach.grad > 0


def test_attention_follows_edges_to_what_does_not_resemble_the_question(tmp_path: Path) -> None:
    memory, keys = chain(tmp_path)
    with memory:
        context = memory.recall(keys[0], top_k=4)
        assert context.paths[:3] == [[1], [1, 2], [1, 2, 3]]
        assert weight_of(context, 2) > 0.1
        assert weight_of(context, 3) > 0.1
        with torch.no_grad():
            memory.reach_logit.fill_(-30)
        assert weight_of(memory.recall(keys[0], top_k=4), 3) < 0.01


def test_a_question_that_needs_what_it_reached_learns_to_resemble_the_seed(tmp_path: Path) -> None:
    memory, keys = chain(tmp_path)
    with memory:
        query = F.normalize(keys[0] + 0.5 * F.normalize(torch.randn(DIM), dim=0), dim=0)
        query.requires_grad_()
        context = memory.recall(query, top_k=4)
        chained = torch.from_numpy(context.concept_ids.astype("int64"))
        reached, other = chained == 3, chained > 3
        gain = context.weights[reached].log().sum() - context.weights[other].log().sum()
        gain.backward()  # type: ignore[no-untyped-call]
        assert query.grad is not None
        assert query.grad @ keys[0] > 0
        assert memory.reach_logit.grad is not None
        assert memory.reach_logit.grad > 0


def test_where_no_edge_leads_anywhere_reach_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with AESGMemory(tmp_path, AESGConfig(vector_dim=DIM)) as memory:
        memory.remember(torch.randn(50, DIM), torch.arange(50))
        queries = torch.randn(3, DIM)
        before = memory.recall(queries, top_k=8).weights
        with torch.no_grad():
            memory.reach_logit.fill_(-30)
        assert torch.equal(memory.recall(queries, top_k=8).weights, before)


def test_every_seed_stands_for_itself(tmp_path: Path) -> None:
    memory, keys = chain(tmp_path, others=5)
    with memory:  # it holds no more than is asked for: all are seeds, and edges only add activation
        queries = torch.cat([keys, torch.randn(2, DIM)])
        reached = memory.recall(queries, top_k=8)
        with torch.no_grad():
            memory.reach_logit.fill_(-30)
        torch.testing.assert_close(memory.recall(queries, top_k=8).weights, reached.weights)


def drawn(lead: tuple[int, ...]) -> dict[str, Tensor]:
    """Return arguments of `attend`, all concepts there."""
    keys = F.normalize(torch.randn(*lead, 5, DIM), dim=-1)
    shape = keys.shape[:-1]
    return {
        "query": torch.randn(*lead, DIM, requires_grad=True),
        "keys": keys,
        "activations": torch.rand(shape),
        "ages": torch.rand(shape),
        "roots": torch.randint(0, 5, shape),
        "scale": torch.tensor(10.0),
        "recency": torch.tensor(0.5),
        "reach": torch.tensor(0.8, requires_grad=True),
        "null_logit": torch.tensor(0.1, requires_grad=True),
        "projection": torch.randn(DIM, DIM, requires_grad=True),
    }


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_no_mask_is_a_mask_that_hides_nothing(lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    given = drawn(lead)
    learned = [each for each in given.values() if each.requires_grad]
    found = []
    for mask in (None, torch.ones(*lead, 5, dtype=torch.bool)):
        attention = attend(mask=mask, **given)
        shares = torch.cat([attention.weights, attention.abstract_weight.unsqueeze(-1)], -1)
        loss = (shares * torch.arange(6)).sum() + attention.abstract.square().sum()
        found.append([shares, attention.abstract, *torch.autograd.grad(loss, learned)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_a_query_without_direction_has_attention_and_a_finite_gradient() -> None:
    torch.manual_seed(0)
    given = drawn((2,))
    given["query"] = torch.zeros(2, DIM, requires_grad=True)
    attention = attend(mask=None, **given)
    attention.weights[0, 0].backward()  # type: ignore[no-untyped-call]
    assert attention.weights.isfinite().all()
    assert given["query"].grad is not None
    assert given["query"].grad.isfinite().all()
