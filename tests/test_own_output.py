"""A network learns to do without its memory, although the memory explains what it is taught."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from aesg import (
    AESGCNNAutoencoder,
    AESGCNNClassifier,
    AESGColorizationNet,
    AESGDecoderLM,
    AESGGRUText,
    AESGLSTMText,
    AESGSeq2Seq,
    AESGTrainer,
    AESGTransformer,
)
from aesg.errors import AESGTrainingError
from aesg.models.base import AESGModel

VOCAB = 11
MEMORY: dict[str, Any] = {"novelty_birth_threshold": 1, "vector_dim": 16, "memory_dropout": 0.0}
TEXT: dict[str, Any] = {**MEMORY, "hidden_size": 16, "num_layers": 1, "top_k": 4}
IMAGE: dict[str, Any] = {**MEMORY, "base_filters": 2, "blocks": 2, "top_k": 4}

#: Models, and what they are trained on: inputs and targets of a batch.
MODELS: dict[str, tuple[Callable[[], AESGModel], str]] = {
    "gru": (lambda: AESGGRUText.sized(VOCAB, **TEXT), "text"),
    "gru now and then": (lambda: AESGGRUText.sized(VOCAB, query_every=2, **TEXT), "text"),
    "lstm": (lambda: AESGLSTMText.sized(VOCAB, **TEXT), "text"),
    "seq2seq": (lambda: AESGSeq2Seq.sized(VOCAB, **TEXT), "text"),
    "decoder": (lambda: AESGDecoderLM.sized(VOCAB, nhead=2, **TEXT), "text"),
    "transformer": (lambda: AESGTransformer.sized(VOCAB, nhead=2, **TEXT), "text"),
    "colorization": (lambda: AESGColorizationNet.sized(**IMAGE), "gray"),
    "autoencoder": (lambda: AESGCNNAutoencoder.sized(**IMAGE), "images"),
    "classifier": (lambda: AESGCNNClassifier.sized(num_classes=3, **IMAGE), "classes"),
}
EVERY = pytest.mark.parametrize("name", MODELS)


#: Of the loss of model and memory together, for the trunk.
SHARE = 0.3


def made(name: str) -> AESGModel:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    model.memory.set_mode("TRAIN")
    return model.train()


def batch(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    match MODELS[name][1]:
        case "text":
            tokens = torch.randint(0, VOCAB, (4, 7), generator=dice)
            return tokens[:, :-1], tokens[:, 1:]
        case "gray":
            return torch.rand(4, 1, 16, 16, generator=dice), torch.rand(
                4, 3, 16, 16, generator=dice
            )
        case "images":
            images = torch.rand(4, 3, 16, 16, generator=dice)
            return images, images
        case _:
            return torch.rand(4, 3, 16, 16, generator=dice), torch.arange(4) % 3


def forward(model: AESGModel, inputs: Tensor, targets: Tensor) -> Tensor:
    output: Tensor = model(inputs, targets) if model.takes_targets else model(inputs)
    return output


def undropped(model: AESGModel) -> None:
    """Take the dropout out of a model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def taught(name: str) -> AESGModel:
    """Return a model whose memory holds something of other samples."""
    model = made(name)
    for seed in (1, 2):
        inputs, targets = batch(name, seed)
        forward(model, inputs, targets)
        model.observe(targets)
        model.memory.update_topology()
    return model


@EVERY
def test_a_training_pass_tells_once_what_the_network_said_by_itself(name: str) -> None:
    model = taught(name)
    output = forward(model, *batch(name))
    own = model.own_output()
    assert own is not None
    assert own.shape == output.shape
    assert own.requires_grad
    assert not torch.equal(own, output)
    assert model.own_output() is None


@EVERY
def test_there_is_nothing_to_tell_where_no_step_can_follow(name: str) -> None:
    model = taught(name)
    inputs, targets = batch(name)
    forward(model, inputs, targets)
    with model.without_memory():
        forward(model, inputs, targets)
        assert model.own_output() is None  # nor that of the pass before
    with torch.no_grad():
        forward(model, inputs, targets)
    assert model.own_output() is None
    model.freeze_trunk()
    forward(model, inputs, targets)
    assert model.own_output() is None
    model.freeze_trunk(False)
    model.eval()
    forward(model, inputs, targets)
    assert model.own_output() is None


