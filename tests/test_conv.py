"""The convolutional layer, and the blend of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGConfigError, AESGMemory, AESGNavigationError
from aesg.context import RetrievedContext
from aesg.nn import MemoryBlend, MemoryConv2d
from storage_backends.types import ValueKind
from tests.memory_build import DIM, opened, patterns

CHANNELS = 6


@pytest.fixture
def memory() -> Iterator[AESGMemory]:
    with opened(novelty_birth_threshold=2) as made:
        yield made


def features(batch: int = 3, height: int = 4, width: int = 5, seed: int = 0) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randn(batch, CHANNELS, height, width, generator=dice)


def layer(memory: AESGMemory, **options: object) -> MemoryConv2d:
    """Return a layer in eval mode whose injection shows."""
    torch.manual_seed(0)
    made = MemoryConv2d(CHANNELS, memory, top_k=4, **options).eval()  # type: ignore[arg-type]
    nn.init.normal_(made.injection.projection.weight)
    return made


def fill(memory: AESGMemory, made: MemoryConv2d) -> None:
    with torch.no_grad():
        keys = made.query(features(seed=1)).flatten(0, -2)
    memory.remember(keys, torch.randn(len(keys), DIM))


def test_an_empty_memory_leaves_features_as_they_are(memory: AESGMemory) -> None:
    assert torch.equal(layer(memory)(features()), features())


def test_a_new_layer_leaves_features_as_they_are(memory: AESGMemory) -> None:
    made = MemoryConv2d(CHANNELS, memory).eval()
    fill(memory, made)
    assert torch.equal(made(features()), features())


def test_what_is_retrieved_is_added_to_each_cell(memory: AESGMemory) -> None:
    made = layer(memory)
    fill(memory, made)
    changed = (made(features()) != features()).any(1)
    assert changed.all()


@pytest.mark.parametrize(
    ("every", "cells"), [(1, (4, 5)), (2, (2, 3)), (3, (2, 2)), ("sample", (1, 1))]
)
def test_the_policy_says_how_many_cells_ask(
    memory: AESGMemory, every: object, cells: tuple[int, int]
) -> None:
    made = layer(memory, every=every)
    assert made.query(features()).shape == (3, *cells, DIM)
    fill(memory, made)
    added = made(features()) - features()
    assert added.abs().amin() > 0
    if every == "sample":
        assert_close(added, added[:, :, :1, :1].expand_as(added))
    elif every == 2:
        assert_close(added[:, :, 2:, 4], added[:, :, 2:3, 4].expand(-1, -1, 2))


def test_a_query_is_the_mean_of_its_cells(memory: AESGMemory) -> None:
    made, whole = layer(memory, every=2), layer(memory)
    corner = features()[:, :, 2:, 4:].mean((2, 3), keepdim=True)
    assert_close(made.query(features())[:, 1, 2], whole.query(corner)[:, 0, 0])


@pytest.mark.parametrize("every", [0, 1.5, True, "all"])
def test_an_unknown_policy_is_refused(memory: AESGMemory, every: object) -> None:
    with pytest.raises(AESGConfigError, match="query_every"):
        MemoryConv2d(CHANNELS, memory, every=every)  # type: ignore[arg-type]


def test_a_sample_does_not_depend_on_its_batch(memory: AESGMemory) -> None:
    made = layer(memory)
    fill(memory, made)
    together = made(features())
    for row in range(3):
        assert_close(made(features()[row : row + 1]), together[row : row + 1])


def test_a_sample_in_training_does_not_meet_itself(memory: AESGMemory) -> None:
    made = layer(memory).train()
    memory.set_mode("TRAIN")
    origins = torch.arange(1, 4)
    made(features(), origins=origins)
    memory.update_topology()
    assert memory.provisional_count
    made.eval()
    alone = made(features()[:1], origins=origins[:1])
    memory.reset_state()
    strange = made(features()[:1], origins=torch.tensor([9]))
    assert not torch.equal(alone, strange)


def test_one_call_asks_and_teaches(memory: AESGMemory) -> None:
    made = layer(memory)
    memory.set_mode("ONLINE")
    made(features(), outcomes=torch.zeros(3, 4, 5, dtype=torch.long))
    memory.update_topology()
    assert 0 < memory.provisional_count <= 60


def test_neighbours_of_a_row_are_connected(memory: AESGMemory) -> None:
    made = layer(memory)
    memory.set_mode("ONLINE")
    for _ in range(3):
        made(features(1))
        made.memory.observe(patterns(*range(10)).repeat(2, 1))
        memory.update_topology()
    memory.save()
    assert memory.storage.edge_count


def test_integer_values_speak_through_an_embedding(memory: AESGMemory) -> None:
    table = nn.Embedding(5, 7)
    made = layer(memory, values=table)
    with torch.no_grad():
        keys = made.query(features()).flatten(0, -2)
    memory.remember(keys, torch.full((len(keys),), 3))
    before = made(features())
    nn.init.zeros_(table.weight)
    assert torch.equal(made(features()), features())
    assert not torch.equal(before, features())


def test_gradient_reaches_query_injection_and_values(memory: AESGMemory) -> None:
    made = layer(memory).train()
    fill(memory, made)
    given = features().requires_grad_()
    made(given).square().sum().backward()
    for parameter in (made.injection.projection.weight, made.ask.projection.weight, given):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_features_that_are_not_finite_are_refused(memory: AESGMemory) -> None:
    made = layer(memory)
    with pytest.raises(AESGNavigationError, match="finite"):
        made(features().fill_(torch.nan))


def blend(bias: float = 0.0) -> MemoryBlend:
    made = MemoryBlend(CHANNELS)
    nn.init.constant_(made.gate.bias, bias)
    return made


def test_without_concepts_the_blend_is_the_models_own(memory: AESGMemory) -> None:
    own = torch.randn(2, DIM)
    context = memory.recall(torch.randn(2, DIM))
    recalled, share = blend()(torch.randn(2, CHANNELS), own, context)
    assert torch.equal(recalled, own)
    assert not share.any()


def test_the_blend_hears_vector_values_alone(memory: AESGMemory) -> None:
    value = torch.randn(DIM)
    memory.remember(patterns(0), value.unsqueeze(0))
    memory.remember(patterns(1, 2), torch.tensor([4, 5]))
    memory.remember(patterns(3))
    own, hidden = torch.zeros(2, DIM), torch.randn(2, CHANNELS)
    query = patterns(0, 0) + 0.5 * patterns(1, 3)
    recalled, share = blend()(hidden, own, memory.recall(query))
    assert_close(recalled, value.expand(2, -1))
    assert ((share > 0) & (share < 0.5)).all()


def test_the_share_follows_gate_and_attention(memory: AESGMemory) -> None:
    memory.remember(patterns(0), torch.randn(1, DIM))
    own, hidden = torch.zeros(2, DIM), torch.randn(1, CHANNELS).expand(2, -1)
    context = memory.recall(torch.stack([patterns(0)[0], patterns(0)[0] + 2 * patterns(5)[0]]))
    _, closed = blend(-9.0)(hidden, own, context)
    _, opened_wide = blend(9.0)(hidden, own, context)
    assert (closed > 0).all()
    assert (closed <= 0.01).all()
    assert opened_wide[0] > opened_wide[1] > closed[1]
    assert (opened_wide < 0.99).all()


def plainly_recalled(context: RetrievedContext, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, spread and shares of the vectors by their definitions."""
    vector = (context.value_kinds == int(ValueKind.VECTOR)) & context.mask
    weights = context.weights.masked_fill(~vector, 0.0)
    heard = weights.sum(-1, keepdim=True)
    shares = weights / heard.clamp_min(1e-6)
    mean = (shares.unsqueeze(-1) * context.vectors).sum(-2)
    mean = torch.where(heard > 0, mean, own)
    away = (context.vectors - mean.unsqueeze(-2)).square()
    return mean, (shares.unsqueeze(-1) * away).sum((-2, -1)), shares


