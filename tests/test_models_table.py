"""Every model as the documentation introduces it: its sizes, its shapes, its training example."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aesg.models
from aesg import AESGTrainer
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

Samples = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Example:
    """How the documentation shows a model.

    Parameters
    ----------
    make : callable
        Makes the model.
    given, returned : tuple of int
        Shapes of its input and its output.
    samples : callable
        Takes a number of samples and a size, tokens or pixels; returns training data.
    documented : (int, int)
        Number and size of the samples in the documentation.
    small : (int, int)
        Fewer or smaller ones of the same kind.
    epochs : int
    criterion : module or None
    edges : bool
        Whether its samples have anything to do with one another.
    """

    make: Callable[..., AESGModel]
    given: tuple[int, ...]
    returned: tuple[int, ...]
    samples: Callable[[int, int], Samples]
    documented: tuple[int, int]
    small: tuple[int, int]
    epochs: int
    criterion: nn.Module | None = None
    edges: bool = True


def tokens(vocab_size: int) -> Callable[[int, int], Samples]:
    """Return what makes independent random inputs and targets, as the documentation does."""

    def samples(count: int, length: int) -> Samples:
        x, y = torch.randint(0, vocab_size, (2, count, length))
        return list(zip(x, y, strict=True))

    return samples


def colour_pairs(count: int, side: int) -> Samples:
    return [(torch.rand(1, side, side), torch.rand(3, side, side)) for _ in range(count)]


def labelled(count: int, side: int) -> Samples:
    return [(torch.rand(3, side, side), torch.tensor(label)) for label in range(count)]


def pairs_of_the_same(count: int, side: int) -> Samples:
    return [(image, image) for image in torch.rand(count, 3, side, side)]


#: Where the documentation trains no such model, the samples of the most similar one stand.
EXAMPLES = {
    "AESGGRUText": Example(
        lambda **size: AESGGRUText.small(vocab_size=5000, **size),
        (4, 20),
        (4, 20, 5000),
        tokens(5000),
        documented=(200, 20),
        small=(16, 6),
        epochs=3,
    ),
    "AESGLSTMText": Example(
        lambda **size: AESGLSTMText.medium(vocab_size=8000, **size),
        (4, 30),
        (4, 30, 8000),
        tokens(8000),
        documented=(200, 30),
        small=(16, 6),
        epochs=3,
    ),
    "AESGSeq2Seq": Example(
        lambda **size: AESGSeq2Seq.medium(vocab_size=10_000, **size),
        (4, 25),
        (4, 25, 10_000),
        tokens(10_000),
        documented=(200, 25),
        small=(16, 6),
        epochs=3,
    ),
    "AESGDecoderLM": Example(
        lambda **size: AESGDecoderLM.large(vocab_size=30_000, **size),
        (1, 50),
        (1, 50, 30_000),
        tokens(30_000),
        documented=(100, 32),
        small=(16, 6),
        epochs=3,
    ),
    "AESGTransformer": Example(
        lambda **size: AESGTransformer.small(vocab_size=10_000, **size),
        (4, 64),
        (4, 64, 10_000),
        tokens(10_000),
        documented=(100, 32),
        small=(16, 6),
        epochs=5,
    ),
    "AESGColorizationNet": Example(
        lambda **size: AESGColorizationNet.small(**size),
        (8, 1, 128, 128),
        (8, 3, 128, 128),
        colour_pairs,
        documented=(100, 128),
        small=(12, 24),
        epochs=3,
        criterion=nn.MSELoss(),
    ),
    "AESGCNNClassifier": Example(
        lambda **size: AESGCNNClassifier.large(**{"num_classes": 1000, **size}),
        (8, 3, 128, 128),
        (8, 1000),
        labelled,
        documented=(100, 128),
        small=(24, 16),
        epochs=5,
        edges=False,  # random images, each of a class of its own, and no order among them
    ),
    "AESGCNNAutoencoder": Example(
        lambda **size: AESGCNNAutoencoder.small(**size),
        (8, 3, 128, 128),
        (8, 3, 128, 128),
        pairs_of_the_same,
        documented=(100, 128),
        small=(12, 24),
        epochs=5,
        criterion=nn.MSELoss(),
    ),
}

#: Options that make a model of the same kind which is quick to train.
TEXT_SIZE: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "vector_dim": 16}
IMAGE_SIZE: dict[str, Any] = {"base_filters": 8, "blocks": 2, "vector_dim": 16}
QUICK_SIZES = {
    "AESGGRUText": TEXT_SIZE,
    "AESGLSTMText": TEXT_SIZE,
    "AESGSeq2Seq": TEXT_SIZE,
    "AESGDecoderLM": {"nhead": 4, **TEXT_SIZE},
    "AESGTransformer": {"nhead": 4, **TEXT_SIZE},
    "AESGColorizationNet": IMAGE_SIZE,
    "AESGCNNClassifier": IMAGE_SIZE,
    "AESGCNNAutoencoder": IMAGE_SIZE,
}

each_model = pytest.mark.parametrize("name", sorted(EXAMPLES))


def given(example: Example) -> Tensor:
    """Return an input of the documented shape."""
    if len(example.given) == 2:
        return torch.randint(0, example.returned[-1], example.given)
    return torch.rand(example.given)


def trained(
    model: AESGModel, example: Example, count: int, size: int, batch_size: int = 32
) -> list[float]:
    """Train as documented and evaluate; return the losses of the epochs and of the evaluation."""
    trainer = AESGTrainer(model, criterion=example.criterion, batch_size=batch_size)
    losses = trainer.fit(example.samples(count, size), epochs=example.epochs)
    return [*losses, trainer.evaluate(example.samples(4, size))["loss"]]


def test_the_table_has_every_model() -> None:
    assert sorted(EXAMPLES) == sorted(aesg.models.__all__)


@each_model
def test_the_documented_input_gives_the_documented_shape(name: str) -> None:
    example = EXAMPLES[name]
    with (model := example.make()).memory, torch.no_grad():
        output = model(given(example))
    assert output.shape == example.returned
    assert output.isfinite().all()


@pytest.mark.parametrize("name", ["AESGColorizationNet", "AESGCNNAutoencoder"])
def test_an_image_model_returns_pixels(name: str) -> None:
    example = EXAMPLES[name]
    with (model := example.make(**QUICK_SIZES[name])).memory, torch.no_grad():
        output = model(given(example))
    assert output.min() >= 0
    assert output.max() <= 1


def test_the_next_token_is_read_off_as_documented() -> None:
    with (model := AESGDecoderLM.small(vocab_size=300)).memory:
        logits = model(torch.randint(0, 300, (1, 50)))
    next_token_probs = torch.softmax(logits[0, -1, :], dim=0)
    assert next_token_probs.sum().item() == pytest.approx(1, abs=1e-4)
    assert next_token_probs.argmax().item() in range(300)


@each_model
def test_training_as_documented_grows_concepts_and_edges(name: str) -> None:
    torch.manual_seed(0)
    example = EXAMPLES[name]
    with (model := example.make(**QUICK_SIZES[name])).memory as memory:
        losses = trained(model, example, *example.small, batch_size=4)
        assert len(losses) == example.epochs + 1
        assert all(map(math.isfinite, losses))
        assert memory.storage.node_count > 0
        assert (memory.storage.edge_count > 0) is example.edges
        assert memory.storage.verify() == []


def test_a_classifier_connects_images_that_are_retrieved_together() -> None:
    torch.manual_seed(0)
    shapes, labels = torch.rand(3, 3, 16, 16), torch.arange(24) % 3
    images = (shapes[labels] + 0.3 * torch.randn(24, 3, 16, 16)).clamp(0, 1)
    model = AESGCNNClassifier.small(memory_dropout=0.0, **IMAGE_SIZE)
    with model.memory as memory:
        data = list(zip(images, labels, strict=True))
        AESGTrainer(model, batch_size=4).fit(data, epochs=20)
        assert memory.storage.edge_count > 0


def test_the_documented_loop_without_a_trainer_teaches_the_memory() -> None:
    torch.manual_seed(0)
    with (model := AESGGRUText.small(vocab_size=50, **TEXT_SIZE)).memory as memory:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        criterion = nn.CrossEntropyLoss()
        for _ in range(3):
            model.train()
            memory.set_mode("TRAIN")
            memory.reset_state()
            x, y = torch.randint(0, 50, (2, 4, 10))
            optimizer.zero_grad()
            loss = criterion(model(x).reshape(-1, 50), y.reshape(-1))
            loss.backward()
            optimizer.step()
            memory.update_topology()
        memory.save()
        assert math.isfinite(loss.item())
        assert memory.provisional_count > 0


@pytest.mark.long
@each_model
def test_the_documented_training_at_its_size(name: str) -> None:
    torch.manual_seed(0)
    example = EXAMPLES[name]
    with (model := example.make()).memory as memory:
        losses = trained(model, example, *example.documented)
        assert len(losses) == example.epochs + 1
        assert all(map(math.isfinite, losses))
        assert memory.storage.node_count > 0
        assert (memory.storage.edge_count > 0) is example.edges
        assert memory.storage.verify() == []
