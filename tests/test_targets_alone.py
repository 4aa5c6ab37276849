"""A text model that says of the targets alone teaches and learns as one that says of all tokens."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import (
    AESGDecoderLM,
    AESGGRUText,
    AESGLSTMText,
    AESGSeq2Seq,
    AESGTrainer,
    AESGTransformer,
)
from aesg.context import RetrievedContext
from aesg.errors import AESGMemoryError, AESGTrainingError
from aesg.models._text_model import TextModel
from aesg.nn import MemoryMixture

VOCAB = 11
SIZE: dict[str, Any] = {
    "novelty_birth_threshold": 1,
    "vector_dim": 8,
    "hidden_size": 8,
    "num_layers": 1,
    "top_k": 4,
    "memory_dropout": 0.0,
}
MODELS: dict[str, Callable[[str], TextModel]] = {
    "gru": lambda at: AESGGRUText.sized(VOCAB, at, **SIZE),
    "gru now and then": lambda at: AESGGRUText.sized(VOCAB, at, query_every=3, **SIZE),
    "lstm": lambda at: AESGLSTMText.sized(VOCAB, at, **SIZE),
    "seq2seq": lambda at: AESGSeq2Seq.sized(VOCAB, at, **SIZE),
    "decoder": lambda at: AESGDecoderLM.sized(VOCAB, at, nhead=2, **SIZE),
    "decoder now and then": lambda at: AESGDecoderLM.sized(
        VOCAB, at, nhead=2, query_every=3, **SIZE
    ),
    "transformer": lambda at: AESGTransformer.sized(VOCAB, at, nhead=2, **SIZE),
    "causal": lambda at: AESGTransformer.sized(
        VOCAB, at, nhead=2, causal=True, query_every=2, **SIZE
    ),
    "sample": lambda at: AESGTransformer.sized(VOCAB, at, nhead=2, query_every="sample", **SIZE),
}
_number = itertools.count()
EVERY = pytest.mark.parametrize("name", MODELS)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, VOCAB, (4, 8), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def samples(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*batch(seed), strict=True))


def taught(name: str) -> TextModel:
    """Return a model without dropout, whose memory holds something and has a say."""
    torch.manual_seed(0)
    model = MODELS[name](f"memory-{next(_number)}")
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for each in model.memory_parameters():
        nn.init.normal_(each, std=0.3)
    trainer = AESGTrainer(model, learning_rate=1e-9, batch_size=4, progress=False)
    trainer.fit(samples(1) + samples(2))
    assert model.memory.storage.node_count
    return model.train()


def watched(model: TextModel) -> list[torch.Size]:
    """Return a list to which the shape of each output is added, by a hook that needs it whole."""
    shapes: list[torch.Size] = []
    model.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    return shapes


def asked_of_targets(model: TextModel, patch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list to which is added whether each forward pass is asked for targets alone."""
    asked: list[bool] = []
    forward = type(model).forward

    def noted(self: TextModel, *inputs: Tensor, of: Tensor | None = None) -> Tensor:
        asked.append(of is not None)
        given = {} if of is None else {"of": of}
        said: Tensor = forward(self, *inputs, **given)
        return said

    patch.setattr(type(model), "forward", noted)
    return asked


def step(model: nn.Module, data: list[tuple[Tensor, Tensor]], **options: Any) -> float:
    """Make a step that leaves the weights where they are, and their gradients behind."""
    torch.manual_seed(3)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"batch_size": 4, "refresh_keys": False, "progress": False, **options}
    (loss,) = AESGTrainer(model, still, **options).fit(data)
    return loss