def test_what_the_network_said_alone_does_not_follow_a_copy() -> None:
    model = taught("decoder")
    forward(model, *batch("decoder"))
    keys = set(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.own_output() is None
        assert set(other.state_dict()) == keys
    assert model.own_output() is not None


def test_the_network_said_alone_what_it_says_of_an_emptied_memory() -> None:
    model = taught("decoder")  # whose injection is still zero
    undropped(model)
    inputs, targets = batch("decoder")
    forward(model, inputs, targets)
    own = model.own_output()
    assert own is not None
    with model.without_memory():
        assert_close(own, forward(model, inputs, targets))


class Prompted(AESGModel):
    """A network beside a memory that explains everything, and so leaves it no gradient."""

    def __init__(self, tells: bool = True) -> None:
        memory = made("decoder").memory
        super().__init__(memory, memory_dropout=0.0)
        self.tells = tells
        self.trunk = nn.Linear(2, 1)
        self.gate = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.gate.weight)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        return (self.gate,)

    def forward(self, inputs: Tensor) -> Tensor:
        own: Tensor = self.trunk(inputs)
        if not self.uses_memory():
            return own
        if self.tells:
            self._keep_own(lambda: own)
        right = inputs.sum(1, keepdim=True)
        return own + self.gate.weight * (right - own)

    def observe(self, targets: Tensor) -> None:
        """It has learned all there is."""


def sums() -> list[tuple[Tensor, Tensor]]:
    dice = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 2, generator=dice)
    return list(zip(inputs, inputs.sum(1, keepdim=True), strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_whose_memory_explains_everything_learns_by_itself(compiled: bool) -> None:
    model, silent = Prompted(), Prompted(tells=False)
    for each in (model, silent):
        if compiled:
            each.compile(backend="aot_eager")
        AESGTrainer(each, learning_rate=0.05, progress=False).fit(sums(), epochs=60)
    alone = []
    for each in (model, silent):
        with each.without_memory():
            alone.append(AESGTrainer(each).evaluate(sums())["loss"])
    assert alone[0] < 0.01
    assert alone[1] > 0.1
    torch.compiler.reset()


def test_the_trunk_learns_most_from_what_it_said_and_the_rest_from_the_output_as_much() -> None:
    torch.manual_seed(0)
    model = Prompted()
    nn.init.constant_(model.gate.weight, 0.5)
    inputs, targets = torch.ones(1, 2), torch.full((1, 1), 3.0)
    together, own = F.mse_loss(model(inputs), targets), model.own_output()
    assert own is not None
    trunk, gate = model.trunk.bias, model.gate.weight
    by_itself, _ = torch.autograd.grad(
        F.mse_loss(own, targets), [trunk, gate], retain_graph=True, materialize_grads=True
    )
    of_trunk, of_gate = torch.autograd.grad(together, [trunk, gate])
    wanted = [trunk - by_itself - SHARE * of_trunk, gate - of_gate]
    trainer = AESGTrainer(model, torch.optim.SGD(model.parameters(), 1.0), progress=False)
    trainer.fit([(inputs[0], targets[0])])
    assert_close([trunk.detach(), gate.detach()], [each.detach() for each in wanted])


def test_the_loss_that_is_reported_is_that_of_the_output() -> None:
    model = Prompted()
    losses = AESGTrainer(model, learning_rate=1e-9, progress=False).fit(sums())
    assert losses == pytest.approx([0.0], abs=1e-6)


def test_an_own_loss_that_is_not_finite_stops_before_anything_learns_from_it() -> None:
    model = Prompted()
    before = [each.detach().clone() for each in model.parameters()]

    def criterion(output: Tensor, targets: Tensor) -> Tensor:
        loss = F.mse_loss(output, targets)
        return loss / 0 if loss > 0.01 else loss  # the output is right, the network is not

    with pytest.raises(AESGTrainingError, match="expected a finite loss, got inf"):
        AESGTrainer(model, criterion=criterion, progress=False).fit(sums())
    for one, other in zip(before, model.parameters(), strict=True):
        assert torch.equal(one, other)
