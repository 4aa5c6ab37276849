"""Models compiled, exported and in half precision answer and learn as they do otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from aesg import AESGConfig, AESGMemory
from aesg.context import RetrievedContext
from aesg.models import (
    AESGCNNAutoencoder,
    AESGCNNClassifier,
    AESGColorizationNet,
    AESGDecoderLM,
    AESGGRUText,
    AESGLSTMText,
    AESGSeq2Seq,
    AESGTransformer,
)
from aesg.models.base import AESGModel

#: torch says so where a graph is broken.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

VOCAB = 11
BATCH, TIME, SIDE = 2, 3, 16

#: A model that learns at once, so that a few batches leave concepts to read.
MEMORY: dict[str, Any] = {
    "memory_mode": "ONLINE",
    "novelty_birth_threshold": 2,
    "vector_dim": 16,
    "memory_dropout": 0.0,
}
TEXT: dict[str, Any] = {**MEMORY, "hidden_size": 8, "num_layers": 1, "top_k": 4}
IMAGE: dict[str, Any] = {**MEMORY, "base_filters": 2, "blocks": 2, "top_k": 4}


@dataclass(frozen=True)
class Kind:
    """How one model is made, fed and judged."""

    make: Callable[[], AESGModel]
    batch: Callable[[torch.Generator], tuple[Tensor, ...]]
    targets: Callable[[tuple[Tensor, ...]], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def tokens(generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randint(0, VOCAB, (BATCH, TIME), generator=generator),)


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return (*tokens(generator), *tokens(generator))


def images(channels: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda generator: (torch.rand(BATCH, channels, SIDE, SIDE, generator=generator),)


def following(inputs: tuple[Tensor, ...]) -> Tensor:
    return F.pad(inputs[0][:, 1:], (0, 1), value=-100)


def cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


KINDS: dict[str, Kind] = {
    "gru": Kind(lambda: AESGGRUText.sized(VOCAB, **TEXT), tokens, following, cross_entropy),
    "lstm": Kind(lambda: AESGLSTMText.sized(VOCAB, **TEXT), tokens, following, cross_entropy),
    "seq2seq": Kind(
        lambda: AESGSeq2Seq.sized(VOCAB, **TEXT), pair, lambda each: each[1], cross_entropy
    ),
    "decoder": Kind(
        lambda: AESGDecoderLM.sized(VOCAB, nhead=2, **TEXT), tokens, following, cross_entropy
    ),
    "transformer": Kind(
        lambda: AESGTransformer.sized(VOCAB, nhead=2, **TEXT),
        tokens,
        lambda each: each[0] % 3,
        cross_entropy,
    ),
    "colorization": Kind(
        lambda: AESGColorizationNet.sized(**IMAGE),
        images(1),
        lambda each: each[0].repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1),
        F.mse_loss,
    ),
    "autoencoder": Kind(
        lambda: AESGCNNAutoencoder.sized(**IMAGE), images(3), lambda each: each[0], F.mse_loss
    ),
    "classifier": Kind(
        lambda: AESGCNNClassifier.sized(num_classes=3, hidden_classes=0.0, **IMAGE),
        images(3),
        lambda each: torch.arange(BATCH),
        F.cross_entropy,
    ),
}
EVERY = pytest.mark.parametrize("name", KINDS)


def some(*names: str) -> pytest.MarkDecorator:
    """Test these models quickly, and the others with the long tests."""
    marks = {each: () if each in names else pytest.mark.long for each in KINDS}
    return pytest.mark.parametrize(
        "name", [pytest.param(each, marks=mark) for each, mark in marks.items()]
    )


@pytest.fixture(autouse=True)
def _compiles_afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def made(name: str) -> AESGModel:
    """Return a model with the same weights every time, without dropout, and a memory of its own."""
    torch.manual_seed(1)
    model = KINDS[name].make()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def batches(name: str, count: int) -> list[tuple[Tensor, ...]]:
    """Return batches of which every second is the same."""
    return [KINDS[name].batch(torch.Generator().manual_seed(each % 2)) for each in range(count)]


def taught(name: str, directory: str, count: int = 3) -> AESGModel:
    """Return a model in inference whose memory met a few batches."""
    model = _in(directory, lambda: made(name))
    model.eval()
    for inputs in batches(name, count):
        with torch.no_grad():
            model(*inputs)
        model.observe(KINDS[name].targets(inputs))
        model.memory.update_topology()
    model.memory.save()
    model.memory.set_mode("INFERENCE")
    assert model.memory.storage.node_count
    return model


def trained(name: str, directory: str, compiled: bool) -> tuple[AESGModel, list[Tensor]]:
    """Take three steps, the first with an empty memory; return the model and its losses."""
    kind = KINDS[name]
    model = _in(directory, lambda: made(name))
    run: Any = model.train()
    if compiled:  # torch leaves a GRU of its own to the interpreter
        run = torch.compile(model, backend="aot_eager", fullgraph=name != "seq2seq")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for inputs in batches(name, 3):
        targets = kind.targets(inputs)
        loss = kind.loss(run(*inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.observe(targets)
        model.memory.update_topology()
        model.memory.save()  # else it commits by the clock, and compiling takes seconds
        losses.append(loss.detach())
    return model, losses


def held(model: AESGModel) -> tuple[int, int, int]:
    """Return concepts, provisional concepts and edges."""
    stored = model.memory.storage
    return stored.node_count, model.memory.provisional_count, stored.edge_count


@some("gru", "decoder")
def test_a_compiled_model_trains_and_teaches_as_it_does_otherwise(name: str) -> None:
    plain, wanted = trained(name, "plain", compiled=False)
    model, losses = trained(name, "compiled", compiled=True)
    assert_close(losses, wanted, atol=1e-5, rtol=1e-5)
    for (parameter, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4, msg=parameter)
    assert held(model) == held(plain)
    assert model.memory.rates == plain.memory.rates
    assert model.memory.rates.queries > 0
    assert sum(held(plain)[:2]) > 0
    query = torch.randn(4, 16, generator=torch.Generator().manual_seed(5))
    found, known = (each.memory.recall(query) for each in (model, plain))
    assert_close(found.keys, known.keys, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.value_ids, known.value_ids)


@some()
def test_a_compiled_model_answers_as_it_does_otherwise_in_every_size(name: str) -> None:
    model = taught(name, "memory")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name != "seq2seq")
    (*_, inputs) = batches(name, 2)
    for count in (2, 3, 1, 5):
        some = tuple(each[:1].expand(count, *each.shape[1:]).contiguous() for each in inputs)
        assert_close(compiled(*some), model(*some), atol=1e-5, rtol=1e-5)


def test_a_compiled_model_reads_texts_of_any_length() -> None:
    model = taught("decoder", "memory").eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for length in (3, 5, 7, 1):
        some = torch.arange(2 * length).view(2, length) % VOCAB
        assert_close(compiled(some), model(some), atol=1e-5, rtol=1e-5)


def test_an_exported_model_reads_texts_of_any_length() -> None:
    model, some = taught("decoder", "memory").eval(), torch.arange(10).view(2, 5)
    dims = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (some,), dynamic_shapes=dims).module()
    for length in (3, 5, 8):
        some = torch.arange(3 * length).view(3, length) % VOCAB
        assert_close(program(some), model(some), atol=1e-5, rtol=1e-5)


def test_what_a_compiled_model_reads_follows_the_memory() -> None:
    model = taught("decoder", "memory")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    (inputs,) = batches("decoder", 1)
    before = compiled(*inputs)
    model.memory.set_mode("ONLINE")
    asked = model.memory.rates.queries
    compiled(*inputs)
    model.memory.update_topology()
    assert model.memory.rates.queries > asked  # the mode is that of the moment
    model.memory.set_mode("INFERENCE")
    after = compiled(*inputs)
    assert_close(after, model(*inputs))
    assert not torch.equal(after, before)
    model.memory.update_topology()
    assert torch.equal(compiled(*inputs), after)


def test_a_compiled_model_in_eval_mode_learns_online_and_not_in_training() -> None:
    model = _in("memory", lambda: made("decoder")).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    (inputs,) = batches("decoder", 1)
    asked = []
    for mode in ("TRAIN", "ONLINE"):
        model.memory.set_mode(mode)
        compiled(*inputs)
        model.memory.update_topology()
        asked.append(model.memory.rates.queries)
    assert asked == [0, BATCH * (TIME - 1)]


class Own(nn.Module):
    """A module of one's own, which retrieves and learns in one call."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.memory = AESGMemory(directory, AESGConfig(vector_dim=8))
        self.ask = nn.Linear(4, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        context: RetrievedContext = self.memory(self.ask(inputs))
        return context.aggregate()


def test_a_compiled_module_of_ones_own_learns_in_the_call() -> None:
    plain, own = Own("plain"), Own("own")
    compiled = torch.compile(own, backend="aot_eager", fullgraph=True)
    for turn in range(8):
        inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(turn % 2))
        assert_close(compiled(inputs), plain(inputs), atol=1e-5, rtol=1e-5)
        for each in (plain, own):
            each.memory.update_topology()
            each.memory.save()
    assert own.memory.rates == plain.memory.rates
    assert own.memory.rates.born
    assert own.memory.storage.edge_count == plain.memory.storage.edge_count > 0