def gradients(model: TextModel) -> dict[str, Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def held(model: TextModel) -> tuple[int, int, int]:
    storage = model.memory.storage
    return storage.node_count, storage.edge_count, model.memory.provisional_count


def compared(name: str, data: list[tuple[Tensor, Tensor]], **options: Any) -> None:
    """Compare a step of a model with the same step of one whose whole output is waited for."""
    quick, whole = taught(name), taught(name)
    shapes = watched(whole)
    with pytest.MonkeyPatch.context() as patch:
        asked = asked_of_targets(quick, patch)
        loss = step(quick, data, **options)
        assert asked
        assert all(asked)
    assert step(whole, data, **options) == pytest.approx(loss, rel=1e-5)
    assert shapes
    assert all(shape[2:] == (VOCAB,) for shape in shapes)
    wanted = gradients(whole)
    assert wanted
    assert_close(gradients(quick), wanted, rtol=1e-4, atol=1e-6)
    assert held(quick) == held(whole)


def ignoring(data: list[tuple[Tensor, Tensor]], ignored: int) -> list[tuple[Tensor, Tensor]]:
    dice = torch.Generator().manual_seed(5)
    masks = (torch.rand(len(target), generator=dice) < 0.4 for _, target in data)
    return [
        (tokens, target.masked_fill(mask, ignored))
        for (tokens, target), mask in zip(data, masks, strict=True)
    ]


@EVERY
def test_a_step_has_the_gradients_of_one_that_says_of_all_tokens(name: str) -> None:
    compared(name, samples())


@pytest.mark.parametrize("name", ["gru now and then", "seq2seq", "causal"])
def test_targets_that_are_ignored_teach_nothing_either_way(name: str) -> None:
    compared(name, ignoring(samples(), -100))


@pytest.mark.parametrize("name", ["causal", "seq2seq"])
@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(ignore_index=3), nn.NLLLoss(reduction="sum"), nn.NLLLoss(ignore_index=3)],
    ids=str,
)
def test_so_it_is_with_every_criterion_that_asks_for_no_more(
    name: str, criterion: nn.Module
) -> None:
    compared(name, samples(), criterion=criterion)


def test_so_it_is_with_steps_of_several_batches_and_a_longest_gradient() -> None:
    compared("causal", ignoring(samples(), -100), batch_size=2, accumulate=2, max_grad_norm=0.01)


def test_so_it_is_with_a_network_that_is_frozen() -> None:
    quick, whole = taught("decoder"), taught("decoder")
    watched(whole)
    for each in (quick, whole):
        each.freeze_trunk()
    assert step(quick, samples()) == pytest.approx(step(whole, samples()), rel=1e-5)
    assert_close(gradients(quick), gradients(whole), rtol=1e-4, atol=1e-6)


