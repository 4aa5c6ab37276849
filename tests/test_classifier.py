"""The classifier: classes that are hidden, told and mixed in, and keys that do or do not drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from aesg import AESGConfigError, AESGTrainer, AESGTrainingError
from aesg.context import RetrievedContext
from aesg.models import AESGCNNClassifier
from aesg.nn.classes import ClassMixture, HiddenClasses, heard_of
from aesg.nn.pixels import PixelQuery
from tests.memory_build import opened, patterns

CLASSES = 4
SIDE = 12


def tiny(directory: Path | str = "memory", **options: Any) -> AESGCNNClassifier:
    torch.manual_seed(0)
    sizes = {"num_classes": CLASSES, "channels": 1, "base_filters": 4, "blocks": 2}
    return AESGCNNClassifier.sized(directory, **{**sizes, "vector_dim": 16, **options})


def pictures(*classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return one noisy picture of a bright corner for each class, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(len(classes), 1, SIDE, SIDE, generator=generator)
    half = SIDE // 2
    for image, label in zip(images, classes, strict=True):
        row, column = divmod(label, 2)
        image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 0.7
    return images, torch.tensor(classes)


def lesson(*classes: int, count: int = 16) -> TensorDataset:
    return TensorDataset(*pictures(*(list(classes) * count)))


def trained(*classes: int, epochs: int = 3, **options: Any) -> AESGCNNClassifier:
    model = tiny(**options)
    AESGTrainer(model, batch_size=8, learning_rate=3e-3, progress=False).fit(
        lesson(*classes), epochs=epochs
    )
    return model.eval()


def told(model: AESGCNNClassifier, *classes: int, seed: int = 1) -> None:
    images, labels = pictures(*classes, seed=seed)
    with torch.no_grad():
        model.memory.remember(model.queries(images), labels)


def context(values: list[int], weights: list[float]) -> RetrievedContext:
    """Return what one query found: concepts of given values and attention."""
    memory = opened()
    memory.remember(patterns(*range(len(values))), values)
    found = memory.recall(patterns(0).unsqueeze(1), top_k=len(values))
    order = [values.index(each) for each in found.value_ids[0, 0].tolist()]
    found.weights[0, 0] = torch.tensor(weights)[order]
    return found


# Sizes, shapes, errors


@pytest.mark.parametrize("keys", ["pixels", "features"])
@pytest.mark.parametrize("size", [(12, 12), (13, 9), (4, 30)])
def test_images_of_any_size_give_log_probabilities(keys: str, size: tuple[int, int]) -> None:
    model = tiny(keys=keys)
    log_probs = model(torch.rand(3, 1, *size))
    assert log_probs.shape == (3, CLASSES)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))
    assert model.queries(torch.rand(3, 1, *size)).shape == (3, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "labels"}, "keys: expected one of ('pixels', 'features'), got 'labels'"),
        ({"hidden_classes": 1.0}, "hidden_classes: expected [0, 1), got 1.0"),
        ({"query_every": 0}, "query_every: expected an integer >= 1 or 'sample', got 0"),
        ({"num_classes": 0}, "num_classes must be >= 1"),
        ({"top_k": 0}, "top_k must be >= 1"),
        ({"memory_dropout": 1.0}, "memory_dropout: got 1.0, expected [0, 1)"),
    ],
)
def test_parameters_out_of_range_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AESGConfigError) as raised:
        tiny(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize("keys", ["pixels", "features"])
@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (1, 12, 12), (2, 1, 3, 12)])
def test_what_is_not_a_batch_of_images_is_an_error(keys: str, shape: tuple[int, ...]) -> None:
    model = tiny(keys=keys)
    for method in (model, model.queries):
        with pytest.raises(AESGTrainingError, match="Images: expected floats of shape"):
            method(torch.rand(shape))


@pytest.mark.parametrize("keys", ["pixels", "features"])
def test_cells_ask_for_themselves_and_are_taught_the_class_of_the_image(keys: str) -> None:
    model = tiny(keys=keys, query_every=2, memory_dropout=0.0)
    images, labels = torch.rand(3, 1, 13, 20), torch.tensor([2, 0, 1])  # 4 x 5 at the bottleneck
    assert model.queries(images).shape == (3, 2 * 3, 16)
    model(images)
    model.observe(labels)
    model.memory.update_topology()
    held = model.memory.provisional_count
    assert held == 3 * 2 * 3
    found = model.memory.recall(torch.ones(16), top_k=held, vectors=False)
    assert found.value_ids.bincount().tolist() == [6, 6, 6]


def test_cells_with_examples_of_a_class_outvote_the_others() -> None:
    model = tiny(query_every=1).eval()
    images, labels = pictures(0, 1, seed=1)
    model.memory.remember(model.queries(images).flatten(0, 1), labels.repeat_interleave(9))
    context = model.memory.recall(model.queries(images), vectors=False, balanced=True)
    assert heard_of(context, CLASSES).argmax(-1).tolist() == [0, 1]


# What the memory says


def test_an_empty_memory_changes_nothing_at_all() -> None:
    model = tiny().eval()
    images, _ = pictures(0, 1, 2)
    with model.without_memory():
        alone = model(images)
    assert torch.equal(model(images), alone)


def test_an_image_is_classified_the_same_alone_and_in_a_batch() -> None:
    model = trained(0, 1, 2, 3)
    images, _ = pictures(0, 1, 2, 3, seed=2)
    assert model.memory.storage.node_count
    one_by_one = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(model(images), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", ["pixels", "features"])
def test_classes_that_were_never_trained_are_known_once_told(keys: str) -> None:
    model = trained(0, 1, epochs=8, keys=keys)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = pictures(2, 3, 2, 3, seed=5)
    with torch.no_grad():
        assert not (model(images).argmax(-1) == labels).any()
        told(model, *[2, 3] * 4)
        assert (model(images).argmax(-1) == labels).all()
        if keys == "pixels":  # features of two trained classes need not tell four apart
            images, labels = pictures(0, 1, 0, 1, seed=6)
            assert (model(images).argmax(-1) == labels).all()
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_classes_met_online_are_known_afterwards() -> None:
    model = trained(0, 1, epochs=8)
    trainer = AESGTrainer(model, batch_size=8, progress=False)
    first = trainer.evaluate(lesson(2, 3, count=8), mode="ONLINE")["loss"]
    assert trainer.evaluate(TensorDataset(*pictures(2, 3, 2, 3, seed=5)))["loss"] < first
    images, labels = pictures(2, 3, 2, 3, seed=5)
    assert (trainer.predict(images).argmax(-1) == labels).all()


def test_classes_told_wrongly_are_answered_wrongly() -> None:
    model = trained(0, 1, epochs=8)
    images, _ = pictures(*[2, 3] * 4, seed=1)
    with torch.no_grad():
        model.memory.remember(model.queries(images), [3, 2] * 4)
        said = model(pictures(2, 3, seed=5)[0]).argmax(-1)
    assert said.tolist() == [3, 2]


def test_classes_of_earlier_lessons_are_not_forgotten() -> None:
    model = tiny()
    for classes in ((0, 1), (2, 3)):
        data = lesson(*classes)
        AESGTrainer(model, batch_size=8, learning_rate=3e-3, progress=False).fit(data, epochs=5)
    images, labels = pictures(0, 1, 2, 3, 0, 1, 2, 3, seed=7)
    said = AESGTrainer(model, progress=False).predict(images)
    with model.without_memory():
        alone = AESGTrainer(model, progress=False).predict(images)
    assert (said.argmax(-1) == labels).all()
    assert not (alone.argmax(-1) == labels).all()


def test_a_crowded_class_does_not_drown_one_of_a_few_examples() -> None:
    model = tiny().eval()
    told(model, *[0] * 60, 1, seed=3)
    found = model.memory.recall(
        model.queries(pictures(1, seed=9)[0]).unsqueeze(1), top_k=61, vectors=False, balanced=True
    )
    heard = heard_of(found, CLASSES)[0]
    assert heard[1] > heard[0] > 0


def test_a_value_beyond_the_room_for_classes_is_not_heard() -> None:
    model = tiny().eval()
    images, _ = pictures(0, seed=1)
    alone = model(images)
    model.memory.remember(model.queries(images), [CLASSES])
    torch.testing.assert_close(model(images), alone)


# Training


def test_training_grows_the_memory_with_the_classes_as_values() -> None:
    model = trained(0, 1, 2, 3)
    held = model.memory.storage.node_count + model.memory.provisional_count
    found = model.memory.recall(torch.ones(16), top_k=held, vectors=False)
    assert held > CLASSES
    assert set(found.value_ids.tolist()) == {0, 1, 2, 3}


def test_in_training_no_image_finds_itself() -> None:
    model = tiny(memory_dropout=0.0, hidden_classes=0.0)
    images, labels = pictures(0, 1, 2, 3)
    seen = []
    model.mixture.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    for _ in range(3):
        model(images)
        model.observe(labels)
        model.memory.update_topology()
    assert seen[-1].mask.any()
    own = seen[-1].mask & (seen[-1].cosines > 0.9999)
    assert not own.any()


def test_the_head_is_practised_in_what_came_lately() -> None:
    model = tiny()
    for _ in range(40):
        model.observe(torch.zeros(32, dtype=torch.long))
    first = model.counts.clone()
    for _ in range(40):
        model.observe(torch.ones(32, dtype=torch.long))
    assert first[0] > 50 and first[1] == 0
    assert model.counts[0] < 5 and model.counts[1] == first[0]
    model.eval().observe(torch.full((32,), 2))
    assert model.counts[2] == 0


@pytest.mark.parametrize("cells", ["sample", 2])
def test_what_is_not_known_counts_for_no_class_and_teaches_nothing(cells: Any) -> None:
    model = tiny(memory_dropout=0.0, query_every=cells)
    images, _ = pictures(0, 1, 2)
    model(images)
    model.observe(torch.tensor([-100, 2, -100]))
    assert model.counts.tolist() == [0, 0, 1, 0]
    model.memory.update_topology()
    assert model.memory.provisional_count == len(model.queries(images)[0].view(-1, 16))
    found = model.memory.recall(torch.ones(16), top_k=1, vectors=False)
    assert found.value_ids.tolist() == [2]


def test_of_a_distribution_over_classes_the_likeliest_is_learned() -> None:
    model = tiny(memory_dropout=0.0)
    images, _ = pictures(0, 1)
    loss = torch.nn.functional.cross_entropy
    soft = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.0, 0.3, 0.2, 0.5]])
    AESGTrainer(model, batch_size=2, progress=False, criterion=loss).fit(
        [*zip(images, soft, strict=True)]
    )
    assert model.counts.tolist() == [0, 1, 0, 1]
    model.memory.set_mode("INFERENCE")
    found = model.memory.recall(model.queries(images), top_k=1, vectors=False)
    assert found.value_ids.flatten().tolist() == [1, 3]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 77]), "expected classes from 0 to 3, or -100 .* got 77"),
        (torch.tensor([-1, 0]), "expected classes from 0 to 3, or -100 .* got -1"),
        (torch.zeros(2, 1, dtype=torch.long), r"expected classes, .* got torch.int64 .* \(2, 1\)"),
        (torch.rand(2, 3), r"floats of shape \(batch, 4\), got torch.float32 .* \(2, 3\)"),
        (torch.rand(2), r"floats of shape \(batch, 4\)"),
        (torch.tensor([True, False]), "got torch.bool"),
    ],
)
def test_targets_that_are_no_classes_are_refused_before_anything_learns(
    targets: Tensor, message: str
) -> None:
    model = tiny(memory_dropout=0.0)
    model(pictures(0, 1)[0])
    with pytest.raises(AESGTrainingError, match=message):
        model.observe(targets)
    assert not model.counts.any()
    model.memory.update_topology()
    assert model.memory.provisional_count == 0


def test_gradients_reach_all_through_which_the_memory_speaks() -> None:
    model = tiny(keys="features", memory_dropout=0.0)
    told(model, 0, 1, 2, 3)
    model.counts.fill_(20.0)
    images, labels = pictures(0, 1, 2, 3, seed=2)
    for _ in range(2):  # a gate that starts with zero weights passes none on at first
        model.zero_grad()
        loss = torch.nn.functional.nll_loss(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD(model.memory_parameters(), lr=0.01).step()
    parts = (model.query, model.embedding, model.mixture)
    for parameter in [each for part in parts for each in part.parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert model.memory.log_scale.grad is not None


def test_weights_and_directory_make_the_same_model(tmp_path: Path) -> None:
    model = trained(0, 1, 2, 3)
    images, _ = pictures(0, 1, 2, 3, seed=2)
    said = model(images)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    model.memory.close()
    again = tiny().eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt"))
    torch.testing.assert_close(again(images), said)


# Hidden classes


def test_each_class_is_hidden_from_half_of_the_samples_at_the_share_asked_for() -> None:
    torch.manual_seed(0)
    drawn = HiddenClasses.draw(4000, 10, 0.3)
    assert 0.45 < drawn.hidden.any(-1).float().mean() < 0.52
    assert 0.13 < drawn.hidden.float().mean() < 0.17
    assert (drawn.kept[~drawn.hidden] == 1).all()
    kept = drawn.kept[drawn.hidden]
    assert ((kept > 0) & (kept < 1)).all() and kept.min() < 0.1 < 0.5 < kept.max()


def test_never_are_all_classes_hidden() -> None:
    assert not HiddenClasses.draw(200, 1, 0.9).hidden.any()
    assert not HiddenClasses.draw(2000, 2, 0.9).hidden.all(-1).any()


def test_the_head_tells_nothing_of_hidden_classes() -> None:
    hidden = torch.tensor([[True, False, False], [False, False, False]])
    drawn = HiddenClasses(hidden, torch.where(hidden, 0.1, 1.0))
    logits = torch.tensor([[5.0, 1.0, 0.0], [5.0, 1.0, 0.0]], requires_grad=True)
    log_probs = logits.log_softmax(-1)
    seen = drawn.in_log_probs(log_probs)
    torch.testing.assert_close(seen.exp().sum(-1), torch.ones(2))
    torch.testing.assert_close(seen[1], log_probs[1])
    torch.testing.assert_close(seen[0, 1] - seen[0, 2], torch.tensor(1.0))
    assert seen[0, 0] < -9
    seen[0, 0].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and not logits.grad.any()


def test_of_hidden_classes_few_concepts_are_attended_to_each_for_more() -> None:
    torch.manual_seed(0)
    found = context([0, 1, 2], [0.3, 0.3, 0.2])
    whole = HiddenClasses(torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3))
    torch.testing.assert_close(whole.in_context(found).weights, found.weights)
    hidden = torch.tensor([[True, False, False]])
    thinned = HiddenClasses(hidden, torch.where(hidden, 0.25, 1.0))
    heard = torch.cat([heard_of(thinned.in_context(found), 3) for _ in range(2000)])
    there = heard[:, 0] > 0
    assert 0.2 < there.float().mean() < 0.3
    # Less 0.3 that are gone, or 0.3 / 0.25 in their place; the other shares keep their ratio.
    torch.testing.assert_close(heard[~there][0], torch.tensor([0.0, 0.3, 0.2]) / 0.7)
    torch.testing.assert_close(heard[there][0], torch.tensor([1.2, 0.3, 0.2]) / 1.9)


# Mixture


def test_the_mixture_is_between_model_and_memory() -> None:
    found = context([0, 2], [0.6, 0.2])
    logits = torch.tensor([[0.0, 2.0, 0.0]])
    mixture = ClassMixture()
    expected = logits.softmax(-1)
    gate = torch.tensor(-2.0).sigmoid()
    said = torch.tensor([[0.75, 0.0, 0.25]])
    mixed = mixture(logits, found, torch.zeros(1, 3)).exp()
    torch.testing.assert_close(mixed, (1 - gate) * expected + gate * said)


def test_where_no_class_was_retrieved_the_model_speaks_alone() -> None:
    logits = torch.tensor([[0.0, 2.0, 0.0]])
    for found in (context([7, 8], [0.6, 0.2]), opened("empty").recall(patterns(0).unsqueeze(1))):
        mixed = ClassMixture()(logits, found, torch.zeros(1, 3))
        assert torch.equal(mixed, logits.log_softmax(-1))


# Fixed keys


def test_fixed_keys_are_the_same_for_every_model_and_never_trained() -> None:
    torch.manual_seed(1)
    one = PixelQuery(1, 16)
    torch.manual_seed(2)
    other = PixelQuery(1, 16)
    images, _ = pictures(0, 1)
    assert torch.equal(one(images), other(images))
    assert not list(one.parameters())


def test_fixed_keys_of_like_images_are_alike_whatever_their_brightness() -> None:
    query = PixelQuery(1, 64)
    images, _ = pictures(0, 1)
    same, _ = pictures(0, 1, seed=8)
    dark = torch.nn.functional.cosine_similarity(query(images), query(0.5 * images + 0.1), -1)
    torch.testing.assert_close(dark, torch.ones(2, 1))
    like = torch.nn.functional.cosine_similarity(query(images), query(same), -1)
    unlike = torch.nn.functional.cosine_similarity(query(images), query(same.flip(0)), -1)
    assert like.min() > 0.8 > 0.3 > unlike.max()