def test_memory_dropout_leaves_a_compiled_model_without_its_memory_now_and_then() -> None:
    model = made("decoder")
    model.memory_dropout = 0.5
    compiled = torch.compile(model.train(), backend="aot_eager")
    inputs = batches("decoder", 2)
    torch.manual_seed(3)
    asked = [0]
    for turn in range(10):
        compiled(*inputs[turn % 2])
        model.memory.update_topology()
        asked.append(model.memory.rates.queries)
    steps = {after - before for before, after in pairwise(asked)}
    assert len(steps) == 2
    assert 0 in steps


_READ = """
import sys
import torch
from aesg import AESGMemory

torch.set_num_threads(1)
for name in sys.argv[1:]:
    handle, inputs, wanted = torch.load(f"{name}.pt")
    program = torch.export.load(f"{name}.pt2").module()
    memory = AESGMemory.open(f"moved/{name}")
    memory.bind_handle(handle)
    with torch.no_grad():
        torch.testing.assert_close(program(*inputs), wanted, atol=1e-5, rtol=1e-5)
    other = AESGMemory(f"empty/{name}", memory.config)
    del memory
    other.bind_handle(handle)
    with torch.no_grad():
        assert (program(*inputs) - wanted).abs().max() > 1e-6, name
"""


def test_exported_models_find_their_memories_in_another_process() -> None:
    names = ("decoder", "autoencoder")
    for name in names:
        model = taught(name, name)
        (inputs,) = batches(name, 1)
        torch.export.save(torch.export.export(model, inputs), f"{name}.pt2")
        torch.save((model.memory.handle, inputs, model(*inputs).detach()), f"{name}.pt")
        model.memory.close()
        shutil.copytree(model.memory.directory, f"moved/{name}")
    run = subprocess.run(
        [sys.executable, "-c", _READ, *names],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.filterwarnings("ignore:.*assigned during export:UserWarning")  # of torch's GRU
@some("seq2seq", "decoder", "transformer", "autoencoder", "classifier", "gru")
def test_an_exported_model_answers_batches_of_any_size_and_only_reads(name: str) -> None:
    model = taught(name, "memory")
    model.memory.set_mode("ONLINE")
    (inputs,) = batches(name, 1)
    dims = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    program = torch.export.export(model, inputs, dynamic_shapes=dims).module()
    more = tuple(torch.cat([each, each, each]) for each in inputs)
    assert_close(program(*more), model(*more), atol=1e-5, rtol=1e-5)
    model.memory.reset_state()
    asked = model.memory.rates.queries
    program(*more)
    model.memory.update_topology()
    assert model.memory.rates.queries == asked


@EVERY
def test_half_precision_comes_close(name: str) -> None:
    kind, model = KINDS[name], taught(name, "memory").train()
    (inputs,) = batches(name, 1)
    targets = kind.targets(inputs)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(*inputs)
            loss = kind.loss(output.float(), targets)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        assert all(bool(each.isfinite().all()) for each in gradients)
        assert gradients
        losses.append(loss.detach())
    assert_close(losses[1], losses[0], atol=0.03, rtol=0.03)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # what torch's own compiler says of itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT TESTED: needs a C++ compiler")
@pytest.mark.parametrize("name", ["decoder", "autoencoder"])
def test_inductor_answers_and_teaches_as_the_interpreter_does(name: str) -> None:
    model, plain = taught(name, "memory"), taught(name, "plain")
    compiled = torch.compile(model, fullgraph=True)
    for each in (model, plain):
        each.memory.set_mode("ONLINE")
    for inputs in batches(name, 3):
        assert_close(compiled(*inputs), plain(*inputs), atol=1e-4, rtol=1e-4)
        for each in (model, plain):
            each.observe(KINDS[name].targets(inputs))
            each.memory.update_topology()
    assert held(model) == held(plain)


def _in(directory: str, make: Callable[[], AESGModel]) -> AESGModel:
    Path(directory).mkdir()
    before = Path.cwd()
    os.chdir(directory)
    try:
        return make()
    finally:
        os.chdir(before)