@EVERY
def test_so_it_is_without_the_memory(name: str) -> None:
    quick, whole = taught(name), taught(name)
    watched(whole)
    losses = []
    for each in (quick, whole):
        with each.without_memory():
            losses.append(step(each, samples()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_close(gradients(quick), gradients(whole), rtol=1e-4, atol=1e-6)


def test_in_half_precision_it_is_the_same_but_for_rounding() -> None:
    quick, whole = taught("causal"), taught("causal")
    watched(whole)
    losses = [step(each, samples(), precision="bf16") for each in (quick, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert held(quick) == held(whole)


class Louder(AESGDecoderLM):
    """One of a user's own."""

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        self.shape = super().forward(tokens).shape
        return super().forward(tokens)


def test_a_model_that_somebody_changed_says_of_all_tokens() -> None:
    torch.manual_seed(0)
    model = Louder.sized(VOCAB, nhead=2, **SIZE)
    step(model, samples())
    assert model.shape == (4, 7, VOCAB)
    replaced = taught("decoder")
    forward, shapes = replaced.forward, []

    def noted(tokens: Tensor) -> Tensor:
        output: Tensor = forward(tokens)
        shapes.append(output.shape)
        return output

    replaced.forward = noted
    step(replaced, samples())
    assert shapes == [(4, 7, VOCAB)]


class Wrapped(nn.Module):
    """Passes on whatever it does not have itself."""

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, tokens: Tensor) -> Any:
        return self.model(tokens)


def test_a_wrapper_that_passes_on_what_the_model_has_is_not_asked_of_targets() -> None:
    plain, whole = taught("decoder"), taught("decoder")
    assert step(Wrapped(whole), samples()) == pytest.approx(step(plain, samples()), rel=1e-5)


class Doubled(nn.Linear):
    """Another last layer than the model was made with."""

    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


class Sharper(MemoryMixture):
    """Another mixture than the model was made with."""

    def forward(self, logits: Tensor, hidden: Tensor, context: RetrievedContext) -> Tensor:
        return super().forward(2 * logits, hidden, context)


def with_bias(model: TextModel) -> None:
    model.output = nn.Linear(8, VOCAB)


def doubled(model: TextModel) -> None:
    model.output = Doubled(8, VOCAB, bias=False)


def sharper(model: TextModel) -> None:
    assert model.mixture is not None
    model.mixture.__class__ = Sharper


def patched(model: TextModel) -> None:
    output: Any = model.output
    forward = output.forward
    output.forward = lambda states: 2 * forward(states)


@pytest.mark.parametrize("change", [with_bias, doubled, sharper, patched])
def test_a_last_layer_that_somebody_changed_is_trained_as_it_is(
    change: Callable[[TextModel], None],
) -> None:
    quick, whole = taught("transformer"), taught("transformer")
    assert quick.speaks_of_targets
    for each in (quick, whole):
        torch.manual_seed(0)
        change(each)
    watched(whole)
    assert step(quick, samples()) == pytest.approx(step(whole, samples()), rel=1e-6)
    assert_close(gradients(quick), gradients(whole), rtol=1e-4, atol=1e-6)
    assert not quick.speaks_of_targets


@pytest.mark.parametrize("part", ["mixture", "output"])
def test_hooks_on_the_last_layer_run(part: str) -> None:
    model, called = taught("transformer"), []
    getattr(model, part).register_forward_hook(lambda *seen: called.append(seen[2].shape))
    step(model, samples())
    assert called == [(4, 7, VOCAB)]


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(weight=torch.ones(VOCAB)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda output, targets: nn.functional.cross_entropy(output.flatten(0, 1), targets.ravel()),
    ],
    ids=["weights", "smoothing", "function"],
)
def test_a_criterion_that_asks_for_more_gets_it(
    criterion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught("decoder")
    asked = asked_of_targets(model, monkeypatch)
    step(model, samples(), criterion=criterion)
    assert asked == [False]


def test_targets_out_of_range_are_named_by_their_sample() -> None:
    model, data = taught("decoder"), samples()
    data[2] = (data[2][0], data[2][1].masked_fill(data[2][1] == data[2][1][0], VOCAB))
    before = held(model)
    with pytest.raises(AESGTrainingError, match=rf"classes in \[0, {VOCAB}\), got {VOCAB} in "):
        step(model, data)
    assert held(model) == before


@EVERY
def test_what_is_said_of_some_tokens_is_a_part_of_what_is_said_of_all(name: str) -> None:
    model = taught(name).eval()
    tokens, targets = batch()
    targets = targets.masked_fill(targets == 2, -100)
    assert (targets == -100).any()
    given = (tokens, targets) if model.takes_targets else (tokens,)
    whole = model(*given)
    wanted = whole.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    of = targets.int()
    assert_close(model(*given, of=of), wanted.masked_fill(targets == -100, 0))
    model.mixture = copy.deepcopy(model.mixture)
    if model.mixture is not None:
        model.mixture.register_forward_hook(lambda *seen: None)
    assert not model.speaks_of_targets or model.mixture is None
    assert_close(model(*given, of=of), wanted.masked_fill(targets == -100, 0))


def test_what_the_network_says_alone_is_said_of_the_same_tokens() -> None:
    some, whole = taught("causal"), taught("causal")
    tokens, targets = batch()
    said = some(tokens, of=targets), some.own_output()
    wanted = whole(tokens), whole.own_output()
    for one, other in zip(said, wanted, strict=True):
        assert one is not None
        assert other is not None
        assert_close(one, other.gather(-1, targets[..., None])[..., 0])


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (torch.full((4, 7), VOCAB), "Token out of range"),
        (torch.zeros(4, 6, dtype=torch.long), "a token for each position"),
        (torch.zeros(4, 7), "expected integers of shape"),
    ],
)
def test_tokens_that_cannot_be_asked_of_are_refused(of: Tensor, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        taught("decoder")(batch()[0], of=of)


def test_a_memory_that_is_told_of_others_than_were_asked_of_says_so() -> None:
    model = taught("decoder")
    tokens, targets = batch()
    model(tokens, of=targets)
    model.observe((targets + 1) % VOCAB)
    with pytest.raises(AESGMemoryError, match="whose log-probability is given"):
        model.memory.update_topology()


def test_where_nothing_was_asked_of_nothing_is_learned() -> None:
    model = taught("decoder")
    before = model.memory.rates.queries, held(model)
    tokens, targets = batch(7)
    model(tokens, of=torch.full_like(targets, -100))
    model.observe(targets)
    model.memory.update_topology()
    assert held(model)[2] == before[1][2]