def made_up(rows: int, places: int, told: Tensor) -> RetrievedContext:
    """Return a context in double precision; ``told`` says which concepts have vector values."""
    dice = torch.Generator().manual_seed(places)
    with opened() as memory:
        bare = memory.recall(torch.randn(rows, DIM, generator=dice))
    logits = torch.randn(rows, places + 1, generator=dice, dtype=torch.float64)
    vectors = torch.randn(rows, places, DIM, generator=dice, dtype=torch.float64)
    vectors[-1] = vectors[-1, :1]  # all the same
    weights = logits.softmax(-1)[:, :-1].requires_grad_()
    kinds = torch.where(told, int(ValueKind.VECTOR), int(ValueKind.INTEGER)).to(torch.uint8)
    return replace(
        bare,
        keys=vectors,
        gathered=vectors,
        weights=weights,
        mask=torch.ones(rows, places, dtype=torch.bool),
        ages=torch.zeros(rows, places, dtype=torch.float64),
        cosines=torch.zeros(rows, places, dtype=torch.float64),
        value_kinds=kinds,
    )


@pytest.mark.parametrize("places", [1, 2, 7])
def test_blend_and_gradients_are_those_of_the_plain_definitions(places: int) -> None:
    told = torch.rand(5, places, generator=torch.Generator().manual_seed(1)) < 0.6
    told[0], told[-1] = False, True
    context, own = made_up(5, places, told), torch.randn(5, DIM, dtype=torch.float64)
    seen: list[Tensor] = []
    made = blend().double()
    nn.init.normal_(made.gate.weight)
    made.gate.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    recalled, _ = made(torch.randn(5, CHANNELS, dtype=torch.float64), own, context)
    mean, spread, shares = plainly_recalled(context, own)
    assert_close(recalled, mean)
    peak, length = seen[0][:, CHANNELS + 2], seen[0][:, CHANNELS + 4]
    assert_close(peak, shares.amax(-1))
    assert_close(length, 0.5 * (spread + 1e-6).log10() + 1)
    by_weights = (torch.autograd.grad(each.sum(), context.weights)[0] for each in (length, spread))
    ours, plain = by_weights
    assert_close(ours * (2 * torch.log(torch.tensor(10.0)) * (spread + 1e-6))[:, None], plain)
